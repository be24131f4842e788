"""Every metric against explicit loops in float64, at its ideal, and under what should not change it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiframe.collapse import (
    ClassStatistics,
    cdnv,
    collapse_metrics,
    decision_agreement,
    duality_cosines,
    duality_distance,
    equinormness,
    etf_angles,
    hyperspherical_uniformity,
    riesz_energy,
    self_duality,
    uniform_duality,
)
from equiframe.errors import InputError

SEEDS = st.integers(0, 100_000)


def draw(seed, classes=12, dim=6):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, dim, generator=generator) + 3
    return means, torch.rand(classes, generator=generator) + 0.1, torch.randn(classes, dim, generator=generator)


def simplex(classes=6, dim=9):
    """A perfect simplex equiangular tight frame, turned at random into more dimensions."""
    frame = torch.eye(classes, dtype=torch.float64) - 1 / classes
    turn = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    return frame @ turn[:classes]


def loops(means):
    """Pairs of rows as float64 numpy vectors, raw and centred."""
    raw = means.double().numpy()
    centred = raw - raw.mean(0)
    return [(raw[i], raw[j], centred[i], centred[j], i, j) for i, j in itertools.combinations(range(len(raw)), 2)]


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


@pytest.mark.parametrize("power", [1, 2])
def test_cdnv(power):
    means, variances, _ = draw(0, classes=40)
    s = variances.double().numpy()
    values = np.array([(s[i] + s[j]) / (2 * ((a - b) @ (a - b)) ** power) for a, b, _, _, i, j in loops(means)])
    found = cdnv(means, variances, power=power)
    assert found.value.mean == pytest.approx(values.mean(), rel=1e-5)
    assert found.value.std == pytest.approx(values.std(ddof=1), rel=1e-4)
    assert found.log.mean == pytest.approx(np.log(values).mean(), rel=1e-5)
    assert found.log.std == pytest.approx(np.log(values).std(ddof=1), rel=1e-4)
    assert found.value.pairs == 40 * 39 // 2


def test_more_classes_than_a_tile():
    means, variances, _ = draw(1, classes=2100, dim=3)
    x, s = means.double(), variances.double()
    i, j = torch.triu_indices(2100, 2100, offset=1)
    values = (s[i] + s[j]) / (2 * (x[i] - x[j]).square().sum(1))
    found = cdnv(means, variances)
    assert found.value.pairs == len(values)
    assert found.log.mean == pytest.approx(float(values.log().mean()), rel=1e-5)
    assert found.log.std == pytest.approx(float(values.log().std()), rel=1e-4)


def test_near_means_far_from_the_origin_keep_their_digits():
    base = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)) * 100
    means = base.double() + 1e-2 * torch.randn(20, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values = np.array([2.0 / (2 * ((a - b) @ (a - b))) for a, b, *_ in loops(means)])
    found = cdnv(means, torch.ones(20))
    assert found.log.mean == pytest.approx(np.log(values).mean(), rel=1e-4)


def test_equal_means_are_infinitely_spread():
    means = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]])
    assert math.isinf(cdnv(means, torch.ones(3)).value.mean)


def test_norms_and_angles():
    means, _, _ = draw(2)
    centred = means.double().numpy() - means.double().numpy().mean(0)
    norms = np.linalg.norm(centred, axis=1)
    found = equinormness(means)
    assert found.norm_cv == pytest.approx(norms.std(ddof=1) / norms.mean(), rel=1e-5)
    assert found.log_norm_cv == pytest.approx(np.log(norms).std(ddof=1) / abs(np.log(norms).mean()), rel=1e-4)
    off = np.array([abs(cosine(a, b) + 1 / 11) for _, _, a, b, _, _ in loops(means)])
    angles = etf_angles(means)
    assert angles.mean == pytest.approx(off.mean(), rel=1e-5)
    assert angles.std == pytest.approx(off.std(ddof=1), rel=1e-4)


@pytest.mark.parametrize("center", [True, False])
def test_hyperspherical_uniformity(center):
    means, _, _ = draw(3)
    rows = [((c, d) if center else (a, b)) for a, b, c, d, _, _ in loops(means)]
    distance = np.array([np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b)) for a, b in rows])
    found = hyperspherical_uniformity(means, center=center)
    assert found.mean == pytest.approx(np.log(1 / distance).mean(), rel=1e-4, abs=1e-6)
    assert found.std == pytest.approx(np.log(1 / distance).std(ddof=1), rel=1e-4)
    kernel = distance**-4.0
    energy = riesz_energy(means, center=center)  # dim 6: s = 4
    assert energy.log_mean == pytest.approx(np.log(kernel.mean()), rel=1e-4)
    assert energy.cv == pytest.approx(kernel.std(ddof=1) / kernel.mean(), rel=1e-3)


def test_riesz_energy_where_float64_itself_gives_up():
    means = torch.randn(6, 3000, generator=torch.Generator().manual_seed(0))
    assert math.isfinite(riesz_energy(means).log_mean)
    assert math.isfinite(riesz_energy(means).cv)


def test_duality():
    means, _, rows = draw(4)
    centred, w = means.double().numpy() - means.double().numpy().mean(0), rows.double().numpy()
    cosines = np.array([cosine(a, b) for a, b in zip(centred, w, strict=True)])
    units = [(a / np.linalg.norm(a), b / np.linalg.norm(b)) for a, b in zip(centred, w, strict=True)]
    np.testing.assert_allclose(duality_cosines(means, rows).numpy(), cosines, rtol=1e-4, atol=1e-6)
    assert float(self_duality(means, rows)) == pytest.approx(cosines.mean(), rel=1e-4)
    assert float(uniform_duality(means, rows)) == pytest.approx(cosines.std(ddof=1), rel=1e-4)
    assert float(duality_distance(means, rows)) == pytest.approx(
        np.mean([np.linalg.norm(a - b) for a, b in units]), rel=1e-4
    )


def test_a_perfect_simplex_is_ideal():
    frame = simplex()
    assert equinormness(frame).norm_cv == pytest.approx(0, abs=1e-9)
    assert etf_angles(frame).mean == pytest.approx(0, abs=1e-7)
    assert hyperspherical_uniformity(frame).std == pytest.approx(0, abs=1e-7)
    assert float(self_duality(frame, 5 * frame)) == pytest.approx(1, abs=1e-7)
    assert float(uniform_duality(frame, 5 * frame)) == pytest.approx(0, abs=1e-6)
    assert float(duality_distance(frame, 5 * frame)) == pytest.approx(0, abs=1e-6)
    assert float(decision_agreement(frame, frame, frame)) == 1.0


def test_uniform_is_not_aligned():
    frame = simplex()
    assert float(uniform_duality(frame, -frame)) == pytest.approx(0, abs=1e-6)
    assert float(self_duality(frame, -frame)) == pytest.approx(-1, abs=1e-7)


@pytest.mark.parametrize("with_bias", [False, True])
def test_decisions(with_bias):
    means, _, rows = draw(5)
    samples = torch.randn(70, 6, generator=torch.Generator().manual_seed(6)) + 3
    bias = torch.randn(12, generator=torch.Generator().manual_seed(7)) if with_bias else None
    agreed = 0
    for h in samples.double().numpy():
        nearest = min(range(12), key=lambda c: ((h - means[c].double().numpy()) ** 2).sum())
        linear = max(range(12), key=lambda c: h @ rows[c].double().numpy() + (float(bias[c]) if with_bias else 0))
        agreed += nearest == linear
    assert float(decision_agreement(samples, means, rows, bias)) == pytest.approx(agreed / 70)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, scale=st.floats(0.01, 100), shift=st.floats(-5, 5))
def test_what_scaling_translation_rotation_and_order_leave_alone(seed, scale, shift):
    means, variances, rows = (t.double() for t in draw(seed))
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator)).Q
    order = torch.randperm(12, generator=generator)
    moved, spread, turned = (scale * means @ turn + shift)[order], (scale**2 * variances)[order], (rows @ turn)[order]
    for value in (
        lambda m, v, _: cdnv(m, v).value.mean,
        lambda m, v, _: cdnv(m, v).log.std,
        lambda m, *_: equinormness(m).norm_cv,
        lambda m, *_: etf_angles(m).mean,
        lambda m, *_: hyperspherical_uniformity(m).mean,
        lambda m, _, w: float(self_duality(m, w)),
        lambda m, _, w: float(uniform_duality(m, w)),
    ):
        assert value(moved, spread, turned) == pytest.approx(value(means, variances, rows), rel=1e-6, abs=1e-9)
    ratio = cdnv(scale * means, scale**2 * variances, power=2).value.mean / cdnv(means, variances, power=2).value.mean
    assert ratio == pytest.approx(scale**-2, rel=1e-6)  # the published form is not free of scale


def test_gradient_of_uniform_duality():
    means, _, rows = (t.double() for t in draw(8))
    means.requires_grad_()
    rows.requires_grad_()
    assert torch.autograd.gradcheck(uniform_duality, (means, rows))
    uniform_duality(means, rows).backward()
    assert (rows.grad * rows).sum(1).abs().max() < 1e-12  # rows turn, they do not shrink
    with torch.no_grad():
        centred = means - means.mean(0)
        m, w = (x / x.norm(dim=1, keepdim=True) for x in (centred, rows))
        c = (m * w).sum(1)
        outer = (c - c.mean()) / (11 * c.std())
        by_hand = outer[:, None] * (m - c[:, None] * w) / rows.norm(dim=1, keepdim=True)
    torch.testing.assert_close(rows.grad, by_hand)


def test_gradient_at_zero_spread_is_no_nan():
    frame = simplex()
    rows = (2 * frame).requires_grad_()
    uniform_duality(frame, rows).backward()
    assert torch.isfinite(rows.grad).all()


def test_all_at_once_is_each_alone():
    means, _, rows = draw(9)
    ids = torch.arange(12).repeat(5)
    noise = torch.randn(60, 6, generator=torch.Generator().manual_seed(2))
    statistics = ClassStatistics(torch.arange(12), 6).update(means.repeat(5, 1) + noise, ids)
    found = collapse_metrics(statistics, rows)
    alone = cdnv(statistics.means, statistics.variances)
    assert found["nc1_cdnv_mean"] == pytest.approx(alone.value.mean, rel=1e-9)
    assert found["nc1_log_cdnv_std"] == pytest.approx(alone.log.std, rel=1e-9)
    assert found["nc2_etf_angle_mean"] == pytest.approx(etf_angles(statistics.means).mean, rel=1e-9)
    assert found["gnc2_log_mean"] == pytest.approx(hyperspherical_uniformity(statistics.means).mean, rel=1e-9)
    assert found["unc3"] == pytest.approx(float(uniform_duality(statistics.means, rows)), rel=1e-6)
    assert found["nc3_self_duality"] == pytest.approx(float(self_duality(statistics.means, rows)), rel=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda m, v, w: cdnv(m[:1], v[:1]),
        lambda m, v, w: cdnv(m, v[:3]),
        lambda m, v, w: cdnv(m, v, power=3),
        lambda m, v, w: uniform_duality(m, w[:5]),
        lambda m, v, w: uniform_duality(m[:1], w[:1]),
        lambda m, v, w: riesz_energy(m, exponent=0),
        lambda m, v, w: decision_agreement(m, m, w[:, :3]),
        lambda m, v, w: etf_angles(m[0]),
    ],
)
def test_wrong_shapes_are_refused(call):
    with pytest.raises(InputError):
        call(*draw(0))
