"""Set runs side by side: every later run against the first, item by item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from equiframe.benchmarks import load_benchmark
from equiframe.errors import InputError
from equiframe.report import comparison_page
from equiframe.runs.audit import collapse_measures
from equiframe.runs.contexts import COUNTS, context_measures
from equiframe.runs.record import ComparedMeasure, Comparison, RunRecord, environment, run_folder, write_json
from equiframe.uncertainty import Estimate, Measure, paired_difference


def compare(
    records: Mapping[str, RunRecord], *, verb: Literal["compare", "demo"] = "compare", seed: int = 0
) -> Comparison:
    """The numbers that two or more runs share, with paired differences to the first run.

    Items that either run excluded are left out of the difference (each run's own estimate keeps its items).

    Args:
        records: runs by name; the first is the reference.
        verb: what the comparison is recorded as.
        seed: of bootstrap and permutation test.

    Raises:
        InputError: fewer than two runs, nothing in common, or different versions of a benchmark or its data.
    """
    if len(records) < 2:
        raise InputError(f"a comparison needs two runs or more, got {len(records)}")
    names = list(records)
    measures = {name: list(_pairs(names[0], records[names[0]], name, records[name], seed)) for name in names[1:]}
    for name, found in measures.items():
        if not found:
            raise InputError(
                f"{names[0]} and {name} have no measure in common: run the same benchmarks, or audit, on both"
            )
    return Comparison(verb=verb, runs={name: record.metrics for name, record in records.items()}, measures=measures)


def _pairs(
    first_name: str, first: RunRecord, second_name: str, second: RunRecord, seed: int
) -> Iterator[ComparedMeasure]:
    """Every shared measure, benchmarks in the order of the first run, then collapse of words and of contexts."""
    results = {result.benchmark: result for result in second.metrics.benchmarks}
    for mine in first.metrics.benchmarks:
        other = results.get(mine.benchmark)
        if other is None:
            continue
        for what in ("version", "files", "scoring"):
            if getattr(mine, what) != getattr(other, what):
                raise InputError(
                    f"{mine.benchmark}: {first_name} and {second_name} differ in {what}: evaluate one again"
                )
        stacked = _stack(first.items[mine.benchmark], second.items[mine.benchmark], "item")
        found = load_benchmark(mine.benchmark).measures(stacked)
        yield from _differences(mine.benchmark, found, len(stacked), mine.estimates, other.estimates, seed)
    mine_by_set = {result.class_set: result for result in first.metrics.collapse if result.estimates}
    for theirs in second.metrics.collapse:
        mine_set = mine_by_set.get(theirs.class_set)
        if mine_set is None or first.classes is None or second.classes is None:
            continue
        stacked = _stack(first.classes, second.classes, "token_id")
        yield from _differences(
            f"collapse:{theirs.class_set}",
            collapse_measures(stacked),
            len(stacked),
            mine_set.estimates,
            theirs.estimates,
            seed,
        )
    mine_by_bias = {result.bias: result for result in first.metrics.contexts}
    for others in second.metrics.contexts:
        mine_of = mine_by_bias.get(others.bias)
        if mine_of is None or first.pairs is None or second.pairs is None:
            continue
        stacked = _same_places(_stack(first.pairs, second.pairs, "item"), others.bias)
        found = context_measures(stacked)
        yield from _differences(
            f"contexts:{others.bias}", found, len(stacked), mine_of.estimates, others.estimates, seed
        )


def _same_places(stacked: pd.DataFrame, bias: str) -> pd.DataFrame:
    """Pairs of a bias that both runs read at as many places; models of other tokenizers read others."""
    halves = np.split(stacked[list(COUNTS)].to_numpy(), 2)
    is_same = np.tile((halves[0] == halves[1]).all(axis=1), 2)
    return stacked[is_same & (stacked["bias"] == bias)].reset_index(drop=True)


def _stack(first: pd.DataFrame, second: pd.DataFrame, key: str) -> pd.DataFrame:
    """The shared rows of both tables, all of the first, then in the same order all of the second."""
    tables = []
    for table in (first, second):
        counted = table[table["excluded"].isna()] if "excluded" in table else table
        tables.append(counted.set_index(key))
    shared = tables[0].index.intersection(tables[1].index)
    return pd.concat([table.loc[shared].reset_index() for table in tables], ignore_index=True)


def _differences(
    benchmark: str,
    measures: list[Measure],
    stacked: int,
    first: Mapping[str, Estimate],
    second: Mapping[str, Estimate],
    seed: int,
) -> Iterator[ComparedMeasure]:
    """Paired differences of measures on a stacked table: its first half is the first run."""
    half = stacked // 2
    for measure in measures:
        if measure.key not in first or measure.key not in second or not measure.interval:
            continue
        rows = measure.rows[measure.rows < half]
        if not len(rows):
            continue  # models of other tokenizers may share no class
        if not np.array_equal(rows + half, measure.rows[measure.rows >= half]):
            raise InputError(f"{benchmark}: the groups of {measure.key} differ between the runs")
        yield ComparedMeasure(
            benchmark=benchmark,
            measure=measure.key,
            first=first[measure.key],
            second=second[measure.key],
            difference=paired_difference(rows, rows + half, measure.statistic, seed=seed),
        )


def compare_folders(
    folders: Sequence[Path],
    out: Path | None = None,
    *,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Compare finished runs by their folders, and write the comparison if asked.

    Args:
        folders: of the runs; the first is the reference. Their last names name the runs.
        out: folder to write; must not exist.
        seed: of bootstrap and permutation test.
        progress: told how many runs are read.

    Raises:
        InputError: two folders of one name, or nothing to compare.
        RunError: a folder is not a finished run, or ``out`` cannot be written.
    """
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise InputError(f"two runs have the same name among {', '.join(names)}: rename one folder")
    records = {}
    for done, (name, folder) in enumerate(zip(names, folders, strict=True), start=1):
        records[name] = RunRecord.read(folder)
        if progress is not None:
            progress("read runs", done, len(folders))
    comparison = compare(records, seed=seed)
    if out is not None:
        with run_folder(out, {"compare": [str(folder.resolve()) for folder in folders], "seed": seed}) as work:
            write_comparison(work, records, comparison, title=" / ".join(names))
    return comparison


def write_comparison(work: Path, records: Mapping[str, RunRecord], comparison: Comparison, *, title: str) -> None:
    """Numbers and report of a comparison, into an existing folder."""
    write_json(work / "config.json", {name: record.config for name, record in records.items()})
    write_json(work / "metrics.json", comparison.model_dump(mode="json"))
    (work / "report.html").write_text(
        comparison_page(records, comparison, title=title, made=environment()), encoding="utf-8"
    )
