"""Compares runs: every later run with the first, item by item."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from equiframe.analysis.measures import CONTEXT_COUNTS, collapse_measures, context_measures
from equiframe.analysis.tables import counted, stack
from equiframe.benchmarks import load_benchmark
from equiframe.benchmarks.benchmark import BenchmarkResult
from equiframe.benchmarks.minimal_pairs import MinimalPairs
from equiframe.data import DataFile
from equiframe.errors import InputError
from equiframe.options import SEEDS, check_range
from equiframe.record import (
    AuditedWith,
    CollapseResult,
    ComparedMeasure,
    Comparison,
    ContextsResult,
    Metrics,
    RunRecord,
    SharedItems,
)
from equiframe.uncertainty import Estimate, Measure, Rows, estimate, paired_difference

_FEWEST_SHARED = 0.5  # share of the smaller run's items; fewer would not represent either run
_FEWEST_PAIRS = 2  # pairs of a text and its counterfactual that are needed for an interval
_BY_PATH = (f"{MinimalPairs.name}:", "templates:")  # benchmarks that are named by a path


class _Common(NamedTuple):
    """Something that several runs measured: a benchmark, the audited words, or contexts.

    ``tables`` are by run; ``key`` names the column, or columns, that identify an item in all of them. ``is_fixed``
    says that the runs can share their items; models with different tokenizers read texts at different places.
    """

    name: str
    key: str | list[str]
    measures: Callable[[pd.DataFrame], list[Measure]]
    tables: Mapping[str, pd.DataFrame]
    is_fixed: bool = True


def compare(
    records: Mapping[str, RunRecord], *, verb: Literal["compare", "demo"] = "compare", seed: int = 0
) -> Comparison:
    """Compare the numbers that two or more runs share, with paired differences to the first run.

    Everything is over the items that all of the runs with this benchmark scored: if one of them left out items, or
    scored others by ``--limit``, the values of each run are computed again. Audited words are the same if they have
    the same spelling, whatever their token ids. A loss per token is compared only if both runs have the same tokens.

    Args:
        records: runs by name; the first is the reference.
        verb: verb of the comparison in its record.
        seed: seed of bootstraps and permutation tests.

    Raises:
        InputError: there are fewer than two runs, they have nothing or too few items in common, or they used
            different versions of a benchmark or different data.
    """
    if len(records) < 2:
        raise InputError(f"a comparison needs two runs or more, found {len(records)}")
    check_range("--seed", seed, whole=True, most=SEEDS)
    records = aligned(records)
    first, *later = records
    runs = {name: record.metrics for name, record in records.items()}
    measures: dict[str, list[ComparedMeasure]] = {name: [] for name in later}
    shared = {}
    for common in _in_common(records):
        stacked, items = stack(list(common.tables.values()), common.key)
        if items < _FEWEST_PAIRS and not common.is_fixed:
            continue
        shared[common.name] = _shared_items(common, items)
        found = {measure.key: measure for measure in common.measures(stacked)}
        of_runs = {
            name: {key: _between(measure, at * items, (at + 1) * items) for key, measure in found.items()}
            for at, name in enumerate(common.tables)
        }
        if shared[common.name].is_part:
            for name, of_run in of_runs.items():
                estimates = {key: estimate(m, seed=seed) for key, m in of_run.items() if len(m.rows)}
                runs[name] = _with_estimates(runs[name], common.name, estimates, items)
        for name, compared in _differences(common.name, runs, of_runs, items, seed):
            measures[name].append(compared)
    for name, of_name in measures.items():
        if not of_name:
            raise InputError(
                f"{first} and {name} have no measure in common: run the same benchmarks, or audit, on both"
            )
    return Comparison(verb=verb, runs=runs, measures=measures, shared=shared)


def _differences(
    name: str, runs: Mapping[str, Metrics], of_runs: Mapping[str, Mapping[str, Measure]], items: int, seed: int
) -> Iterator[tuple[str, ComparedMeasure]]:
    """Compare every measure of a result in each later run with the first run, over this number of shared items."""
    first, *later = of_runs
    ours = runs[first].results[name].estimates
    for at, run in enumerate(later, start=1):
        theirs = runs[run].results[name].estimates
        for key, measure in of_runs[run].items():
            if key not in ours or key not in theirs or not measure.interval:
                continue
            rows, others = _paired_rows(name, of_runs[first][key], measure, at * items)
            if len(rows):  # otherwise no shared item is in this group
                difference = paired_difference(rows, others, measure.statistic, seed=seed)
                both = {"first": ours[key], "second": theirs[key]}
                yield run, ComparedMeasure(benchmark=name, measure=key, **both, difference=difference)


class Paired(NamedTuple):
    """A measure of two runs, with its rows in a table of both: the same items in the same order."""

    measure: Measure
    first: Rows
    second: Rows


def paired_measure(before: RunRecord, after: RunRecord, name: str, key: str) -> Paired:
    """Return one measure of a benchmark, or of ``collapse:WORDS``, over the items that two runs share.

    Args:
        before: the first run, :func:`aligned` with the second.
        after: the second run.
        name: the benchmark.
        key: the measure.

    Raises:
        InputError: the runs do not share the benchmark, share too few of its items, or measured it in different ways.
    """
    common = next(_in_common({"before": _only(before, name), "after": _only(after, name)}), None)
    if common is None:
        raise InputError(f"{name}: the runs before and after do not share it: measure it in both, with one tokenizer")
    stacked, items = stack(list(common.tables.values()), common.key)
    _shared_items(common, items)
    measure = next((measure for measure in common.measures(stacked) if measure.key == key), None)
    if measure is None:
        raise InputError(f"{name}: no item that the runs before and after share is of {key}")
    first, second = _between(measure, 0, items), _between(measure, items, 2 * items)
    return Paired(measure, *_paired_rows(name, first, second, items))


def _only(record: RunRecord, name: str) -> RunRecord:
    """The run with only one of its benchmarks or word sets."""
    metrics = record.metrics
    kept = {
        "benchmarks": [result for result in metrics.benchmarks if result.name == name],
        "collapse": [result for result in metrics.collapse if result.name == name],
        "contexts": [result for result in metrics.contexts if result.name == name],
    }
    return dataclasses.replace(record, metrics=metrics.model_copy(update=kept))


def _paired_rows(name: str, first: Measure, second: Measure, offset: int) -> tuple[Rows, Rows]:
    """The rows of a measure in two runs; the rows of the second run begin at ``offset``.

    Raises:
        InputError: the runs do not put the same items into this measure's group.
    """
    if not np.array_equal(first.rows + offset, second.rows):
        raise InputError(f"{name}: the items of {first.key} differ between the runs: evaluate one again")
    return first.rows, second.rows


def _between(measure: Measure, start: int, end: int) -> Measure:
    """The measure of one of the runs that are stacked in a table."""
    return dataclasses.replace(measure, rows=measure.rows[(measure.rows >= start) & (measure.rows < end)])


def aligned(records: Mapping[str, RunRecord]) -> dict[str, RunRecord]:
    """Return the runs, with one name for everything that they share, however the path to it was written.

    User-provided pairs are the same if their files have the same content, word lists if they have the same name: their
    words are compared one by one.
    """
    pairs: dict[tuple[str, ...], str] = {}
    words: dict[str, str] = {}
    found = {}
    for run, record in records.items():
        names = {}
        for result in record.metrics.benchmarks:
            if result.benchmark.startswith(_BY_PATH):
                name = pairs.setdefault(_hashes(result.files), result.benchmark)
                if name not in record.items:  # if the same file was scored twice, both names are kept
                    names[result.benchmark] = name
        metrics = record.metrics.model_copy(
            update={
                "benchmarks": [
                    dataclasses.replace(result, benchmark=names.get(result.benchmark, result.benchmark))
                    for result in record.metrics.benchmarks
                ],
                "collapse": [
                    result.model_copy(
                        update={"class_set": words.setdefault(Path(result.class_set).name, result.class_set)}
                    )
                    for result in record.metrics.collapse
                ],
            }
        )
        items = {names.get(name, name): table for name, table in record.items.items()}
        found[run] = dataclasses.replace(record, metrics=metrics, items=items)
    return found


def _in_common(records: Mapping[str, RunRecord]) -> Iterator[_Common]:
    """Yield what the first run and later ones measured: benchmarks in the order of the first run, then collapse."""
    first = next(iter(records))
    for mine in records[first].metrics.benchmarks:
        results = {
            name: result
            for name, record in records.items()
            for result in record.metrics.benchmarks
            if result.benchmark == mine.benchmark
        }
        for name, other in results.items():
            for what, ours, theirs in (
                ("version", mine.version, other.version),
                ("files", _hashes(mine.files), _hashes(other.files)),
                ("scoring", mine.scoring_key, other.scoring_key),
                *_decoding(mine, other),
            ):
                if ours != theirs:
                    raise InputError(f"{mine.benchmark}: {first} and {name} differ in {what}: evaluate one again")
        if len(results) > 1:
            benchmark, own = load_benchmark(mine.benchmark), records[first].items[mine.benchmark]
            every = {name: records[name].items[mine.benchmark] for name in results}
            tables = {name: table for name, table in every.items() if _count_alike(own, table, benchmark.counts)}
            if len(tables) > 1:
                yield _Common(mine.benchmark, "item", benchmark.measures, tables)
    for word_set in records[first].metrics.collapse:
        audits = {
            name: result
            for name, record in records.items()
            for result in record.metrics.collapse
            if result.class_set == word_set.class_set and result.estimates
        }
        classes = {name: table for name in audits if (table := records[name].classes) is not None}
        if first not in classes or len(classes) < 2:
            continue
        for name in audits:
            _check_audits(records, first, name, "multi_token", "pairing", "feature", "visibility")
        yield _Common(word_set.name, "form", collapse_measures, classes)
    for contexts in records[first].metrics.contexts:
        bias = contexts.bias
        tables = {
            name: record.pairs[record.pairs["bias"] == bias]
            for name, record in records.items()
            if record.pairs is not None and any(found.bias == bias for found in record.metrics.contexts)
        }
        if first not in tables or len(tables) < 2:
            continue
        for name in tables:
            _check_audits(records, first, name, "feature")
        yield _Common(contexts.name, ["item", *CONTEXT_COUNTS], context_measures, tables, is_fixed=False)


def _count_alike(own: pd.DataFrame, other: pd.DataFrame, counts: Sequence[str]) -> bool:
    """Whether two runs split the items that they share into the same numbers of tokens, if a measure is per token."""
    if not counts:
        return True
    stacked, items = stack([own, other])
    return all(np.array_equal(*stacked[name].to_numpy().reshape(2, items)) for name in counts)


def _decoding(mine: BenchmarkResult, other: BenchmarkResult) -> Iterator[tuple[str, object, object]]:
    """Yield what decides the responses of two runs: how they were asked for and decoded, if both runs say it."""
    if mine.generated is not None and other.generated is not None:
        for what, ours, theirs in (
            ("decoding or length of the responses", mine.generated.settings, other.generated.settings),
            ("the use of a chat template", mine.generated.chat_template, other.generated.chat_template),
        ):
            if ours is not None and theirs is not None:
                yield what, ours, theirs


def _check_audits(records: Mapping[str, RunRecord], first: str, name: str, *options: str) -> None:
    """Refuse audits of different texts, of different numbers of them, or with different options.

    Raises:
        InputError: the audits differ; the error says how.
    """
    ours, others = (
        next((result for result in records[run].metrics.collapse if result.files), None) for run in (first, name)
    )
    if ours is not None and others is not None:
        if _hashes(ours.files) != _hashes(others.files):
            raise InputError(f"audit: {first} and {name} differ in their text: audit both on the same --text")
        if None not in (ours.texts, others.texts) and ours.texts != others.texts:  # means of few samples inflate (U)NC3
            read = f"{first} read {ours.texts:,} texts and {name} {others.texts:,}"
            raise InputError(f"audit: {read}: audit both with the same --sentences")
    mine, theirs = (records[run].provenance.audit or AuditedWith() for run in (first, name))
    for what in options:
        if getattr(mine, what) != getattr(theirs, what):
            raise InputError(f"audit: {first} and {name} differ in {what}: audit one again")


def _hashes(files: Sequence[DataFile]) -> tuple[str, ...]:
    """The hashes of the contents of files, wherever the files are."""
    return tuple(file.sha256 for file in files)


def _shared_items(common: _Common, items: int) -> SharedItems:
    """Count the items that are compared, and those that each run measured.

    Raises:
        InputError: there are too few items or none.
    """
    measured = {name: len(counted(table)) for name, table in common.tables.items()}
    if common.is_fixed and items < max(1, _FEWEST_SHARED * min(measured.values())):
        what, fix = "items", "evaluate them on the same items, with the same --limit or without one"
        if common.key == "form":
            what, fix = "words", "audit them with the same --words and --multi-token, on more text"
        counts = ", ".join(f"{name} {count}" for name, count in measured.items())
        raise InputError(f"{common.name}: the runs share {items} {what} ({counts}), too few to compare: {fix}")
    return SharedItems(shared=items, measured=measured)


def _with_estimates(metrics: Metrics, name: str, estimates: dict[str, Estimate], items: int) -> Metrics:
    """The same metrics, with the estimates of one benchmark, word set or bias over the items that all runs share."""

    def of_items(result: BenchmarkResult) -> BenchmarkResult:
        others = result.items - sum(result.excluded.values()) - items
        excluded = {**result.excluded, **({"not scored in every run": others} if others else {})}
        return dataclasses.replace(result, estimates=estimates, excluded=excluded)

    def of_words(result: CollapseResult) -> CollapseResult:
        values = {**result.values, **{key: estimate.value for key, estimate in estimates.items()}}
        return result.model_copy(update={"estimates": estimates, "values": values})

    def of_texts(result: ContextsResult) -> ContextsResult:
        return result.model_copy(update={"estimates": estimates, "pairs": items})

    return metrics.model_copy(
        update={
            "benchmarks": [of_items(r) if r.name == name else r for r in metrics.benchmarks],
            "collapse": [of_words(r) if r.name == name else r for r in metrics.collapse],
            "contexts": [of_texts(r) if r.name == name else r for r in metrics.contexts],
        }
    )
