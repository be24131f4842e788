"""UNC3Regularizer against uniform_duality of means made by hand, and the promises of its docstring."""

import copy

import pytest
import torch

from equiframe.collapse import UNC3Regularizer, uniform_duality
from equiframe.errors import InputError

VOCABULARY, DIM = 20, 6
WORDS = torch.tensor([13, 2, 7, 5])  # unsorted
IDS = [2, 5, 7, 13]


def batches(number: int, tokens: int = 12, seed: int = 0):
    """Features and token ids, some of no word of the set."""
    generator = torch.Generator().manual_seed(seed)
    choice = torch.tensor([2, 5, 7, 13, 0, 19])
    return [
        (torch.randn(tokens, DIM, generator=generator), choice[torch.randint(6, (tokens,), generator=generator)])
        for _ in range(number)
    ]


def classifier(seed: int = 9) -> torch.Tensor:
    return torch.randn(VOCABULARY, DIM, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def term(**options) -> UNC3Regularizer:
    return UNC3Regularizer(WORDS, DIM, **{"weight": 1.0, **options})


def test_run_means_are_those_of_all_samples_so_far():
    regularizer, rows, seen = term(weight=5.0), classifier(), []
    for features, token_ids in batches(6, tokens=40):
        seen.append((features, token_ids))
        value = regularizer(features, token_ids, rows)
        everything, ids = (torch.cat(parts) for parts in zip(*seen, strict=True))
        means = torch.stack([everything[ids == c].mean(0) for c in IDS])
        expected = uniform_duality(means, rows[IDS])
        torch.testing.assert_close(value, 5 * expected)
        torch.testing.assert_close(regularizer.last_parts["unc3"], expected.detach())
        (gradient,) = torch.autograd.grad(value, rows)
        torch.testing.assert_close(gradient, torch.autograd.grad(5 * expected, rows)[0])
        others = [i for i in range(VOCABULARY) if i not in IDS]
        assert not gradient[others].any()
        torch.testing.assert_close((gradient * rows).sum(1), torch.zeros(VOCABULARY), atol=1e-6, rtol=0)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_moving_average_equals_a_loop(decay):
    regularizer, rows, means = term(memory="ema", decay=decay), classifier(), {}
    for features, token_ids in batches(8, tokens=4):  # few tokens: most batches lack some class
        value = regularizer(features, token_ids, rows)
        for c in IDS:
            own = features[token_ids == c]
            if len(own):
                means[c] = decay * means[c] + (1 - decay) * own.mean(0) if c in means else own.mean(0)
        if len(means) > 1:
            expected = uniform_duality(torch.stack(list(means.values())), rows[list(means)])
            torch.testing.assert_close(value, expected)
    assert sorted(means) == IDS


def test_parts_are_named_and_cut_off():
    regularizer, rows = term(weight=3.0), classifier()
    value = regularizer(*batches(1, tokens=40)[0], rows)
    parts = regularizer.last_parts
    assert list(parts) == ["unc3", "unc3_weight", "mean_cosine", "classes_seen"]
    assert not any(part.requires_grad for part in parts.values())
    torch.testing.assert_close(value.detach(), parts["unc3"] * parts["unc3_weight"])
    assert parts["classes_seen"] == 4


@pytest.mark.parametrize("ids", [[0, 1, 1], [2, 2, 1], [2, 2, -100]])
@pytest.mark.parametrize("through_features", [False, True])
def test_an_exact_zero_with_a_graph_until_two_classes_are_seen(ids, through_features):
    regularizer, rows = term(through_features=through_features), classifier()
    features = torch.randn(3, DIM, requires_grad=True)
    value = regularizer(features, torch.tensor(ids), rows)
    assert value == 0
    value.backward()
    assert torch.equal(rows.grad, torch.zeros(VOCABULARY, DIM))
    value = regularizer(torch.randn(2, DIM), torch.tensor([2, 5]), rows)
    assert value > 0
    assert value.isfinite()


def test_equal_cosines_give_zero_and_no_gradient_but_zero():
    regularizer = UNC3Regularizer(torch.tensor([0, 1]), 2, weight=1.0)
    rows = torch.tensor([[1.0, 0.0], [-2.0, 0.0]], requires_grad=True)
    value = regularizer(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1]), rows)
    value.backward()
    assert value == 0
    assert torch.equal(rows.grad, torch.zeros(2, 2))


def test_weight_warms_up_over_training_calls():
    regularizer, rows = term(weight=8.0, warmup_steps=4), classifier()
    weights = []
    for features, token_ids in batches(6, tokens=40):
        value = regularizer(features, token_ids, rows)
        weights.append(float(regularizer.last_parts["unc3_weight"]))
        torch.testing.assert_close(value.detach(), weights[-1] * regularizer.last_parts["unc3"])
    assert weights == [2, 4, 6, 8, 8, 8]
    regularizer.reset()
    regularizer(*batches(1)[0], rows)
    assert regularizer.last_parts["unc3_weight"] == 8


def test_reset_forgets_the_means():
    used, fresh, rows = term(), term(), classifier()
    first, second = batches(2)
    used(*first, rows)
    used.reset()
    torch.testing.assert_close(used(*second, rows), fresh(*second, rows), rtol=0, atol=0)


