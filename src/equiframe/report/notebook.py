"""Records, comparisons and studies as HTML tables for notebooks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from html import escape

import pandas as pd

from equiframe.record import Comparison, Metrics, RunRecord, StudyResult, is_headline, term
from equiframe.report.numbers import ideal, interval, number
from equiframe.report.study import study_tables
from equiframe.report.tables import comparison_table, left_out
from equiframe.uncertainty import Estimate

_HEADERS = ("benchmark", "measure", "meaning", "value [95 %]", "ideal", "items")


def headlines(metrics: Metrics) -> Iterator[tuple[str, str, Estimate]]:
    """The headline measures of a run: benchmark, key and estimate. A benchmark without headlines gives all."""
    for result in metrics.benchmarks:
        for key, estimate in result.estimates.items():
            if is_headline(result, key):
                yield result.benchmark, key, estimate


def what_was_done(metrics: Metrics) -> str:
    """What a run did to the model, in a few words: ``evaluate``, or ``debias: bec + (U)NC3``."""
    if metrics.training is None:
        return metrics.verb
    term_added = " + (U)NC3" if metrics.training.unc3_weight else ""
    return f"{metrics.verb}: {metrics.training.method}{term_added}"


def metrics_html(metrics: Metrics) -> str:
    """A run as tables: its headline measures with intervals, and collapse."""
    parts = [
        f"<p><b>{escape(metrics.model.name)}</b> ({escape(metrics.model.in_words)}):"
        f" {escape(what_was_done(metrics))}</p>"
    ]
    results = metrics.results
    of_contexts = (
        (found.name, key, estimate) for found in metrics.contexts for key, estimate in found.estimates.items()
    )
    rows = [
        (
            benchmark,
            key,
            term(results[benchmark], key).name,
            interval(estimate),
            ideal(estimate),
            str(estimate.count),
        )
        for benchmark, key, estimate in itertools.chain(headlines(metrics), of_contexts)
    ]
    if rows:
        parts.append(_table(_HEADERS, rows))
    if metrics.collapse:
        keys = dict.fromkeys(key for result in metrics.collapse for key in result.values)
        cells = [(key, *(number(result.values.get(key)) for result in metrics.collapse)) for key in keys]
        parts.append(_table(("collapse", *(result.class_set for result in metrics.collapse)), cells))
    parts += [f"<p>{escape(line)}</p>" for line in left_out(metrics)]
    return "\n".join(parts)


def comparison_html(comparison: Comparison) -> str:
    """A comparison as one table: each measure by run, with its paired change."""
    return _table(*comparison_table(comparison))


def study_html(result: StudyResult) -> str:
    """The tables of a study, each below its caption."""
    return "\n".join(
        f"<p><b>{escape(caption)}</b></p>\n{_html(table)}" for caption, table in study_tables(result).items()
    )


def _table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    return _html(pd.DataFrame(list(map(list, rows)), columns=list(headers)))


def _html(table: pd.DataFrame) -> str:
    """The whole table, whatever a user's display options cut."""
    with pd.option_context("display.max_colwidth", None, "display.max_rows", None, "display.max_columns", None):
        return table.to_html(index=False, border=0, na_rep="")


Metrics.html = metrics_html
Comparison.html = comparison_html
StudyResult.html = study_html
RunRecord.html = lambda record: metrics_html(record.metrics)
