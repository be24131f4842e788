"""The figures of a study: every measure, gain, price and their differences, with intervals over items and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from equiframe.analysis.association import rank_correlation
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
from equiframe.record import RunRecord, StudyCell, StudyFigure, StudyHeadline, StudyResult
from equiframe.uncertainty import Estimate

Arm: TypeAlias = Literal["before", "plain", "unc3"]
RESAMPLES = 10_000  # a gain is a ratio, so the ends of its interval lie in long tails
_UNITS = {"mean gain": "share", "pooled gain": "share", "mean change": "points"}
_POINTS = ("%", "points")
_FEWEST_ARMS = 4  # for a rank correlation: models that differ in the seed alone say little
_OF_WORDS = {"(U)NC3": "unc3", "NC1": "nc1_log_cdnv_mean", "NC3": "nc3_self_duality"}
_OF_CONTEXTS = {"CC1": "cc1_js", "CC3": "cc3_log_odds"}


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


class _Counted(NamedTuple):
    """A measure that counts in a study: what for, of which benchmark, and what tables call it."""

    kind: Literal["bias", "understanding", "kept"]
    benchmark: str
    key: str
    name: str


@dataclass
class _Arm:
    """A method in one arm: its measures by name and its geometry, by seed; then what follows from them."""

    method: str
    arm: Arm
    measures: dict[str, Replicates]
    geometry: list[dict[str, float | None]]
    gains: dict[str, _Value] = field(default_factory=dict)
    changes: dict[str, tuple[str, _Value]] = field(default_factory=dict)
    means: dict[str, _Value] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{self.method} + (U)NC3" if self.arm == "unc3" else self.method

    @property
    def unc3(self) -> NDArray[np.float64]:
        """(U)NC3 of the fairness words, [seeds]."""
        return np.array([measured["(U)NC3"] for measured in self.geometry], dtype=np.float64)


def summarise_study(
    spec: StudyConfig, records: Mapping[CellKey, RunRecord], *, resamples: int = RESAMPLES
) -> StudyResult:
    """The figures of a study: every measure, gain, price and their differences, with intervals over items and seeds.

    Args:
        spec: the study.
        records: every cell's run.
        resamples: how often items and seeds are drawn with replacement.
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
        figures += _against(spec, model, arms)
        figures += _collapse(model, arms, draws)
        figures += _association(model, of_model, spec.seed, resamples)
        cells += of_model
    if len(spec.models) > 1:
        figures += _association("", cells, spec.seed, resamples)
    return StudyResult(study=spec.plain(), figures=figures, cells=cells)


def study_headlines(spec: StudyConfig, result: StudyResult) -> list[StudyHeadline]:
    """What the headline's method came to on each model, without the (U)NC3 term."""
    found = []
    method = _headline(spec)
    for model in spec.models:
        mine = [f for f in result.figures if (f.model, f.method, f.arm) == (model, method, "plain")]
        ends = {(f.kind, f.name): (f.value, f.low, f.high) for f in mine}
        gains = [None if end is None else 100 * end for end in ends["mean gain", ""]]
        understood = ends.get(("mean change", ""), (None, None, None))
        found.append(
            StudyHeadline(
                model=model,
                method=method,
                **dict(zip(("gain", "gain_low", "gain_high"), gains, strict=True)),
                **dict(zip(("nlu_change", "nlu_low", "nlu_high"), understood, strict=True)),
                kept={c.name: ends["change", c.name] for c in _counted(spec) if c.kind == "kept"},
                benchmarks=list(spec.benchmarks),
                seeds=list(spec.seeds),
            )
        )
    return found


def _headline(spec: StudyConfig) -> str:
    return spec.headline or spec.methods[0].name


def _counted(spec: StudyConfig) -> list[_Counted]:
    """Every measure that counts; one of a benchmark that counts twice has its key in its name."""
    kinds: tuple[tuple[Literal["bias", "understanding", "kept"], Mapping[str, str]], ...] = (
        ("bias", spec.benchmarks),
        ("understanding", spec.understanding),
        ("kept", spec.kept),
    )
    found: dict[str, _Counted] = {}
    for kind, measures in kinds:
        for benchmark, key in measures.items():
            name = benchmark if benchmark not in found else f"{benchmark} {key}"
            found[name] = _Counted(kind, benchmark, key, name)
    return list(found.values())


