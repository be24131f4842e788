"""Variability within classes, NC1.

Notation: mu_c the mean of class c, mu_G the unweighted mean of the class means, m_c = mu_c - mu_G,
s2_c the within-class variance, w_c the classifier row, u(x) = x / ||x||.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from equiframe.collapse.centring import centred
from equiframe.collapse.pairwise import PairSummary, PairTile, summarise_pairs
from equiframe.errors import InputError


@dataclass(frozen=True)
class CDNV:
    """Class-distance normalised variance over pairs, and its logarithm, because the variance has heavy tails."""

    value: PairSummary
    log: PairSummary


def cdnv(means: Tensor, variances: Tensor, *, power: int = 1) -> CDNV:
    """Variance within classes relative to the distance between them, NC1.

    For each pair (s2_c + s2_d) / (2 ||mu_c - mu_d||^(2 power)). Classes seen once have variance 0,
    which makes the value too good, and the logarithm for two such classes is minus infinity: leave them out
    with ``statistics.seen(min_count=2)`` or more. Equal means count as infinite, whatever the variances.

    Args:
        means: class means, [classes, dim].
        variances: within-class variances, population form, [classes].
        power: 1 for the definition; 2 for what the code of linguistic-collapse and of the paper computes.
            With 2 the value has the unit 1 / length^2, so that models of different scale cannot be compared.

    Returns:
        Mean and standard deviation over pairs, of the value and of its natural logarithm. Ideal 0 (minus
        infinity for the logarithm); lower is more collapsed.

    Raises:
        InputError: shapes differ, fewer than two classes, or another power.

    Reference: Galanti, Gyorgy and Hutter 2021, CDNV; Wu and Papyan 2024 (power 2).

    Example:
        >>> cdnv(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([1.0, 3.0])).value.mean
        0.5
    """
    return CDNV(*summarise_pairs(centred(means), cdnv_of(means, variances, power)))


def cdnv_of(means: Tensor, variances: Tensor, power: int) -> Callable[[PairTile], list[Tensor]]:
    """A function that computes CDNV and its logarithm for a tile of means."""
    if variances.shape != means.shape[:1]:
        raise InputError(f"variances must be [{len(means)}] as the means are, got {list(variances.shape)}")
    if power not in (1, 2):
        raise InputError(f"power {power}: give 1 (the definition) or 2 (the published code)")
    halves = variances.detach().double() / 2

    def quantities(tile: PairTile) -> list[Tensor]:
        distances = tile.squared_distances()
        values = halves[tile.rows].unsqueeze(1) + halves[tile.columns]
        values.div_(distances if power == 1 else distances.square())
        values.masked_fill_(distances == 0, math.inf)
        return [values, values.log()]

    return quantities
