"""What may be said follows from intervals and ideals, in every direction."""

from __future__ import annotations

import dataclasses

import pytest

from equiframe.report.verdict import comparison_verdict, direction, run_verdict, side
from equiframe.uncertainty import Estimate

WITHIN, HIGHER, LOWER, NEITHER = (50.0, None), (100.0, True), (None, False), (None, None)


@pytest.mark.parametrize(
    ("kind", "first", "second", "half", "expected"),
    [
        (WITHIN, 60, 55, 1, "wanted"),
        (WITHIN, 55, 60, 1, "unwanted"),
        (WITHIN, 40, 45, 1, "wanted"),
        (WITHIN, 45, 40, 1, "unwanted"),
        (WITHIN, 60, 49, 1, "wanted"),  # past the ideal, but its interval holds it
        (WITHIN, 60, 44, 1, "open"),  # past the ideal, clear of it
        (WITHIN, 51, 48.5, 1, "unwanted"),  # past the ideal and further from it
        (WITHIN, 60, 55, 5, "unclear"),  # the interval of the difference just reaches 0
        (HIGHER, 80, 85, 1, "wanted"),
        (HIGHER, 85, 80, 1, "unwanted"),
        (LOWER, 3.0, 2.0, 0.5, "wanted"),
        (LOWER, 2.0, 3.0, 0.5, "unwanted"),
        (NEITHER, 2.0, 3.0, 0.5, "open"),
        (NEITHER, 2.0, 2.1, 0.5, "unclear"),
    ],
)
def test_direction(estimate, compared, kind, first, second, half, expected):
    ideal, higher = kind
    pair = (estimate(value, ideal=ideal, higher=higher) for value in (first, second))
    assert direction(compared(*pair, half=half)) == expected


def test_without_an_interval_nothing_is_told(estimate, compared):
    measure = compared(estimate(60), estimate(40))
    bare = dataclasses.replace(measure.difference, low=None, high=None)
    assert direction(measure.model_copy(update={"difference": bare})) == "unclear"


@pytest.mark.parametrize(("p", "expected"), [(0.049, "wanted"), (0.05, "unclear"), (None, "wanted")])
def test_the_permutation_test_may_object(estimate, compared, p, expected):
    measure = compared(estimate(60), estimate(55))
    difference = dataclasses.replace(measure.difference, p_value=p)
    assert direction(measure.model_copy(update={"difference": difference})) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(51, 55, 1), (45, 49, -1), (49, 51, 0), (50, 52, 0), (None, None, 0)]
)
def test_side_of_the_ideal(low, high, expected):
    assert side(Estimate(50.0, low, high, 10, "%", ideal=50.0)) == expected


@pytest.mark.parametrize(("count", "expected"), [(5, 0), (6, 1)])
def test_a_handful_that_agrees_tells_nothing(count, expected):
    assert side(Estimate(100.0, 100.0, 100.0, count, "%", ideal=50.0)) == expected


def test_comparison_sorts_and_counts(estimate, compared):
    measures = [
        compared(estimate(60), estimate(55)),
        compared(estimate(60), estimate(65), measure="race.ss"),
        compared(estimate(60), estimate(59.5), measure="religion.ss"),
        compared(
            estimate(0.2, 0.01, ideal=0.0, higher=False, unit="cosine"),
            estimate(0.1, 0.01, ideal=0.0, higher=False, unit="cosine"),
            half=0.01,
            benchmark="collapse:gender",
            measure="unc3",
        ),
    ]
    verdict = comparison_verdict("before", "after", measures, {})
    assert verdict.title == "after against before"
    assert verdict.summary.startswith(
        "Of 3 measures on bias benchmarks, 1 moved in the wanted direction, 1 in the unwanted; 1 cannot be"
        " distinguished from chance."
    )
    assert "about 0.2 of 3" in verdict.summary  # 3 of 20
    wanted, unwanted, geometry = (group.findings for group in verdict.groups)
    assert wanted[0].measure == "StereoSet (dev), gender: stereotype score (SS)"
    assert wanted[0].text == "fell from 60.0 to 55.0 %"
    assert wanted[0].details == "−5.0 [−6.0, −4.0], p = 0.010"
    assert unwanted[0].text == "rose from 60.0 to 65.0 %"
    assert verdict.unclear.findings[0].text == "went from 60.0 to 59.5 %, which cannot be distinguished from chance"
    assert geometry[0].measure == "gender words: (U)NC3, uniform duality"
    assert geometry[0].text == "fell from 0.2000 to 0.1000"


