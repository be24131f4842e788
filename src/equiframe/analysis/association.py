"""Rank correlation between two numbers of several models, with resamples over the models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def rank_correlation(pairs: NDArray[np.float64], *, seed: int, resamples: int) -> tuple[float, NDArray[np.float64]]:
    """Compute Spearman's rank correlation, and its resamples over models.

    Args:
        pairs: both numbers of each model, [models, 2].
        seed: seed of the resampling.
        resamples: number of resamples of the models, with replacement.

    Returns:
        The correlation, and its resamples, [resamples], each with its own ranks. NaN where one of the numbers
        is the same for all models.
    """
    drawn = pairs[np.random.default_rng(seed).integers(len(pairs), size=(resamples, len(pairs)))]
    ranks = stats.rankdata(np.concatenate([pairs[None], drawn]), axis=1)
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        found = centred.prod(axis=2).sum(axis=1) / np.sqrt((centred**2).sum(axis=1).prod(axis=1))
    return float(found[0]), found[1:]
