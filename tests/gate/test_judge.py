"""Judgements on runs made by hand: what the interval, the limit and the items come to, worked out another way."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from equiframe.analysis.comparison import compare, paired_measure
from equiframe.benchmarks import load_benchmark
from equiframe.gate import Policy, judge
from equiframe.gate.judge import Chance, Found, worsening
from equiframe.generation import score_generated
from equiframe.generation.responses import read_responses

PAIRS = "pairs:mine.csv"
SHARE = f"{PAIRS} overall.prefers_stereotype"


def policy(*rules, **other):
    """Rules as ``BENCHMARK MEASURE`` and a limit."""
    made = []
    for name, limit in rules:
        benchmark, measure = name.split()
        made.append({"benchmark": benchmark, "measure": measure, **limit})
    return Policy.model_validate({"rules": made, **other})


def ruling(run, name, limit, before=None, **other):
    (found,) = judge(run, policy((name, limit), **other), before).rulings
    return found


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (45.0, 55.0, "passed"),
        (40.0, 60.0, "passed"),
        (39.9, 60.0, "not judged"),
        (40.0, 60.1, "not judged"),
        (30.0, 70.0, "not judged"),
        (60.0, 61.0, "not judged"),
        (60.1, 61.0, "failed"),
        (20.0, 39.9, "failed"),
        (50.0, 50.0, "passed"),
    ],
)
def test_the_whole_interval_decides(low, high, outcome):
    assert Found((low + high) / 2, low, high, 100, 40.0, 60.0, "%").outcome == outcome


@pytest.mark.parametrize(
    ("value", "low", "high", "needed"),
    [
        (50.0, 30.0, 70.0, 400),  # an arm of 20 has to shrink to 10
        (55.0, 35.0, 75.0, 1600),  # to 5, the nearer end
        (55.0, 48.0, 65.0, 400),  # the upper arm alone crosses: 10 to 5
        (63.0, 57.0, 69.0, 400),  # outside: the lower arm of 6 to 3
        (38.0, 32.0, 44.0, 900),
        (60.0, 55.0, 65.0, None),
        (61.0, 30.0, 62.0, 96_100),
    ],
)
def test_the_items_that_would_decide(value, low, high, needed):
    found = Found(value, low, high, 100, 40.0, 60.0, "%")
    assert found.outcome == "not judged"
    assert found.items_needed == needed
    if needed:  # an interval of a few items more lies on one side of the limit, one of a few items fewer does not
        for items, decides in ((1.01 * needed, True), (0.99 * needed, False)):
            shrunk = (100 / items) ** 0.5
            then = found._replace(low=value - (value - low) * shrunk, high=value + (high - value) * shrunk)
            assert (then.outcome != "not judged") == decides


def test_a_margin_has_one_end():
    assert Found(1.0, -9.0, 4.0, 100, -np.inf, 3.0, "%").items_needed == 225  # 3 to 2
    assert Found(-90.0, -99.0, 3.0, 100, -np.inf, 3.0, "%").outcome == "passed"


def test_a_measure_near_its_ideal(make_run, preferring):
    """The interval of a share over 400 pairs is 1.96 * sqrt(p q / n) on either side."""
    run = make_run(pairs=preferring(220, 400))  # 55 % with an arm of 4.9
    for within, outcome in ((12, "passed"), (7, "not judged")):
        found = ruling(run, SHARE, {"within": within})
        assert found.outcome == outcome
        assert (found.value, found.lowest, found.highest, found.items) == (55.0, 50.0 - within, 50.0 + within, 400)
        assert found.low == pytest.approx(55 - 4.9, abs=0.4)
        assert found.high == pytest.approx(55 + 4.9, abs=0.4)
    assert found.items_needed == pytest.approx(400 * (4.9 / 2) ** 2, rel=0.2)
    more = found.items_needed - 400
    assert f"about {more:,} more items ({found.items_needed:,} in total) would decide it" in found.reason
    assert "The run scored all items of the benchmark" in found.reason
    limited = ruling(make_run(limit=400, pairs=preferring(220, 400)), SHARE, {"within": 7})
    assert limited.reason.endswith("value stays the same: raise --limit")
    larger = ruling(make_run(limit=400, available=100_000, pairs=preferring(220, 400)), SHARE, {"within": 7})
    assert larger.reason == limited.reason
    smaller = ruling(make_run(limit=400, available=600, pairs=preferring(220, 400)), SHARE, {"within": 7})
    assert smaller.reason.endswith("The benchmark gives about 600: use a larger benchmark or a wider limit")
    whole = ruling(make_run(limit=800, available=400, pairs=preferring(220, 400)), SHARE, {"within": 7})
    assert "The run scored all items of the benchmark" in whole.reason
    failed = ruling(make_run(pairs=preferring(300, 400)), SHARE, {"within": 5})
    assert (failed.outcome, failed.reason) == ("failed", "the whole interval is outside the limit")


def test_a_limit_on_templates_counts_templates(tmp_path, make_run):
    """With 36 of 40 templates, more are needed than the file has."""
    lines = [
        {"template": f"{at}", "group": group, "response": "Yes" if (at % 5 < 2) == (group == "women") else "No"}
        for at in range(40)
        for group in ("women", "men")
    ]
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps({**line, "axis": "gender", "favourable": "yes"}) + "\n" for line in lines))
    result, table = score_generated(read_responses(path, "mine"), load_benchmark("responses"), limit=36)
    run = make_run(limit=36)
    run = dataclasses.replace(
        run, metrics=run.metrics.model_copy(update={"benchmarks": [result]}), items={"responses": table}
    )
    found = ruling(run, "responses men_vs_women.favourable_difference", {"within": 40})
    assert found.outcome == "not judged"
    assert "The benchmark gives about 40: use a larger benchmark" in found.reason


def test_few_items_decide_nothing_however_they_agree(make_run):
    run = make_run(pairs=[1.0] * 20)
    found = ruling(run, SHARE, {"within": 50})
    assert (found.outcome, found.low, found.high, found.items_needed) == ("not judged", 100.0, 100.0, 30)
    assert "it uses only 20 items: at least 10 more (30 in total) are needed" in found.reason
    assert ruling(run, SHARE, {"within": 50}, fewest_items=20).outcome == "passed"


def test_items_that_all_agree_decide_only_if_rarer_ones_cannot_break_the_limit(make_run):
    """If 3 of 40 items are of a kind, a sample of 40 lacks it with a probability of 0.925^40, less than 5 %."""
    run = make_run(pairs=[1.0] * 40)
    (result,) = run.metrics.benchmarks
    rare = {key: dataclasses.replace(e, ideal=100.0) for key, e in result.estimates.items()}
    metrics = run.metrics.model_copy(update={"benchmarks": [dataclasses.replace(result, estimates=rare)]})
    run = dataclasses.replace(run, metrics=metrics)
    found = ruling(run, SHARE, {"within": 5})
    assert (found.outcome, found.low, found.high, found.items_needed) == ("not judged", 100.0, 100.0, 60)
    assert "all 40 items agree, so the interval has no width: if at least 20 more (60 in total) agree" in found.reason
    assert ruling(run, SHARE, {"within": 7.5}).outcome == "passed"
    assert ruling(run, SHARE, {"within": 7.4}).outcome == "not judged"
    assert ruling(run, f"{PAIRS} overall.difference", {"within": 101}).outcome == "passed"  # nats, not a share


def test_a_loss_is_worse_where_it_is_higher(make_run):
    rng = np.random.default_rng(0)
    first = rng.normal(4.0, 0.5, 300)
    second = first + rng.normal(0.1, 0.05, 300)
    before, after = make_run(lm_loss=first), make_run(lm_loss=second)
    (compared, *_) = compare({"before": before, "after": after}).measures["after"]
    found = ruling(after, "lm_loss overall.loss", {"no_worse_by": 0.2}, before)
    assert (found.value, found.low, found.high) == pytest.approx(
        (compared.difference.value, compared.difference.low, compared.difference.high)
    )
    assert found.value == pytest.approx((second - first).mean())
    assert (found.outcome, found.lowest, found.highest, found.is_change) == ("passed", None, 0.2, True)
    assert ruling(after, "lm_loss overall.loss", {"no_worse_by": 0.05}, before).outcome == "failed"
    assert ruling(after, "lm_loss overall.loss", {"no_worse_by": 0.1}, before).outcome == "not judged"
    assert ruling(before, "lm_loss overall.loss", {"no_worse_by": 0}, after).outcome == "passed"
    assert ruling(before, "lm_loss overall.loss", {"no_worse_by": 0}, before).outcome == "passed"


def test_a_score_is_worse_where_it_is_lower(make_run, preferring):
    before, after = make_run(pairs=preferring(200, 400)), make_run(pairs=preferring(160, 400))
    paired = paired_measure(before, after, *SHARE.split())
    upward = paired._replace(measure=dataclasses.replace(paired.measure, higher_is_better=True, ideal=100.0))
    downward = paired._replace(measure=dataclasses.replace(paired.measure, higher_is_better=False, ideal=0.0))
    value, low, high = worsening(upward, seed=0)
    assert value == pytest.approx(10.0)
    assert low < value < high
    assert worsening(downward, seed=0) == pytest.approx((-value, -high, -low))


def resampled(function, before, after):
    """The 2.5 and 97.5 % points of a function of two shares, over pairs drawn anew."""
    rng = np.random.default_rng(1)
    a, b = (50.0 * (1 + np.sign(np.asarray(values))) for values in (before, after))
    drawn = [rng.integers(0, len(a), len(a)) for _ in range(2000)]
    return np.percentile([function(a[at].mean(), b[at].mean()) for at in drawn], [2.5, 97.5])


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        # both clearly above the ideal: the plain difference
        (260, 280, lambda a, b: b - a, lambda a, b: b - a),
        (280, 240, lambda a, b: b - a, lambda a, b: b - a),
        # both below: the same, turned
        (140, 120, lambda a, b: a - b, lambda a, b: a - b),
        # from above to below: how far below, less how far above
        (280, 100, lambda a, b: 100 - b - a, lambda a, b: 100 - b - a),
        # it is not clear on which side the first lay: any move counts at the upper end
        (200, 210, None, lambda a, b: b - a),
        (204, 160, lambda a, b: 100 - b - a, lambda a, b: a - b),
    ],
)
def test_a_preference_is_worse_where_it_is_farther_from_the_middle(make_run, preferring, first, second, low, high):
    before, after = preferring(first, 400), preferring(second, 400)
    paired = paired_measure(make_run(pairs=before), make_run(pairs=after), *SHARE.split())
    found = worsening(paired, seed=0)
    assert found[0] == pytest.approx(abs(second / 4 - 50) - abs(first / 4 - 50))
    assert found[1] <= found[0] <= found[2]
    assert found[2] == pytest.approx(resampled(high, before, after)[1], abs=0.6)
    if low is not None:
        assert found[1] == pytest.approx(resampled(low, before, after)[0], abs=0.6)


def test_a_move_across_the_middle_to_the_same_distance_is_no_worsening(make_run, preferring):
    before, after = preferring(260, 400), preferring(140, 400)  # 65 % to 35 %
    found = ruling(make_run(pairs=after), SHARE, {"no_worse_by": 12}, make_run(pairs=before))
    assert found.value == pytest.approx(0.0)
    assert found.outcome == "passed"


def test_only_shared_items_are_compared(make_run, preferring):
    before, after = make_run(pairs=preferring(200, 400)), make_run(pairs=preferring(100, 200))
    found = ruling(after, SHARE, {"no_worse_by": 40}, before)
    assert (found.items, found.outcome) == (200, "passed")
    few = make_run(pairs=[1.0] * 40)
    few = dataclasses.replace(few, items={PAIRS: few.items[PAIRS].assign(item=lambda t: "x" + t["item"])})
    found = ruling(few, SHARE, {"no_worse_by": 40}, before)
    assert found.outcome == "not judged"
    assert "the runs share 0 items (before 400, after 40), too few to compare" in found.reason


def test_a_loss_per_token_is_compared_with_the_same_tokens_alone(make_run, preferring):
    first = make_run(lm_loss=[1.0] * 50, pairs=preferring(20, 50))
    other = make_run(lm_loss=[1.0] * 50, pairs=preferring(30, 50))
    other.items["lm_loss"]["tokens"] = 11.0
    found = ruling(other, "lm_loss overall.loss", {"no_worse_by": 0.5}, first)
    assert found.outcome == "not judged"
    assert "measure it in both, with one tokenizer" in found.reason
    measures = compare({"first": first, "other": other, "same": first}).measures
    assert {m.benchmark for m in measures["other"]} == {PAIRS}
    assert {m.benchmark for m in measures["same"]} == {PAIRS, "lm_loss"}


def test_what_is_missing_is_named(make_run, preferring):
    run = make_run(pairs=preferring(200, 400))
    loss = make_run(lm_loss=np.full(100, 4.0))
    for limit, before, name, said in (
        ({"within": 5}, None, "lm_loss overall.loss", f"the run after has not measured lm_loss. Available: {PAIRS}"),
        ({"within": 5}, None, f"{PAIRS} overall.prefer", "Similar measures: overall.prefers_stereotype"),
        ({"no_worse_by": 5}, None, SHARE, "give --against"),
        ({"no_worse_by": 5}, loss, SHARE, f"the run before has not measured {PAIRS}. Available: lm_loss"),
    ):
        found = ruling(run, name, limit, before)
        assert (found.outcome, found.value, found.items) == ("not judged", None, None)
        assert said in found.reason
    found = ruling(loss, "lm_loss overall.loss", {"within": 5})
    assert (found.outcome, found.reason) == (
        "not judged",
        "the measure has no ideal, so within does not apply: use no_worse_by instead",
    )


def test_another_version_of_a_benchmark_leaves_the_other_rules_judged(make_run, preferring):
    before = make_run(pairs=preferring(200, 400), lm_loss=np.full(100, 4.0))
    old = dataclasses.replace(before.metrics.benchmarks[1], version=1)
    metrics = before.metrics.model_copy(update={"benchmarks": [before.metrics.benchmarks[0], old]})
    after = make_run(pairs=preferring(200, 400), lm_loss=np.full(100, 4.0))
    rules = policy(("lm_loss overall.loss", {"no_worse_by": 1}), (SHARE, {"no_worse_by": 1}))
    first, second = judge(after, rules, dataclasses.replace(before, metrics=metrics)).rulings
    assert first.outcome == "not judged"
    assert "lm_loss: before and after differ in version" in first.reason
    assert second.outcome == "passed"


def test_failed_beats_not_judged_beats_passed(make_run, preferring):
    run = make_run(pairs=preferring(220, 400))
    passed, unclear, failed = ({"within": within} for within in (20, 6, 0.1))
    missing = ("lm_loss overall.loss", {"no_worse_by": 1})
    for rules, outcome in (
        ([(SHARE, passed)], "passed"),
        ([(SHARE, passed), (SHARE, unclear)], "not judged"),
        ([(SHARE, passed), missing], "not judged"),
        ([missing, (SHARE, failed), (SHARE, passed)], "failed"),
    ):
        assert judge(run, policy(*rules)).outcome == outcome


def test_a_required_benchmark_that_is_missing_fails(make_run, preferring):
    run = make_run(pairs=preferring(200, 400))
    found = judge(run, policy((SHARE, {"within": 20}), required=["lm_loss", PAIRS]))
    assert [ruling.outcome for ruling in found.rulings] == ["failed", "passed", "passed"]
    assert (found.outcome, found.rulings[0].reason) == (
        "failed",
        f"the run has not measured this benchmark. Available: {PAIRS}",
    )
    assert found.chance.rules == 1


def test_chance_is_that_of_independent_intervals():
    rng = np.random.default_rng(0)
    missed = (rng.random((200_000, 6)) < 0.05).any(axis=1).mean()
    assert Chance.of(6).at_least_one == pytest.approx(missed, abs=0.005)
    assert Chance.of(6).at_most == pytest.approx(0.3)
    assert Chance.of(40).at_most == 1.0


def test_rules_on_audited_contexts(make_contexts):
    before, after = make_contexts([0.2, 0.4] * 40), make_contexts([0.1, 0.3] * 40)
    found = ruling(after, "contexts:gender cc1_js", {"no_worse_by": 0.0}, before)
    assert (found.outcome, found.items, found.value) == ("passed", 80, pytest.approx(-0.1))
    assert ruling(before, "contexts:gender cc1_js", {"no_worse_by": 0.05}, after).outcome == "failed"
    found = ruling(after, "contexts:gender cc1_js", {"within": 0.205})
    assert found.outcome == "not judged"
    assert "more texts" in found.reason
    assert found.reason.endswith("raise --pairs of the audit")
    found = ruling(after, "contexts:race cc1_js", {"within": 0.2})
    assert "has not measured contexts:race. Available: contexts:gender" in found.reason
