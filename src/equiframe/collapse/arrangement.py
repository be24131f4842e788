"""The arrangement of the class means: equal norms and equal angles, NC2, and uniformity, GNC2.

Notation: mu_c the mean of class c, mu_G the unweighted mean of the class means, m_c = mu_c - mu_G,
s2_c the within-class variance, w_c the classifier row, u(x) = x / ||x||.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equiframe.collapse.centring import centred
from equiframe.collapse.pairwise import PairSummary, PairTile, pair_tiles, summarise_pairs
from equiframe.errors import InputError


@dataclass(frozen=True)
class Equinormness:
    """Coefficients of variation of the norms of centred class means, and of the logarithms of the norms."""

    norm_cv: float
    log_norm_cv: float


@dataclass(frozen=True)
class RieszEnergy:
    """Logarithm of the mean Riesz kernel over pairs, and the kernel's coefficient of variation."""

    log_mean: float
    cv: float


def equinormness(means: Tensor) -> Equinormness:
    """How unequal the norms of the centred class means are, NC2.

    Args:
        means: class means, [classes, dim].

    Returns:
        Coefficient of variation, std / |mean| with std in n - 1 form, of ||m_c|| and of log ||m_c||. Ideal
        0. The first does not depend on scale, the second does: a change of unit shifts the logarithms. The
        paper's code uses squared norms, whose coefficient is about twice as large.

    Raises:
        InputError: fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC2; Wu and Papyan 2024 (logarithms).

    Example:
        >>> equinormness(torch.tensor([[3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])).norm_cv > 0.1
        True
        >>> equinormness(5 * (torch.eye(4) - 1 / 4)).norm_cv < 1e-6
        True
    """
    norms = centred(means).norm(dim=1)
    logs = norms.log()
    return Equinormness(float(norms.std() / norms.mean()), float(logs.std() / logs.mean().abs()))


def etf_angles(means: Tensor) -> PairSummary:
    """Difference between the angles of centred class means and those of a simplex frame, NC2.

    Args:
        means: class means, [classes, dim].

    Returns:
        Mean and standard deviation over pairs of |cos(m_c, m_d) + 1 / (classes - 1)|. Ideal 0, which more than
        dim + 1 classes cannot reach: see :func:`hyperspherical_uniformity`.

    Raises:
        InputError: fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC2.

    Example:
        >>> etf_angles(torch.eye(4)).mean < 1e-6          # centred, a simplex of four corners
        True
    """
    return summarise_pairs(centred(means), lambda tile: [etf_angle(tile, len(means))])[0]


def hyperspherical_uniformity(means: Tensor, *, center: bool = True) -> PairSummary:
    """How evenly the directions of the class means cover the sphere, GNC2, by the logarithmic kernel.

    Args:
        means: class means, [classes, dim].
        center: centre the means first, as the library neural-collapse does; the paper's code does not.

    Returns:
        Mean and standard deviation over pairs of log(1 / ||u_c - u_d||), in (-log 2, inf). A lower mean means
        further apart; the ideal standard deviation is 0, all equally far. Equal directions give infinity.

    Raises:
        InputError: fewer than two classes.

    Reference: Liu et al. 2023, hyperspherical uniformity; Wu and Papyan 2024, GNC2.

    Example:
        >>> opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> round(hyperspherical_uniformity(opposite).mean, 6)       # -log 2
        -0.693147
    """
    return summarise_pairs(centred(means, center), lambda tile: [log_kernel(tile)])[0]


def riesz_energy(means: Tensor, *, exponent: float | None = None, center: bool = True) -> RieszEnergy:
    """How evenly the directions of the class means cover the sphere, GNC2, by the Riesz kernel.

    The kernel ||u_c - u_d||^(-s) with s = dim - 2 exceeds the range of float32, and often that of float64, so
    everything is computed in logarithms.

    Args:
        means: class means, [classes, dim].
        exponent: s, above 0; by default dim - 2.
        center: centre the means first.

    Returns:
        Logarithm of the kernel's mean over pairs (lower means further apart) and its coefficient of variation (n - 1
        form, ideal 0).

    Raises:
        InputError: fewer than two classes, or s is not above 0.

    Reference: Liu et al. 2023.

    Example:
        >>> corners = torch.eye(3)                        # all pairs equally far, sqrt(3) on the unit sphere
        >>> round(riesz_energy(corners).log_mean, 6)      # log of 1 / sqrt(3)
        -0.549306
    """
    s = means.shape[-1] - 2.0 if exponent is None else exponent
    if s <= 0:
        raise InputError(f"exponent {s}: give a number above 0")
    first, second, pairs = [], [], 0
    for tile in pair_tiles(centred(means, center)):
        logs = tile.pairs(log_kernel(tile)).mul_(s)
        pairs += len(logs)
        first.append(torch.logsumexp(logs, 0))
        second.append(torch.logsumexp(logs.mul_(2), 0))
    log_mean = float(torch.logsumexp(torch.stack(first), 0)) - math.log(pairs)
    log_mean_square = float(torch.logsumexp(torch.stack(second), 0)) - math.log(pairs)
    variance = math.expm1(max(log_mean_square - 2 * log_mean, 0.0))
    return RieszEnergy(log_mean, math.sqrt(variance * pairs / (pairs - 1)) if pairs > 1 else math.nan)


def etf_angle(tile: PairTile, classes: int) -> Tensor:
    """|cos(m_c, m_d) - the cosine of a simplex ETF|."""
    return tile.cosines().add_(1 / (classes - 1)).abs_()


def log_kernel(tile: PairTile) -> Tensor:
    """log(1 / ||u_c - u_d||)."""
    return tile.squared_chords().log_().mul_(-0.5)
