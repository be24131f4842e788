"""Figures hold the record's numbers, and their labels are text."""

from __future__ import annotations

import dataclasses

import pytest

from equiframe.collapse import about_collapse
from equiframe.report.figures import (
    benchmark_panels,
    collapse_panels,
    cosine_panel,
    history_panels,
    step_panels,
    styles,
)

RUNS = ["before", "after <b>"]


@pytest.fixture
def records(make_record):
    parts = ("benchmarks", "collapse", "training")
    return dict(zip(RUNS, (make_record(*parts), make_record(*parts, score=55.0)), strict=True))


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("paper", ["#ffffff", "#14171b"])
def test_colours_stand_out_on_light_and_dark(paper):
    for style in styles([str(n) for n in range(9)]).values():
        lighter, darker = sorted((luminance(style.colour), luminance(paper)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3


def test_runs_differ_in_colour_and_in_shape():
    looks = styles("abcdefghi")
    assert len({style.colour for style in looks.values()}) == 9
    assert len({style.symbol for style in looks.values()}) == 9
    assert len({style.glyph for style in looks.values()}) == 9
    assert len(styles([str(n) for n in range(12)])) == 12


def test_benchmark_panels(records):
    runs = {run: record.metrics.benchmarks[0] for run, record in records.items()}
    ss, lms = benchmark_panels(runs, styles(RUNS))
    assert (ss.title, lms.title) == ("Stereotype score (SS)", "Language modelling score (LMS)")
    assert "%; ideal 50; a value on either side is a preference" in ss.note
    assert "higher is better, ideal 100" in lms.note
    before, after = ss.figure.data
    assert list(before.x) == [60.0, 64.0]
    assert list(after.error_x.array) == list(after.error_x.arrayminus) == [2.0, 2.0]
    assert list(ss.figure.layout.yaxis.ticktext) == ["overall", "gender"]
    assert ss.figure.layout.shapes[0].x0 == ss.figure.layout.shapes[0].x1 == 50.0
    assert [note.text for note in ss.figure.layout.annotations] == ["60.0", "64.0", "55.0", "59.0"]


def test_a_measure_without_interval_ideal_or_direction(records):
    (panel,) = benchmark_panels({"before": records["before"].metrics.benchmarks[2]}, styles(["before"]))
    assert list(panel.figure.data[0].error_x.array) == [0]
    assert not panel.figure.layout.shapes
    assert panel.note == "points"


def test_what_restates_another_measure_is_left_to_the_tables(records):
    result = records["before"].metrics.benchmarks[0]
    estimates = {f"overall.{key}": result.estimates["overall.ss"] for key in ("loss", "perplexity")}
    result = dataclasses.replace(result, benchmark="lm_loss", estimates=estimates)
    assert [panel.title for panel in benchmark_panels({"before": result}, styles(["before"]))] == [
        "Language-modelling loss"
    ]


def test_what_is_exactly_ideal_in_every_row_is_left_to_the_tables(records):
    result = records["before"].metrics.benchmarks[0]
    exact = dataclasses.replace(result.estimates["overall.ss"], value=50.0, low=50.0, high=50.0)

    def drawn(estimates):
        found = dataclasses.replace(result, estimates=estimates)
        return [panel.title for panel in benchmark_panels({"before": found}, styles(["before"]))]

    assert drawn({"overall.ss": exact, "gender.ss": exact}) == []
    assert drawn({"overall.ss": exact, "gender.ss": dataclasses.replace(exact, high=51.0)}) != []
    assert drawn({"overall.ss": exact}) != []


def test_collapse_panels_leave_out_what_is_undefined(records):
    runs = {run: record.metrics.collapse for run, record in records.items()}
    panels = {panel.title: panel for panel in collapse_panels(runs, styles(RUNS))}
    assert list(panels) == ["(U)NC3, uniform duality", "NC3, self-duality", "NC1, variability (CDNV)"]
    assert "lower is more collapsed" in panels["(U)NC3, uniform duality"].note
    assert "higher is more collapsed" in panels["NC3, self-duality"].note
    rows = panels["(U)NC3, uniform duality"].figure
    assert list(rows.data[0].x) == [0.2, 0.2]
    assert list(rows.data[0].error_x.array) == [0, pytest.approx(0.01)]
    assert rows.layout.yaxis.ticktext[0] == "whole vocabulary"


def test_cosines_are_shares_and_marks(records):
    panel = cosine_panel({run: record.classes for run, record in records.items()}, styles(RUNS))
    share, marks, *_ = panel.figure.data
    assert sum(share.y) == pytest.approx(1, abs=1e-5)
    assert list(marks.x) == [0.1, 0.2, 0.6]
    assert marks.text[0] == "<b>she</b> (female)<br>cosine 0.100, 10 samples"
    assert "mean 0.300<br>spread 0.265" in [note.text for note in panel.figure.layout.annotations]


def test_history_shows_parts_and_the_loss_only_where_there_are_none(records):
    history = records["before"].history
    panels = history_panels({"before": history}, styles(RUNS))
    assert [panel.title for panel in panels][:1] == ["Language-modelling loss"]
    assert len(panels) == 2
    assert list(panels[0].figure.data[0].x) == [1.0, 2.0]  # the third is not logged
    bare = history_panels({"before": history[["step", "loss", "unc3"]]}, styles(RUNS))
    assert [panel.title for panel in bare] == ["Loss"]
    assert history_panels({}, styles(RUNS)) == []
    pairs = history[["step"]].assign(**{"cc1": 0.1, "pairs/cc1": 0.2, "pairs/other": 0.3})
    titles = [panel.title for panel in history_panels({"before": pairs}, styles(RUNS))]
    assert titles == ["CC1", "CC1, added pairs", "Other, added pairs"]


def test_duality_over_the_steps_of_runs_with_the_term(records):
    histories = {RUNS[0]: records[RUNS[0]].history.drop(columns="unc3"), RUNS[1]: records[RUNS[1]].history}
    (panel,) = step_panels(histories, styles(RUNS), about_collapse().terms)
    assert panel.title == "(U)NC3 over fine-tuning"
    (line,) = panel.figure.data
    assert (list(line.x), list(line.y)) == ([1.0, 2.0, 3.0], [0.2, 0.15, 0.1])
    assert line.marker.symbol == styles(RUNS)[RUNS[1]].symbol
    assert step_panels({RUNS[0]: histories[RUNS[0]]}, styles(RUNS), about_collapse().terms) == []


def test_audits_over_the_steps(records):
    history = records[RUNS[0]].history.assign(**{"collapse/unc3": [0.3, None, 0.2], "collapse/other": 1.0})
    panels = {
        panel.title: panel.figure.data
        for panel in step_panels({RUNS[0]: history}, styles(RUNS), about_collapse().terms)
    }
    ((line,),) = (data for title, data in panels.items() if "over fine-tuning" not in title)
    assert (list(line.x), list(line.y)) == ([1.0, 3.0], [0.3, 0.2])
    assert not any("collapse" in panel.title.lower() for panel in history_panels({RUNS[0]: history}, styles(RUNS)))


def test_a_run_keeps_its_look_where_others_have_nothing_to_show(records):
    looks, record = styles([*RUNS, "third"]), records[RUNS[1]]
    only = {RUNS[1]: record}
    panels = [
        *benchmark_panels({run: r.metrics.benchmarks[0] for run, r in only.items()}, looks),
        *collapse_panels({run: r.metrics.collapse for run, r in only.items()}, looks),
        cosine_panel({run: r.classes for run, r in only.items()}, looks),
        *history_panels({run: r.history for run, r in only.items()}, looks),
    ]
    for panel in panels:
        symbols = {trace.marker.symbol for trace in panel.figure.data if trace.marker.symbol}
        assert symbols == {looks[RUNS[1]].symbol}


def test_text_of_data_is_no_markup(records):
    panels = [
        *benchmark_panels({r: record.metrics.benchmarks[2] for r, record in records.items()}, styles(RUNS)),
        *collapse_panels({r: record.metrics.collapse for r, record in records.items()}, styles(RUNS)),
        cosine_panel({r: record.classes for r, record in records.items()}, styles(RUNS)),
        *history_panels({r: record.history for r, record in records.items()}, styles(RUNS)),
    ]
    for panel in panels:
        text = str(panel.figure.to_dict())
        assert "<script" not in text
        assert "<img" not in text
        assert "after <b>" not in text


def test_the_same_numbers_give_the_same_figure(records):
    classes = {run: record.classes for run, record in records.items()}
    first, again = (cosine_panel(classes, styles(RUNS)).figure for _ in range(2))
    assert first == again
