"""The collapse metrics NC1 to NC4 as pure functions of class statistics and classifier rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from equiframe.collapse.pairwise import (
    PairMoments,
    PairSummary,
    pair_tiles,
    squared_distances,
    strict_upper,
)
from equiframe.collapse.statistics import ClassStatistics
from equiframe.errors import InputError


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


def cdnv(means: Tensor, variances: Tensor, *, power: int = 1) -> CDNV:
    """Spread within classes relative to the distance between them, NC1.

    For each pair (s2_c + s2_d) / (2 ||mu_c - mu_d||^(2 power)). A pair of equal means gives infinity. A
    class seen once has variance 0, which flatters: leave such classes out.

    Args:
        means: class means, [classes, dim].
        variances: within-class variances, population form, [classes].
        power: 1, the definition; 2, what the code of linguistic-collapse and of the paper computes. With 2
            the number has the unit of 1 / length^2, so that models of different scale cannot be compared.

    Returns:
        Mean and spread over pairs, of the value and of its logarithm. Ideal 0; lower is more collapsed.

    Raises:
        InputError: shapes differ, fewer than two classes, or another power.

    Reference: Galanti, Gyorgy and Hutter 2021, CDNV; Wu and Papyan 2024 (power 2).

    Example:
        >>> cdnv(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([1.0, 3.0])).value.mean
        0.5
    """
    _check_means(means)
    if variances.shape != means.shape[:1]:
        raise InputError(f"variances must be [{len(means)}] as the means are, got {list(variances.shape)}")
    if power not in (1, 2):
        raise InputError(f"power {power}: give 1 (the definition) or 2 (the published code)")
    centred = means - means.mean(dim=0)
    norms = centred.square().sum(1)
    spread = variances.to(means.dtype)
    value, log = PairMoments(), PairMoments()
    for rows, columns in pair_tiles(len(means)):
        distances = squared_distances(centred, norms, rows, columns)
        if power == 2:
            distances.square_()
        tile = (spread[rows, None] + spread[None, columns]).div_(distances.mul_(2))
        tile = strict_upper(tile, rows, columns).nan_to_num_(nan=math.inf, posinf=math.inf)
        value.add(tile)
        log.add(tile.log_())
    return CDNV(value.summary(), log.summary())


def equinormness(means: Tensor) -> Equinormness:
    """How unequal the norms of the centred class means are, NC2.

    Args:
        means: class means, [classes, dim].

    Returns:
        Coefficient of variation (n - 1 form) of ||m_c||, and of log ||m_c||. Ideal 0. The paper's code takes
        squared norms, whose coefficient is about twice as large.

    Raises:
        InputError: fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC2.
    """
    _check_means(means)
    norms = (means - means.mean(dim=0)).double().norm(dim=1)
    logs = norms.log()
    return Equinormness(float(norms.std() / norms.mean()), float(logs.std() / logs.mean().abs()))


def etf_angles(means: Tensor) -> PairSummary:
    """Distance of the cosines between centred class means from those of a simplex frame, NC2.

    Args:
        means: class means, [classes, dim].

    Returns:
        Mean and spread over pairs of |cos(m_c, m_d) + 1 / (classes - 1)|. Ideal 0, which more than dim + 1
        classes cannot reach: see :func:`hyperspherical_uniformity`.

    Raises:
        InputError: fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC2.

    Example:
        >>> frame = torch.eye(4) - 1 / 4
        >>> etf_angles(frame).mean < 1e-6
        True
    """
    _check_means(means)
    directions = F.normalize(means - means.mean(dim=0), dim=1)
    ideal = -1.0 / (len(means) - 1)
    moments = PairMoments()
    for rows, columns in pair_tiles(len(means)):
        tile = (directions[rows] @ directions[columns].T).sub_(ideal).abs_()
        moments.add(strict_upper(tile, rows, columns))
    return moments.summary()


def hyperspherical_uniformity(means: Tensor, *, center: bool = True) -> PairSummary:
    """How evenly the directions of the class means cover the sphere, GNC2, by the logarithmic kernel.

    Args:
        means: class means, [classes, dim].
        center: centre the means first, as the library neural-collapse does; the paper's code takes them raw.

    Returns:
        Mean and spread over pairs of log(1 / ||u_c - u_d||), u the unit vectors. Lower mean: further apart;
        spread over mean says how uniform. Equal directions give infinity.

    Raises:
        InputError: fewer than two classes.

    Reference: Liu et al. 2023, hyperspherical uniformity; Wu and Papyan 2024, GNC2.
    """
    moments = PairMoments()
    for log_distances in _log_distances(means, center):
        moments.add(log_distances.neg_())
    return moments.summary()


@dataclass(frozen=True)
class RieszEnergy:
    """Logarithm of the mean Riesz kernel over pairs, and the kernel's coefficient of variation."""

    log_mean: float
    cv: float


