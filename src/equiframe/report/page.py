"""A record, or a comparison of records, as one self-contained HTML page.

All text from data is escaped when it is inserted into the page. As a second protection, the page's content policy
names its own two scripts by their hash, allows no other script to run, and allows no request.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from equiframe.record import (
    Comparison,
    Environment,
    Metrics,
    RunRecord,
    StudyResult,
    suite_of,
)
from equiframe.report.figures import (
    Style,
    history_panels,
    styles,
)
from equiframe.report.glossary import sentence_case
from equiframe.report.sections import benchmark_section, geometry_section, price_section
from equiframe.report.study import (
    READING,
    frontier_panels,
    headline_panels,
    study_headlines,
    study_panels,
    study_tables,
)
from equiframe.report.tables import compared_over
from equiframe.report.verdict import Verdict, comparison_verdict, run_verdict


def run_page(record: RunRecord, *, title: str) -> str:
    """The report of one run.

    Args:
        record: what was measured: collapse, benchmarks, fine-tuning, or some of these.
        title: heading of the page.

    Returns:
        HTML that needs no network.
    """
    return _page({record.metrics.model.name: record}, [run_verdict(record.metrics)], None, title, None)


def comparison_page(
    records: Mapping[str, RunRecord], comparison: Comparison, *, title: str, made: Environment | None = None
) -> str:
    """The report of several runs next to each other, each later run compared with the first.

    Args:
        records: the runs by name, the reference first, from :func:`equiframe.analysis.comparison.aligned`.
        comparison: their paired differences.
        title: heading of the page.
        made: how the comparison was made: command, date, versions.

    Returns:
        HTML that needs no network.
    """
    first, *later = records
    verdicts = [
        comparison_verdict(first, name, comparison.measures.get(name, []), comparison.results) for name in later
    ]
    records = {name: dataclasses.replace(record, metrics=comparison.runs[name]) for name, record in records.items()}
    return _page(records, verdicts, comparison, title, made)


def study_page(result: StudyResult, records: Iterable[RunRecord], *, made: Environment) -> str:
    """The report of a study: its tables, collapse against gain, the data and the study file it was made from.

    Args:
        result: its figures.
        records: its cells.
        made: how its summary was made: command, date, versions.

    Returns:
        HTML that needs no network.
    """
    runs = [record.provenance for record in records]
    files = {(file.name, file.sha256): file for run in runs for file in run.files}
    models = {run.model: run.model_before for run in runs}
    scripts = [get_plotlyjs(), _source("page.js")]
    return (
        _environment()
        .get_template("study.html.j2")
        .render(
            title="study",
            tables=study_tables(result),
            reading=READING,
            headline_panels=headline_panels(result),
            frontiers=frontier_panels(result),
            panels=study_panels(result),
            headlines=study_headlines(result),
            made={**made.model_dump(), "models": models},
            files=[dataclasses.asdict(file) for file in files.values()],
            study=json.dumps(result.study, indent=2, ensure_ascii=False),
            css=Markup(_source("page.css")),
            scripts=[Markup(script) for script in scripts],
            script_hashes=[_csp_hash(script) for script in scripts],
        )
    )


class _Run(NamedTuple):
    """The name of a run, and how it was made."""

    name: str
    style: Style
    metrics: Metrics
    files: list[dict[str, Any]]
    environment: dict[str, Any]
    config: str


def _page(
    records: Mapping[str, RunRecord],
    verdicts: Sequence[Verdict],
    comparison: Comparison | None,
    title: str,
    made: Environment | None,
) -> str:
    measures = {} if comparison is None else comparison.measures
    shared = {} if comparison is None else compared_over(comparison)
    compared = {(m.benchmark, run, m.measure): m for run, found in measures.items() for m in found}
    suites = {r.benchmark: suite_of(r) for record in records.values() for r in record.metrics.benchmarks}
    looks = styles([*records])
    sections = [benchmark_section(name, records, looks, compared, shared) for name in suites if suites[name] != "nlu"]
    prices = [benchmark_section(name, records, looks, compared, shared) for name in suites if suites[name] == "nlu"]
    if prices or any(record.metrics.training for record in records.values()):
        sections.append(price_section(prices, records))
    if any(record.metrics.collapse for record in records.values()):
        sections.append(geometry_section(records, looks, compared, shared))
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
            made=None if made is None else made.model_dump(),
            css=Markup(_source("page.css")),
            scripts=[Markup(script) for script in scripts],
            script_hashes=[_csp_hash(script) for script in scripts],
        )
    )


def _run(name: str, record: RunRecord, style: Style) -> _Run:
    options = record.provenance.plain()
    files, environment = options.pop("files", []), options.pop("environment", {})
    text = json.dumps(options, indent=2, ensure_ascii=False)
    return _Run(name, style, record.metrics, files, environment, text)


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
