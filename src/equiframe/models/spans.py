"""Where a stretch of text stands among the tokens of the text."""

from __future__ import annotations

from collections.abc import Sequence


def tokens_of(span: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Places of the tokens that share a character with a stretch of text; none where it is cut off.

    Args:
        span: its start and its end, in characters; the end is the first one after it.
        offsets: the same of each token, as fast tokenizers give them; special tokens span nothing.
    """
    return [at for at, (start, end) in enumerate(offsets) if start < span[1] and span[0] < end]
