"""Sums over all pairs of classes by matrix products in tiles; no classes-by-classes matrix is ever held."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_TILE = 1024
_CLOSE = 1e-2  # of the norms: nearer pairs lose digits in |a|^2 + |b|^2 - 2ab and are taken by difference
_CHUNK = 1 << 15


@dataclass(frozen=True)
class PairSummary:
    """Mean and standard deviation (n - 1 form) of a quantity over all pairs of distinct classes."""

    mean: float
    std: float
    pairs: int


class PairMoments:
    """Mean and spread of a stream of values, in float64, joined tile by tile as Chan et al. 1983."""

    def __init__(self) -> None:
        self._count, self._mean, self._scatter = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Add a tile of values, any shape."""
        count = values.numel()
        if count == 0:
            return
        mean = float(values.mean(dtype=torch.float64))
        scatter = float((values.double() - mean).square_().sum())
        total, delta = self._count + count, mean - self._mean
        self._mean += delta * count / total
        self._scatter += scatter + delta * delta * self._count * count / total
        self._count = total

    def summary(self) -> PairSummary:
        """What the stream came to; the spread is nan with fewer than two pairs."""
        spread = math.sqrt(self._scatter / (self._count - 1)) if self._count > 1 else math.nan
        return PairSummary(self._mean if self._count else math.nan, spread, self._count)


def pair_tiles(count: int, tile: int = _TILE) -> Iterator[tuple[slice, slice]]:
    """Row and column slices that cover the upper triangle, diagonal tiles included."""
    for top in range(0, count, tile):
        for left in range(top, count, tile):
            yield slice(top, min(top + tile, count)), slice(left, min(left + tile, count))


def strict_upper(values: Tensor, rows: slice, columns: slice) -> Tensor:
    """The entries of a tile that belong to pairs i < j."""
    if rows.start != columns.start:
        return values
    above = torch.ones_like(values, dtype=torch.bool).triu_(1)
    return values[above]


def squared_distances(vectors: Tensor, squared_norms: Tensor, rows: slice, columns: slice) -> Tensor:
    """||v_i - v_j||^2 of one tile, [rows, columns], exact to a few units in the fourth digit or better.

    Args:
        vectors: [classes, dim]; centred vectors lose fewest digits.
        squared_norms: their squared norms, [classes].
        rows: first members of the pairs.
        columns: second members.
    """
    left, right = vectors[rows], vectors[columns]
    scale = squared_norms[rows, None] + squared_norms[None, columns]
    distances = torch.addmm(scale, left, right.T, alpha=-2.0)
    first, second = (distances < _CLOSE * scale).nonzero(as_tuple=True)
    for start in range(0, len(first), _CHUNK):
        i, j = first[start : start + _CHUNK], second[start : start + _CHUNK]
        distances[i, j] = (left[i] - right[j]).square_().sum(1)
    return distances
