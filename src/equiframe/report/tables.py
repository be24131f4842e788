"""The tables of a report: every measure by run, and the items with the strongest preference."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from equiframe.about import Pair
from equiframe.analysis.tables import counted
from equiframe.record import COLLAPSE, ComparedMeasure, Comparison, Metrics, Result, plain, split_key, term
from equiframe.report.glossary import sentence_case
from equiframe.report.numbers import bounds, change, ideal, interval, number
from equiframe.report.verdict import direction
from equiframe.uncertainty import Estimate

_SHOWN = 10


class Cell(NamedTuple):
    """One run's number with its interval, and the paired change to the first run if there is one."""

    value: str
    interval: str
    change: str
    direction: str


class Row(NamedTuple):
    """One measure of one group, with one cell per run: None if the run did not measure it."""

    name: str
    group: str
    ideal: str
    cells: list[Cell | None]


def comparison_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Every compared measure as plain text.

    Returns:
        Headers, and rows of the same length: benchmark, measure, ideal, the first run's value with its 95 %
        interval, then for each later run its value and its paired change with interval and p-value. If the runs did
        not measure the same items, a column after the ideal gives the shared and the measured numbers of items.
    """
    first, *later = comparison.runs
    compared = {(m.benchmark, m.measure, name): m for name in later for m in comparison.measures.get(name, [])}
    is_part = any(shared.is_part for shared in comparison.shared.values())
    headers = ["benchmark", "measure", "ideal", *(["shared items"] if is_part else []), first]
    for name in later:
        headers += [name, f"change from {first}"]
    rows = []
    for benchmark, key in dict.fromkeys((benchmark, key) for benchmark, key, _ in compared):
        found = [compared.get((benchmark, key, name)) for name in later]
        reference = next(m.first for m in found if m is not None)
        row = [benchmark, key, ideal(reference)]
        if is_part:
            shared = comparison.shared[benchmark]
            row.append(f"{shared.shared} of {' / '.join(map(str, shared.measured.values()))}")
        row.append(interval(reference))
        for m in found:
            row += ["", ""] if m is None else [interval(m.second), change(m.difference, m.second.unit)]
        rows.append(row)
    return headers, rows


def compared_over(comparison: Comparison) -> dict[str, str]:
    """Say by benchmark, or ``collapse:WORDS``, which items are compared, if a run measured more than those."""
    said = {}
    for name, shared in comparison.shared.items():
        if shared.is_part:
            what = "words" if name.startswith(f"{COLLAPSE}:") else "items"
            measured = ", ".join(f"{run} {count}" for run, count in shared.measured.items())
            said[name] = f"Compared over the {shared.shared} {what} that all runs share, of {measured}"
    return said


def left_out(metrics: Metrics) -> list[str]:
    """The data that is missing from the numbers or was changed, one sentence each, without a full stop."""
    said = []
    for result in metrics.benchmarks:
        if result.half_precision is not None:
            said.append(f"{result.benchmark}: {result.half_precision}")
        said += [
            f"{result.benchmark}: {n} of {result.items} items left out: {why}" for why, n in result.excluded.items()
        ]
        altered = {} if result.generated is None else result.generated.altered
        said += [f"{result.benchmark}: {n} of {result.items} responses: {what}" for what, n in altered.items()]
    return said + [f"audit: {text}" for text in texts_left_out(metrics)]


def texts_left_out(metrics: Metrics) -> list[str]:
    """Describe the audit texts that were left out or cut, with their numbers; empty if there were none."""
    said = []
    for result in metrics.collapse[:1]:  # every class set is of the same texts
        if result.truncated:
            window = "longer than the model's window and were cut at its end"
            said.append(f"{result.truncated} of {result.texts} texts are {window}")
        if result.short:
            said.append(f"{result.short} texts of fewer than three words were left out")
    return said


def measure_rows(
    result: Result | str,
    estimates: Mapping[str, Mapping[str, Estimate]],
    compared: Mapping[tuple[str, str], ComparedMeasure],
) -> list[Row]:
    """Return every measure of one benchmark, or of one class set, by run; those with the same name together.

    Args:
        result: a result that explains the measures.
        estimates: estimates by run and measure key.
        compared: comparisons by later run and measure key.
    """
    rows = []
    for key in dict.fromkeys(key for by_key in estimates.values() for key in by_key):
        cells: list[Cell | None] = []
        for run, by_key in estimates.items():
            estimate, measure = by_key.get(key), compared.get((run, key))
            if estimate is None:
                cells.append(None)
                continue
            cells.append(
                Cell(
                    number(estimate.value, estimate.unit),
                    bounds(estimate.low, estimate.high, estimate.unit),
                    "" if measure is None else change(measure.difference, estimate.unit),
                    "unclear" if measure is None else direction(measure),
                )
            )
        sample = next(by_key[key] for by_key in estimates.values() if key in by_key)
        name = sentence_case(term(result, key).name)
        rows.append(Row(name, split_key(key)[0], ideal(sample), cells))
    names = list(dict.fromkeys(row.name for row in rows))
    return sorted(rows, key=lambda row: names.index(row.name))


class Segment(NamedTuple):
    """A stretch of a sentence, and whether the other sentence lacks it."""

    text: str
    differs: bool


class Scores(NamedTuple):
    """The scores that one run gives to an item."""

    preference: str
    more: str
    less: str


class ScoredPair(NamedTuple):
    """One item: two sentences that differ, and their scores by run."""

    group: str
    more: list[Segment]
    less: list[Segment]
    scores: dict[str, Scores]
    is_among_first: bool


def strongest_pairs(tables: Mapping[str, pd.DataFrame], columns: Pair) -> list[ScoredPair]:
    """The items where the stereotype is preferred most, by group and over all.

    They are ranked by the mean preference over the runs, because ranking by one run would favour the others.

    Args:
        tables: the per-item table of one benchmark, by run.
        columns: names of the columns with sentences and scores; if they are missing, nothing is shown.

    Returns:
        Strongest first. ``is_among_first`` marks those that lead whatever their group.
    """
    more, less = columns.more_score, columns.less_score
    frames: dict[str, pd.DataFrame] = {}
    for run, table in tables.items():
        if not {"item", columns.more, columns.less, more, less} <= set(table.columns):
            return []
        frames[run] = counted(table).set_index("item")
    preference = pd.DataFrame({run: frame[more] - frame[less] for run, frame in frames.items()}).dropna()
    mean = preference.mean(axis=1)
    ranked = mean[mean > 0].sort_values(ascending=False, kind="stable").index
    texts = next(iter(frames.values()))
    pairs, in_group = [], Counter[str]()
    for rank, item in enumerate(ranked):
        text = texts.loc[item]
        group = plain(str(text[columns.group])) if columns.group in texts else ""
        in_group[group] += 1
        if in_group[group] > _SHOWN:
            continue
        sentences = _segments(str(text[columns.more]), str(text[columns.less]))
        scores = {}
        for run, frame in frames.items():
            of_more, of_less = float(frame.loc[item][more]), float(frame.loc[item][less])
            scores[run] = Scores(_score(of_more - of_less), _score(of_more), _score(of_less))
        pairs.append(ScoredPair(group, *sentences, scores, rank < _SHOWN))
    return pairs


def _segments(first: str, second: str) -> tuple[list[Segment], list[Segment]]:
    """Split both sentences into shared and differing segments, by words."""
    words = first.split(), second.split()
    sides: tuple[list[Segment], list[Segment]] = [], []
    for kind, *spans in difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        for side, own, (start, end) in zip(sides, words, (spans[:2], spans[2:]), strict=True):
            if start < end:
                side.append(Segment(" ".join(own[start:end]), kind != "equal"))
    return sides


def _score(value: float) -> str:
    return f"{value:#.3g}".replace("-", "−")
