"""Compare finished runs by their folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from equiframe.analysis.comparison import aligned, compare
from equiframe.errors import InputError
from equiframe.options import check_several
from equiframe.record import Comparison, RunRecord, environment, run_folder, write_json
from equiframe.report import comparison_page


def compare_folders(
    folders: Sequence[Path | str],
    out: Path | str | None = None,
    *,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Compare finished runs by their folders, and write the comparison if asked.

    Args:
        folders: folders of the runs; the first is the reference. The last parts of their paths name the runs.
        out: folder to write; it must not exist.
        seed: seed of bootstraps and permutation tests.
        progress: called with the number of runs that have been read.

    Raises:
        InputError: two folders have the same name, or there is nothing to compare.
        RunError: a folder is not a finished run, or ``out`` cannot be written.
    """
    check_several("folders", folders)
    paths = [Path(folder).resolve() for folder in folders]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        raise InputError(f"two runs have the same name among {', '.join(names)}: rename one folder")
    if out is None:
        return _compared(names, paths, seed, progress)[1]
    with run_folder(out, {"compare": [str(path) for path in paths], "seed": seed}) as work:
        records, comparison = _compared(names, paths, seed, progress)
        write_comparison(work, records, comparison, title=" / ".join(names))
    return comparison


def _compared(
    names: Sequence[str], paths: Sequence[Path], seed: int, progress: Callable[[str, int, int], None] | None
) -> tuple[dict[str, RunRecord], Comparison]:
    """The runs by name, and their comparison."""
    records = {}
    for done, (name, path) in enumerate(zip(names, paths, strict=True), start=1):
        records[name] = RunRecord.read(path)
        if progress is not None:
            progress("read runs", done, len(paths))
    records = aligned(records)
    return records, compare(records, seed=seed)


def write_comparison(work: Path, records: Mapping[str, RunRecord], comparison: Comparison, *, title: str) -> None:
    """Write numbers and report of a comparison into an existing folder."""
    write_json(work / "config.json", {name: record.provenance.plain() for name, record in records.items()})
    write_json(work / "metrics.json", comparison.model_dump(mode="json"))
    (work / "report.html").write_text(
        comparison_page(records, comparison, title=title, made=environment()), encoding="utf-8"
    )
