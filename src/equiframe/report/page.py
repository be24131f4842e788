"""A record, or a comparison of records, as one self-contained HTML page.

Every text of data is escaped where it is set into the page. As a second lock the page's content policy
names its own two scripts by their hash and allows nothing else to run, and nothing to be fetched.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from equiframe.report.figures import (
    Panel,
    Style,
    benchmark_panels,
    collapse_estimates,
    collapse_panels,
    cosine_panel,
    history_panels,
    styles,
)
from equiframe.report.glossary import (
    COLLAPSE,
    About,
    about,
    class_set_name,
    sentence_case,
)
from equiframe.report.study import headline_panels, study_headlines, study_panels, study_tables
from equiframe.report.tables import Row, ScoredPair, measure_rows, strongest_pairs
from equiframe.report.verdict import Verdict, comparison_verdict, run_verdict
from equiframe.runs.record import ComparedMeasure, Comparison, Metrics, RunRecord, StudyResult
from equiframe.uncertainty import Estimate


def run_page(record: RunRecord, *, title: str) -> str:
    """The report of one run.

    Args:
        record: what was measured: collapse, benchmarks, fine-tuning, or some of these.
        title: heading of the page.

    Returns:
        HTML that needs no network.
    """
    return _page({record.metrics.model.name: record}, [run_verdict(record.metrics)], {}, title)


def comparison_page(records: Mapping[str, RunRecord], comparison: Comparison, *, title: str) -> str:
    """The report of several runs side by side, each later one against the first.

    Args:
        records: the runs by name, the reference first.
        comparison: their paired differences.
        title: heading of the page.

    Returns:
        HTML that needs no network.
    """
    first, *later = records
    verdicts = [comparison_verdict(first, name, comparison.measures.get(name, [])) for name in later]
    return _page(records, verdicts, comparison.measures, title)


def study_page(result: StudyResult) -> str:
    """The report of a study: its tables, collapse against gain, and the study file it was made from.

    Args:
        result: its figures.

    Returns:
        HTML that needs no network.
    """
    scripts = [get_plotlyjs(), _source("page.js")]
    return (
        _environment()
        .get_template("study.html.j2")
        .render(
            title="study",
            tables=study_tables(result),
            headline_panels=headline_panels(result),
            panels=study_panels(result),
            headlines=study_headlines(result),
            study=json.dumps(result.study, indent=2, ensure_ascii=False),
            css=Markup(_source("page.css")),
            scripts=[Markup(script) for script in scripts],
            script_hashes=[_csp_hash(script) for script in scripts],
        )
    )


class _Table(NamedTuple):
    """Rows under their caption."""

    caption: str
    rows: list[Row]


class _Section(NamedTuple):
    """A benchmark, or the geometry: how it was measured, figures, tables, and items where it has any."""

    about: About
    notes: list[str]
    panels: list[Panel]
    tables: list[_Table]
    pairs: list[ScoredPair]


class _Run(NamedTuple):
    """Who a run is and how it was made."""

    name: str
    style: Style
    metrics: Metrics
    files: list[dict[str, Any]]
    environment: dict[str, Any]
    config: str


def _page(
    records: Mapping[str, RunRecord],
    verdicts: Sequence[Verdict],
    measures: Mapping[str, Sequence[ComparedMeasure]],
    title: str,
) -> str:
    compared = {(m.benchmark, run, m.measure): m for run, found in measures.items() for m in found}
    names = dict.fromkeys(r.benchmark for record in records.values() for r in record.metrics.benchmarks)
    looks = styles([*records])
    sections = [_benchmark(name, records, looks, compared) for name in names]
    if any(record.metrics.collapse for record in records.values()):
        sections.append(_geometry(records, looks, compared))
    histories = {name: r.history for name, r in records.items() if r.history is not None}
    scripts = [get_plotlyjs(), _source("page.js")]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            is_comparison=len(records) > 1,
            runs=[_run(name, records[name], style) for name, style in looks.items()],
            verdicts=verdicts,
            sections=sections,
            training=history_panels(histories, looks),
            css=Markup(_source("page.css")),
            scripts=[Markup(script) for script in scripts],
            script_hashes=[_csp_hash(script) for script in scripts],
        )
    )


def _run(name: str, record: RunRecord, style: Style) -> _Run:
    config = dict(record.config)
    files, environment = config.pop("files", []), config.pop("environment", {})
    text = json.dumps(config, indent=2, ensure_ascii=False, default=str)
    return _Run(name, style, record.metrics, files, environment, text)


def _benchmark(
    name: str,
    records: Mapping[str, RunRecord],
    looks: Mapping[str, Style],
    compared: Mapping[tuple[str, str, str], ComparedMeasure],
) -> _Section:
    results = {
        run: result
        for run, record in records.items()
        for result in record.metrics.benchmarks
        if result.benchmark == name
    }
    notes = [f"Scored by: {result.scoring}." for result in results.values()]
    for result in results.values():
        if result.half_precision is not None:
            notes.append(f"{sentence_case(str(result.half_precision))}.")
        notes += [f"{n} of {result.items} items left out: {why}." for why, n in result.excluded.items()]
        notes += [
            f"{file.name} is no version known to equiframe: compare its numbers with care."
            for file in result.files
            if not file.is_known_version
        ]
    known = about(name)
    rows = _rows(records, name, {run: result.estimates for run, result in results.items()}, compared)
    items = {run: records[run].items[name] for run in results if name in records[run].items}
    return _Section(
        known,
        list(dict.fromkeys(notes)),
        benchmark_panels(results, looks),
        [_Table(known.title, rows)],
        strongest_pairs(items, known.pair) if known.pair and items else [],
    )


def _geometry(
    records: Mapping[str, RunRecord],
    looks: Mapping[str, Style],
    compared: Mapping[tuple[str, str, str], ComparedMeasure],
) -> _Section:
    tables, notes = [], []
    for class_set in dict.fromkeys(c.class_set for r in records.values() for c in r.metrics.collapse):
        results = {
            run: result
            for run, record in records.items()
            for result in record.metrics.collapse
            if result.class_set == class_set
        }
        estimates = {run: collapse_estimates(result) for run, result in results.items()}
        name = class_set_name(class_set)
        tables.append(_Table(sentence_case(name), _rows(records, f"{COLLAPSE}:{class_set}", estimates, compared)))
        notes += [
            f"{sentence_case(name)}, {run}: {result.classes:,} words, {result.tokens:,} tokens."
            for run, result in results.items()
        ]
    panels = collapse_panels({run: record.metrics.collapse for run, record in records.items()}, looks)
    classes = {run: r.classes for run, r in records.items() if r.classes is not None and len(r.classes)}
    if classes:
        panels.insert(0, cosine_panel(classes, looks))
    return _Section(about(COLLAPSE), notes, panels, tables, [])


def _rows(
    records: Mapping[str, RunRecord],
    benchmark: str,
    estimates: Mapping[str, Mapping[str, Estimate]],
    compared: Mapping[tuple[str, str, str], ComparedMeasure],
) -> list[Row]:
    """A cell for each run of the page, measured there or not."""
    return measure_rows(
        benchmark,
        {run: estimates.get(run, {}) for run in records},
        {(run, key): measure for (name, run, key), measure in compared.items() if name == benchmark},
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("equiframe.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure_json"] = lambda figure: htmlsafe_json_dumps(json.loads(figure.to_json()))
    environment.filters["sentence_case"] = sentence_case
    return environment


def _source(name: str) -> str:
    return (files("equiframe.report") / "templates" / name).read_text(encoding="utf-8")


def _csp_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
