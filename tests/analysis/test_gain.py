"""Fairness gain by hand, and its resamples one by one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from equiframe.analysis.gain import Replicates, draws_of_seeds, gain, interval, mean_over, pooled_gain, replicates
from equiframe.benchmarks.benchmark import Measure, Scored
from equiframe.errors import InputError


class Share(Scored):
    """Share of items, overall and of the group a."""

    name = "share"
    version = 1
    headline = ("overall",)

    def measures(self, outcomes):
        hits = outcomes["hit"].to_numpy(dtype=float)

        def percent(at):
            return 100 * hits[at].mean(axis=-1)

        rows = np.arange(len(outcomes))
        group = np.flatnonzero(outcomes["group"] == "a")
        return [Measure("overall", rows, percent, unit="%", ideal=50.0), Measure("a", group, percent, unit="%")]


def table(hits, *, items=None, groups="aab", excluded=None):
    return pd.DataFrame(
        {
            "item": items or [f"i{at}" for at in range(len(hits))],
            "hit": hits,
            "group": list(groups)[: len(hits)] + ["b"] * (len(hits) - len(groups)),
            "excluded": excluded or [None] * len(hits),
        }
    )


def test_values_and_resamples_are_those_of_one_run_at_a_time():
    generator = np.random.default_rng(3)
    hits = generator.integers(2, size=(3, 40))
    found = replicates(Share(), "overall", [table(h) for h in hits], seed=7, resamples=50)
    np.testing.assert_allclose(found.value, 100 * hits.mean(axis=1))
    again = np.random.default_rng([7, *b"share"])
    for resample in found.resampled:
        at = again.integers(40, size=40)
        np.testing.assert_allclose(resample, [100 * h[at].mean() for h in hits])
    assert found.ideal == 50.0


def test_draws_are_those_of_the_benchmark():
    class Other(Share):
        name = "other"

    same = [table(np.random.default_rng(3).integers(2, size=40))]
    first, second = (replicates(b, "overall", same, seed=7, resamples=500).resampled[:, 0] for b in (Share(), Other()))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2  # as many items, but not the same draws
    np.testing.assert_array_equal(first, replicates(Share(), "overall", same, seed=7, resamples=500).resampled[:, 0])


def test_only_items_that_every_run_scored_count():
    first = table([1, 0, 1, 1], excluded=[None, None, None, "too long"])
    second = table([0, 1, 1, 0], items=["i3", "i2", "i1", "i0"], groups="bba")
    second["group"] = second["item"].map({"i0": "a", "i1": "a", "i2": "b", "i3": "b"})
    found = replicates(Share(), "overall", [first, second], seed=0, resamples=2)
    np.testing.assert_allclose(found.value, [200 / 3, 200 / 3])  # i0, i1, i2: 1, 0, 1 and 0, 1, 1


def test_unknown_measures_and_other_groups_are_refused():
    with pytest.raises(InputError, match=r"no measure 'b'\. Available: overall, a"):
        replicates(Share(), "b", [table([1, 0, 1])], seed=0, resamples=2)
    with pytest.raises(InputError, match="groups of a differ"):
        replicates(Share(), "a", [table([1, 0, 1]), table([1, 0, 1], groups="bba")], seed=0, resamples=2)


def numbers(value, ideal=50.0):
    value = np.array(value, dtype=float)
    return Replicates(value, np.broadcast_to(value, (4, len(value))), ideal)


def test_gain_by_hand():
    draws = np.array([[0, 1], [0, 0], [1, 1], [1, 0]])
    # distances: 10 and 10 before, 5 and 2 after (on the other side)
    value, resampled = gain(numbers([60, 40]), numbers([55, 48]), draws)
    assert value == pytest.approx(1 - 3.5 / 10)
    np.testing.assert_allclose(resampled, [0.65, 0.5, 0.8, 0.65])


def test_gain_of_the_same_model_is_none_and_of_an_unbiased_one_undefined():
    draws = draws_of_seeds(2, seed=0, resamples=4)
    assert gain(numbers([60, 60]), numbers([60, 60]), draws)[0] == 0
    value, resampled = gain(numbers([50, 50]), numbers([55, 60]), draws)
    assert np.isnan(value)
    assert np.isnan(resampled).all()
    assert np.isnan(interval(value, resampled).low)
    with pytest.raises(InputError, match="without an ideal value"):
        gain(numbers([50, 50], ideal=None), numbers([55, 60], ideal=None), draws)


def test_worse_is_negative():
    assert gain(numbers([55]), numbers([65]), np.zeros((4, 1), dtype=int))[0] == pytest.approx(-2)


def test_seeds_are_drawn_the_same_for_all():
    draws = draws_of_seeds(3, seed=5, resamples=100)
    assert draws.shape == (100, 3)
    assert set(draws.ravel()) == {0, 1, 2}
    np.testing.assert_array_equal(draws, draws_of_seeds(3, seed=5, resamples=100))
    values = np.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(mean_over(values, draws), [values[d].mean() for d in draws])


def test_pooled_gain_counts_distances_in_standard_errors():
    draws = np.array([[0], [0], [0]])

    def spread(value, resampled):
        return Replicates(np.array([value]), np.array(resampled, dtype=float)[:, None], 50.0)

    far = spread(60.0, [58.0, 60.0, 62.0]), spread(55.0, [53.0, 55.0, 57.0])  # standard error 2: 5 to 2.5
    near = spread(50.5, [46.5, 50.5, 54.5]), spread(52.0, [48.0, 52.0, 56.0])  # standard error 4: 0.125 to 0.5
    value, resampled = pooled_gain([far, near], draws)
    assert value == pytest.approx(1 - (2.5 + 0.5) / (5 + 0.125))
    assert resampled[0] == pytest.approx(1 - (3 / 2 + 2 / 4) / (8 / 2 + 3.5 / 4))
    assert gain(*near, draws)[0] == pytest.approx(-3)  # which alone would be the mean of nothing
    fixed = numbers([50])
    assert np.isnan(pooled_gain([(fixed, fixed)], np.zeros((4, 1), dtype=int))[0])
