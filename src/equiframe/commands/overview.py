"""A table of the finished runs in a folder: what was done, to which model, when, and the headline measures."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from equiframe.data import read_json
from equiframe.errors import EquiframeError
from equiframe.record import Metrics, read_comparison, read_metrics, split_key, term
from equiframe.report.glossary import sentence_case
from equiframe.report.notebook import headlines, what_was_done
from equiframe.report.numbers import interval

COLUMNS = ("run", "model", "what was done", "date", "headline measures [95 %]")
_SHOWN = 4  # headline measures shown per run
_METRICS = "metrics.json"


def overview(runs: Mapping[str, Path]) -> pd.DataFrame:
    """One row per run, newest first, with the columns of ``COLUMNS``.

    A folder whose record cannot be read has only its name, so that one damaged run does not hide the others.

    Args:
        runs: folders of finished runs by name.
    """
    rows = [(name, *_described(folder, _changed(folder))) for name, folder in runs.items()]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.sort_values("date", ascending=False, kind="stable", ignore_index=True)


def _changed(folder: Path) -> int:
    """The time when the record was written, so that an unchanged record is read only once."""
    file = folder / _METRICS
    return file.stat().st_mtime_ns if file.is_file() else 0


@functools.lru_cache(maxsize=4096)
def _described(folder: Path, changed: int) -> tuple[str, str, str, str]:
    """Return model, what was done, date and headline measures; texts are empty if the folder does not say."""
    date = _date(folder)
    try:
        metrics = read_metrics(folder)
        return metrics.model.name, what_was_done(metrics), date, _measures(metrics)
    except (EquiframeError, OSError):
        pass
    try:
        comparison = read_comparison(folder)
        return ", ".join(comparison.runs), comparison.verb, date, ""
    except (EquiframeError, OSError):
        return "", "study" if (folder / "study.json").is_file() else "", date, ""


def _date(folder: Path) -> str:
    """The time when the run began, such as ``2026-11-27 23:11`` (UTC); otherwise when its report was written."""
    try:
        return str(read_json(folder / "config.json")["environment"]["date"])[:16].replace("T", " ")
    except (EquiframeError, OSError, LookupError, TypeError):
        written = datetime.datetime.fromtimestamp((folder / "report.html").stat().st_mtime, datetime.timezone.utc)
        return written.isoformat(sep=" ", timespec="minutes")[:16]


def _measures(metrics: Metrics) -> str:
    """Describe the first headline measures with their intervals."""
    found, results = list(headlines(metrics)), metrics.results
    lines = []
    for benchmark, key, estimate in found[:_SHOWN]:
        group, _ = split_key(key)
        name = " ".join(filter(None, (sentence_case(group), term(results[benchmark], key).name)))
        lines.append(f"{benchmark}: {name} {interval(estimate)}")
    if len(found) > _SHOWN:
        lines.append(f"and {len(found) - _SHOWN} more in the report")
    return "; ".join(lines)
