"""Even samples of many things, the same on every machine."""

from __future__ import annotations


def evenly(total: int, count: int) -> list[int]:
    """Evenly spaced positions of ``count`` of ``total`` things, starting at the first; repeated if there are fewer."""
    return [at * total // count for at in range(count)]


def every_nth(total: int, count: int) -> range:
    """The same number of positions, or all if there are fewer, at a constant distance that one pass can follow.

    The distance is a whole number, so up to half of the things at the end may be left out.
    """
    count = min(total, count)
    step = total // count if count else 1
    return range(0, step * count, step)
