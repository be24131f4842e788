"""Every collapse metric of class statistics, with its name and its explanation.

To add a metric, write a :class:`CollapseMetric` in its own file and add a line to ``METRICS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from equiframe.about import About, Term
from equiframe.collapse.arrangement import equinormness, etf_angle, log_kernel
from equiframe.collapse.centring import centred
from equiframe.collapse.duality import duality_distance, self_duality, uniform_duality
from equiframe.collapse.pairwise import summarise_pairs
from equiframe.collapse.statistics import ClassStatistics
from equiframe.collapse.variability import cdnv_of
from equiframe.errors import InputError


@dataclass(frozen=True)
class CollapseMetric:
    """One or more numbers that describe a set of classes.

    Args:
        values: a function of the statistics of classes that were all seen and of their classifier rows,
            [classes, dim], that returns the numbers by flat key.
        terms: names of the main numbers by key, with ideal and direction; the others appear in the record only.
    """

    values: Callable[[ClassStatistics, Tensor], Mapping[str, float]]
    terms: Mapping[str, Term] = field(default_factory=dict)


def _of_pairs(statistics: ClassStatistics, classifier: Tensor) -> dict[str, float]:
    """NC1, NC2 and GNC2 over pairs of classes, from one pass over the pairs."""
    means = statistics.means
    cdnv = cdnv_of(means, statistics.variances, power=1)
    value, log, angles, uniformity = summarise_pairs(
        centred(means), lambda tile: [*cdnv(tile), etf_angle(tile, len(means)), log_kernel(tile)]
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
    }


def _of_rows(statistics: ClassStatistics, classifier: Tensor) -> dict[str, float]:
    """NC3 and (U)NC3."""
    means = statistics.means
    return {
        "nc3_self_duality": float(self_duality(means, classifier)),
        "nc3_distance": float(duality_distance(means, classifier)),
        "unc3": float(uniform_duality(means, classifier)),
    }


def _lower(name: str, reading: str, ideal: float | None = 0.0) -> Term:
    return Term(name, reading, ideal=ideal, higher_is_better=False)


def _higher(name: str, reading: str) -> Term:
    return Term(name, reading, ideal=1.0, higher_is_better=True)


METRICS: list[CollapseMetric] = [
    CollapseMetric(
        _of_pairs,
        {
            "nc1_cdnv_mean": _lower(
                "NC1, variability (CDNV)", "variance within words over squared distance between words, mean over pairs"
            ),
            "nc1_log_cdnv_mean": _lower(
                "NC1, variability (log CDNV)", "mean of its logarithm, which depends less on a few close pairs", None
            ),
            "nc2_norm_cv": _lower("NC2, equal norms", "coefficient of variation of the lengths of the word means"),
            "nc2_etf_angle_mean": _lower(
                "NC2, equal angles (mean)", "distance of the cosines between word means from those of a simplex frame"
            ),
            "nc2_etf_angle_std": _lower("NC2, equal angles (spread)", "standard deviation of that distance over pairs"),
            "gnc2_log_mean": _lower(
                "GNC2, uniformity (mean)", "mean of log(1 / distance) between the directions of word means", None
            ),
            "gnc2_log_cv": _lower("GNC2, uniformity (spread)", "coefficient of variation of that logarithm over pairs"),
        },
    ),
    CollapseMetric(
        _of_rows,
        {
            "unc3": _lower(
                "(U)NC3, uniform duality", "standard deviation of cosines between word means and word embeddings"
            ),
            "nc3_self_duality": _higher("NC3, self-duality", "mean cosine between word means and word embeddings"),
        },
    ),
]
"""Every metric, in the order of the record; pages show the last ones first."""

AGREEMENT = {
    "nc4_agreement": _higher(
        "NC4, decision agreement", "share of tokens whose nearest word mean is that of the word the classifier chooses"
    )
}
"""NC4 needs samples that are not part of the means, so the audit computes it: see ``decision_agreement``."""


def about_collapse() -> About:
    """What a reader must know about the metrics, including those that were added to ``METRICS``."""
    terms = {key: term for metric in reversed(METRICS) for key, term in metric.terms.items()}
    return About(
        "Geometry: neural collapse",
        "Geometry is not behaviour: a lower (U)NC3 does not by itself mean that predictions treat groups"
        " equally. Intervals resample words, so they apply to this list of words and this text. Sets of"
        " different sizes cannot be compared with each other: compare runs within a set.",
        {**terms, **AGREEMENT},
        (
            ("Xu et al. 2025", "https://arxiv.org/abs/2410.04472"),
            ("Wu and Papyan 2024", "https://arxiv.org/abs/2405.17767"),
        ),
    )


@torch.no_grad()
def collapse_metrics(statistics: ClassStatistics, classifier: Tensor) -> dict[str, float]:
    """Every metric that needs the class statistics alone, by flat key, from one pass over the pairs.

    Args:
        statistics: of classes seen at least once; better ``statistics.seen(min_count)``, so that each class
            has several samples, for the reason given in :func:`cdnv`.
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
    return {key: value for metric in METRICS for key, value in metric.values(statistics, classifier).items()}
