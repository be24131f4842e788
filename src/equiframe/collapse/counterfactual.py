"""Counterfactual collapse: do the contexts of a text and of its counterfactual fall together? One place at a time.

A text and its counterfactual (the words of one group swapped for those of another) are read side by side. The method
that trains and the audit that measures call the same functions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from equiframe.about import About, Term

_NEVER = -1e9  # a logit whose probability is 0, and whose product with 0 is 0

ABOUT_CONTEXTS = About(
    "Contexts and their counterfactuals",
    "A text and the same text with the words of two groups swapped are read side by side. Swapping knows no"
    " grammar, and a swapped text may be odd. Agreement is no bias: where it falls, the model has gone blind to"
    " what the text says.",
    {
        "cc1_js": Term(
            "CC1, variability of predictions",
            "Jensen-Shannon divergence of what follows in the two texts, words of the groups left out",
        ),
        "cc1_states": Term(
            "CC1, variability of states",
            "half the squared distance of the two states over that from the mean of all",
        ),
        "cc3_log_odds": Term(
            "CC3, pair duality (log-odds)", "size of the preference between two counterparts in a neutral context"
        ),
        "cc3_cosine_gap": Term(
            "CC3, pair duality (cosines)", "how much nearer a neutral context lies to one of two counterparts"
        ),
        "agreement": Term("agreement with the context", "share of later swapped words where the agreeing one wins"),
        "agreement_log_odds": Term("log-odds of the agreeing word", "mean over later swapped words", True),
    },
    (("Qian et al. 2019", "https://aclanthology.org/P19-2031"),),
)


def neutral_log_probs(logits: Tensor, group_ids: Tensor) -> Tensor:
    """log p_N: the softmax over all tokens but those of the groups, whose probability is 0.

    What follows "The man said that" may differ from what follows "The woman said that" in "he" and "she", and in
    nothing else: so these are left out before two contexts are compared.

    Args:
        logits: [places, vocabulary].
        group_ids: tokens that are left out, [groups].

    Returns:
        Natural log-probabilities, [places, vocabulary]; a finite number far below any other at ``group_ids``.
    """
    return logits.index_fill(-1, group_ids, _NEVER).log_softmax(-1)


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two distributions in nats, between 0 and log 2.

    Args:
        log_p: natural log-probabilities, [places, vocabulary].
        log_q: of the other, alike.

    Returns:
        [places].

    Reference: Lin 1991; Guo et al. 2022, "Auto-Debias", which minimises it between prompts of two groups.
    """
    p, q = log_p.exp(), log_q.exp()
    mean = (p + q) / 2
    log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
    return (p * (log_p - log_mean) + q * (log_q - log_mean)).sum(-1) / 2


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p || q) in nats.

    Args:
        log_p: natural log-probabilities, [places, vocabulary].
        log_q: of the other, alike.

    Returns:
        [places].
    """
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def divergence_from_mean(log_p: Tensor, log_q: Tensor, original_p: Tensor, original_q: Tensor) -> Tensor:
    """(KL(m || p) + KL(m || q)) / 2, m the mean of two original distributions: the two may meet in the middle.

    Args:
        log_p: natural log-probabilities in a text, [places, vocabulary].
        log_q: in its counterfactual, alike.
        original_p: natural log-probabilities of the original model in the text, alike.
        original_q: in its counterfactual, alike.

    Returns:
        Nats, [places].
    """
    log_mean = torch.logaddexp(original_p, original_q) - math.log(2)
    return (log_mean.exp() * (log_mean - (log_p + log_q) / 2)).sum(-1)


def log_odds(logits: Tensor, own: Tensor, partner: Tensor) -> Tensor:
    """d = log p(own) - log p(partner), at places where one of two counterparts stands.

    Args:
        logits: [places, vocabulary].
        own: the token that stands there, [places].
        partner: its counterpart, [places].

    Returns:
        Nats, [places]; positive where the token that stands there is preferred.

    Reference: Qian et al. 2019, "Reducing gender bias in word-level language models with a gender-equalizing loss
    function", which trains \\|d\\| to 0 at every such place, whether the context tells the group or not.
    """
    return (logits.gather(-1, own[:, None]) - logits.gather(-1, partner[:, None])).squeeze(-1)


def log_odds_loss(d: Tensor, target: Tensor | float = 0.0) -> Tensor:
    """Smooth-L1 between d and its target, per place: half the square up to 1 nat apart, beyond that linear.

    Args:
        d: see :func:`log_odds`, [places].
        target: 0 where the context is neutral; see :func:`agreement_target`.

    Returns:
        [places].

    Reference: Girshick 2015 (smooth-L1).
    """
    return F.smooth_l1_loss(d, torch.as_tensor(target, dtype=d.dtype, device=d.device).expand_as(d), reduction="none")


def agreement_target(original: Tensor, other: Tensor, least: float) -> Tensor:
    """How strongly both groups shall agree with their context: the mean of what the original model says of the two.

    Args:
        original: d of the original model in a text, where the context gives the group, [places].
        other: the same in its counterfactual, [places].
        least: nats; no target is below it.

    Returns:
        Nats, [places].
    """
    return ((original + other) / 2).clamp_min(least)


def half_square_distance(states: Tensor, others: Tensor) -> Tensor:
    """||h - h'||^2 / 2: the variance of a class of two samples, the context of a text and of its counterfactual.

    CC1 of states is its mean over the mean squared distance of all these states from their mean: the share of the
    variance that the groups make, 0 where contexts collapse and 1 where the two are like any two contexts.

    Args:
        states: [places, dim].
        others: at the same places of the counterfactual, alike.

    Returns:
        [places].
    """
    return (states - others).square().sum(-1) / 2


def cosine_gap(states: Tensor, own: Tensor, partner: Tensor) -> Tensor:
    """|cos(h, w_own) - cos(h, w_partner)|: how much nearer a neutral context lies to one of two counterparts.

    Args:
        states: at places with a neutral context, [places, dim].
        own: output embedding of the token that stands there, alike.
        partner: of its counterpart, alike.

    Returns:
        Between 0 and 2, [places].
    """
    return (F.cosine_similarity(states, own, dim=-1) - F.cosine_similarity(states, partner, dim=-1)).abs()
