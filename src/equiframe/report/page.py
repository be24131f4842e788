"""A record, or a comparison of records, as one self-contained HTML page.

Every text of data is escaped where it is set into the page. As a second lock the page's content policy
names its own two scripts by their hash and allows nothing else to run, and nothing to be fetched.
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

from equiframe.about import About
from equiframe.record import (
    COLLAPSE,
    ComparedMeasure,
    Comparison,
    Environment,
    Metrics,
    Result,
    RunRecord,
    StudyResult,
    about,
    class_set_name,
    suite_of,
)
from equiframe.report.figures import (
    Panel,
    Style,
    benchmark_panels,
    collapse_estimates,
    collapse_panels,
    cosine_panel,
    history_panels,
    step_panels,
    styles,
)
from equiframe.report.glossary import PRICE, sentence_case
from equiframe.report.plane import PLANE, plane_panels
from equiframe.report.study import headline_panels, study_headlines, study_panels, study_tables
from equiframe.report.tables import Row, ScoredPair, compared_over, measure_rows, strongest_pairs, texts_left_out
from equiframe.report.verdict import Verdict, comparison_verdict, run_verdict
from equiframe.uncertainty import Estimate


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
    """The report of several runs side by side, each later one against the first.

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
            headline_panels=headline_panels(result),
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


class _Table(NamedTuple):
    """Rows under their caption."""

    caption: str
    rows: list[Row]


class _Figures(NamedTuple):
    """Panels that belong together, under their heading and with what they share, where they have it."""

    panels: list[Panel]
    heading: str = ""
    note: str = ""


class _Section(NamedTuple):
    """A benchmark, the price or the geometry: how it was measured, figures, tables, items and times where it has any.

    ``times`` are seconds by run, for each thing that took them; ``prompts`` are what models read, and of which runs.
    """

    about: About
    notes: list[str]
    figures: list[_Figures]
    tables: list[_Table]
    pairs: Sequence[ScoredPair] = ()
    times: Mapping[str, Mapping[str, float]] = {}
    prompts: Mapping[str, Sequence[str]] = {}


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
    comparison: Comparison | None,
    title: str,
    made: Environment | None,
) -> str:
    measures = {} if comparison is None else comparison.measures
    shared = {} if comparison is None else compared_over(comparison)
    compared = {(m.benchmark, run, m.measure): m for run, found in measures.items() for m in found}
    suites = {r.benchmark: suite_of(r) for record in records.values() for r in record.metrics.benchmarks}
    looks = styles([*records])
    sections = [_benchmark(name, records, looks, compared, shared) for name in suites if suites[name] != "nlu"]
    prices = [_benchmark(name, records, looks, compared, shared) for name in suites if suites[name] == "nlu"]
    if prices or any(record.metrics.training for record in records.values()):
        sections.append(_price(prices, records))
    if any(record.metrics.collapse for record in records.values()):
        sections.append(_geometry(records, looks, compared, shared))
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


def _benchmark(
    name: str,
    records: Mapping[str, RunRecord],
    looks: Mapping[str, Style],
    compared: Mapping[tuple[str, str, str], ComparedMeasure],
    shared: Mapping[str, str],
) -> _Section:
    results = {
        run: result
        for run, record in records.items()
        for result in record.metrics.benchmarks
        if result.benchmark == name
    }
    notes = [f"Scored by: {result.scoring}." for result in results.values()]
    notes += [f"{shared[name]}."] if name in shared else []
    for result in results.values():
        if result.half_precision is not None:
            notes.append(f"{sentence_case(str(result.half_precision))}.")
        notes += [f"{n} of {result.items} items left out: {why}." for why, n in result.excluded.items()]
        notes += [
            f"{file.name} is no version known to equiframe: compare its numbers with care."
            for file in result.files
            if not file.is_known_version
        ]
    explained = next(iter(results.values()))
    known = about(explained)
    rows = _rows(records, explained, {run: result.estimates for run, result in results.items()}, compared)
    items = {run: records[run].items[name] for run in results if name in records[run].items}
    prompts: dict[str, list[str]] = {}
    for run, result in results.items():
        if result.prompt:
            prompts.setdefault(result.prompt, []).append(run)
    return _Section(
        known,
        list(dict.fromkeys(notes)),
        [_Figures(benchmark_panels(results, looks))],
        [_Table(known.title, rows)],
        strongest_pairs(items, known.pair) if known.pair and items else [],
        prompts=prompts,
    )


