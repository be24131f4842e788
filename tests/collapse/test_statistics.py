"""Streaming statistics against two plain passes in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiframe.collapse import ClassStatistics
from equiframe.errors import InputError


def by_hand(features, ids, classes):
    """Counts, means and scatter by two explicit passes in float64."""
    x, y = features.double().numpy(), ids.numpy()
    counts = np.array([(y == c).sum() for c in classes])
    means = np.array([x[y == c].mean(0) if n else np.zeros(x.shape[1]) for c, n in zip(classes, counts, strict=True)])
    scatter = np.array([((x[y == c] - m) ** 2).sum() for c, m in zip(classes, means, strict=True)])
    return counts, means, scatter


def assert_is(statistics, expected, rtol=1e-5):
    counts, means, scatter = expected
    assert statistics.counts.tolist() == counts.tolist()
    np.testing.assert_allclose(statistics.means.numpy(), means, rtol=rtol, atol=1e-5)
    np.testing.assert_allclose(statistics.scatter.numpy(), scatter, rtol=10 * rtol, atol=1e-5)


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(500, 8, generator=generator), torch.randint(0, 30, (500,), generator=generator)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 60), max_size=5), offset=st.floats(-100, 100))
def test_any_split_in_any_order_is_one_pass(seed, cuts, offset):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(60, 4, generator=generator) + offset
    ids = torch.randint(0, 9, (60,), generator=generator)
    classes = torch.tensor([7, 2, 5, 100])
    parts = [part for part in torch.randperm(60, generator=generator).tensor_split(sorted(cuts)) if len(part)]
    streamed, merged = ClassStatistics(classes, 4), ClassStatistics(classes, 4)
    for part in parts:
        streamed.update(features[part], ids[part])
        merged.merge(ClassStatistics(classes, 4).update(features[part], ids[part]))
    expected = by_hand(features, ids, classes.tolist())
    assert_is(streamed, expected, rtol=1e-4)
    assert_is(merged, expected, rtol=1e-4)


def test_a_large_common_offset_costs_no_digit_of_the_scatter():
    generator = torch.Generator().manual_seed(0)
    small = 1e-2 * torch.randn(400, 16, generator=generator)
    features = (small.double() + 1e4).float()
    ids = torch.randint(0, 3, (400,), generator=generator)
    statistics = ClassStatistics(torch.arange(3), 16)
    for part in range(0, 400, 37):
        statistics.update(features[part : part + 37], ids[part : part + 37])
    _, _, scatter = by_hand(features, ids, [0, 1, 2])
    np.testing.assert_allclose(statistics.scatter.numpy(), scatter, rtol=0.02)
    raw = torch.stack(
        [
            features[ids == c].square().sum() - (ids == c).sum() * features[ids == c].mean(0).square().sum()
            for c in range(3)
        ]
    )
    assert (raw / torch.from_numpy(scatter) - 1).abs().max() > 0.9  # what the difference of raw sums gives


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_features_of_any_precision_are_added_up_in_single_precision(dtype):
    generator = torch.Generator().manual_seed(0)
    features = (torch.randn(6000, 32, generator=generator) + 3).to(dtype)
    ids = torch.randint(0, 30, (6000,), generator=generator)
    statistics = ClassStatistics(torch.arange(30), 32)
    for part in range(0, 6000, 700):
        statistics.update(features[part : part + 700], ids[part : part + 700])
    assert statistics.means.dtype == torch.float32
    _, means, scatter = by_hand(features.float(), ids, range(30))
    np.testing.assert_allclose(statistics.means.numpy(), means, rtol=1e-5)
    np.testing.assert_allclose(statistics.scatter.numpy(), scatter, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spread", [1.0, 0.01])
def test_half_precision_features_cost_what_update_says(dtype, spread):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 10, (4000,), generator=generator)
    centres = torch.randn(10, 64, generator=generator)
    features = centres[ids] + spread * torch.randn(4000, 64, generator=generator)
    _, means, scatter = by_hand(features, ids, range(10))
    halved = ClassStatistics(torch.arange(10), 64).update(features.to(dtype), ids)
    unit, lengths = torch.finfo(dtype).eps / 2, features.double().norm(dim=1).numpy()
    for c in range(10):
        of_class = lengths[ids.numpy() == c]
        error = np.linalg.norm(halved.means[c].numpy() - means[c])
        assert 0 < error < unit * of_class.mean()
        deviations = [np.sqrt(total / len(of_class)) for total in (float(halved.scatter[c]), scatter[c])]
        error = abs(deviations[0] - deviations[1])
        assert 0 < error < unit * np.sqrt((of_class**2).mean())


def test_float64_is_kept(sample):
    statistics = ClassStatistics(torch.arange(30), 8, dtype=torch.float64).update(sample[0].double(), sample[1])
    _, means, _ = by_hand(*sample, range(30))
    np.testing.assert_allclose(statistics.means.numpy(), means, rtol=1e-12, atol=1e-14)


def test_variance_is_the_population_form_and_nan_where_unseen():
    statistics = ClassStatistics(torch.tensor([4, 1]), 1).update(torch.tensor([[1.0], [3.0]]), torch.tensor([4, 4]))
    assert statistics.variances[0] == 1.0
    assert statistics.variances[1].isnan()


def test_select_keeps_order_and_leaves_rare_and_unknown_classes_out(sample):
    statistics = ClassStatistics(torch.arange(30), 8).update(*sample)
    few = int(statistics.counts.min()) + 1
    chosen = statistics.select(torch.tensor([17, 3, 999]), min_count=1)
    assert chosen.class_ids.tolist() == [17, 3]
    assert torch.equal(chosen.means, statistics.means[[17, 3]])
    assert torch.equal(chosen.scatter, statistics.scatter[[17, 3]])
    assert (statistics.seen(few).counts >= few).all()
    assert len(statistics.seen(few).counts) == int((statistics.counts >= few).sum())


def test_classes_that_come_later_are_followed_in_ascending_order_and_nothing_else_changes(sample):
    features, ids = sample
    whole = ClassStatistics(torch.arange(30), 8).update(features, ids)
    growing = ClassStatistics(torch.empty(0, dtype=torch.int64), 8)
    for part, own in zip(features.split(200), ids.split(200), strict=True):
        growing = growing.following(own).update(part, own)
    assert growing.class_ids.tolist() == sorted(set(ids.tolist()))
    assert growing.following(ids[:3]) is growing
    assert torch.equal(growing.counts, whole.seen().counts)
    torch.testing.assert_close(growing.means, whole.seen().means)
    torch.testing.assert_close(growing.scatter, whole.seen().scatter, rtol=1e-5, atol=1e-3)  # other partial sums
    at_once = ClassStatistics(torch.tensor([9, 4]), 8).following(torch.arange(30)).update(features, ids)
    assert torch.equal(at_once.means, whole.means)
    assert torch.equal(at_once.scatter, whole.scatter)


def test_a_saved_state_goes_on(sample):
    features, ids = sample
    first = ClassStatistics(torch.arange(30), 8).update(features[:200], ids[:200])
    second = ClassStatistics(torch.arange(30), 8).load_state_dict(first.state_dict())
    first.update(features[200:], ids[200:])
    second.update(features[200:], ids[200:])
    assert torch.equal(first.means, second.means)
    assert torch.equal(first.scatter, second.scatter)


def test_no_gradient_is_kept():
    features = torch.ones(2, 3, requires_grad=True)
    assert not ClassStatistics(torch.tensor([1]), 3).update(features, torch.tensor([1, 1])).means.requires_grad


@pytest.mark.parametrize(
    ("features", "ids", "said"),
    [
        (torch.ones(2, 4), torch.tensor([1, 1]), "dim|3"),
        (torch.ones(2, 3), torch.tensor([1]), "token_ids"),
        (torch.tensor([[1.0, 2, 3], [1, float("nan"), 3]]), torch.tensor([1, 1]), "feature 1 .*token id 1"),
        (torch.tensor([[float("inf"), 2, 3], [1, 2, 3]]), torch.tensor([1, 1]), "feature 0 .*token id 1"),
    ],
)
def test_wrong_batches_are_named_and_leave_the_state_alone(features, ids, said):
    statistics = ClassStatistics(torch.tensor([1, 2]), 3)
    with pytest.raises(InputError, match=said):
        statistics.update(features, ids)
    assert statistics.counts.sum() == 0


def test_wrong_construction_and_merging():
    with pytest.raises(InputError, match="repeat"):
        ClassStatistics(torch.tensor([1, 1]), 3)
    with pytest.raises(InputError, match="float32"):
        ClassStatistics(torch.tensor([1]), 3, dtype=torch.float16)
    with pytest.raises(InputError):
        ClassStatistics(torch.tensor([1, 2]), 3).merge(ClassStatistics(torch.tensor([1, 3]), 3))
    with pytest.raises(InputError):
        ClassStatistics(torch.tensor([1, 2]), 3).merge(ClassStatistics(torch.tensor([1]), 3))
