"""The sections of a page: each benchmark, the price in language and time, and geometry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from equiframe.about import About
from equiframe.record import (
    COLLAPSE,
    ComparedMeasure,
    Result,
    RunRecord,
    about,
    class_set_name,
)
from equiframe.report.figures import (
    Panel,
    Style,
    benchmark_panels,
    collapse_estimates,
    collapse_panels,
    cosine_panel,
    step_panels,
)
from equiframe.report.glossary import PRICE, sentence_case
from equiframe.report.plane import PLANE, plane_panels
from equiframe.report.responses import Responses, ratio_panels, responses_of
from equiframe.report.tables import Row, ScoredPair, measure_rows, strongest_pairs, texts_left_out
from equiframe.uncertainty import Estimate


class Table(NamedTuple):
    """Rows with a caption."""

    caption: str
    rows: list[Row]


class Figures(NamedTuple):
    """Panels that belong together, with an optional heading and shared text."""

    panels: list[Panel]
    heading: str = ""
    note: str = ""


class Section(NamedTuple):
    """A benchmark, the cost or the geometry: how it was measured, figures, tables, items and times if it has any.

    ``times`` are seconds by run, for each timed step; ``prompts`` are the texts that models read, with their runs;
    ``responses`` are the written responses, by run.
    """

    about: About
    notes: list[str]
    figures: list[Figures]
    tables: list[Table]
    pairs: Sequence[ScoredPair] = ()
    times: Mapping[str, Mapping[str, float]] = {}
    prompts: Mapping[str, Sequence[str]] = {}
    responses: Sequence[Responses] = ()


def benchmark_section(
    name: str,
    records: Mapping[str, RunRecord],
    looks: Mapping[str, Style],
    compared: Mapping[tuple[str, str, str], ComparedMeasure],
    shared: Mapping[str, str],
) -> Section:
    """Make the section of a benchmark: figures, measures, and most preferred pairs, for each run that scored it."""
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
        notes += [] if result.generated is None else [f"{sentence_case(str(result.generated))}."]
        notes += [f"{n} of {result.items} items left out: {why}." for why, n in result.excluded.items()]
        notes += [
            f"{file.name} is not a version that equiframe knows: compare its numbers with care."
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
    written = {run: result for run, result in results.items() if result.generated is not None and run in items}
    return Section(
        known,
        list(dict.fromkeys(notes)),
        [Figures([*benchmark_panels(results, looks), *ratio_panels(written, looks)])],
        [Table(known.title, rows)],
        strongest_pairs(items, known.pair) if known.pair and items else [],
        prompts=prompts,
        responses=[responses_of(run if len(records) > 1 else "", r, items[run]) for run, r in written.items()],
    )


def price_section(parts: Sequence[Section], records: Mapping[str, RunRecord]) -> Section:
    """Make the section of language understanding, and of the time that everything took."""
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
    return Section(
        known,
        notes,
        [Figures(panels)],
        tables,
        times={what: by for what, by in times.items() if by},
        prompts={prompt: runs for part in parts for prompt, runs in part.prompts.items()},
    )


def geometry_section(
    records: Mapping[str, RunRecord],
    looks: Mapping[str, Style],
    compared: Mapping[tuple[str, str, str], ComparedMeasure],
    shared: Mapping[str, str],
) -> Section:
    """Make the section of collapse of every class set and of contexts, also over the steps of fine-tuning."""
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
        tables.append(Table(sentence_case(name), _rows(records, explained, estimates, compared)))
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
        tables.append(Table(known.title, _rows(records, contexts, estimates, compared)))
        notes += dict.fromkeys(f"{known.title}: {c.pairs:,} texts." for c in of_run.values())
        notes.append(known.does_not_show)
    classes = {run: r.classes for run, r in records.items() if r.classes is not None and len(r.classes)}
    vectors = {run: (r.vectors, classes[run]) for run, r in records.items() if r.vectors is not None and run in classes}
    histories = {run: r.history for run, r in records.items() if r.history is not None}
    figures = [
        Figures([cosine_panel(classes, looks)] if classes else []),
        Figures(plane_panels(vectors, looks), "Counterparts in a plane", PLANE),
        Figures(collapse_panels({run: r.metrics.collapse for run, r in records.items()}, looks), "NC1 to NC4"),
        Figures(step_panels(histories, looks, section.terms), "Over the steps of fine-tuning"),
    ]
    ends = [
        run
        for run, record in records.items()
        if record.metrics.training is not None and not {"unc3", "collapse/unc3"} & set(histories.get(run, ()))
    ]
    if ends:
        notes.append(f"{', '.join(ends)}: measured only after fine-tuning; debias --audit-steps measures during it.")
    return Section(section, list(dict.fromkeys(notes)), figures, tables)


def _rows(
    records: Mapping[str, RunRecord],
    result: Result,
    estimates: Mapping[str, Mapping[str, Estimate]],
    compared: Mapping[tuple[str, str, str], ComparedMeasure],
) -> list[Row]:
    """A cell for each run of the page, or None if the run did not measure it."""
    return measure_rows(
        result,
        {run: estimates.get(run, {}) for run in records},
        {(run, key): measure for (name, run, key), measure in compared.items() if name == result.name},
    )