def _price(parts: Sequence[_Section], records: Mapping[str, RunRecord]) -> _Section:
    """What the model understands of language, and how long everything took, in one place."""
    limits: dict[str, list[str]] = {}
    for part in parts:
        limits.setdefault(part.about.does_not_show, []).append(part.about.title)
    known = About(
        PRICE,
        " ".join(f"{'; '.join(titles)}: {text}" for text, titles in limits.items()),
        sources=tuple(dict.fromkeys(source for part in parts for source in part.about.sources)),
    )
    trained = {run: record.metrics.training for run, record in records.items()}
    times = {"Fine-tuning": {run: training.seconds for run, training in trained.items() if training is not None}}
    for run, record in records.items():
        for result in record.metrics.benchmarks:
            times.setdefault(f"Scoring, {about(result).title}", {})[run] = result.seconds
    panels = [
        panel._replace(title=f"{part.about.title}: {panel.title}") for part in parts for panel in part.figures[0].panels
    ]
    notes = [f"{part.about.title}. {note}" for part in parts for note in part.notes]
    tables = [table for part in parts for table in part.tables]
    return _Section(
        known,
        notes,
        [_Figures(panels)],
        tables,
        times={what: by for what, by in times.items() if by},
        prompts={prompt: runs for part in parts for prompt, runs in part.prompts.items()},
    )


def _geometry(
    records: Mapping[str, RunRecord],
    looks: Mapping[str, Style],
    compared: Mapping[tuple[str, str, str], ComparedMeasure],
    shared: Mapping[str, str],
) -> _Section:
    audited = [result for record in records.values() for result in record.metrics.collapse]
    section = next((result.about for result in audited if result.about is not None), about(COLLAPSE))
    tables, notes = [], []
    for class_set in dict.fromkeys(result.class_set for result in audited):
        results = {
            run: result
            for run, record in records.items()
            for result in record.metrics.collapse
            if result.class_set == class_set
        }
        estimates = {run: collapse_estimates(result) for run, result in results.items()}
        explained, name = next(iter(results.values())), class_set_name(class_set)
        tables.append(_Table(sentence_case(name), _rows(records, explained, estimates, compared)))
        notes += [f"{sentence_case(name)}: {over}."] if (over := shared.get(explained.name)) else []
        sizes = {run: f"{result.classes:,} words, {result.tokens:,} tokens." for run, result in results.items()}
        if len(set(sizes.values())) == 1:
            notes.append(f"{sentence_case(name)}: {next(iter(sizes.values()))}")
        else:
            notes += [f"{sentence_case(name)}, {run}: {size}" for run, size in sizes.items()]
    for run, record in records.items():
        texts = texts_left_out(record.metrics)
        notes += [f"{run}: {text}." if len(records) > 1 else f"{sentence_case(text)}." for text in texts]
    for bias in dict.fromkeys(c.bias for r in records.values() for c in r.metrics.contexts):
        of_run = {run: c for run, r in records.items() for c in r.metrics.contexts if c.bias == bias}
        contexts, estimates = next(iter(of_run.values())), {run: c.estimates for run, c in of_run.items()}
        known = about(contexts)
        tables.append(_Table(known.title, _rows(records, contexts, estimates, compared)))
        notes += dict.fromkeys(f"{known.title}: {c.pairs:,} texts." for c in of_run.values())
        notes.append(known.does_not_show)
    classes = {run: r.classes for run, r in records.items() if r.classes is not None and len(r.classes)}
    vectors = {run: (r.vectors, classes[run]) for run, r in records.items() if r.vectors is not None and run in classes}
    histories = {run: r.history for run, r in records.items() if r.history is not None}
    figures = [
        _Figures([cosine_panel(classes, looks)] if classes else []),
        _Figures(plane_panels(vectors, looks), "Counterparts in a plane", PLANE),
        _Figures(collapse_panels({run: r.metrics.collapse for run, r in records.items()}, looks), "NC1 to NC4"),
        _Figures(step_panels(histories, looks, section.terms), "Over the steps of fine-tuning"),
    ]
    ends = [
        run
        for run, record in records.items()
        if record.metrics.training is not None and not {"unc3", "collapse/unc3"} & set(histories.get(run, ()))
    ]
    if ends:
        notes.append(
            f"{', '.join(ends)}: measured after fine-tuning alone; debias --audit-steps measures while it lasts."
        )
    return _Section(section, list(dict.fromkeys(notes)), figures, tables)


def _rows(
    records: Mapping[str, RunRecord],
    result: Result,
    estimates: Mapping[str, Mapping[str, Estimate]],
    compared: Mapping[tuple[str, str, str], ComparedMeasure],
) -> list[Row]:
    """A cell for each run of the page, measured there or not."""
    return measure_rows(
        result,
        {run: estimates.get(run, {}) for run in records},
        {(run, key): measure for (name, run, key), measure in compared.items() if name == result.name},
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
