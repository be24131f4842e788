"""Intervals and tests against formulas, enumeration and scipy's slower ways."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from equiframe.errors import InputError
from equiframe.uncertainty import Measure, bootstrap, estimate, paired_difference


def mean_of(values):
    values = np.asarray(values, dtype=np.float64)
    return lambda at: values[at].mean(axis=-1)


def test_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(50, 10, 2000)
    low, high = bootstrap(np.arange(2000), mean_of(values), seed=1)
    half = 1.96 * values.std(ddof=1) / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_interval_of_a_share_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        sample = generator.random(200) < 0.6
        low, high = bootstrap(np.arange(200), mean_of(sample), seed=seed, resamples=500)
        hits += low <= 0.6 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_same_seed_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).normal(size=50)
    first = bootstrap(np.arange(50), mean_of(values), seed=3)
    assert first == bootstrap(np.arange(50), mean_of(values), seed=3)
    assert first != bootstrap(np.arange(50), mean_of(values), seed=4)


def test_interval_uses_the_rows_it_is_given():
    values = np.array([0.0, 1.0, 100.0, 200.0])
    low, high = bootstrap(np.array([0, 1]), mean_of(values), seed=0)
    assert (low, high) == (0.0, 1.0)


def test_fewer_than_two_rows_have_no_interval():
    assert bootstrap(np.array([3]), mean_of(np.ones(5)), seed=0) == (None, None)
    assert bootstrap(np.array([], dtype=np.intp), mean_of(np.ones(5)), seed=0) == (None, None)


def test_no_variance_is_a_point_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bootstrap(np.arange(9), mean_of(np.full(9, 7.0)), seed=0) == (7.0, 7.0)
        difference = paired_difference(np.arange(9), np.arange(9, 18), mean_of(np.full(18, 7.0)), seed=0)
    assert (difference.value, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)


def test_estimate_carries_the_measure():
    measure = Measure("x.y", np.arange(4), mean_of([1, 2, 3, 4]), "%", 50.0, None)
    found = estimate(measure, seed=0)
    assert (found.value, found.count, found.unit, found.ideal, found.higher_is_better) == (2.5, 4, "%", 50.0, None)
    assert found.low < 2.5 < found.high
    with pytest.raises(InputError, match=r"x\.y"):
        estimate(Measure("x.y", np.array([], dtype=np.intp), mean_of([1.0]), "%"), seed=0)


def test_paired_interval_is_that_of_the_differences():
    generator = np.random.default_rng(0)
    first = generator.normal(0, 10, 400)
    second = first + generator.normal(1, 1, 400)
    both = mean_of(np.concatenate([first, second]))
    found = paired_difference(np.arange(400), np.arange(400, 800), both, seed=0)
    half = 1.96 * (second - first).std(ddof=1) / 20
    assert found.value == pytest.approx((second - first).mean())
    assert found.low == pytest.approx(found.value - half, abs=0.15 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.15 * half)
    assert found.count == 400
    assert found.p_value == pytest.approx(2 / 2001)


@pytest.mark.parametrize("seed", range(4))
def test_p_value_is_that_of_all_exchanges(seed):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 4, (2, 9)).astype(float)  # few values: ties with the observed difference
    statistic = mean_of(values.ravel())
    found = paired_difference(np.arange(9), np.arange(9, 18), statistic, seed=seed, resamples=20_000)
    observed = values[1].mean() - values[0].mean()
    signs = np.array(list(itertools.product([1, -1], repeat=9)))
    every = (signs * (values[1] - values[0])).mean(axis=1)
    exact = min(1, 2 * min((every >= observed - 1e-12).mean(), (every <= observed + 1e-12).mean()))
    assert found.p_value == pytest.approx(exact, abs=0.015)
    scipys = scipy.stats.permutation_test(
        (values[0], values[1]),
        lambda a, b, axis: b.mean(axis) - a.mean(axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert found.p_value == pytest.approx(scipys.pvalue, abs=0.015)


def test_p_value_is_uniform_where_there_is_no_difference():
    generator = np.random.default_rng(1)
    found = []
    for seed in range(200):
        statistic = mean_of(generator.normal(size=60))
        found.append(paired_difference(np.arange(30), np.arange(30, 60), statistic, seed=seed, resamples=300).p_value)
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01


def test_a_statistic_that_is_no_mean():
    """The difference of standard deviations, whose exchange cannot be done on the values' difference."""
    values = np.concatenate([np.random.default_rng(0).normal(0, 1, 300), np.random.default_rng(1).normal(0, 2, 300)])
    found = paired_difference(np.arange(300), np.arange(300, 600), lambda at: values[at].std(axis=-1), seed=0)
    assert found.value == pytest.approx(1, abs=0.2)
    assert found.p_value < 0.01


def test_rows_must_match():
    with pytest.raises(InputError, match="found 3 rows of the first run and 2 of the second"):
        paired_difference(np.arange(3), np.arange(2), mean_of(np.ones(5)), seed=0)
    with pytest.raises(InputError):
        paired_difference(np.arange(0), np.arange(0), mean_of(np.ones(5)), seed=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.integers(0, 2**31))
@example([989965.5960430024, 989965.5960430024], 0)
def test_an_interval_of_a_mean_lies_within_the_data(values, seed):
    low, high = bootstrap(np.arange(len(values)), mean_of(values), seed=seed, resamples=50)
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= low <= high <= max(values) + slack
