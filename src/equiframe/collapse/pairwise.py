"""Moments over all pairs of vectors, from a Gram matrix that is computed tile by tile.

Everything is computed in float64. In float32 the expansion ||a - b||^2 = |a|^2 + |b|^2 - 2ab leaves few digits if
vectors are close to each other, and a GPU may round its products to ten bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_TILE = 512
_CLOSE = 1e-8  # of |a|^2 + |b|^2: the expansion has lost half of its digits, so the difference is computed instead
_TINY = torch.finfo(torch.float64).tiny
_CHUNK = 2048  # differences in memory at a time


@dataclass(frozen=True)
class PairSummary:
    """Mean and standard deviation (n - 1 form) of a quantity over all pairs of distinct classes."""

    mean: float
    std: float
    pairs: int

    @property
    def cv(self) -> float:
        """Coefficient of variation std / |mean|, nan if the mean is 0."""
        return self.std / abs(self.mean) if self.mean else math.nan


@dataclass(frozen=True)
class PairTile:
    """The pairs of two blocks of vectors, left = vectors[rows] and right = vectors[columns].

    Each method returns a new float64 tensor [left, right].
    """

    left: Tensor
    right: Tensor
    products: Tensor
    rows: slice
    columns: slice

    def squared_distances(self) -> Tensor:
        """||a - b||^2, to six digits or more however close the pair; 0 only for equal vectors."""
        scale = self.left.square().sum(1).unsqueeze(1) + self.right.square().sum(1)
        distances = torch.add(scale, self.products, alpha=-2)
        for i, j in self._where(distances < scale.mul_(_CLOSE)):
            distances[i, j] = (self.left[i] - self.right[j]).square_().sum(1)
        return distances

    def cosines(self) -> Tensor:
        """cos(a, b), unclipped; 0 if a vector is zero."""
        left, right = (side.norm(dim=1).clamp_(min=_TINY) for side in (self.left, self.right))
        return (self.products / left.unsqueeze(1)).div_(right)

    def squared_chords(self) -> Tensor:
        """||u(a) - u(b)||^2 of the unit vectors, as precise; 2 if a vector is zero."""
        chords = self.cosines().mul_(-2).add_(2)
        for i, j in self._where(chords < 2 * _CLOSE):
            chords[i, j] = (_unit(self.left[i]) - _unit(self.right[j])).square_().sum(1)
        return chords

    def _where(self, close: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Positions of the pairs whose difference must be computed, in parts."""
        if self.rows == self.columns:
            close = close.triu_(1)
        return (places.unbind(1) for places in close.nonzero().split(_CHUNK))

    def pairs(self, values: Tensor) -> Tensor:
        """The values of a tile for pairs i < j, [pairs]."""
        if self.rows != self.columns:
            return values.flatten()
        return values[torch.ones_like(values, dtype=torch.bool).triu_(1)]


def pair_tiles(vectors: Tensor) -> Iterator[PairTile]:
    """Tiles that cover each pair of rows of ``vectors``, float64 [classes, dim], once; see ``pairs``."""
    blocks = [slice(start, start + _TILE) for start in range(0, len(vectors), _TILE)]
    for i, rows in enumerate(blocks):
        for columns in blocks[i:]:
            left, right = vectors[rows], vectors[columns]
            yield PairTile(left, right, left @ right.T, rows, columns)


def summarise_pairs(vectors: Tensor, quantities: Callable[[PairTile], Sequence[Tensor]]) -> tuple[PairSummary, ...]:
    """Mean and standard deviation over all pairs of rows of ``vectors``, for each quantity.

    Tiles are combined by the pairwise-variance formula, so that the standard deviation keeps its digits if it is
    small compared with the mean.

    Args:
        vectors: [classes, dim], float64.
        quantities: a function from a tile to tensors of its shape; values outside the pairs are ignored.

    Returns:
        A summary per quantity. An infinite value makes the mean infinite and the standard deviation nan.

    Reference: Chan, Golub and LeVeque 1983.

    Example:
        >>> line = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
        >>> summarise_pairs(line, lambda tile: [tile.squared_distances()])[0].mean     # of 1, 9 and 4
        4.666666666666667
    """
    moments: list[_Moments] = []
    for tile in pair_tiles(vectors):
        for i, values in enumerate(quantities(tile)):
            if i == len(moments):
                moments.append(_Moments())
            moments[i].add(tile.pairs(values))
    return tuple(each.summary() for each in moments)


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=1, eps=_TINY)


class _Moments:
    """Count, mean and scatter of a stream of numbers."""

    def __init__(self) -> None:
        self._count, self._mean, self._scatter = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        count = values.numel()
        if count == 0:
            return
        mean = float(values.mean())
        scatter = float((values - mean).square_().sum())
        total, delta = self._count + count, mean - self._mean
        self._mean = (self._mean * self._count + mean * count) / total
        self._scatter += scatter + delta * delta * self._count * count / total
        self._count = total

    def summary(self) -> PairSummary:
        spread = math.sqrt(self._scatter / (self._count - 1)) if self._count > 1 else math.nan
        return PairSummary(self._mean, spread, self._count)
