"""The conclusions that a run, or a comparison, supports. Intervals decide them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from equiframe.record import CONTEXTS, ComparedMeasure, Metrics, Result, about, split_key, suite_of, term
from equiframe.report.glossary import is_geometry
from equiframe.report.numbers import bounds, change, number
from equiframe.uncertainty import Difference, Estimate

_FEWEST = 6
"""Items that must agree before a sign test reaches 0.05; a bootstrap of fewer that agree has no width."""

Direction: TypeAlias = Literal["wanted", "unwanted", "open", "unclear"]
"""Direction of a change: towards the ideal, away from it, neither, or not distinguishable from chance."""


class Finding(NamedTuple):
    """One conclusion about one measure, and its numbers."""

    measure: str
    text: str
    details: str


class Group(NamedTuple):
    """Findings of one kind, with a sign that needs no colour."""

    sign: str
    title: str
    findings: list[Finding]


class Verdict(NamedTuple):
    """A heading, a summary in a few sentences, the rule that decides, and the findings."""

    title: str
    summary: str
    rule: str
    groups: list[Group]
    unclear: Group


def direction(compared: ComparedMeasure) -> Direction:
    """Direction of a change, if it can be distinguished from chance. Geometry has none, except for agreement.

    If a measure crosses an ideal between two preferences, the change counts as wanted only if it ends closer to the
    ideal and the later interval contains the ideal; otherwise it has no direction.
    """
    second, moved = compared.second, compared.difference
    if not _is_clear(moved):
        return "unclear"
    if is_geometry(compared.benchmark) and not _is_agreement(compared):
        return "open"
    if second.higher_is_better is not None:
        return "wanted" if (moved.value > 0) == second.higher_is_better else "unwanted"
    if second.ideal is None:
        return "open"
    before, after = compared.first.value - second.ideal, second.value - second.ideal
    if before * after < 0 and side(second) != 0:
        return "open"
    return "wanted" if abs(after) < abs(before) else "unwanted"


def side(estimate: Estimate) -> int:
    """The side of the ideal on which an interval lies: 1 above, -1 below, 0 if it contains it or is undefined."""
    if estimate.ideal is None or estimate.low is None or estimate.high is None or estimate.count < _FEWEST:
        return 0
    return int(estimate.low > estimate.ideal) - int(estimate.high < estimate.ideal)


def comparison_verdict(
    first: str, second: str, measures: Sequence[ComparedMeasure], results: Mapping[str, Result]
) -> Verdict:
    """What moved between two runs. Measures that split or restate another are not counted; price is apart.

    Args:
        first: name of the reference.
        second: name of the later run.
        measures: what was compared.
        results: what explains it, see :attr:`equiframe.record.Comparison.results`.
    """

    def result(measure: ComparedMeasure) -> Result | str:
        return results.get(measure.benchmark, measure.benchmark)

    def moved(measure: ComparedMeasure) -> Finding:
        return _moved(measure, result(measure))

    counted = [m for m in measures if not is_geometry(m.benchmark) and not term(result(m), m.measure).is_derived]
    scored = [m for m in counted if suite_of(result(m)) == "fairness"]
    price = [m for m in counted if suite_of(result(m)) == "nlu"]
    geometry = [m for m in measures if is_geometry(m.benchmark)]
    by: dict[Direction, list[Finding]] = {"wanted": [], "unwanted": [], "open": [], "unclear": []}
    for measure in scored:
        by[direction(measure)].append(moved(measure))
    summary = "The runs share no measure of bias."
    if scored:
        told = [
            f"{len(by['wanted'])} moved in the wanted direction",
            f"{len(by['unwanted'])} in the unwanted",
            *([f"{len(by['open'])} with no wanted direction"] if by["open"] else []),
        ]
        summary = (
            f"Of {_count(scored, 'measure')} on bias benchmarks, {', '.join(told)}; {len(by['unclear'])} cannot be"
            f" distinguished from chance. If nothing had changed, about {_missed(scored)} of {len(scored)} would still"
            " appear to have moved."
        )
    if by["wanted"] and any(_is_agreement(m) and direction(m) == "unwanted" for m in measures):
        summary += (
            " Agreement fell: the model less often expects the word that the context requires, so the gain was paid"
            " for with what it knows."
        )
    groups = [
        Group("✓", "Moved in the wanted direction", by["wanted"]),
        Group("✕", "Moved in the unwanted direction", by["unwanted"]),
        Group("↔", "Moved, with no wanted direction", by["open"]),
        Group("¤", "Cost: language understanding", [_priced(m, moved(m)) for m in price]),
        Group("∠", "Geometry, not itself a measure of fairness", [*map(moved, geometry)]),
    ]
    unclear = Group("≈", "Cannot be distinguished from chance", by["unclear"])
    rule = (
        "A measure counts as moved if the 95 % interval of its paired difference over the shared items does not"
        " contain 0 and the paired permutation test gives p < 0.05."
    )
    return Verdict(f"{second} against {first}", summary, rule, [g for g in groups if g.findings], unclear)


def run_verdict(metrics: Metrics) -> Verdict:
    """The position of a run: the side of neutral on which its intervals lie, and the collapse of its words."""
    by: dict[int, list[Finding]] = {1: [], -1: [], 0: []}
    price = []
    for result in metrics.benchmarks:
        for key, estimate in result.estimates.items():
            is_preference = estimate.ideal is not None and estimate.higher_is_better is None
            if term(result, key).is_derived:
                continue
            if suite_of(result) == "nlu":
                price.append(_measured(result, key, estimate))
            elif is_preference:
                by[side(estimate)].append(_measured(result, key, estimate))
    others: list[Result] = [*metrics.collapse, *metrics.contexts]
    geometry = [_measured(found, key, estimate) for found in others for key, estimate in found.estimates.items()]
    summary = []
    scored = [finding for findings in by.values() for finding in findings]
    if scored:
        summary.append(
            f"Of {_count(scored, 'measure')} of preference, {len(by[1])} are above neutral, {len(by[-1])}"
            f" below; {len(by[0])} cannot be distinguished from neutral. If all were neutral, about"
            f" {_missed(scored)} of {len(scored)} would still appear not to be."
        )
    if metrics.training is not None:
        summary.append(
            "This run alone does not show what debiasing changed: compare it with a run of the original model."
        )
    if not scored and metrics.training is None:
        summary.append("No benchmark with a neutral point was scored: the measured values follow without a verdict.")
    groups = [
        Group("↑", "Above neutral", by[1]),
        Group("↓", "Below neutral", by[-1]),
        Group("¤", "Language understanding", price),
        Group("∠", "Geometry, not itself a measure of fairness", geometry),
    ]
    unclear = Group("≈", "Cannot be distinguished from neutral", by[0])
    rule = "A measure counts as above or below if its 95 % interval does not contain the neutral value."
    return Verdict(
        metrics.model.name,
        " ".join(summary),
        rule if scored else "",
        [g for g in groups if g.findings],
        unclear,
    )


def measure_name(result: Result | str, key: str) -> str:
    """A measure in plain words: ``StereoSet, gender: stereotype score (SS)``."""
    subject = filter(None, (about(result).title, split_key(key)[0]))
    return f"{', '.join(subject)}: {term(result, key).name}"


def _moved(compared: ComparedMeasure, result: Result | str) -> Finding:
    first, second, moved = compared.first, compared.second, compared.difference
    values = " to ".join(number(e.value, second.unit) for e in (first, second)) + _unit(second)
    verb = "fell from" if moved.value < 0 else "rose from"
    text = f"{verb} {values}" if _is_clear(moved) else f"went from {values}, which cannot be distinguished from chance"
    return Finding(measure_name(result, compared.measure), text, change(moved, second.unit))


def _priced(compared: ComparedMeasure, finding: Finding) -> Finding:
    """What moved, and whether that is for the better."""
    way = {"wanted": ": better", "unwanted": ": worse"}.get(direction(compared), "")
    return finding._replace(text=finding.text + way)


def _measured(result: Result, key: str, estimate: Estimate) -> Finding:
    value = f"measured {number(estimate.value, estimate.unit)}{_unit(estimate)}"
    return Finding(measure_name(result, key), value, bounds(estimate.low, estimate.high, estimate.unit))


def _is_agreement(compared: ComparedMeasure) -> bool:
    return split_key(compared.measure)[1] == "agreement" and compared.benchmark.partition(":")[0] in (
        "agreement",
        CONTEXTS,
    )


def _is_clear(moved: Difference) -> bool:
    """Whether the interval does not contain 0 and the permutation test agrees."""
    if moved.low is None or moved.high is None or moved.low <= 0 <= moved.high:
        return False
    return moved.p_value is None or moved.p_value < 0.05


def _unit(estimate: Estimate) -> str:
    return f" {estimate.unit}" if estimate.unit in ("%", "nats") else ""


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _missed(measures: Sequence[object]) -> str:
    """How many 95 % intervals miss a true value on average."""
    return f"{0.05 * len(measures):.1f}"
