"""Even samples of many things, the same on every machine."""

from __future__ import annotations

import itertools
import random

_LONGEST_PERIOD = 8


def evenly(total: int, count: int) -> list[int]:
    """Evenly spaced positions of ``count`` of ``total`` things, starting at the first; repeated if there are fewer."""
    return [at * total // count for at in range(count)]


def evenly_in_any_order(total: int, count: int) -> list[int]:
    """Like :func:`evenly`, for things whose order may repeat, such as a text about a woman, then one about a man.

    Positions at a constant whole distance would always meet the same place of a repeating order: each 14th of such
    texts is about a woman. If the distance is nearly whole, so that less than one period is gained or lost from the
    first position to the last, each position is drawn at random from its part instead, alike on every machine.

    Args:
        total: number of things, ``count`` or more.
        count: number of positions, 1 or more.
    """
    if abs(total - count * round(total / count)) >= _LONGEST_PERIOD:
        return evenly(total, count)
    draw = random.Random(0)
    return [draw.randrange(*part) for part in itertools.pairwise([*evenly(total, count), total])]


def every_nth(total: int, count: int) -> range:
    """The same number of positions, or all if there are fewer, at a constant distance that one pass can follow.

    The distance is a whole number, so up to half of the things at the end may be left out.
    """
    count = min(total, count)
    step = total // count if count else 1
    return range(0, step * count, step)
