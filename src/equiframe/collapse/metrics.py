"""The collapse metrics NC1 to NC4 as pure functions of class statistics and classifier rows.

Notation: mu_c the mean of class c, mu_G the unweighted mean of the class means, m_c = mu_c - mu_G,
s2_c the within-class variance, w_c the classifier row, u(x) = x / ||x||.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from equiframe.collapse.pairwise import PairSummary, PairTile, pair_tiles, summarise_pairs
from equiframe.collapse.statistics import ClassStatistics
from equiframe.errors import InputError

_LOGITS = 1 << 24  # samples times classes decided on at a time


@dataclass(frozen=True)
class CDNV:
    """Class-distance normalised variance over pairs, and its logarithm, as it has heavy tails."""

    value: PairSummary
    log: PairSummary


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


def cdnv(means: Tensor, variances: Tensor, *, power: int = 1) -> CDNV:
    """Spread within classes relative to the distance between them, NC1.

    For each pair (s2_c + s2_d) / (2 ||mu_c - mu_d||^(2 power)). Classes seen once have variance 0, which
    flatters, and a pair of two such has a logarithm of minus infinity: leave them out, by
    ``statistics.seen(min_count=2)`` or more. Equal means count as infinite, whatever the variances.

    Args:
        means: class means, [classes, dim].
        variances: within-class variances, population form, [classes].
        power: 1, the definition; 2, what the code of linguistic-collapse and of the paper computes. With 2
            the number has the unit of 1 / length^2, so that models of different scale cannot be compared.

    Returns:
        Mean and spread over pairs, of the value and of its natural logarithm. Ideal 0 (the logarithm minus
        infinity); lower is more collapsed.

    Raises:
        InputError: shapes differ, fewer than two classes, or another power.

    Reference: Galanti, Gyorgy and Hutter 2021, CDNV; Wu and Papyan 2024 (power 2).

    Example:
        >>> cdnv(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([1.0, 3.0])).value.mean
        0.5
    """
    return CDNV(*summarise_pairs(_centred(means), _cdnv_of(means, variances, power)))


def equinormness(means: Tensor) -> Equinormness:
    """How unequal the norms of the centred class means are, NC2.

    Args:
        means: class means, [classes, dim].

    Returns:
        Coefficient of variation, std / |mean| with std in n - 1 form, of ||m_c|| and of log ||m_c||. Ideal
        0. The first is free of scale, the second is not: a change of unit shifts the logarithms. The
        paper's code takes squared norms, whose coefficient is about twice as large.

    Raises:
        InputError: fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC2; Wu and Papyan 2024 (logarithms).

    Example:
        >>> equinormness(torch.tensor([[3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])).norm_cv > 0.1
        True
        >>> equinormness(5 * (torch.eye(4) - 1 / 4)).norm_cv < 1e-6
        True
    """
    norms = _centred(means).norm(dim=1)
    logs = norms.log()
    return Equinormness(float(norms.std() / norms.mean()), float(logs.std() / logs.mean().abs()))


def etf_angles(means: Tensor) -> PairSummary:
    """Distance of the angles between centred class means from those of a simplex frame, NC2.

    Args:
        means: class means, [classes, dim].

    Returns:
        Mean and spread over pairs of |cos(m_c, m_d) + 1 / (classes - 1)|. Ideal 0, which more than dim + 1
        classes cannot reach: see :func:`hyperspherical_uniformity`.

    Raises:
        InputError: fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC2.

    Example:
        >>> etf_angles(torch.eye(4)).mean < 1e-6          # centred, a simplex of four corners
        True
    """
    return summarise_pairs(_centred(means), lambda tile: [_etf_angle(tile, len(means))])[0]


def hyperspherical_uniformity(means: Tensor, *, center: bool = True) -> PairSummary:
    """How evenly the directions of the class means cover the sphere, GNC2, by the logarithmic kernel.

    Args:
        means: class means, [classes, dim].
        center: centre the means first, as the library neural-collapse does; the paper's code takes them raw.

    Returns:
        Mean and spread over pairs of log(1 / ||u_c - u_d||), in (-log 2, inf). Lower mean: further apart;
        spread ideal 0, all equally far. Equal directions give infinity.

    Raises:
        InputError: fewer than two classes.

    Reference: Liu et al. 2023, hyperspherical uniformity; Wu and Papyan 2024, GNC2.

    Example:
        >>> opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> round(hyperspherical_uniformity(opposite).mean, 6)       # -log 2
        -0.693147
    """
    return summarise_pairs(_centred(means, center), lambda tile: [_log_kernel(tile)])[0]


def riesz_energy(means: Tensor, *, exponent: float | None = None, center: bool = True) -> RieszEnergy:
    """How evenly the directions of the class means cover the sphere, GNC2, by the Riesz kernel.

    The kernel ||u_c - u_d||^(-s) with s = dim - 2 leaves the range of float32, and often that of float64,
    so that all is done in logarithms.

    Args:
        means: class means, [classes, dim].
        exponent: s, above 0; by default dim - 2.
        center: centre the means first.

    Returns:
        Log of the kernel's mean over pairs (lower: further apart) and its coefficient of variation (n - 1
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
        raise InputError(f"exponent {s}: give one above 0")
    first, second, pairs = [], [], 0
    for tile in pair_tiles(_centred(means, center)):
        logs = tile.pairs(_log_kernel(tile)).mul_(s)
        pairs += len(logs)
        first.append(torch.logsumexp(logs, 0))
        second.append(torch.logsumexp(logs.mul_(2), 0))
    log_mean = float(torch.logsumexp(torch.stack(first), 0)) - math.log(pairs)
    log_mean_square = float(torch.logsumexp(torch.stack(second), 0)) - math.log(pairs)
    variance = math.expm1(max(log_mean_square - 2 * log_mean, 0.0))
    return RieszEnergy(log_mean, math.sqrt(variance * pairs / (pairs - 1)) if pairs > 1 else math.nan)


def duality_cosines(means: Tensor, classifier: Tensor) -> Tensor:
    """Alignment of each class mean with its classifier row, cos(mu_c - mu_G, w_c).

    Args:
        means: class means, [classes, dim]; mu_G is their unweighted mean, so that the cosine of one class
            depends on which others stand beside it.
        classifier: rows of the output embedding for the same classes, [classes, dim].

    Returns:
        [classes], in [-1, 1], ideal 1, differentiable in both. A zero vector counts as cosine 0.

    Raises:
        InputError: shapes differ, or fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC3.

    Example:
        >>> duality_cosines(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        tensor([1., 0.])
    """
    return F.cosine_similarity(*_centred_beside_rows(means, classifier), dim=1)


def self_duality(means: Tensor, classifier: Tensor) -> Tensor:
    """Mean alignment of class means with their classifier rows, NC3.

    Args:
        means: class means, [classes, dim].
        classifier: rows of the output embedding for the same classes, [classes, dim].

    Returns:
        The mean over classes of cos(mu_c - mu_G, w_c), a scalar in [-1, 1], differentiable in both. Ideal
        1; higher is more collapsed.

    Raises:
        InputError: shapes differ, or fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC3.

    Example:
        >>> frame = torch.eye(4) - 1 / 4              # a simplex ETF
        >>> round(float(self_duality(frame, -frame)), 6)
        -1.0
    """
    return duality_cosines(means, classifier).mean()


def duality_distance(means: Tensor, classifier: Tensor) -> Tensor:
    """Mean distance between the directions of centred class means and of their classifier rows, NC3.

    Args:
        means: class means, [classes, dim].
        classifier: rows of the output embedding for the same classes, [classes, dim].

    Returns:
        The mean over classes of ||u(w_c) - u(m_c)||, a scalar in [0, 2]. Ideal 0; lower is more collapsed.
        The paper's code sums the coordinates of that difference instead, which is no distance.

    Raises:
        InputError: shapes differ, or fewer than two classes.

    Reference: Wu and Papyan 2024; Papyan, Han and Donoho 2020 for self-duality.

    Example:
        >>> frame = torch.eye(4) - 1 / 4              # a simplex ETF
        >>> round(float(duality_distance(frame, -frame)), 6)
        2.0
    """
    centred, rows = _centred_beside_rows(means, classifier)
    return (F.normalize(rows, dim=1) - F.normalize(centred, dim=1)).norm(dim=1).mean()


def uniform_duality(means: Tensor, classifier: Tensor) -> Tensor:
    """Spread of the alignment between class means and their classifier rows, (U)NC3.

    The standard deviation over classes of cos(mu_c - mu_G, w_c). It is blind to how good the alignment is:
    read it beside :func:`self_duality`, its mean.

    Args:
        means: class means, [classes, dim], every class seen, at least two.
        classifier: rows of the output embedding for the same classes, [classes, dim].

    Returns:
        A scalar in [0, sqrt(2)], n - 1 form, differentiable in both arguments (the gradient at 0 is 0).
        Ideal 0: each word is as well aligned as every other. Lower is more collapsed.

    Raises:
        InputError: shapes differ, or fewer than two classes.

    Reference: Xu et al. 2025, (U)NC3; Papyan, Han and Donoho 2020 for self-duality.

    Example:
        >>> frame = torch.eye(4) - 1 / 4              # a simplex ETF, dual to itself
        >>> bool(uniform_duality(frame, 3 * frame) < 1e-6)
        True
    """
    return duality_cosines(means, classifier).std()


def decision_agreement(features: Tensor, means: Tensor, classifier: Tensor, bias: Tensor | None = None) -> Tensor:
    """Share of samples that nearest class mean and linear classifier decide alike, NC4.

    Whether the decision is right plays no part. Give features that did not enter the means.

    Args:
        features: samples, [tokens, dim].
        means: class means, [classes, dim], every class seen.
        classifier: rows of the output embedding for the same classes, [classes, dim].
        bias: [classes]; with it the linear decision is the model's own among these classes. The paper's code
            leaves it out.

    Returns:
        A scalar in [0, 1], float64; ideal 1, higher is more collapsed. nan without samples.

    Raises:
        InputError: shapes differ, or fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC4.

    Example:
        >>> frame = torch.eye(4) - 1 / 4              # a simplex ETF, dual to itself
        >>> float(decision_agreement(frame, frame, frame))
        1.0
    """
    centred, rows = _centred_beside_rows(means, classifier)
    if features.ndim != 2 or features.shape[1] != means.shape[1]:
        raise InputError(f"features must be [tokens, {means.shape[1]}], got {list(features.shape)}")
    if bias is not None and bias.shape != means.shape[:1]:
        raise InputError(f"bias must be [{len(means)}] as the classes are, got {list(bias.shape)}")
    # ||h - mu_c||^2 is least where (h - mu_G) m_c - ||m_c||^2 / 2 is greatest.
    offsets = -0.5 * centred.square().sum(1)
    centre = means.to(rows.dtype).mean(dim=0)
    centre = means.to(rows.dtype).mean(dim=0)
    bias = None if bias is None else bias.to(rows.dtype)
    agreed = torch.zeros((), dtype=torch.int64, device=means.device)
    for part in features.split(max(1, _LOGITS // len(means))):
        part = part.to(rows.dtype)
        nearest = F.linear(part - centre, centred, offsets).argmax(1)
        agreed += (nearest == F.linear(part, rows, bias).argmax(1)).sum()
    return agreed.double() / len(features)


@torch.no_grad()
def collapse_metrics(statistics: ClassStatistics, classifier: Tensor) -> dict[str, float]:
    """Every metric that needs no second look at the samples, by flat key, from one pass over the pairs.

    Args:
        statistics: of classes seen at least once; better ``statistics.seen(min_count)`` with a few samples
            each, as :func:`cdnv` says.
        classifier: rows of the output embedding for ``statistics.class_ids``, [classes, dim].

    Returns:
        ``nc1_cdnv_*`` and ``nc1_log_cdnv_*`` (:func:`cdnv`, power 1), ``nc2_norm_cv`` and
        ``nc2_log_norm_cv`` (:func:`equinormness`), ``nc2_etf_angle_*`` (:func:`etf_angles`), ``gnc2_log_*``
        (:func:`hyperspherical_uniformity`, centred), ``nc3_self_duality``, ``nc3_distance``
        (:func:`duality_distance`) and ``unc3`` (:func:`uniform_duality`).

    Raises:
        InputError: fewer than two classes, a class never seen, or rows of other classes.

    Example:
        >>> statistics = ClassStatistics(torch.arange(2), dim=2)
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0], [-3.0, 0.0]])
        >>> metrics = collapse_metrics(statistics.update(features, torch.tensor([0, 0, 1, 1])), torch.eye(2))
        >>> metrics["nc1_cdnv_mean"], metrics["nc3_self_duality"]
        (0.0625, 0.5)
    """
    unseen = int((statistics.counts == 0).sum())
    if unseen:
        raise InputError(f"{unseen} of {len(statistics.counts)} classes have no samples: pass statistics.seen()")
    means = statistics.means
    cdnv_of = _cdnv_of(means, statistics.variances, power=1)
    value, log, angles, uniformity = summarise_pairs(
        _centred(means), lambda tile: [*cdnv_of(tile), _etf_angle(tile, len(means)), _log_kernel(tile)]
    )
    norms = equinormness(means)
    return {
        "nc1_cdnv_mean": value.mean,
        "nc1_cdnv_std": value.std,
        "nc1_log_cdnv_mean": log.mean,
        "nc1_log_cdnv_std": log.std,
        "nc2_norm_cv": norms.norm_cv,
        "nc2_log_norm_cv": norms.log_norm_cv,
        "nc2_etf_angle_mean": angles.mean,
        "nc2_etf_angle_std": angles.std,
        "gnc2_log_mean": uniformity.mean,
        "gnc2_log_std": uniformity.std,
        "gnc2_log_cv": uniformity.cv,
        "nc3_self_duality": float(self_duality(means, classifier)),
        "nc3_distance": float(duality_distance(means, classifier)),
        "unc3": float(uniform_duality(means, classifier)),
    }


def _cdnv_of(means: Tensor, variances: Tensor, power: int) -> Callable[[PairTile], list[Tensor]]:
    """From a tile of means to its CDNV and the logarithm of it."""
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


def _etf_angle(tile: PairTile, classes: int) -> Tensor:
    """|cos(m_c, m_d) - the cosine of a simplex ETF|."""
    return tile.cosines().add_(1 / (classes - 1)).abs_()


def _log_kernel(tile: PairTile) -> Tensor:
    """log(1 / ||u_c - u_d||)."""
    return tile.squared_chords().log_().mul_(-0.5)


def _centred(means: Tensor, center: bool = True) -> Tensor:
    """Class means about their own mean, in float64, in one new tensor."""
    _check_means(means)
    vectors = means.detach().to(torch.float64, copy=True)
    return vectors.sub_(vectors.mean(dim=0)) if center else vectors


def _centred_beside_rows(means: Tensor, classifier: Tensor) -> tuple[Tensor, Tensor]:
    """Centred means and classifier rows in the wider of their precisions, float32 or more."""
    _check_means(means)
    if classifier.shape != means.shape:
        raise InputError(
            f"classifier is {list(classifier.shape)}, means are {list(means.shape)}: pass the rows of the same"
            " classes, e.g. classifier[statistics.class_ids]"
        )
    dtype = torch.promote_types(torch.promote_types(means.dtype, classifier.dtype), torch.float32)
    means = means.to(dtype)
    return means - means.mean(dim=0), classifier.to(dtype)


def _check_means(means: Tensor) -> None:
    if means.ndim != 2 or len(means) < 2:
        raise InputError(f"means must be [classes, dim] with two classes or more, got {list(means.shape)}")