def riesz_energy(means: Tensor, *, exponent: float | None = None, center: bool = True) -> RieszEnergy:
    """How evenly the directions of the class means cover the sphere, GNC2, by the Riesz kernel.

    The kernel ||u_c - u_d||^(-s) with s = dim - 2 leaves the range of float32, and often of float64, so
    that all is done in logarithms.

    Args:
        means: class means, [classes, dim].
        exponent: s, above 0; by default dim - 2.
        center: centre the means first.

    Returns:
        Log of the mean kernel (lower: further apart) and coefficient of variation (ideal 0).

    Raises:
        InputError: fewer than two classes, or s is not above 0.

    Reference: Liu et al. 2023.
    """
    s = means.shape[-1] - 2.0 if exponent is None else exponent
    if s <= 0:
        raise InputError(f"exponent {s}: give one above 0")
    first, second, pairs = -math.inf, -math.inf, 0
    for log_distances in _log_distances(means, center):
        logs = log_distances.double().mul_(-s)
        pairs += logs.numel()
        first = _log_add(first, logs)
        second = _log_add(second, logs.mul_(2))
    log_mean = first - math.log(pairs)
    variance = math.expm1(max(second - math.log(pairs) - 2 * log_mean, 0.0))
    return RieszEnergy(log_mean, math.sqrt(variance * pairs / max(pairs - 1, 1)))


def _log_add(total: float, logs: Tensor) -> float:
    return float(torch.logaddexp(torch.tensor(total, dtype=torch.float64), torch.logsumexp(logs.flatten(), 0).cpu()))


def _log_distances(means: Tensor, center: bool):  # type: ignore[no-untyped-def]
    """log ||u_c - u_d|| over pairs, tile by tile."""
    _check_means(means)
    directions = F.normalize(means - means.mean(dim=0) if center else means, dim=1)
    ones = directions.square().sum(1)
    for rows, columns in pair_tiles(len(means)):
        distances = squared_distances(directions, ones, rows, columns)
        yield strict_upper(distances, rows, columns).log_().mul_(0.5)


def duality_cosines(means: Tensor, classifier: Tensor) -> Tensor:
    """Alignment of each class mean with its classifier row, cos(mu_c - mu_G, w_c).

    Args:
        means: class means, [classes, dim]; mu_G is their unweighted mean.
        classifier: rows of the output embedding for the same classes, [classes, dim].

    Returns:
        [classes], in [-1, 1], differentiable in both. A zero vector counts as cosine 0.

    Raises:
        InputError: shapes differ, or fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC3.
    """
    _check_means(means)
    if classifier.shape != means.shape:
        raise InputError(
            f"classifier is {list(classifier.shape)}, means are {list(means.shape)}: pass the rows of the same"
            " classes, e.g. classifier[statistics.class_ids]"
        )
    return F.cosine_similarity(means - means.mean(dim=0), classifier.to(means.dtype), dim=-1)


def self_duality(means: Tensor, classifier: Tensor) -> Tensor:
    """Mean alignment of class means with their classifier rows, NC3.

    Arguments and errors as :func:`duality_cosines`. A scalar in [-1, 1]; ideal 1, higher is more collapsed.
    """
    return duality_cosines(means, classifier).mean()


