"""Whether a model can read several sequences as one tree of tokens."""

from __future__ import annotations

import torch

from equiframe.models.language_model import LanguageModel
from equiframe.scoring.forward import forward
from equiframe.scoring.planner import Row


def path_of(row: Row, end: int) -> list[int]:
    """Places of a tree's sequence, from its start to one of its tokens."""
    assert row.parents is not None
    path = [end]
    while (parent := row.parents[path[-1]]) >= 0:
        path.append(parent)
    return path[::-1]


def deepest_place(row: Row) -> int:
    """The place in a tree with the most tokens before it."""
    assert row.parents is not None
    depths: list[int] = []
    for parent in row.parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return max(range(len(depths)), key=depths.__getitem__)


def reads_trees(language_model: LanguageModel, row: Row) -> bool:
    """Whether a model gives the same outputs at places of a tree as at the end of that sequence alone.

    Not every architecture takes positions and an explicit mask: some refuse them, some ignore them. The tested places
    are the deepest one, and the last one, which has another branch before it.
    """
    deepest = deepest_place(row)
    if any(width <= len(path_of(row, deepest)) for width in _attention_widths(language_model)):
        return False
    return all(_agrees(language_model, row, place) for place in (deepest, len(row.tokens) - 1))


def _agrees(language_model: LanguageModel, row: Row, place: int) -> bool:
    """Whether a model gives the same output at a place of a tree as at the end of that sequence alone."""
    path = path_of(row, place)
    alone = Row(tuple(row.tokens[at] for at in path), None, (len(path) - 1,))
    expected = forward(language_model, [alone])
    try:
        found = forward(language_model, [Row(row.tokens, row.parents, (place,))])
    except Exception:  # on any error, sequences are read one by one
        return False
    error = (found - expected).norm() / (expected - expected.mean()).norm()
    return bool(error < (1e-4 if expected.dtype in (torch.float32, torch.float64) else 5e-2))


def _attention_widths(language_model: LanguageModel) -> list[int]:
    """Maximum number of tokens that layers with a sliding window or chunks see; an explicit mask would extend it."""
    options = language_model.model.config.get_text_config().to_dict()
    return [
        value
        for name, value in options.items()
        if ("window" in name or "chunk" in name) and isinstance(value, int) and value > 0
    ]
