"""Counterfactual collapse, place by place, against plain loops in float64, and its gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from equiframe.collapse.counterfactual import (
    agreement_target,
    cosine_gap,
    divergence,
    divergence_from_mean,
    half_square_distance,
    jensen_shannon,
    log_odds,
    log_odds_loss,
    neutral_log_probs,
)

PLACES, VOCABULARY = 5, 9
GROUP = [2, 7]


def scores(seed):
    return torch.tensor(np.random.default_rng(seed).normal(0, 2, (PLACES, VOCABULARY)))


def neutral(row):
    """A softmax without the group's tokens, one number at a time."""
    kept = [math.exp(float(v)) if i not in GROUP else 0.0 for i, v in enumerate(row)]
    return [value / sum(kept) for value in kept]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.fixture
def both():
    return [neutral_log_probs(scores(seed), torch.tensor(GROUP)) for seed in (0, 1)]


def test_words_of_the_groups_are_left_out(both):
    for seed, log_p in enumerate(both):
        np.testing.assert_allclose(log_p.exp().numpy(), [neutral(row) for row in scores(seed)], rtol=1e-12)
        assert (log_p[:, GROUP].exp() == 0).all()
        np.testing.assert_allclose(log_p.exp().sum(1), 1)


def test_jensen_shannon(both):
    expected = []
    for first, second in zip(scores(0), scores(1), strict=True):
        p, q = neutral(first), neutral(second)
        mean = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        expected.append((kl(p, mean) + kl(q, mean)) / 2)
    np.testing.assert_allclose(jensen_shannon(*both), expected, rtol=1e-10)
    np.testing.assert_allclose(jensen_shannon(*both), jensen_shannon(*both[::-1]))
    np.testing.assert_allclose(jensen_shannon(both[0], both[0]), 0, atol=1e-15)


def test_jensen_shannon_of_what_has_nothing_in_common_is_log_two():
    log_p = torch.tensor([[60.0, 0.0, 0.0]]).log_softmax(-1)
    log_q = torch.tensor([[0.0, 60.0, 0.0]]).log_softmax(-1)
    assert jensen_shannon(log_p, log_q).item() == pytest.approx(math.log(2), rel=1e-6)


def test_a_group_word_moves_nothing():
    changed = scores(0)
    changed[:, GROUP] += 5
    log_p, log_q = (neutral_log_probs(logits, torch.tensor(GROUP)) for logits in (scores(0), changed))
    np.testing.assert_allclose(jensen_shannon(log_p, log_q), 0, atol=1e-12)


def test_divergences(both):
    log_p, log_q = both
    original = [neutral_log_probs(scores(seed), torch.tensor(GROUP)) for seed in (2, 3)]
    expected, expected_from_mean = [], []
    for rows in zip(*(scores(seed) for seed in range(4)), strict=True):
        p, q, first, second = map(neutral, rows)
        mean = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
        expected.append(kl(p, q))
        expected_from_mean.append((kl(mean, p) + kl(mean, q)) / 2)
    np.testing.assert_allclose(divergence(log_p, log_q), expected, rtol=1e-10)
    np.testing.assert_allclose(divergence_from_mean(log_p, log_q, *original), expected_from_mean, rtol=1e-10)


def test_the_mean_of_the_originals_is_where_the_divergence_from_it_is_least():
    original = [neutral_log_probs(scores(seed), torch.tensor(GROUP)) for seed in (2, 3)]
    mean = torch.stack([o.exp() for o in original]).mean(0).clamp_min(1e-300).log()
    np.testing.assert_allclose(divergence_from_mean(mean, mean, *original), 0, atol=1e-12)
    assert (divergence_from_mean(*original, *original) > 0.01).all()


def test_log_odds_and_their_loss():
    logits = scores(0)
    own, partner = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([4, 3, 1, 0, 8])
    log_p = logits.log_softmax(-1).numpy()
    expected = [log_p[i, a] - log_p[i, b] for i, (a, b) in enumerate(zip(own, partner, strict=True))]
    d = log_odds(logits, own, partner)
    np.testing.assert_allclose(d, expected, rtol=1e-12)
    for target in (0.0, torch.full((PLACES,), 1.5, dtype=torch.float64)):
        apart = [abs(value - float(torch.as_tensor(target).max())) for value in expected]
        loss = [a * a / 2 if a < 1 else a - 0.5 for a in apart]
        np.testing.assert_allclose(log_odds_loss(d, target), loss, rtol=1e-12)
    assert min(apart) < 1 < max(apart)


def test_the_target_of_agreement():
    original, other = torch.tensor([3.0, -2.0, 1.0]), torch.tensor([2.0, 1.0, 2.0])
    assert agreement_target(original, other, 1.0).tolist() == [2.5, 1.0, 1.5]
    assert agreement_target(original, other, 2.0).tolist() == [2.5, 2.0, 2.0]


def test_states():
    states, others = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[4.0, 6.0], [0.0, 2.0]])
    assert half_square_distance(states, others).tolist() == [12.5, 2.0]
    own, partner = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    gaps = cosine_gap(torch.tensor([[3.0, 4.0], [1.0, 5.0]]), own, partner)
    np.testing.assert_allclose(gaps, [0.2, 0.0], atol=1e-7)


def test_gradients():
    logits, others = scores(0).requires_grad_(), scores(1).requires_grad_()
    originals = [neutral_log_probs(scores(seed), torch.tensor(GROUP)) for seed in (2, 3)]
    own, partner = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([4, 3, 1, 0, 8])

    def terms(first, second):
        log_p, log_q = (neutral_log_probs(x, torch.tensor(GROUP)) for x in (first, second))
        return (
            jensen_shannon(log_p, log_q),
            divergence_from_mean(log_p, log_q, *originals),
            divergence(scores(4).log_softmax(-1), second.log_softmax(-1)),
            log_odds_loss(log_odds(first, own, partner), 0.3),
        )

    assert torch.autograd.gradcheck(terms, (logits, others))


def test_gradients_of_measures():
    states = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda a, b, c: (half_square_distance(a, b), cosine_gap(a, b, c)), states)
