"""Tables say what the records hold, and nothing where they hold nothing."""

from __future__ import annotations

import pandas as pd
import pytest

from equiframe.about import Pair
from equiframe.report import comparison_table
from equiframe.report.numbers import number
from equiframe.report.tables import measure_rows, strongest_pairs

COLUMNS = Pair("more", "less", "more_score", "less_score", "score")


@pytest.mark.parametrize(
    ("value", "unit", "signed", "text"),
    [
        (59.16, "%", False, "59.2"),
        (-0.0123, "", False, "−0.012"),
        (0.5, "%", True, "+0.5"),
        (0.0, "", True, "+0.000"),
        (0.00004, "", False, "4.0e−05"),
        (22.1984, "perplexity", False, "22.20"),
    ],
)
def test_number(value, unit, signed, text):
    assert number(value, unit, signed=signed) == text


def test_comparison_table(make_record, make_comparison):
    parts = ("benchmarks", "collapse")
    records = {
        "before": make_record(*parts),
        "after": make_record(*parts, score=55.0, unc3=0.1),
        "bare": make_record("benchmarks", score=60.0),
    }
    headers, rows = comparison_table(make_comparison(records))
    change = "change from before"
    assert headers == ["benchmark", "measure", "ideal", "before", "after", change, "bare", change]
    assert {len(row) for row in rows} == {len(headers)}
    by_key = {(row[0], row[1]): row[2:] for row in rows}
    assert by_key["stereoset:dev", "overall.ss"] == [
        "50",
        "60.0 [58.0, 62.0]",
        "55.0 [53.0, 57.0]",
        "−5.0 [−5.0, −5.0], p = 0.010",
        "60.0 [58.0, 62.0]",
        "+0.0 [−1.0e−03, +1.0e−03], p = 0.010",
    ]
    assert rows[-1][0].startswith("collapse:")
    assert rows[-1][-2:] == ["", ""]  # the third run has no geometry


def test_measure_rows_keep_kinds_together_and_leave_gaps(estimate, compared):
    first = {"overall.ss": estimate(60), "overall.lms": estimate(80, ideal=None, higher=True)}
    second = {"gender.ss": estimate(55), "overall.ss": estimate(55)}
    pair = compared(first["overall.ss"], second["overall.ss"], measure="overall.ss")
    rows = measure_rows("stereoset", {"a": first, "b": second}, {("b", "overall.ss"): pair})
    assert [(row.name, row.group, row.ideal) for row in rows] == [
        ("Stereotype score (SS)", "overall", "50"),
        ("Stereotype score (SS)", "gender", "50"),
        ("Language modelling score (LMS)", "overall", "higher"),
    ]
    a, b = rows[0].cells
    assert (a.value, a.interval, a.change) == ("60.0", "[58.0, 62.0]", "")
    assert (b.value, b.change, b.direction) == ("55.0", "−5.0 [−6.0, −4.0], p = 0.010", "wanted")
    assert rows[1].cells[0] is None
    assert rows[2].cells[1] is None


def table(preferences, groups=None, excluded=None):
    names = [f"i{n}" for n in range(len(preferences))]
    return pd.DataFrame(
        {
            "item": names,
            "bias_type": groups or ["gender"] * len(names),
            "more": [f"she said {name}" for name in names],
            "less": [f"he said {name}" for name in names],
            "more_score": preferences,
            "less_score": [0.0] * len(names),
            "excluded": excluded or [None] * len(names),
        }
    )


def texts(pairs):
    return [" ".join(segment.text for segment in pair.more) for pair in pairs]


def test_pairs_are_ranked_by_the_mean_over_runs():
    first, second = table([5.0, 1.0, 2.0, -9.0]), table([0.0, 7.0, 2.0, 1.0])
    pairs = strongest_pairs({"a": first, "b": second}, COLUMNS)
    assert texts(pairs) == [
        "she said i1",
        "she said i0",
        "she said i2",
    ]  # means 4, 2.5, 2; -4 is no stereotype
    assert {run: scores.preference for run, scores in pairs[0].scores.items()} == {"a": "1.00", "b": "7.00"}
    assert [(s.text, s.differs) for s in pairs[0].more] == [("she", True), ("said i1", False)]
    assert [(s.text, s.differs) for s in pairs[0].less] == [("he", True), ("said i1", False)]


def test_pairs_leave_out_what_a_run_excluded_or_lacks():
    first = table([5.0, 4.0, 3.0], excluded=["too long", None, None])
    second = table([5.0, 4.0, float("nan")])
    assert texts(strongest_pairs({"a": first, "b": second}, COLUMNS)) == ["she said i1"]


def test_pairs_lead_over_all_and_within_their_group():
    groups = ["gender"] * 14 + ["age-group"] * 2
    pairs = strongest_pairs({"a": table([float(20 - n) for n in range(16)], groups)}, COLUMNS)
    assert [pair.group for pair in pairs] == ["gender"] * 10 + ["age group"] * 2
    assert [pair.is_among_first for pair in pairs] == [True] * 10 + [False] * 2


@pytest.mark.parametrize("column", ["item", "more", "less_score"])
def test_without_its_columns_a_table_shows_no_pairs(column):
    assert strongest_pairs({"a": table([1.0]).drop(columns=column)}, COLUMNS) == []


def test_pairs_need_neither_group_nor_exclusion():
    (pair,) = strongest_pairs({"a": table([1.0]).drop(columns=["bias_type", "excluded"])}, COLUMNS)
    assert pair.group == ""