def _arms(spec: StudyConfig, model: str, records: Mapping[CellKey, RunRecord], resamples: int) -> list[_Arm]:
    """Every arm of a model, the model as it was first; its measures are resampled alike in all."""
    names = list(dict.fromkeys((key.method, key.arm) for key in records if key.model == model))
    runs = [[records[CellKey(model, method, arm, seed)] for seed in spec.seeds] for method, arm in names]
    arms = [
        _Arm(method, arm, {}, [_geometry(record) for record in of_arm])
        for (method, arm), of_arm in zip(names, runs, strict=True)
    ]
    for counted in _counted(spec):
        tables = [record.items[counted.benchmark] for of_arm in runs for record in of_arm]
        values = replicates(load_benchmark(counted.benchmark), counted.key, tables, seed=spec.seed, resamples=resamples)
        for at, arm in enumerate(arms):
            mine = slice(at * len(spec.seeds), (at + 1) * len(spec.seeds))
            arm.measures[counted.name] = Replicates(values.value[mine], values.resampled[:, mine], values.ideal)
    return arms


def _levels(
    spec: StudyConfig,
    model: str,
    records: Mapping[CellKey, RunRecord],
    arms: Sequence[_Arm],
    draws: NDArray[np.intp],
) -> Iterator[StudyFigure]:
    """Every measure of every arm, the gain of those of bias, and the change of the others."""
    before = arms[0]
    first = records[CellKey(model, before.method, before.arm, spec.seeds[0])]
    estimates = {result.benchmark: result.estimates for result in first.metrics.benchmarks}
    for counted in _counted(spec):
        was, measured = before.measures[counted.name], estimates[counted.benchmark][counted.key]
        unit = measured.unit
        for arm in arms:
            now = arm.measures[counted.name]
            level = _Value(now.value.mean(), mean_over(now.resampled, draws))
            sd = None if arm is before else _sd(now.value)  # a seed of training does not change the model before it
            yield _figure(model, arm.method, arm.arm, counted.kind, counted.name, unit, level, sd, measured)
            if arm is before:
                continue
            if counted.kind == "bias":
                gained = arm.gains[counted.name] = _Value(*gain(was, now, draws))
                yield _figure(model, arm.method, arm.arm, "gain", counted.name, "share", gained)
            else:
                change = mean_over(now.resampled - was.resampled, draws)
                changed = _Value(now.value.mean() - was.value.mean(), change)
                arm.changes[counted.name] = (unit, changed)
                yield _figure(model, arm.method, arm.arm, "change", counted.name, unit, changed)


def _means(spec: StudyConfig, model: str, arms: Sequence[_Arm], draws: NDArray[np.intp]) -> Iterator[StudyFigure]:
    """Gain and change of understanding over all benchmarks, for every arm but that of the model as it was."""
    before = arms[0]
    for arm in arms[1:]:
        pairs = [(before.measures[name], arm.measures[name]) for name in spec.benchmarks]
        arm.means["pooled gain"] = _Value(*pooled_gain(pairs, draws))
        understood = {counted.name for counted in _counted(spec) if counted.kind == "understanding"}
        changes = [value for name, (unit, value) in arm.changes.items() if name in understood and unit in _POINTS]
        for kind, found in (("mean gain", [*arm.gains.values()]), ("mean change", changes)):
            if found:
                arm.means[kind] = _mean(found)
        for kind, value in arm.means.items():
            yield _figure(model, arm.method, arm.arm, kind, "", _UNITS[kind], value)


def _mean(values: Sequence[_Value]) -> _Value:
    """Mean of the values that are defined, such as the gains of measures that were not at their ideal before."""
    defined = [value for value in values if np.isfinite(value.value)]
    resampled = np.array([value.resampled for value in defined or values])
    known = np.isfinite(resampled)
    with np.errstate(invalid="ignore"):
        means = np.where(known, resampled, 0).sum(axis=0) / known.sum(axis=0)
    return _Value(float(np.mean([value.value for value in defined or values])), means)


def _differences(spec: StudyConfig, model: str, arms: Sequence[_Arm]) -> Iterator[StudyFigure]:
    """With (U)NC3 minus without, paired in items and seeds."""
    for plain, arm in _with_and_without(arms):
        for benchmark in spec.benchmarks:
            difference = arm.gains[benchmark].minus(plain.gains[benchmark])
            yield _figure(model, arm.method, "difference", "gain", benchmark, "share", difference)
        yield from _minus(model, arm.method, "difference", arm, plain)


def _against(spec: StudyConfig, model: str, arms: Sequence[_Arm]) -> Iterator[StudyFigure]:
    """The headline's method minus every other arm, paired in items and seeds."""
    (headline,) = [arm for arm in arms if (arm.method, arm.arm) == (_headline(spec), "plain")]
    for arm in arms[1:]:
        if arm is not headline:
            yield from _minus(model, f"{headline.label} − {arm.label}", "against", headline, arm)


def _minus(
    model: str, name: str, column: Literal["difference", "against"], first: _Arm, second: _Arm
) -> Iterator[StudyFigure]:
    """One arm minus another: the means over benchmarks, and each measure of understanding or of what must be kept."""
    for kind, unit in _UNITS.items():
        if kind in first.means:
            yield _figure(model, name, column, kind, "", unit, first.means[kind].minus(second.means[kind]))
    for measure, (unit, change) in first.changes.items():
        yield _figure(model, name, column, "change", measure, unit, change.minus(second.changes[measure][1]))


