"""Fairness gain: how much closer to their ideal values a method brings the benchmarks.

This is the only place where the headline of a study is computed. For a benchmark whose measure has the value v and
the ideal value v*, the distance is d = |v - v*|, and

    gain = 1 - mean over seeds of d(after) / mean over seeds of d(before).

The gain is 1 if a measure reached its ideal, 0 if it did not move, and below 0 if it moved away from its ideal. The
headline is the mean over the benchmarks that a study names. Since it is a ratio, the gain of a measure
that was close to its ideal before has no meaning: its interval is wide, and it can outweigh all others. So the pooled
gain is also reported, in which a distance counts in standard errors of its measure before:

    pooled gain = 1 - sum over benchmarks of d(after) / se / sum over benchmarks of d(before) / se.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equiframe.analysis.tables import stack
from equiframe.benchmarks.benchmark import Scored
from equiframe.errors import InputError
from equiframe.uncertainty import Measure


@dataclass(frozen=True)
class Replicates:
    """A measure of several runs: on all items, and on resampled items, the same draw for every run.

    Args:
        value: value on all items that every run scored, [runs].
        resampled: values on resampled items, [resamples, runs].
        ideal: the measure's ideal value, None if it has none.
    """

    value: NDArray[np.float64]
    resampled: NDArray[np.float64]
    ideal: float | None


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % percentile interval; NaN if it is undefined."""

    value: float
    low: float
    high: float


def replicates(benchmark: Scored, key: str, tables: Sequence[pd.DataFrame], *, seed: int, resamples: int) -> Replicates:
    """Compute one measure of several runs under a paired bootstrap over items.

    Args:
        benchmark: benchmark of the measure.
        key: the measure.
        tables: the per-item table of each run.
        seed: seed of the resampling. Each benchmark has draws of its own, because the items of two are independent.
        resamples: number of resamples of the items, with replacement.

    Raises:
        InputError: there is no such measure, or the runs group their items differently.
    """
    stacked, items = stack(tables)
    measure = _measure(benchmark, key, stacked)
    first = measure.rows[measure.rows < items]
    rows = np.stack([first + run * items for run in range(len(tables))])
    if not np.array_equal(np.sort(measure.rows), np.sort(rows.ravel())):
        raise InputError(f"{benchmark.spec}: the groups of {key} differ between the runs")
    generator = np.random.default_rng([seed, *benchmark.spec.encode()])
    resampled = np.empty((resamples, len(tables)))
    for at in range(resamples):
        resampled[at] = measure.statistic(rows[:, generator.integers(len(first), size=len(first))])
    return Replicates(np.asarray(measure.statistic(rows), dtype=np.float64), resampled, measure.ideal)


def draws_of_seeds(seeds: int, *, seed: int, resamples: int) -> NDArray[np.intp]:
    """Resample training seeds with replacement, [resamples, seeds]; the draws are the same for all comparisons."""
    return np.random.default_rng(seed).integers(seeds, size=(resamples, seeds))


def mean_over(values: NDArray[np.float64], draws: NDArray[np.intp]) -> NDArray[np.float64]:
    """Average over the drawn seeds: values [resamples, seeds], or [seeds], become [resamples]."""
    rows = np.broadcast_to(values, draws.shape)
    return np.asarray(np.take_along_axis(rows, draws, axis=-1).mean(axis=-1))


def gain(before: Replicates, after: Replicates, draws: NDArray[np.intp]) -> tuple[float, NDArray[np.float64]]:
    """Compute the fairness gain of one benchmark, and its resamples over items and seeds.

    Args:
        before: the original model, one run per seed.
        after: the fine-tuned model, one run per seed, with the seeds in the same order.
        draws: draws of the seeds, from :func:`draws_of_seeds`.

    Returns:
        The gain, NaN if the measure was at its ideal before; and its resamples, [resamples].

    Raises:
        InputError: the measure has no ideal.
    """
    if before.ideal is None:
        raise InputError("a measure without an ideal value has no fairness gain: name another for the headline")
    was, now = abs(before.value - before.ideal), abs(after.value - before.ideal)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = 1 - np.divide(now.mean(), was.mean())
        resampled = 1 - mean_over(abs(after.resampled - before.ideal), draws) / mean_over(
            abs(before.resampled - before.ideal), draws
        )
    resampled[~np.isfinite(resampled)] = np.nan
    return float(value) if np.isfinite(value) else float("nan"), resampled


def pooled_gain(
    pairs: Sequence[tuple[Replicates, Replicates]], draws: NDArray[np.intp]
) -> tuple[float, NDArray[np.float64]]:
    """Compute one gain for several benchmarks, each weighted by the precision of its measure.

    Args:
        pairs: for each benchmark the runs before and after, as for :func:`gain`. A benchmark whose measure does not
            vary over resamples has no standard error and is left out.
        draws: draws of the seeds, from :func:`draws_of_seeds`.

    Returns:
        The gain, NaN if every measure was at its ideal before; and its resamples, [resamples].
    """
    was, now = (0.0, np.zeros(len(draws))), (0.0, np.zeros(len(draws)))
    for before, after in pairs:
        assert before.ideal is not None
        error = before.resampled.mean(axis=1).std(ddof=1)
        if error > 0:
            was, now = (
                (
                    total + abs(runs.value - before.ideal).mean() / error,
                    resampled + mean_over(abs(runs.resampled - before.ideal), draws) / error,
                )
                for (total, resampled), runs in ((was, before), (now, after))
            )
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(1 - np.divide(now[0], was[0])), 1 - now[1] / was[1]


def interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    """Combine a value with the 2.5 and 97.5 percentiles of its resamples."""
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def _measure(benchmark: Scored, key: str, table: pd.DataFrame) -> Measure:
    measures = {measure.key: measure for measure in benchmark.measures(table)}
    if key not in measures:
        raise InputError(f"{benchmark.spec} has no measure {key!r}. Available: {', '.join(measures)}")
    return measures[key]
