"""The tables and the page of a study: every arm and benchmark in its place, and no text of data as markup."""

from __future__ import annotations

import dataclasses

import pytest

from equiframe.record import Environment, StudyCell, StudyFigure, StudyResult
from equiframe.report import study_page, study_tables
from equiframe.report.study import frontier_panels, headline_panels, study_headlines

EVIL = "<script>alert(1)</script>"


def figure(method, arm, kind, name, value, unit="%", **more):
    low, high = value - 1, value + 1
    return StudyFigure(
        **{"model": "m", "method": method, "arm": arm, "kind": kind, "name": name, "unit": unit, "value": value}
        | {"low": low, "high": high, "sd": 0.5}
        | more
    )


@pytest.fixture
def result():
    arms = [("", "before"), (EVIL, "plain"), (EVIL, "unc3")]
    figures = [figure(m, a, "bias", b, 50.0 + at) for at, (m, a) in enumerate(arms) for b in ("one", "two")]
    for at, (m, a) in enumerate(arms[1:]):
        figures += [figure(m, a, "gain", b, 0.1 * at, "share", low=-0.5, high=0.5, sd=None) for b in ("one", "two")]
        figures += [figure(m, a, "mean gain", "", 0.123, "share", low=-0.5, high=0.5, sd=None)]
        figures += [figure(m, a, "mean change", "", -0.2, "points", sd=None)]
        figures += [figure(m, a, "pooled gain", "", 0.2, "share", low=0.1, high=0.4, sd=None)]
        figures += [
            figure(m, a, "kept", "kept", 96.0, higher_is_better=True),
            figure(m, a, "change", "kept", -3.0, "points", sd=None),
        ]
        figures += [figure(m, a, "change", "understood", -2.0, "points", sd=None)]
    figures += [figure(EVIL, "difference", "mean gain", "", 0.05, "share", low=0.01, high=0.09, sd=None)]
    figures += [figure(EVIL, "difference", "gain", "two", 0.02, "share", low=-0.01, high=0.05, sd=None)]
    figures += [figure("", "all", "rank correlation", "(U)NC3 with pooled gain", -0.4, "", low=-0.8, high=0.1, sd=None)]
    cells = [
        StudyCell(model="m", method=m, arm=a, seed=seed, unc3=0.04 + 0.01 * seed, gain=0.1 * seed)
        for m, a in arms
        for seed in (0, 1)
    ]
    return StudyResult(study={"models": ["m"], "kept": {"kept": "overall"}, "note": EVIL}, figures=figures, cells=cells)


def test_tables_hold_each_number_once(result):
    tables = study_tables(result)
    assert list(tables["Bias"].columns) == ["", "one", "two"]
    assert tables["Bias"].iloc[:, 0].tolist() == ["before", EVIL, EVIL + " + (U)NC3"]
    assert tables["Bias"].iloc[2, 1] == "52.0 ± 0.5 [51.0, 53.0]"
    gain = tables["Fairness gain, %"]
    assert gain["mean"].tolist() == ["+12.3 [−50.0, +50.0]"] * 2
    assert tables["Language understanding"]["mean change, points"].tolist() == ["−0.2 [−1.2, +0.8]"] * 2
    assert tables["With (U)NC3 minus without"].iloc[0].tolist() == [EVIL, "+5.0 [+1.0, +9.0]"]
    change = tables["Fairness gain with (U)NC3 minus without, %"]
    assert change.to_dict("list") == {"": [EVIL], "two": ["+2.0 [−1.0, +5.0]"]}
    assert tables["Collapse against bias (chance alone would put about 0.1 of 1 intervals off 0)"].iloc[0].tolist() == [
        "(U)NC3 with pooled gain",
        "−0.400 [−0.800, 0.100]",
    ]


def test_without_a_second_arm_there_is_no_table_of_differences(result):
    plain = result.model_copy(update={"figures": [f for f in result.figures if f.arm in ("before", "plain")]})
    kept = "What must be kept"
    change = "Change, after minus before"
    assert list(study_tables(plain)) == ["Measures", "Bias", "Fairness gain, %", "Language understanding", kept, change]


