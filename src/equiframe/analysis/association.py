"""Rank correlation between two numbers of several models, with resamples over the models."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def rank_correlation(
    pairs: NDArray[np.float64], groups: Sequence[Hashable], *, seed: int, resamples: int
) -> tuple[float, NDArray[np.float64]]:
    """Compute Spearman's rank correlation, and its resamples over groups of models.

    Models that differ in the seed alone are not independent, so they form a group, which a resample draws as a whole.

    Args:
        pairs: both numbers of each model, [models, 2].
        groups: the group of each model, [models].
        seed: seed of the resampling.
        resamples: number of resamples of the groups, with replacement.

    Returns:
        The correlation, and its resamples, [resamples], each with its own ranks. NaN where one of the numbers
        is the same for all models.
    """
    position = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    drawn = np.random.default_rng(seed).integers(len(position), size=(resamples, len(position)))
    times = (drawn[:, :, None] == [position[group] for group in groups]).sum(axis=1)  # [resamples, models]
    weights = np.concatenate([np.ones((1, len(pairs))), times])
    below, alike = pairs[:, None] < pairs, pairs[:, None] == pairs
    ranks = np.tensordot(weights, below + alike / 2, axes=1) + 0.5  # [resamples, models, 2]; ties have their mean rank
    total = weights.sum(axis=1)[:, None]
    centred = ranks - np.einsum("rn,rno->ro", weights, ranks)[:, None] / total[..., None]
    with np.errstate(invalid="ignore"):
        covariance = np.einsum("rn,rn->r", weights, centred.prod(axis=2))
        found = covariance / np.sqrt(np.einsum("rn,rno->ro", weights, centred**2).prod(axis=1))
    return float(found[0]), found[1:]