def duality_distance(means: Tensor, classifier: Tensor) -> Tensor:
    """Mean distance between the unit vectors of centred class means and of classifier rows, NC3.

    Arguments and errors as :func:`duality_cosines`. A scalar in [0, 2]; ideal 0.
    """
    duality_cosines(means, classifier)
    left = F.normalize(means - means.mean(dim=0), dim=1)
    return (left - F.normalize(classifier.to(means.dtype), dim=1)).norm(dim=1).mean()


def uniform_duality(means: Tensor, classifier: Tensor) -> Tensor:
    """Spread of the alignment between class means and their classifier rows, (U)NC3.

    The standard deviation over classes of cos(mu_c - mu_G, w_c). It is blind to how good the alignment is:
    read it beside :func:`self_duality`, its mean.

    Args:
        means: class means, [classes, dim], every class seen, at least two.
        classifier: the rows of the output embedding for the same classes, [classes, dim].

    Returns:
        A scalar in [0, sqrt(2)], n - 1 form, differentiable in both arguments. Ideal 0: each word is as well
        aligned as every other. Lower is more collapsed.

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
        means: class means, [classes, dim].
        classifier: rows of the output embedding for the same classes, [classes, dim].
        bias: [classes]; with it the linear decision is the model's own among these classes. The paper's code
            leaves it out.

    Returns:
        A scalar in [0, 1]; ideal 1. nan without samples.

    Raises:
        InputError: shapes differ, or fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC4.
    """
    _check_means(means)
    if classifier.shape != means.shape or features.shape[1:] != means.shape[1:]:
        raise InputError(
            f"features {list(features.shape)}, means {list(means.shape)}, classifier {list(classifier.shape)}:"
            " dim, and the classes of means and classifier, must agree"
        )
    centre = means.mean(dim=0)
    centred = means - centre
    half_norms = 0.5 * centred.square().sum(1)
    agreed = torch.zeros((), device=means.device)
    chunk = max(1, (1 << 24) // len(means))
    for part in features.to(means.dtype).split(chunk):
        nearest = torch.addmm(-half_norms, part - centre, centred.T).argmax(1)
        linear = F.linear(part, classifier.to(means.dtype), bias).argmax(1)
        agreed += (nearest == linear).sum()
    return agreed / len(features)


def collapse_metrics(statistics: ClassStatistics, classifier: Tensor) -> dict[str, float]:
    """Every metric that needs no second look at the samples, by flat key.

    Args:
        statistics: classes seen at least once, better often.
        classifier: rows of the output embedding for ``statistics.class_ids``, [classes, dim].

    Returns:
        ``nc1_*`` CDNV, ``nc2_*`` norms and angles, ``gnc2_*`` uniformity, ``nc3_*`` self-duality, ``unc3``.

    Raises:
        InputError: fewer than two classes, or rows of other classes.
    """
    means = statistics.means
    nc1, norms = cdnv(means, statistics.variances), equinormness(means)
    angles, uniformity = etf_angles(means), hyperspherical_uniformity(means)
    return {
        "nc1_cdnv_mean": nc1.value.mean,
        "nc1_cdnv_std": nc1.value.std,
        "nc1_log_cdnv_mean": nc1.log.mean,
        "nc1_log_cdnv_std": nc1.log.std,
        "nc2_norm_cv": norms.norm_cv,
        "nc2_log_norm_cv": norms.log_norm_cv,
        "nc2_etf_angle_mean": angles.mean,
        "nc2_etf_angle_std": angles.std,
        "gnc2_log_mean": uniformity.mean,
        "gnc2_log_std": uniformity.std,
        "gnc2_log_cv": uniformity.std / abs(uniformity.mean) if uniformity.mean else math.nan,
        "nc3_self_duality": float(self_duality(means, classifier)),
        "nc3_distance": float(duality_distance(means, classifier)),
        "unc3": float(uniform_duality(means, classifier)),
    }


def _check_means(means: Tensor) -> None:
    if means.ndim != 2 or len(means) < 2:
        raise InputError(f"means must be [classes, dim] with two classes or more, got {list(means.shape)}")