def test_a_table_says_what_the_columns_of_the_others_are(result):
    figures = [
        figure("", "before", "bias", "lpbs", 0.9, "nats", ideal=0.0),
        figure("", "before", "kept", "lpbs n", 3.0, higher_is_better=False),
    ]
    study = {"benchmarks": {"lpbs": "overall.difference"}, "kept": {"lpbs": "n"}}
    table = study_tables(result.model_copy(update={"study": study, "figures": figures}))["Measures"]
    assert list(table.columns) == ["", "measure", "of", "unit", "ideal"]
    assert table.to_numpy().tolist() == [
        ["lpbs", "overall.difference", "bias", "nats", "0"],
        ["lpbs n", "n", "what must be kept", "%", "lower"],
    ]


def test_gain_stands_against_what_must_be_kept(result):
    (panel,) = frontier_panels(result)
    plain, unc3 = panel.figure.data
    assert panel.title == "Gain against kept, m"
    assert (plain.x, plain.y, plain.marker.symbol) == ((20.0,), (-3.0,), "diamond-open")
    assert (unc3.x, unc3.y, unc3.marker.symbol) == ((20.0,), (-3.0,), "diamond")
    assert (plain.error_x.array[0], plain.error_x.arrayminus[0]) == pytest.approx((20, 10))
    assert (plain.error_y.array[0], plain.error_y.arrayminus[0]) == pytest.approx((1, 1))
    assert panel.note.endswith("has less bias, and a higher one has kept more.")
    lower = [f.model_copy(update={"higher_is_better": False}) for f in result.figures]
    assert "a lower one has kept more" in frontier_panels(result.model_copy(update={"figures": lower}))[0].note
    older = result.model_copy(update={"figures": [f for f in result.figures if f.kind != "kept"]})
    assert frontier_panels(older) == []


def test_what_must_be_kept_has_its_own_unit_and_name(result):
    """A benchmark that counts twice has its key in its name, and a change of log-odds is no change in points."""
    name = "winogender overall.log_odds"
    figures = [figure(EVIL, "plain", kind, name, -0.3, "nats", sd=None) for kind in ("kept", "change")]
    study = {"models": ["m"], "kept": {"winogender": "overall.log_odds"}}
    told = result.model_copy(update={"study": study, "figures": [*result.figures, *figures]})
    assert f"{name} −0.300 [−1.300, +0.700] nats" in study_headlines(told)[0]
    panel = next(panel for panel in frontier_panels(told) if panel.title == f"Gain against {name}, m")
    assert panel.figure.layout.yaxis.title.text == f"change of {name}, nats"


def test_a_panel_counts_no_items_where_it_is_told_of_none(result):
    (trace, *_) = headline_panels(result)[0].figure.data
    assert all("12.3" in text and "items" not in text for text in trace.text)


def test_no_text_of_data_is_markup(result):
    page = study_page(result, [], made=Environment())
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "fairness gain +12.3 [−50.0, +50.0] %, pooled +20.0 [+10.0, +40.0] %, " in page
    assert "language understanding −0.2 [−1.2, +0.8] points, kept −3.0 [−4.0, −2.0] points" in page


def test_a_figure_without_a_value_says_so(result):
    undefined = result.figures[7].model_copy(update={"value": None, "low": None, "high": None})
    broken = result.model_copy(update={"figures": [*result.figures[:7], undefined, *result.figures[8:]]})
    assert "undefined" in study_page(broken, [], made=Environment())


def test_what_a_table_cannot_show_is_nought(result):
    gone = figure(EVIL, "unc3", "gain", "one", -3e-15, "share", low=-0.0004, high=0.5, sd=2e-9)
    result = result.model_copy(update={"figures": [f for f in result.figures if f.name != "one"] + [gone]})
    assert study_tables(result)["Fairness gain, %"].iloc[1]["one"] == "+0.0 ± 0.0 [+0.0, +50.0]"


def test_the_page_says_how_it_was_made(result, make_record):
    record = make_record("collapse")
    made = record.provenance.model_copy(update={"model_before": "a" * 64})
    record = dataclasses.replace(record, provenance=made)
    page = study_page(result, [record, record], made=Environment(command=f"equiframe study {EVIL}"))
    assert "equiframe study &lt;script&gt;" in page
    assert page.count("0" * 64) == page.count("by hand") == 1
    assert "a" * 64 in page
