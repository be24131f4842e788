"""Plans which rows a model must read to answer requests, and where each answer is. Pure: no model, no tensor.

Two savings are exact. Requests about the same sequence read it once. In a causal LM, a state depends only on
the tokens before it: nothing after the last place read is needed, and sequences with the same beginning can
be one row, a tree of tokens in which each token sees itself and its ancestors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from equiframe.requests import NextSentence, Request, TokenLogProbs, TopTokens

Ids: TypeAlias = tuple[int, ...]

_LEAST_FILL = 0.8  # least length of a row relative to the first one of its batch


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch.

    Args:
        tokens: ids of one sequence, or of a tree in which each token comes after its parent.
        parents: place of the previous token in its own sequence, -1 for the first; None in a plain sequence.
        places: ascending places at which the model is read.
        types: token types of a pair of texts; None in any other sequence.
    """

    tokens: Ids
    parents: Ids | None
    places: Ids
    types: Ids | None = field(default=None, repr=False)  # the key of a stored answer has it in its requests


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows to read (trees before plain sequences, longest first), and for each request its row and its places there."""

    rows: tuple[Row, ...]
    reads: tuple[tuple[int, Ids], ...]


def plan(requests: Sequence[Request], *, tree_tokens: int = 0) -> Plan:
    """Plan rows that answer all requests.

    Args:
        requests: requests in any order; duplicates are allowed.
        tree_tokens: for a causal LM, the maximum number of tokens of a row that several sequences share (a longer
            sequence is a separate row); 0 keeps every sequence as it is, as a masked LM needs.
    """
    asked = [((request.input_ids, _types(request)), positions_read(request)) for request in requests]
    if tree_tokens:
        asked = [((ids[: max(positions, default=-1) + 1], None), positions) for (ids, _), positions in asked]
    wanted: dict[tuple[Ids, Ids | None], set[int]] = defaultdict(set)
    for sequence, positions in asked:
        wanted[sequence].update(positions)
    trees = _trees((ids for ids, _ in wanted), tree_tokens) if tree_tokens else [_Tree.of(*each) for each in wanted]
    trees.sort(key=lambda tree: (not _branches(tree.parents), -len(tree.tokens)))
    rows, home = [], {}
    for number, tree in enumerate(trees):
        places = {path[position] for ids, path in tree.paths.items() for position in wanted[ids, tree.types]}
        # one sequence is read with the model's own mask, which may be narrower than all earlier tokens
        parents = tuple(tree.parents) if _branches(tree.parents) else None
        rows.append(Row(tuple(tree.tokens), parents, tuple(sorted(places)), tree.types))
        home.update({(ids, tree.types): (number, path) for ids, path in tree.paths.items()})
    reads = []
    for sequence, positions in asked:
        number, path = home[sequence]
        reads.append((number, tuple(path[position] for position in positions)))
    return Plan(tuple(rows), tuple(reads))


def positions_read(request: Request) -> Ids:
    """The positions in its sequence at which a request reads the model."""
    if isinstance(request, TokenLogProbs):
        return request.positions
    if isinstance(request, TopTokens):
        return (request.position,)
    if isinstance(request, NextSentence):
        return (0,)
    last = len(request.input_ids) - 1
    return {"cls": (0,), "last": (last,), "mean": tuple(range(last + 1))}[request.pooling]


def _types(request: Request) -> Ids | None:
    return request.token_types if isinstance(request, NextSentence) else None


def batches(rows: Sequence[Row], *, token_budget: int, place_budget: int, padded: bool = True) -> list[tuple[int, int]]:
    """Split rows into batches, given by start and end: as many rows as both budgets allow, and at least one.

    Args:
        rows: trees before plain sequences, each longest first. The first row of a batch decides its padded length, so
            a much shorter row begins another batch.
        token_budget: maximum number of tokens of a batch, padding included.
        place_budget: maximum number of places read in a batch, each of which costs a row of the vocabulary.
        padded: whether rows of different length may be in one batch.
    """
    bounds: list[tuple[int, int]] = []
    start, places = 0, 0
    least_fill = _LEAST_FILL if padded else 1.0
    for end, row in enumerate(rows):
        length = len(rows[start].tokens)
        places += len(row.places)
        if end > start and (
            (end + 1 - start) * length > token_budget
            or places > place_budget
            or len(row.tokens) < least_fill * length
            or (row.parents is None) != (rows[start].parents is None)
        ):
            bounds.append((start, end))
            start, places = end, len(row.places)
    return [*bounds, (start, len(rows))] if rows else []


@dataclass(slots=True)
class _Tree:
    """A row under construction, with the ordered places of each sequence in it."""

    tokens: list[int]
    parents: list[int]
    paths: dict[Ids, list[int]]
    types: Ids | None

    @classmethod
    def of(cls, ids: Ids, types: Ids | None = None) -> _Tree:
        return cls(list(ids), list(range(-1, len(ids) - 1)), {ids: list(range(len(ids)))}, types)

    def add(self, ids: Ids, path: list[int]) -> None:
        """Add a sequence whose first tokens are those on an existing path."""
        path = list(path)
        for token in ids[len(path) :]:
            self.parents.append(path[-1] if path else -1)
            path.append(len(self.tokens))
            self.tokens.append(token)
        self.paths[ids] = path


def _trees(sequences: Iterable[Ids], limit: int) -> list[_Tree]:
    """Put sequences into trees one after another, in alphabetical order, where neighbours share most."""
    trees: list[_Tree] = []
    previous: Ids = ()
    for ids in sorted(sequences):
        shared = _common_prefix(previous, ids)
        if trees and len(trees[-1].tokens) + len(ids) - shared <= limit:
            trees[-1].add(ids, trees[-1].paths[previous][:shared])
        else:
            trees.append(_Tree.of(ids))
        previous = ids
    return trees


def _branches(parents: Sequence[int]) -> bool:
    """Whether a row is more than one sequence."""
    return any(parent != place - 1 for place, parent in enumerate(parents))


def _common_prefix(first: Ids, second: Ids) -> int:
    """The number of tokens that two sequences share from their start."""
    for length, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return length
    return min(len(first), len(second))
