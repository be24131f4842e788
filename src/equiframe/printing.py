"""Prints results: tables for people, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from equiframe.record import Comparison, Metrics, Result
    from equiframe.uncertainty import Estimate


def show(result: Metrics | Comparison, out: Path | None, as_json: bool) -> None:
    """Print the numbers as a table for people or as JSON for programs."""
    from equiframe.record import Comparison
    from equiframe.report import comparison_table

    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    console = make_console()
    if isinstance(result, Comparison):
        headers, rows = comparison_table(_headlines(result))
        print_table(console, headers, rows)
    else:
        _print_metrics(console, result)
    if out is not None:
        console.print(f"{out / 'report.html'}", highlight=False)


def print_json(value: Any) -> None:
    """Print one line of JSON to standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def make_console() -> Console:
    """A console for standard output that shows names as they are, and wraps lines only on a terminal."""
    console = Console(markup=False, emoji=False)
    return console if console.is_terminal else Console(width=1000, markup=False, emoji=False)


def _headlines(comparison: Comparison) -> Comparison:
    """Keep the headline measures of each benchmark; the record and the report have all of them."""
    results = comparison.results
    kept = {
        run: [m for m in measures if _is_headline(results[m.benchmark], m.measure)]
        for run, measures in comparison.measures.items()
    }
    return comparison.model_copy(update={"measures": kept})


def _is_headline(result: Result, measure: str) -> bool:
    from equiframe.record import BenchmarkResult, CollapseResult, is_headline

    if isinstance(result, BenchmarkResult):
        return is_headline(result, measure)
    return isinstance(result, CollapseResult)


def _print_metrics(console: Console, metrics: Metrics) -> None:
    from equiframe.report import left_out

    if metrics.collapse:
        keys = [key for key in metrics.collapse[0].values if any(key in r.values for r in metrics.collapse)]
        rows = [[key, *(_number(r.values.get(key)) for r in metrics.collapse)] for key in keys]
        rows.append(["classes", *(str(r.classes) for r in metrics.collapse)])
        print_table(console, ["collapse", *(r.class_set for r in metrics.collapse)], rows)
    rows = [
        [found.bias, key, _interval(estimate), _number(estimate.ideal), str(estimate.count)]
        for found in metrics.contexts
        for key, estimate in found.estimates.items()
    ]
    if rows:
        print_table(console, ["contexts", "measure", "value [95 %]", "ideal", "texts"], rows)
    rows = [
        [result.benchmark, key, _interval(estimate), _number(estimate.ideal), str(estimate.count)]
        for result in metrics.benchmarks
        for key, estimate in result.estimates.items()
        if _is_headline(result, key)
    ]
    if rows:
        print_table(console, ["benchmark", "measure", "value [95 %]", "ideal", "items"], rows)
        others = sum(len(result.estimates) for result in metrics.benchmarks) - len(rows)
        if others:
            console.print(f"The report has {others} more.", highlight=False)
    for line in left_out(metrics):
        console.print(line, highlight=False)


def print_table(console: Console, headers: list[str], rows: list[list[str]]) -> None:
    """Print a table with numbers aligned to the right."""
    table = Table(*headers, box=None, header_style="bold", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None:
        return _number(estimate.value)
    return f"{_number(estimate.value)} [{_number(estimate.low)}, {_number(estimate.high)}]"


def is_first_rank() -> bool:
    """Whether this process reports for all processes that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def progress_bars(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar with the time left for each stage, on standard error if it is a terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if quiet or not sys.stderr.isatty() or not is_first_rank():
        yield None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield tell