def test_evaluation_adds_nothing():
    regularizer, rows = term(warmup_steps=10), classifier()
    first, second = batches(2)
    trained = regularizer(*first, rows)
    before = copy.deepcopy(regularizer.state_dict())
    value = regularizer.eval()(*second, rows)
    torch.testing.assert_close(value, trained, rtol=0, atol=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in regularizer.state_dict().items())


@pytest.mark.parametrize("memory", ["run", "ema"])
def test_a_resumed_run_goes_on_exactly(memory):
    whole, rows = term(memory=memory, warmup_steps=9), classifier()
    steps = batches(6)
    for features, token_ids in steps[:3]:
        whole(features, token_ids, rows)
    resumed = term(memory=memory, warmup_steps=9)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for features, token_ids in steps[3:]:
        expected = whole(features, token_ids, rows)
        assert torch.equal(resumed(features, token_ids, rows), expected)


def test_features_get_a_gradient_only_when_asked():
    rows = classifier()
    (first, ids), (second, more_ids) = batches(2)
    for through_features in (False, True):
        regularizer = term(through_features=through_features)
        regularizer(first, ids, rows)
        features = second.clone().requires_grad_()
        regularizer(features, more_ids, rows).backward()
        assert (features.grad is not None) == through_features
    # The batch's share in the means of the run, as if all samples were given at once.
    everything = torch.cat([first, second]).requires_grad_()
    labels = torch.cat([ids, more_ids])
    means = torch.stack([everything[labels == c].mean(0) for c in IDS])
    uniform_duality(means, rows.detach()[IDS]).backward()
    torch.testing.assert_close(features.grad, everything.grad[len(first) :])
    followed = torch.isin(more_ids, WORDS)
    assert not features.grad[~followed].any()
    assert features.grad[followed].any(dim=1).all()


def test_gradient_through_features_is_right_by_differences():
    rows = classifier().detach().double()
    features, ids = batches(1)[0]
    for memory in ("run", "ema"):
        started = term(through_features=True, memory=memory).double()
        started(torch.ones(2, DIM).double(), torch.tensor([2, 13]), rows)

        def value(x, start=started):
            return copy.deepcopy(start)(x, ids, rows)

        assert torch.autograd.gradcheck(value, features.double().requires_grad_())


def test_two_calls_before_one_backward():
    # As in gradient accumulation with summed losses: the state moves on under a graph that is still needed.
    regularizer, rows = term(through_features=True, memory="ema"), classifier()
    features = [features.requires_grad_() for features, _ in batches(2)]
    total = sum(regularizer(f, ids, rows) for f, (_, ids) in zip(features, batches(2), strict=True))
    total.backward()
    assert all(f.grad.isfinite().all() for f in features)


def test_features_of_other_tokens_may_be_anything():
    regularizer, rows = term(through_features=True), classifier()
    features, token_ids = batches(1)[0]
    clean = term()(features, token_ids, rows)
    features = features.clone()
    features[~torch.isin(token_ids, WORDS)] = torch.nan
    features.requires_grad_()
    value = regularizer(features, token_ids, rows)
    torch.testing.assert_close(value, clean)
    value.backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    features, token_ids = batches(1)[0]
    features, rows = features.to(dtype), classifier().detach().to(dtype).requires_grad_()
    value = term()(features, token_ids, rows)
    torch.testing.assert_close(value, term()(features.float(), token_ids, rows.float()))
    value.backward()
    assert value.dtype == torch.float32
    assert rows.grad.dtype == dtype


def test_ten_steps_of_descent_lower_the_spread():
    regularizer, rows = term(), classifier()
    optimizer = torch.optim.SGD([rows], lr=1.0)
    features, token_ids = batches(1)[0]
    values = []
    for _ in range(10):
        optimizer.zero_grad()
        value = regularizer(features, token_ids, rows)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.5 * values[0]


def test_wrong_arguments_are_named():
    with pytest.raises(InputError, match="needs two or more, got 1"):
        UNC3Regularizer(torch.tensor([1]), DIM, weight=1.0)
    with pytest.raises(InputError, match="class_ids repeat"):
        UNC3Regularizer(torch.tensor([1, 1]), DIM, weight=1.0)
    with pytest.raises(InputError, match="memory 'epoch'"):
        term(memory="epoch")
    with pytest.raises(InputError, match=r"decay 1\.0"):
        term(decay=1.0)
    for options in ({"weight": -1.0}, {"weight": float("nan")}, {"weight": 1e39}, {"warmup_steps": -1}):
        with pytest.raises(InputError, match="finite numbers of 0 or more"):
            term(**options)
    regularizer, rows = term(), classifier()
    features, token_ids = batches(1)[0]
    with pytest.raises(InputError, match=r"expected \[tokens, 6\]"):
        regularizer(features[None], token_ids[None], rows)
    with pytest.raises(InputError, match=r"expected \[tokens, 6\]"):
        regularizer(features, token_ids[1:], rows)
    with pytest.raises(InputError, match="class_ids go up to 13, the classifier has 4 rows"):
        regularizer(features, token_ids, rows[IDS])
