"""Rank correlations over models, beside scipy."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from equiframe.analysis.association import rank_correlation


def test_the_correlation_and_its_resamples_are_those_of_scipy():
    pairs = np.array([[0.5, 3.0], [0.0, 1.0], [0.1, 1.0], [0.2, 2.5], [0.3, 2.0]])  # with a tie
    value, resampled = rank_correlation(pairs, range(5), seed=3, resamples=50)
    assert value == pytest.approx(spearmanr(*pairs.T).statistic)
    drawn = np.random.default_rng(3).integers(5, size=(50, 5))
    varied = [at for at, rows in enumerate(drawn) if np.ptp(pairs[rows], axis=0).min() > 0]
    expected = [spearmanr(*pairs[drawn[at]].T).statistic for at in varied]
    assert resampled[varied] == pytest.approx(expected)
    assert np.isnan(np.delete(resampled, varied)).all()
    assert len(varied) > 40


def test_models_of_one_group_are_drawn_together():
    """Three groups of seeds, of unequal size: each resample is that of scipy on whole groups."""
    pairs = np.array([[0.1, 2.0], [0.2, 2.2], [0.15, 2.1], [0.6, 1.0], [0.6, 1.1], [0.4, 3.0]])
    groups = ["one", "one", "one", "two", "two", "three"]
    value, resampled = rank_correlation(pairs, groups, seed=1, resamples=40)
    assert value == pytest.approx(spearmanr(*pairs.T).statistic)
    members = [[0, 1, 2], [3, 4], [5]]
    for found, drawn in zip(resampled, np.random.default_rng(1).integers(3, size=(40, 3)), strict=True):
        rows = np.concatenate([members[group] for group in drawn])
        expected = spearmanr(*pairs[rows].T).statistic if np.ptp(pairs[rows], axis=0).min() > 0 else np.nan
        assert found == pytest.approx(expected, nan_ok=True)


def test_models_that_agree_in_a_number_have_no_correlation():
    value, resampled = rank_correlation(np.array([[1.0, 3.0], [1.0, 1.0], [1.0, 2.0]]), range(3), seed=0, resamples=5)
    assert np.isnan(value)
    assert np.isnan(resampled).all()
