"""Finds the tokens of a part of a text."""

from __future__ import annotations

from collections.abc import Sequence


def tokens_of(span: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Positions of the tokens that share a character with a part of a text; none if the part is cut off.

    Args:
        span: start and end of the part, in characters; the end is exclusive.
        offsets: start and end of each token, as fast tokenizers give them; special tokens are empty.
    """
    return [at for at, (start, end) in enumerate(offsets) if start < span[1] and span[0] < end]
