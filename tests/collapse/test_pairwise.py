"""Moments over pairs in tiles against explicit loops and numpy."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from equiframe.collapse import pairwise
from equiframe.collapse.pairwise import PairSummary, pair_tiles, summarise_pairs


def vectors(count: int, dim: int = 7, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) + offset


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9, 13])
def test_tiles_visit_each_pair_once(count, monkeypatch):
    monkeypatch.setattr(pairwise, "_TILE", 4)
    numbers = torch.arange(count)
    codes = [
        code
        for tile in pair_tiles(vectors(count))
        for code in tile.pairs(numbers[tile.rows, None] * 100 + numbers[tile.columns]).tolist()
    ]
    assert sorted(codes) == [i * 100 + j for i, j in itertools.combinations(range(count), 2)]


@pytest.mark.parametrize("tile", [2, 5, 512])
def test_moments_equal_numpy(tile, monkeypatch):
    monkeypatch.setattr(pairwise, "_TILE", tile)
    points = vectors(23)
    distances, cosines, chords = summarise_pairs(
        points, lambda t: [t.squared_distances(), t.cosines(), t.squared_chords()]
    )
    units = points / points.norm(dim=1, keepdim=True)
    for found, expected in (
        (distances, pdist(points, "sqeuclidean")),
        (cosines, 1 - pdist(points, "cosine")),
        (chords, pdist(units, "sqeuclidean")),
    ):
        assert found.pairs == 23 * 22 // 2
        assert found.mean == pytest.approx(expected.mean(), rel=1e-12)
        assert found.std == pytest.approx(expected.std(ddof=1), rel=1e-12)
        assert found.cv == pytest.approx(expected.std(ddof=1) / abs(expected.mean()), rel=1e-12)


def test_two_classes_have_a_mean_and_no_spread():
    found = summarise_pairs(torch.tensor([[0.0], [3.0]]).double(), lambda t: [t.squared_distances()])[0]
    assert (found.mean, found.pairs) == (9.0, 1)
    assert np.isnan(found.std)
    assert np.isnan(PairSummary(0.0, 1.0, 3).cv)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, 1e-9, 1e-12])
def test_near_pairs_keep_their_digits(gap):
    # Two points ``gap`` apart and far from the rest: the expansion leaves nothing of gap^2 against 1.
    points = vectors(6, seed=3)
    step = vectors(1, seed=4)[0]
    points[1] = points[0] + gap * step
    tile = next(pair_tiles(points))
    direct = (points[0] - points[1]).square().sum()
    torch.testing.assert_close(tile.squared_distances()[0, 1], direct, rtol=1e-6, atol=0)
    units = points[:2] / points[:2].norm(dim=1, keepdim=True)
    torch.testing.assert_close(tile.squared_chords()[0, 1], (units[0] - units[1]).square().sum(), rtol=1e-5, atol=1e-31)


def test_more_near_pairs_than_are_taken_at_a_time(monkeypatch):
    monkeypatch.setattr(pairwise, "_CHUNK", 3)
    monkeypatch.setattr(pairwise, "_TILE", 4)
    points = 1e6 + 1e-3 * vectors(11)
    found = summarise_pairs(points, lambda t: [t.squared_distances()])[0]
    assert found.mean == pytest.approx(pdist(points, "sqeuclidean").mean(), rel=1e-12)


def test_equal_and_zero_vectors():
    points = torch.tensor([[1e3, 1e-3], [1e3, 1e-3], [0.0, 0.0]]).double()
    tile = next(pair_tiles(points))
    assert tile.squared_distances()[0, 1] == 0
    assert tile.squared_chords()[0, 1] == 0
    assert tile.cosines()[0, 2] == 0
    assert tile.squared_chords()[0, 2] == 2


@pytest.mark.parametrize("at", [0, 5, 10])
def test_one_infinite_pair_makes_the_mean_infinite_wherever_it_lies(at, monkeypatch):
    monkeypatch.setattr(pairwise, "_TILE", 4)
    points = torch.arange(12.0).double()[:, None]
    points[at + 1] = points[at]
    found = summarise_pairs(points, lambda t: [1 / t.squared_distances()])[0]
    assert found.mean == np.inf
    assert np.isnan(found.std)


def test_spread_small_against_the_mean_keeps_its_digits(monkeypatch):
    monkeypatch.setattr(pairwise, "_TILE", 4)
    points = vectors(15)
    found = summarise_pairs(points, lambda t: [t.squared_distances() + 1e8])[0]
    assert found.std == pytest.approx(pdist(points, "sqeuclidean").std(ddof=1), rel=1e-6)
