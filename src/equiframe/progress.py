"""Progress of long preparations, told to whoever listens, without a parameter in every method."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TypeAlias, TypeVar

Tell: TypeAlias = Callable[[str, int, int], None]
"""Called with the stage, the steps done, and their total number."""

_Item = TypeVar("_Item")
_listener: ContextVar[Tell | None] = ContextVar("equiframe_progress", default=None)


@contextlib.contextmanager
def listening(tell: Tell | None) -> Iterator[None]:
    """Tell this function the progress of every :func:`tracked` loop inside the block."""
    token = _listener.set(tell)
    try:
        yield
    finally:
        _listener.reset(token)


def tracked(items: Iterable[_Item], stage: str, total: int) -> Iterator[_Item]:
    """Yield the items, and tell the listener, if there is one, how many are done.

    A loop that ends early counts as done.

    Args:
        items: the steps.
        stage: name of the bar.
        total: number of items.
    """
    tell = _listener.get()
    if tell is None:
        yield from items
        return
    tell(stage, 0, total)
    try:
        for done, item in enumerate(items, start=1):
            yield item
            tell(stage, done, total)
    finally:
        tell(stage, total, total)
