"""The folder in which equiframe keeps results that it would otherwise compute again."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from equiframe.errors import RunError

_FIX = "set EQUIFRAME_CACHE to a folder that can be written"


def cache_folder() -> Path:
    """The folder of converted models and stored answers: ``$EQUIFRAME_CACHE`` or ``~/.cache/equiframe``.

    Raises:
        RunError: the variable is not set, and this user has no home directory.
    """
    if named := os.environ.get("EQUIFRAME_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "equiframe"
    except RuntimeError as error:
        raise RunError(f"this user has no home directory for a cache: {_FIX}") from error


@contextlib.contextmanager
def writing_to_cache() -> Iterator[None]:
    """Turn a disk error into one line that names the file and says how to move the cache.

    Raises:
        RunError: replaces an OSError of the block.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or cache_folder()}: {error.strerror or error}; {_FIX}") from error


@contextlib.contextmanager
def made_once(target: Path) -> Iterator[Path]:
    """An empty folder that becomes ``target`` at the end of the block, so that nobody sees a part of it.

    If another process was faster, its folder stays.

    Raises:
        RunError: the cache cannot be written.
    """
    with writing_to_cache():
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch_folder = tempfile.TemporaryDirectory(dir=target.parent)
    with writing_to_cache(), scratch_folder as scratch:
        made = Path(scratch) / target.name
        made.mkdir()
        yield made
        with contextlib.suppress(OSError):
            made.replace(target)


def check_cache() -> None:
    """Check that the cache can be written, before a run that takes hours.

    Raises:
        RunError: the cache cannot be written.
    """
    with writing_to_cache():
        cache_folder().mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache_folder()).close()
