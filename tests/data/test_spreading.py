"""Some of many: the same number, the same distance."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiframe.data.spreading import evenly, evenly_in_any_order, every_nth


@pytest.mark.parametrize(
    ("total", "count", "spread", "strided"),
    [
        (10, 3, [0, 3, 6], [0, 3, 6]),
        (10, 4, [0, 2, 5, 7], [0, 2, 4, 6]),
        (3, 3, [0, 1, 2], [0, 1, 2]),
        (2, 4, [0, 0, 1, 1], [0, 1]),
        (5, 0, [], []),
        (0, 3, [0, 0, 0], []),
    ],
)
def test_positions(total, count, spread, strided):
    assert evenly(total, count) == spread
    assert list(every_nth(total, count)) == strided


@given(st.integers(1, 500), st.integers(1, 500))
def test_neither_leaves_a_gap(total, count):
    count = min(total, count)
    for places in (evenly(total, count), list(every_nth(total, count))):
        assert len(set(places)) == count
        assert places[0] == 0
        assert places[-1] < total
        assert max((b - a for a, b in itertools.pairwise(places)), default=1) <= -(-total // count)


@given(st.integers(1, 500), st.integers(1, 500))
def test_in_any_order_one_is_taken_from_each_part(total, count):
    count = min(total, count)
    places = evenly_in_any_order(total, count)
    ends = [*evenly(total, count), total]
    assert all(start <= place < end for place, (start, end) in zip(places, itertools.pairwise(ends), strict=True))
    assert places == evenly_in_any_order(total, count)


@pytest.mark.parametrize("period", [2, 3, 4])
@pytest.mark.parametrize(("total", "count"), [(1401, 100), (1401, 350), (792, 198), (792, 66), (240, 60), (1399, 100)])
def test_a_repeating_order_is_met_at_all_of_its_places(total, count, period):
    met = [sum(place % period == at for place in evenly_in_any_order(total, count)) for at in range(period)]
    assert min(met) > 0.5 * count / period


def test_other_distances_stay_constant():
    assert evenly_in_any_order(1401, 400) == evenly(1401, 400)
