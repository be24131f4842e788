"""Where equiframe keeps what it would otherwise compute again."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from equiframe.errors import RunError

_FIX = "set EQUIFRAME_CACHE to a folder that can be written"


def cache_folder() -> Path:
    """Where converted models and stored answers live: ``$EQUIFRAME_CACHE`` or ``~/.cache/equiframe``.

    Raises:
        RunError: neither is set, and this user has no home directory.
    """
    if named := os.environ.get("EQUIFRAME_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "equiframe"
    except RuntimeError as error:
        raise RunError(f"this user has no home directory to keep a cache in: {_FIX}") from error


@contextlib.contextmanager
def writing_to_cache() -> Iterator[None]:
    """Say of a disk that refuses which file it was, and that the cache can be elsewhere.

    Raises:
        RunError: in place of an OSError of the block.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or cache_folder()}: {error.strerror or error}; {_FIX}") from error


@contextlib.contextmanager
def made_once(target: Path) -> Iterator[Path]:
    """An empty folder to write to, which becomes ``target`` once the block is over: never half of it is seen.

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
        with contextlib.suppress(OSError):  # another process may have finished first
            made.replace(target)


def check_cache() -> None:
    """Find out whether the cache can be written before a run takes hours.

    Raises:
        RunError: it cannot.
    """
    with writing_to_cache():
        cache_folder().mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache_folder()).close()