def test_what_restates_another_measure_is_not_counted(estimate, compared):
    pair = estimate(60), estimate(55)
    keys = ("gender.metric", "gender.stereotype_score")
    measures = [compared(*pair, benchmark="crows_pairs", measure=key) for key in keys]
    verdict = comparison_verdict("a", "b", measures, {})
    assert verdict.summary.startswith("Of 1 measure on bias benchmarks, 1 moved in the wanted direction")
    assert [f.measure for group in verdict.groups for f in group.findings] == [
        "CrowS-Pairs, gender: preference for the stereotyping sentence"
    ]


@pytest.mark.parametrize(
    ("after", "half", "text"),
    [
        (2.5, 0.1, "rose from 2.000 to 2.500 nats: worse"),
        (1.5, 0.1, "fell from 2.000 to 1.500 nats: better"),
        (2.05, 0.1, "went from 2.000 to 2.050 nats, which cannot be distinguished from chance"),
    ],
)
def test_price_stands_apart(estimate, compared, after, half, text):
    pair = (estimate(value, 0.1, ideal=None, higher=False, unit="nats") for value in (2.0, after))
    measure = compared(*pair, half=half, benchmark="lm_loss", measure="overall.loss")
    verdict = comparison_verdict("a", "b", [compared(estimate(60), estimate(55)), measure], {})
    assert verdict.summary.startswith("Of 1 measure on bias benchmarks")
    (finding,) = next(group for group in verdict.groups if group.title.startswith("Cost")).findings
    assert (finding.measure, finding.text) == ("Held-out text, overall: language-modelling loss", text)


@pytest.mark.parametrize(
    ("after", "agreement", "benchmark", "measure", "is_said"),
    [
        (55, 70, "agreement", "women.agreement", True),
        (55, 70, "contexts:gender", "agreement", True),
        (55, 79.5, "agreement", "women.agreement", False),  # cannot be distinguished from chance
        (55, 90, "agreement", "women.agreement", False),
        (65, 70, "agreement", "women.agreement", False),  # no gain to be paid for
        (55, 70, "stereoset:dev", "overall.lms", False),
    ],
)
def test_a_gain_that_was_paid_for_with_agreement(estimate, compared, after, agreement, benchmark, measure, is_said):
    pair = (estimate(value, ideal=100.0, higher=True) for value in (80, agreement))
    measures = [compared(estimate(60), estimate(after)), compared(*pair, benchmark=benchmark, measure=measure)]
    assert ("Agreement fell" in comparison_verdict("a", "b", measures, {}).summary) == is_said


def test_comparison_of_geometry_alone(estimate, compared):
    measure = compared(estimate(0.2), estimate(0.1), benchmark="collapse:gender", measure="unc3")
    assert "share no measure of bias" in comparison_verdict("a", "b", [measure], {}).summary


def test_run_stands_above_below_or_cannot_be_told(make_record):
    metrics = make_record("benchmarks", score=46.5).metrics  # overall 44.5 to 48.5, gender 48.5 to 52.5
    verdict = run_verdict(metrics)
    assert verdict.summary.startswith("Of 2 measures of preference, 0 are above neutral, 1 below; 1 cannot")
    below, price = verdict.groups
    assert below.title == "Below neutral"
    assert [f.measure for f in below.findings] == ["StereoSet (dev), overall: stereotype score (SS)"]
    assert [f.text for f in price.findings] == ["measured 2.000 nats"]
    assert [f.measure for f in verdict.unclear.findings] == ["StereoSet (dev), gender: stereotype score (SS)"]
    above = run_verdict(make_record("benchmarks", score=60.0).metrics).groups[0]
    assert (above.title, len(above.findings)) == ("Above neutral", 2)
    assert above.findings[0].text == "measured 60.0 %"


def test_one_run_says_nothing_of_fine_tuning(make_record):
    assert "does not show what debiasing changed" in run_verdict(make_record("training").metrics).summary
    assert "fine-tuning" not in run_verdict(make_record("benchmarks").metrics).summary
    assert "No benchmark with a neutral point" in run_verdict(make_record("collapse").metrics).summary