def _collapse(model: str, arms: Sequence[_Arm], draws: NDArray[np.intp]) -> Iterator[StudyFigure]:
    """(U)NC3 of every arm, and what the term changes of it."""
    plain_of = {id(arm): plain for plain, arm in _with_and_without(arms)}
    for arm in arms:
        level = _Value(arm.unc3.mean(), mean_over(arm.unc3, draws))
        yield _figure(model, arm.method, arm.arm, "collapse", "unc3", "cosine", level, _sd(arm.unc3))
        if id(arm) in plain_of:
            change = arm.unc3 - plain_of[id(arm)].unc3
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
            unc3=_finite(arm.unc3[position]),
            gain=0.0 if arm is before else _finite(_pooled_by_seed(pairs, position)),
            geometry=arm.geometry[position],
            distances={name: _distance(arm.measures[name], position) for name in spec.benchmarks},
        )


def _pooled_by_seed(pairs: Sequence[tuple[Replicates, Replicates]], seed: int) -> float:
    """Pooled gain of one fine-tuned model."""

    def alone(runs: Replicates) -> Replicates:
        return Replicates(runs.value[[seed]], runs.resampled[:, [seed]], runs.ideal)

    draws = np.zeros((len(pairs[0][0].resampled), 1), dtype=np.intp)
    return pooled_gain([(alone(before), alone(after)) for before, after in pairs], draws)[0]


def _distance(measure: Replicates, seed: int) -> float | None:
    """Of one model's measure from its ideal."""
    return None if measure.ideal is None else _finite(abs(measure.value[seed] - measure.ideal))


def _association(model: str, cells: Sequence[StudyCell], seed: int, resamples: int) -> Iterator[StudyFigure]:
    """Which measure of collapse goes with bias? Rank correlations over the cells of a model, or of all models.

    With the pooled gain, which is relative to one model before, over its fine-tuned cells alone; with the distance from
    the ideal over all cells, a model before fine-tuning once. The intervals resample arms, each with all its seeds.
    """
    tuned = [cell for cell in cells if cell.arm != "before"]
    before = {cell.model: cell for cell in cells if cell.arm == "before"}
    points = [*before.values(), *tuned]
    for measure in dict.fromkeys(name for cell in cells for name in cell.geometry):
        if model:
            gains = [cell.gain for cell in tuned]
            yield from _correlation(model, measure, "pooled gain", tuned, gains, seed, resamples)
        for benchmark in cells[0].distances:
            distances = [cell.distances[benchmark] for cell in points]
            yield from _correlation(model, measure, f"distance of {benchmark}", points, distances, seed, resamples)


def _correlation(
    model: str,
    measure: str,
    name: str,
    cells: Sequence[StudyCell],
    values: Sequence[float | None],
    seed: int,
    resamples: int,
) -> Iterator[StudyFigure]:
    """Spearman's rank correlation of a measure of collapse with values; nothing where arms are few, or all alike."""
    known = [
        (cell, (collapse, value))
        for cell, value in zip(cells, values, strict=True)
        if (collapse := cell.geometry.get(measure)) is not None and value is not None
    ]
    arms = [(cell.model, cell.method, cell.arm) for cell, _ in known]
    pairs = np.array([pair for _, pair in known], dtype=np.float64)
    if len({arm for arm in arms if arm[2] != "before"}) < _FEWEST_ARMS or np.ptp(pairs, axis=0).min() == 0:
        return
    found = _Value(*rank_correlation(pairs, arms, seed=seed, resamples=resamples))
    yield _figure(model, "", "all", "rank correlation", f"{measure} with {name}", "", found)


def _figure(
    model: str,
    method: str,
    arm: Any,
    kind: Any,
    name: str,
    unit: str,
    found: _Value,
    sd: float | None = None,
    measured: Estimate | None = None,
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
        ideal=None if measured is None else measured.ideal,
        higher_is_better=None if measured is None else measured.higher_is_better,
    )


def _geometry(record: RunRecord) -> dict[str, float | None]:
    """Measures of collapse: of the fairness words, the class set audited beside the vocabulary, and of contexts."""
    words = record.metrics.collapse[-1].values
    found = {name: words.get(key) for name, key in _OF_WORDS.items()}
    for contexts in record.metrics.contexts:
        for name, key in _OF_CONTEXTS.items():
            if key in contexts.estimates:
                found[f"{name} {contexts.bias}"] = contexts.estimates[key].value
    return found


def _sd(values: NDArray[np.float64]) -> float | None:
    """Standard deviation over seeds, where there are several."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _finite(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
