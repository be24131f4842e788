"""Intervals and paired tests, by resampling items. scipy does the statistics; this file fits it to tables.

A statistic here is a function of *row positions* in a table of per-item outcomes, not of values: then one
function serves for the estimate (all rows), the bootstrap (resampled rows), the paired difference of two
models (the same rows of both), and the permutation test (rows exchanged between models), even if
the number is not a plain mean, such as ICAT.

An interval describes this sample of items. It does not cover other kinds of items or other seeds
of fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from equiframe.errors import InputError
from equiframe.options import SEEDS, check_range

Rows: TypeAlias = NDArray[np.intp]
RowStatistic: TypeAlias = Callable[[Rows], NDArray[np.float64]]
"""A function from row positions [..., rows] to values [...], over the last axis."""

RESAMPLES = 2000
_POSITIONS_AT_ONCE = 2**18  # row positions handed to a statistic at a time: 2 MB, which stay in cache


@dataclass(frozen=True)
class Measure:
    """A number, as a statistic of rows of an outcome table.

    Args:
        key: stable name within the table's benchmark, such as ``gender.icat``.
        rows: positions in the table that the number uses.
        statistic: from row positions [..., rows] to values [...].
        unit: ``%``, ``share``, ``nats``, ...
        ideal: the value of an unbiased (or perfect) model.
        higher_is_better: True or False if the number has a direction.
        interval: whether resampling the rows gives an interval; for a p-value it does not.
    """

    key: str
    rows: Rows
    statistic: RowStatistic
    unit: str
    ideal: float | None = None
    higher_is_better: bool | None = None
    interval: bool = True


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval.

    Args:
        value: the statistic on all items.
        low: lower end of the interval; None if there are too few items, or an interval has no meaning.
        high: upper end.
        count: number of items used.
        unit: ``%``, ``share``, ``nats``, ...
        ideal: the value of an unbiased (or perfect) model, or None.
        higher_is_better: True or False if the number has a direction, None if ``ideal`` is between two preferences.
    """

    value: float
    low: float | None
    high: float | None
    count: int
    unit: str
    ideal: float | None = None
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class Difference:
    """Second run minus first run on the same items.

    Args:
        value: the difference of the two statistics.
        low: lower end of the paired 95 % bootstrap interval; None if there are too few items.
        high: upper end.
        p_value: two-sided paired permutation test of no difference, None as above.
        count: number of items that both runs scored.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None
    count: int


def bootstrap(
    rows: Rows, statistic: RowStatistic, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float | None, float | None]:
    """The 95 % percentile bootstrap interval of a statistic.

    Args:
        rows: row positions, [rows].
        statistic: from row positions [..., rows] to values [...].
        seed: seed of the resampling; the same seed gives the same interval.
        resamples: number of times the rows are drawn, with replacement.

    Returns:
        Lower and upper end; None and None for fewer than two rows. If no resample changes the value,
        both ends are that value.

    Reference: Efron and Tibshirani 1993, chapter 13.

    Example:
        >>> scores = np.array([40.0, 60.0, 50.0, 50.0])
        >>> bootstrap(np.arange(4), lambda at: scores[at].mean(axis=-1), seed=0)
        (42.5, 57.5)
    """
    if len(rows) < 2:
        return None, None
    result = stats.bootstrap(
        (rows,),
        lambda at, axis: statistic(at),
        vectorized=True,
        method="percentile",
        n_resamples=resamples,
        batch=_batch(rows),
        rng=_generator(seed),
    )
    low, high = sorted(map(float, result.confidence_interval))  # rounding can swap the ends of a point
    return low, high


def estimate(measure: Measure, *, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """A measure's value on all of its rows, with its interval if it has one.

    Raises:
        InputError: the measure has no rows.
    """
    if len(measure.rows) == 0:
        raise InputError(f"{measure.key} has no items. Remove it")
    low, high = None, None
    if measure.interval:
        low, high = bootstrap(measure.rows, measure.statistic, seed=seed, resamples=resamples)
    return Estimate(
        value=float(measure.statistic(measure.rows)),
        low=low,
        high=high,
        count=len(measure.rows),
        unit=measure.unit,
        ideal=measure.ideal,
        higher_is_better=measure.higher_is_better,
    )


def paired_difference(
    rows_a: Rows, rows_b: Rows, statistic: RowStatistic, *, seed: int, resamples: int = RESAMPLES
) -> Difference:
    """Second run minus first run, with a paired interval and a paired permutation test.

    Items are resampled as pairs, so variation that both runs share cancels. The test exchanges the two runs' outcomes
    within random items; its p-value counts the observed difference among the draws and is never 0.

    Args:
        rows_a: rows of the first run in a table that holds both runs, [items].
        rows_b: rows of the second run, of the same items in the same order, [items].
        statistic: from row positions [..., items] to values [...].
        seed: seed of the resampling.
        resamples: number of resamples of the bootstrap and of the test.

    Raises:
        InputError: there are no rows, or the runs have different numbers of rows.

    Reference: Good 2005, permutation tests; Phipson and Smyth 2010, for p-values that are never 0.
    """
    if len(rows_a) != len(rows_b) or len(rows_a) == 0:
        raise InputError(
            f"found {len(rows_a)} rows of the first run and {len(rows_b)} of the second. Give one row of each per item"
        )
    items = np.arange(len(rows_a))

    def difference(at: Rows) -> NDArray[np.float64]:
        return statistic(rows_b[at]) - statistic(rows_a[at])

    low, high = bootstrap(items, difference, seed=seed, resamples=resamples)
    p_value = exchange_p_value(rows_a, rows_b, statistic, seed=seed, resamples=resamples) if len(items) > 1 else None
    return Difference(float(difference(items)), low, high, p_value, len(items))


def exchange_p_value(
    rows_a: Rows, rows_b: Rows, statistic: RowStatistic, *, seed: int, resamples: int = RESAMPLES
) -> float:
    """The two-sided p-value of no difference between two sides, exchanged within random items.

    Args:
        rows_a: rows of the first side, [items].
        rows_b: rows of the second side, of the same items in the same order, [items].
        statistic: from row positions [..., items] to values [...].
        seed: seed of the exchanges.
        resamples: how often the sides are exchanged.
    """
    generator = _generator(seed)

    def draw(size: tuple[int, ...]) -> NDArray[np.float32]:
        return generator.random(size, dtype=np.float32)

    def difference_exchanged(draws: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
        is_exchanged = draws < 0.5
        first, second = np.where(is_exchanged, rows_b, rows_a), np.where(is_exchanged, rows_a, rows_b)
        return statistic(second) - statistic(first)

    # scipy's permutation_test draws the same exchanges, but loops over the items: 15 times slower.
    test = stats.monte_carlo_test(
        np.ones(len(rows_a), dtype=np.float32),  # the observed difference: nothing is exchanged
        draw,
        difference_exchanged,
        vectorized=True,
        n_resamples=resamples,
        batch=_batch(rows_a),
        alternative="two-sided",
    )
    return float(test.pvalue)


def _generator(seed: int) -> np.random.Generator:
    check_range("seed", seed, whole=True, most=SEEDS)
    return np.random.default_rng(seed)


def _batch(rows: Rows) -> int:
    """The number of resamples computed at a time."""
    return max(1, _POSITIONS_AT_ONCE // len(rows))
