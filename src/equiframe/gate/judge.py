"""Judges a run: applies each rule of a policy to the run and, for rules on changes, to an earlier run.

A rule allows a range. It passes if the whole 95 % interval of its measure is inside, fails if the whole interval is
outside, and cannot be judged if the interval crosses an end of the range. Nothing is read or written.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from equiframe.analysis.comparison import Paired, aligned, paired_measure
from equiframe.errors import InputError
from equiframe.gate.policy import Policy, Rule
from equiframe.record import COLLAPSE, CONTEXTS, RunRecord
from equiframe.uncertainty import Estimate, bootstrap

Outcome: TypeAlias = Literal["passed", "failed", "not judged"]
EXIT_CODES: dict[Outcome, int] = {"passed": 0, "failed": 1, "not judged": 3}
"""Exit codes of the command; 2 means wrong use."""
_MISSES = 0.05  # how often a 95 % interval misses the true value, at most
_OF_SHARES = {"%": 100.0, "share": 1.0}  # the largest value of a share, by unit
_UNSEEN = 3.0  # expected number of items of a kind that a sample lacks in at most 5 % of cases: the rule of three


Values: TypeAlias = NDArray[np.float64]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ruling(_Frozen):
    """The result of one rule."""

    rule: str = Field(description="in words")
    benchmark: str
    measure: str | None = Field(description="null if the rule requires the whole benchmark")
    outcome: Outcome
    reason: str = Field(description="why it did not pass, and what would help; empty if it passed")
    is_change: bool = Field(
        default=False, description="whether the numbers say how much worse than before; below 0 is better"
    )
    value: float | None = None
    low: float | None = Field(default=None, description="lower end of the 95 % interval")
    high: float | None = None
    lowest: float | None = Field(
        default=None, description="end of the range that the rule allows; null if it has no such end"
    )
    highest: float | None = None
    unit: str = ""
    items: int | None = Field(default=None, description="number of items of the interval")
    items_needed: int | None = Field(
        default=None, description="total number of items needed to decide; null if no number would"
    )


class Chance(_Frozen):
    """The effect of chance alone on a number of rules, whose intervals each miss the true value in 5 % of samples."""

    rules: int
    at_least_one: float = Field(description="probability that chance alone decides one or more rules, if independent")
    at_most: float = Field(description="the same, however the rules depend on each other")

    @classmethod
    def of(cls, rules: int) -> Chance:
        """The effect of chance on this number of rules."""
        return cls(rules=rules, at_least_one=1 - (1 - _MISSES) ** rules, at_most=min(1.0, _MISSES * rules))


class Judgement(_Frozen):
    """The result of a gate."""

    schema_version: Literal["equiframe.gate/1"] = "equiframe.gate/1"
    outcome: Outcome = Field(
        description="failed if any rule failed, else not judged if any rule was not judged, else passed"
    )
    after: str = Field(description="the model that is judged")
    before: str | None = Field(description="the model that it is compared with")
    rulings: list[Ruling]
    chance: Chance


class Found(NamedTuple):
    """A number with its 95 % interval, and the range that a rule allows."""

    value: float
    low: float
    high: float
    items: int
    lowest: float
    highest: float
    unit: str

    @property
    def outcome(self) -> Outcome:
        """Passed if the interval is inside the range, failed if it is outside."""
        if self.lowest <= self.low and self.high <= self.highest:
            return "passed"
        if self.high < self.lowest or self.low > self.highest:
            return "failed"
        return "not judged"

    @property
    def items_if_alike(self) -> int:
        """Number of items needed to pass if all items agree, so that resampling them gives an interval without width.

        If none of n items is of some kind, up to 3 / n of all items may be. 0 unless a share has such an interval.

        Reference: Hanley and Lippman-Hand 1983, "If Nothing Goes Wrong, Is Everything All Right?".
        """
        most = _OF_SHARES.get(self.unit)
        if most is None or self.low != self.high or not math.isfinite(self.lowest):
            return 0
        rooms = [self.value - self.lowest] * (self.value > 0) + [self.highest - self.value] * (self.value < most)
        return math.ceil(_UNSEEN * most / max(min(rooms), most / 1e9))

    @property
    def items_needed(self) -> int | None:
        """Number of items that would decide, if the value stays and the interval narrows with the square root of items.

        None if the value is on an end of the range.
        """
        below, above = self.value - self.low, self.high - self.value
        if self.value < self.lowest:
            sides = [(above, self.lowest - self.value)]
        elif self.value > self.highest:
            sides = [(below, self.value - self.highest)]
        else:
            sides = [(below, self.value - self.lowest), (above, self.highest - self.value)]
        if any(room == 0 < arm for arm, room in sides):
            return None
        ratio = max(arm / room for arm, room in sides if room)
        return math.ceil(self.items * ratio**2)


def judge(after: RunRecord, policy: Policy, before: RunRecord | None = None, *, seed: int = 0) -> Judgement:
    """Judge a run by a policy.

    Args:
        after: the run to judge.
        policy: the rules.
        before: the run that ``no_worse_by`` compares with; without it these rules are not judged.
        seed: seed of the bootstrap of paired differences; the other intervals come from the record.
    """
    if before is not None:
        after, before = aligned({"after": after, "before": before}).values()
    measured = after.metrics.results
    rulings = [_required(name, list(measured)) for name in policy.required]
    rulings += [_ruling(rule, policy.fewest_items, after, before, seed) for rule in policy.rules]
    outcomes = [ruling.outcome for ruling in rulings]
    return Judgement(
        outcome=next((worst for worst in ("failed", "not judged") if worst in outcomes), "passed"),
        after=_model(after),
        before=None if before is None else _model(before),
        rulings=rulings,
        chance=Chance.of(len(policy.rules)),
    )


def _model(run: RunRecord) -> str:
    """The model of the run, and what was done to it."""
    name, training = run.metrics.model.name, run.metrics.training
    return name if training is None else f"{name} debiased with {training.method}"


def _required(benchmark: str, measured: Sequence[str]) -> Ruling:
    is_there = benchmark in measured
    return Ruling(
        rule=f"{benchmark}: has been measured",
        benchmark=benchmark,
        measure=None,
        outcome="passed" if is_there else "failed",
        reason=""
        if is_there
        else f"the run has not measured this benchmark. Available: {', '.join(measured) or 'none'}",
    )


def _ruling(rule: Rule, fewest: int, after: RunRecord, before: RunRecord | None, seed: int) -> Ruling:
    described: dict[str, Any] = {"rule": str(rule), "benchmark": rule.benchmark, "measure": rule.measure}
    runs = [after]
    try:
        if rule.within is not None:
            found = _distance(rule, rule.within, after)
        elif before is None:
            raise InputError("there is no run to compare with: give --against")
        else:
            runs.append(before)
            found = _worsening(rule, rule.no_worse_by or 0.0, after, before, seed)
    except InputError as error:
        return Ruling(**described, outcome="not judged", reason=str(error))
    outcome, needed, reason = found.outcome, None, ""
    if found.items < fewest:
        outcome, needed = "not judged", fewest
        reason = (
            f"it uses only {found.items} items: at least {fewest - found.items} more ({fewest} in total) are needed"
        )
    elif outcome == "passed" and found.items < found.items_if_alike:
        outcome, needed = "not judged", found.items_if_alike
        reason = (
            f"all {found.items} items agree, so the interval has no width: if at least {needed - found.items:,} more"
            f" ({needed:,} in total) agree too, rarer ones are too few to break the limit"
        )
    elif outcome == "not judged":
        needed = found.items_needed
        reason = "the interval crosses the limit: "
        if needed is None:
            reason += "the value is exactly on the limit, so more items would not decide it"
        else:
            reason += _more(rule, found.items, needed, runs)
    elif outcome == "failed":
        reason = "the whole interval is outside the limit"
    return Ruling(
        **described,
        outcome=outcome,
        reason=reason,
        is_change=rule.within is None,
        value=found.value,
        low=found.low,
        high=found.high,
        lowest=found.lowest if math.isfinite(found.lowest) else None,
        highest=found.highest,
        unit=found.unit,
        items=found.items,
        items_needed=needed,
    )


def _more(rule: Rule, items: int, needed: int, runs: Sequence[RunRecord]) -> str:
    """How many more items would decide, and how to get them."""
    what = {COLLAPSE: "words", CONTEXTS: "texts"}.get(rule.benchmark.partition(":")[0], "items")
    said = f"about {needed - items:,} more {what} ({needed:,} in total) would decide it, if the value stays the same"
    if what == "words":
        return said
    if what == "texts":
        return f"{said}: raise --pairs of the audit"
    most = min(_most(run, rule.benchmark, items) for run in runs)
    if needed <= most:
        return f"{said}: raise --limit"
    whole = "The run scored all items of the benchmark" if most == items else f"The benchmark gives about {most:,}"
    return f"{said}. {whole}: use a larger benchmark or a wider limit"


def _most(run: RunRecord, benchmark: str, items: int) -> float:
    """How many items a run would use without --limit; infinite where the record does not say how many there are."""
    limit = run.provenance.limit
    if limit is None:
        return items
    available = next((result.available for result in run.metrics.benchmarks if result.name == benchmark), None)
    return math.inf if available is None else max(items, round(items * available / limit))


def _estimate(rule: Rule, run: RunRecord, name: str) -> Estimate:
    """The measure of a rule in one of the runs.

    Raises:
        InputError: the run does not have the measure.
    """
    measured = run.metrics.results
    if rule.benchmark not in measured:
        raise InputError(
            f"the run {name} has not measured {rule.benchmark}. Available: {', '.join(measured) or 'none'}"
        )
    estimates = measured[rule.benchmark].estimates
    if rule.measure not in estimates:
        near = difflib.get_close_matches(rule.measure, estimates, n=5, cutoff=0.3) or list(estimates)[:5]
        raise InputError(f"the run {name} has no such measure. Similar measures: {', '.join(near) or 'none'}")
    return estimates[rule.measure]


def _distance(rule: Rule, within: float, after: RunRecord) -> Found:
    """The measure itself, which must be near its ideal."""
    found = _estimate(rule, after, "after")
    if found.ideal is None:
        raise InputError("the measure has no ideal, so within does not apply: use no_worse_by instead")
    if found.low is None or found.high is None:
        raise InputError("the measure has no interval")
    lowest, highest = found.ideal - within, found.ideal + within
    return Found(found.value, found.low, found.high, found.count, lowest, highest, found.unit)


def _worsening(rule: Rule, margin: float, after: RunRecord, before: RunRecord, seed: int) -> Found:
    """How much worse the measure is than before, which must be within the margin."""
    for run, name in ((after, "after"), (before, "before")):
        _estimate(rule, run, name)
    paired = paired_measure(before, after, rule.benchmark, rule.measure)
    value, low, high = worsening(paired, seed=seed)
    return Found(value, low, high, len(paired.first), -math.inf, margin, paired.measure.unit)


def worsening(paired: Paired, *, seed: int) -> tuple[float, float, float]:
    """How much worse a measure is in the second run than in the first: the value, and the ends of its 95 % interval.

    For a measure with a direction, it is the paired difference, with the sign that makes positive worse. For an ideal
    c between two preferences, it is how much farther from c the second run is, |b - c| - |a - c|. Resampling that
    number itself would find improvements too often if a run is near c, because a distance is never below 0. Its
    interval is therefore combined from those of b - a and (b - c) + (a - c), one of which it equals up to the sign. If
    the interval of the first run contains c, its side is unknown, and a change in either direction counts as worse at
    the upper end.

    Args:
        paired: the measure, with its rows in both runs.
        seed: seed of the bootstrap.

    Raises:
        InputError: the measure has no interval, neither a direction nor an ideal, or fewer than two items.
    """
    (measure, first, second), items = paired, np.arange(len(paired.first))

    def ends(of: Callable[[Values, Values], Values]) -> tuple[float, float]:
        low, high = bootstrap(
            items, lambda at: of(measure.statistic(first[at]), measure.statistic(second[at])), seed=seed
        )
        if low is None or high is None or not measure.interval:
            raise InputError(f"the measure has no interval over {len(items)} shared items")
        return low, high

    a, b = float(measure.statistic(first)), float(measure.statistic(second))
    if measure.higher_is_better is not None:
        sign = -1.0 if measure.higher_is_better else 1.0
        return sign * (b - a), *ends(lambda a, b: sign * (b - a))
    if measure.ideal is None:
        raise InputError("the measure has neither a direction nor an ideal, so none of its values is worse")
    c = measure.ideal
    fell, rose = ends(lambda a, b: b - a)  # the ends of b - a
    below, above = ends(lambda a, b: b + a - 2 * c)  # the ends of (b - c) + (a - c)
    before_low, before_high = ends(lambda a, b: a - c)
    low = max(min(fell, below), -max(rose, above))
    if before_low > 0:
        high = max(rose, -below)
    elif before_high < 0:
        high = max(above, -fell)
    else:
        high = max(rose, -fell)
    return abs(b - c) - abs(a - c), low, high
