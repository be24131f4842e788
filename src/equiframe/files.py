"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_whole(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its place when the block ends without an error.

    Args:
        path: the file.
        shared: whether several processes may write it at the same time; each then writes to a file of its own.

    Raises:
        OSError: the disk refuses.
    """
    scratch = path.with_name(f"{path.name}{f'.{os.getpid()}' if shared else ''}.partial")
    yield scratch
    scratch.replace(path)
