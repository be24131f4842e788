"""What a record, a comparison and a study show in a notebook."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from equiframe.report import comparison_table, study_tables
from equiframe.report.notebook import headlines, what_was_done
from equiframe.report.numbers import interval


def read(html):
    """Paragraphs as text, and each table as rows of text; a name that breaks out of its cell would not parse."""
    root = ET.fromstring(f"<div>{html}</div>")
    tables = [[["".join(cell.itertext()) for cell in row] for row in table.iter("tr")] for table in root.iter("table")]
    return ["".join(p.itertext()) for p in root.iter("p")], tables


def test_a_record_shows_its_headline_measures_and_collapse(make_record):
    record = make_record("benchmarks", "collapse", "training")
    paragraphs, (scores, collapse) = read(record._repr_html_())
    found = list(headlines(record.metrics))
    assert [row[:2] for row in scores[1:]] == [[benchmark, key] for benchmark, key, _ in found]
    assert found
    assert [row[3] for row in scores[1:]] == [interval(estimate) for _, _, estimate in found]
    assert collapse[0] == ["collapse", *(result.class_set for result in record.metrics.collapse)]
    assert record.metrics.model.name in paragraphs[0]
    assert paragraphs[0].endswith(what_was_done(record.metrics))
    assert record._repr_html_() == record.metrics._repr_html_()


def test_a_comparison_shows_its_table(make_record, make_comparison):
    comparison = make_comparison({"before": make_record("benchmarks"), "<b>": make_record("benchmarks", score=55.0)})
    headers, rows = comparison_table(comparison)
    _, (shown,) = read(comparison._repr_html_())
    assert shown == [headers, *rows]
    assert rows


def test_a_study_shows_each_table_below_its_caption(study):
    captions, shown = read(study._repr_html_())
    tables = study_tables(study)
    assert captions == list(tables)
    assert [len(table) for table in shown] == [len(table) + 1 for table in tables.values()]
    assert tables
