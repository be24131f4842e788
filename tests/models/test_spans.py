"""Characters to tokens, by hand."""

from __future__ import annotations

from equiframe.models.spans import tokens_of


def test_tokens_that_share_a_character():
    offsets = [
        (0, 0),
        (0, 3),
        (3, 6),
        (6, 7),
        (8, 10),
        (0, 0),
    ]  # special, three pieces, a word, special
    assert tokens_of((0, 3), offsets) == [1]
    assert tokens_of((2, 7), offsets) == [1, 2, 3]
    assert tokens_of((7, 8), offsets) == []
    assert tokens_of((8, 9), offsets) == [4]
    assert tokens_of((12, 14), offsets) == []
