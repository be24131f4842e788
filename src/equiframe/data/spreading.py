"""Some of many, spread evenly over them and the same on every machine."""

from __future__ import annotations


def evenly(total: int, count: int) -> list[int]:
    """Positions of ``count`` of ``total`` things, from the first on; where fewer than ``count``, some repeat."""
    return [at * total // count for at in range(count)]


def every_nth(total: int, count: int) -> range:
    """As many positions, or all if there are fewer, at one distance, so that one pass can tell what to keep.

    The distance is a whole number: up to half of the things at the end may be left out.
    """
    count = min(total, count)
    step = total // count if count else 1
    return range(0, step * count, step)
