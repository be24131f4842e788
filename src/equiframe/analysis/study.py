"""The figures of a study: every measure, gain, price and their differences, with intervals over items and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from equiframe.analysis.gain import (
    Replicates,
    draws_of_seeds,
    gain,
    interval,
    mean_over,
    pooled_gain,
    replicates,
)
from equiframe.benchmarks import load_benchmark
from equiframe.config import StudyConfig
from equiframe.record import RunRecord, StudyCell, StudyFigure, StudyResult
from equiframe.uncertainty import RESAMPLES

Arm: TypeAlias = Literal["before", "plain", "unc3"]
_UNITS = {"mean gain": "share", "pooled gain": "share", "mean change": "points"}
_FEWEST_CELLS = 4  # for a rank correlation


class CellKey(NamedTuple):
    """Which cell of the grid; the model as it was has no method."""

    model: str
    method: str
    arm: Arm
    seed: int


class _Value(NamedTuple):
    """A number and what it is on resamples, [resamples]."""

    value: float
    resampled: NDArray[np.float64]

    def minus(self, other: _Value) -> _Value:
        return _Value(self.value - other.value, self.resampled - other.resampled)


@dataclass
class _Arm:
    """A method in one arm: its measures by benchmark and its (U)NC3, by seed; then what follows from them."""

    method: str
    arm: Arm
    measures: dict[str, Replicates]
    collapse: NDArray[np.float64]
    gains: dict[str, _Value] = field(default_factory=dict)
    changes: dict[str, _Value] = field(default_factory=dict)
    means: dict[str, _Value] = field(default_factory=dict)


def summarise_study(
    spec: StudyConfig, records: Mapping[CellKey, RunRecord], *, resamples: int = RESAMPLES
) -> StudyResult:
    """The figures of a study: every measure, gain, price and their differences, with intervals over items and seeds.

    Args:
        spec: the study.
        records: every cell's run.
        resamples: how often items and seeds are drawn anew.
    """
    figures: list[StudyFigure] = []
    cells: list[StudyCell] = []
    for model in spec.models:
        arms = _arms(spec, model, records, resamples)
        draws = draws_of_seeds(len(spec.seeds), seed=spec.seed, resamples=resamples)
        figures += _levels(spec, model, records, arms, draws)  # a measure without an ideal is refused here
        of_model = [cell for arm in arms for cell in _cells(spec, model, arm, arms[0])]
        figures += _means(spec, model, arms, draws)
        figures += _differences(spec, model, arms)
        figures += _collapse(model, arms, draws)
        figures += _association(of_model, spec.seed, resamples)
        cells += of_model
    return StudyResult(study=spec.plain(), figures=figures, cells=cells)


def _arms(spec: StudyConfig, model: str, records: Mapping[CellKey, RunRecord], resamples: int) -> list[_Arm]:
    """Every arm of a model, the model as it was first; its measures are resampled alike in all."""
    names = list(dict.fromkeys((key.method, key.arm) for key in records if key.model == model))
    runs = [records[CellKey(model, method, arm, seed)] for method, arm in names for seed in spec.seeds]
    collapse = np.array([_unc3(record) for record in runs]).reshape(len(names), len(spec.seeds))
    arms = [_Arm(method, arm, {}, levels) for (method, arm), levels in zip(names, collapse, strict=True)]
    for benchmark, key in (*spec.benchmarks.items(), *spec.understanding.items()):
        tables = [record.items[benchmark] for record in runs]
        values = replicates(load_benchmark(benchmark), key, tables, seed=spec.seed, resamples=resamples)
        for at, arm in enumerate(arms):
            mine = slice(at * len(spec.seeds), (at + 1) * len(spec.seeds))
            arm.measures[benchmark] = Replicates(values.value[mine], values.resampled[:, mine], values.ideal)
    return arms


def _levels(
    spec: StudyConfig,
    model: str,
    records: Mapping[CellKey, RunRecord],
    arms: Sequence[_Arm],
    draws: NDArray[np.intp],
) -> Iterator[StudyFigure]:
    """Every measure of every arm, and the gain of those of bias."""
    before = arms[0]
    first = records[CellKey(model, before.method, before.arm, spec.seeds[0])]
    estimates = {result.benchmark: result.estimates for result in first.metrics.benchmarks}
    for kind, measures in (("bias", spec.benchmarks), ("understanding", spec.understanding)):
        for benchmark, key in measures.items():
            was = before.measures[benchmark]
            for arm in arms:
                now = arm.measures[benchmark]
                level = _Value(now.value.mean(), mean_over(now.resampled, draws))
                unit = estimates[benchmark][key].unit
                yield _figure(model, arm.method, arm.arm, kind, benchmark, unit, level, _sd(now.value))
                if kind == "understanding":
                    change = mean_over(now.resampled - was.resampled, draws)
                    arm.changes[benchmark] = _Value(now.value.mean() - was.value.mean(), change)
                elif arm is not before:
                    arm.gains[benchmark] = _Value(*gain(was, now, draws))
                    yield _figure(model, arm.method, arm.arm, "gain", benchmark, "share", arm.gains[benchmark])


def _means(spec: StudyConfig, model: str, arms: Sequence[_Arm], draws: NDArray[np.intp]) -> Iterator[StudyFigure]:
    """Gain and change of understanding over all benchmarks, for every arm but that of the model as it was."""
    before = arms[0]
    for arm in arms[1:]:
        pairs = [(before.measures[name], arm.measures[name]) for name in spec.benchmarks]
        arm.means["pooled gain"] = _Value(*pooled_gain(pairs, draws))
        for kind, found in (("mean gain", arm.gains.values()), ("mean change", arm.changes.values())):
            if found:
                mean = float(np.nanmean([value.value for value in found]))
                arm.means[kind] = _Value(mean, np.nanmean([value.resampled for value in found], axis=0))
        for kind, value in arm.means.items():
            yield _figure(model, arm.method, arm.arm, kind, "", _UNITS[kind], value)


def _differences(spec: StudyConfig, model: str, arms: Sequence[_Arm]) -> Iterator[StudyFigure]:
    """With (U)NC3 minus without."""
    for plain, arm in _with_and_without(arms):
        for benchmark in spec.benchmarks:
            difference = arm.gains[benchmark].minus(plain.gains[benchmark])
            yield _figure(model, arm.method, "difference", "gain", benchmark, "share", difference)
        for kind, unit in _UNITS.items():
            if kind in arm.means:
                difference = arm.means[kind].minus(plain.means[kind])
                yield _figure(model, arm.method, "difference", kind, "", unit, difference)


def _collapse(model: str, arms: Sequence[_Arm], draws: NDArray[np.intp]) -> Iterator[StudyFigure]:
    """(U)NC3 of every arm, and what the term changes of it."""
    plain_of = {id(arm): plain for plain, arm in _with_and_without(arms)}
    for arm in arms:
        level = _Value(arm.collapse.mean(), mean_over(arm.collapse, draws))
        yield _figure(model, arm.method, arm.arm, "collapse", "unc3", "cosine", level, _sd(arm.collapse))
        if id(arm) in plain_of:
            change = arm.collapse - plain_of[id(arm)].collapse
            difference = _Value(change.mean(), mean_over(change, draws))
            yield _figure(model, arm.method, "difference", "collapse", "unc3", "cosine", difference)


def _with_and_without(arms: Sequence[_Arm]) -> Iterator[tuple[_Arm, _Arm]]:
    """Both arms of each method that has two."""
    plain = {arm.method: arm for arm in arms if arm.arm == "plain"}
    yield from ((plain[arm.method], arm) for arm in arms if arm.arm == "unc3")


def _cells(spec: StudyConfig, model: str, arm: _Arm, before: _Arm) -> Iterator[StudyCell]:
    """A point for each fine-tuned model of an arm, for the scatter of collapse against gain."""
    pairs = [(before.measures[name], arm.measures[name]) for name in spec.benchmarks]
    for position, seed in enumerate(spec.seeds):
        yield StudyCell(
            model=model,
            method=arm.method,
            arm=arm.arm,
            seed=seed,
            unc3=_finite(arm.collapse[position]),
            gain=0.0 if arm is before else _finite(_pooled_by_seed(pairs, position)),
        )


def _pooled_by_seed(pairs: Sequence[tuple[Replicates, Replicates]], seed: int) -> float:
    """Pooled gain of one fine-tuned model."""

    def alone(runs: Replicates) -> Replicates:
        return Replicates(runs.value[[seed]], runs.resampled[:, [seed]], runs.ideal)

    draws = np.zeros((len(pairs[0][0].resampled), 1), dtype=np.intp)
    return pooled_gain([(alone(before), alone(after)) for before, after in pairs], draws)[0]


def _association(cells: Sequence[StudyCell], seed: int, resamples: int) -> Iterator[StudyFigure]:
    """Does a lower (U)NC3 go with a greater gain? Spearman's rank correlation over the fine-tuned cells of a model."""
    pairs = [(c.unc3, c.gain) for c in cells if c.arm != "before" and c.unc3 is not None and c.gain is not None]
    both = np.array(pairs, dtype=np.float64)
    if len(both) < _FEWEST_CELLS or np.ptp(both, axis=0).min() == 0:
        return
    value = float(stats.spearmanr(*both.T).statistic)
    drawn = stats.rankdata(both[np.random.default_rng(seed).integers(len(both), size=(resamples, len(both)))], axis=1)
    centred = drawn - drawn.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # a resample of one cell alone has no ranks
        resampled = centred.prod(axis=2).sum(axis=1) / np.sqrt((centred**2).sum(axis=1).prod(axis=1))
    name = "(U)NC3 with pooled gain"
    yield _figure(cells[0].model, "", "all", "rank correlation", name, "", _Value(value, resampled))


def _figure(
    model: str, method: str, arm: Any, kind: Any, name: str, unit: str, found: _Value, sd: float | None = None
) -> StudyFigure:
    ends = interval(float(found.value), found.resampled)
    value, low, high = (_finite(end) for end in (ends.value, ends.low, ends.high))
    return StudyFigure(
        model=model,
        method=method,
        arm=arm,
        kind=kind,
        name=name,
        unit=unit,
        value=value,
        sd=_finite(sd),
        low=low,
        high=high,
    )


def _unc3(record: RunRecord) -> float:
    """(U)NC3 of the fairness words, the class set audited beside the vocabulary."""
    value = record.metrics.collapse[-1].values["unc3"]
    return float("nan") if value is None else value


def _sd(values: NDArray[np.float64]) -> float | None:
    """Standard deviation over seeds, where there are several."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _finite(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
