"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_whole(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A temporary file next to ``path`` that replaces it when the block ends without an error.

    Args:
        path: the file.
        shared: whether several processes may write it at the same time; each then uses its own temporary file.

    Raises:
        OSError: the file cannot be written.
    """
    scratch = path.with_name(f"{path.name}{f'.{os.getpid()}' if shared else ''}.partial")
    yield scratch
    scratch.replace(path)
