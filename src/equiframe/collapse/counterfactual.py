"""Counterfactual collapse: how close are the contexts of a text and of its counterfactual, position by position?

A text and its counterfactual (the words of one group swapped for those of another) are read side by side. The training
method and the audit call the same functions.
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
    "A text is read side by side with the same text in which the words of two groups are swapped. Words are swapped"
    " without regard to grammar, so a swapped text may sound odd. Agreement is not a bias: if it falls, the model"
    " no longer follows what the text says.",
    {
        "cc1_js": Term(
            "CC1, variability of predictions",
            "Jensen-Shannon divergence of the predictions in the two texts, without the words of the groups",
        ),
        "cc1_states": Term(
            "CC1, variability of states",
            "half the squared distance of the two states, divided by the mean squared distance from the mean state",
        ),
        "cc3_log_odds": Term(
            "CC3, pair duality (log-odds)", "size of the preference between two counterparts in a neutral context"
        ),
        "cc3_cosine_gap": Term(
            "CC3, pair duality (cosines)", "how much closer a neutral context is to one of two counterparts"
        ),
        "agreement": Term(
            "agreement with the context",
            "share of swapped words whose group the context gives where the agreeing word is likelier",
        ),
        "agreement_log_odds": Term("log-odds of the agreeing word", "mean over the same words", True),
    },
    (("Qian et al. 2019", "https://aclanthology.org/P19-2031"),),
)


def neutral_log_probs(logits: Tensor, group_ids: Tensor) -> Tensor:
    """log p_N: the softmax over all tokens except those of the groups, whose probability is 0.

    What follows "The man said that" may differ from what follows "The woman said that" in "he" and "she", but in
    nothing else. So these words are left out before two contexts are compared.

    Args:
        logits: [places, vocabulary].
        group_ids: tokens that are left out, [groups].

    Returns:
        Natural log-probabilities, [places, vocabulary]; a finite number far below all others at ``group_ids``.
    """
    return logits.index_fill(-1, group_ids, _NEVER).log_softmax(-1)


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two distributions in nats, between 0 and log 2.

    Args:
        log_p: natural log-probabilities, [places, vocabulary].
        log_q: those of the other distribution, same shape.

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
        log_q: those of the other distribution, same shape.

    Returns:
        [places].
    """
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def divergence_from_mean(log_p: Tensor, log_q: Tensor, original_p: Tensor, original_q: Tensor) -> Tensor:
    """(KL(m || p) + KL(m || q)) / 2, where m is the mean of two original distributions.

    Args:
        log_p: natural log-probabilities in a text, [places, vocabulary].
        log_q: in its counterfactual, same shape.
        original_p: natural log-probabilities of the original model in the text, same shape.
        original_q: in its counterfactual, same shape.

    Returns:
        Nats, [places].
    """
    log_mean = torch.logaddexp(original_p, original_q) - math.log(2)
    return (log_mean.exp() * (log_mean - (log_p + log_q) / 2)).sum(-1)


def log_odds(logits: Tensor, own: Tensor, partner: Tensor) -> Tensor:
    """d = log p(own) - log p(partner), at positions with one of two counterparts.

    Args:
        logits: [places, vocabulary].
        own: the token in the text, [places].
        partner: its counterpart, [places].

    Returns:
        Nats, [places]; positive where the token in the text is preferred.

    Reference: Qian et al. 2019, "Reducing gender bias in word-level language models with a gender-equalizing loss
    function", which trains \\|d\\| to 0 at every such position, whether or not the context tells the group.
    """
    return (logits.gather(-1, own[:, None]) - logits.gather(-1, partner[:, None])).squeeze(-1)


def log_odds_loss(d: Tensor, target: Tensor | float = 0.0) -> Tensor:
    """Smooth-L1 between d and its target, per position: half the squared difference up to 1 nat, then linear.

    Args:
        d: see :func:`log_odds`, [places].
        target: 0 where the context is neutral; see also :func:`agreement_target`.

    Returns:
        [places].

    Reference: Girshick 2015 (smooth-L1).
    """
    return F.smooth_l1_loss(d, torch.as_tensor(target, dtype=d.dtype, device=d.device).expand_as(d), reduction="none")


def agreement_target(original: Tensor, other: Tensor, least: float) -> Tensor:
    """How strongly both groups should agree with their context: the mean log-odds of the original model for the two.

    Args:
        original: d of the original model in a text, where the context gives the group, [places].
        other: the same in its counterfactual, [places].
        least: the smallest target, in nats.

    Returns:
        Nats, [places].
    """
    return ((original + other) / 2).clamp_min(least)


def half_square_distance(states: Tensor, others: Tensor) -> Tensor:
    """||h - h'||^2 / 2: the variance of a class of two samples, the context of a text and of its counterfactual.

    CC1 of states is its mean divided by the mean squared distance of all these states from their mean: the share of
    the variance that is due to the groups, 0 if contexts collapse and 1 if the two differ as any two contexts do.

    Args:
        states: [places, dim].
        others: at the same positions of the counterfactual, same shape.

    Returns:
        [places].
    """
    return (states - others).square().sum(-1) / 2


def cosine_gap(states: Tensor, own: Tensor, partner: Tensor) -> Tensor:
    """|cos(h, w_own) - cos(h, w_partner)|: how much closer a neutral context is to one of two counterparts.

    Args:
        states: at positions with a neutral context, [places, dim].
        own: output embeddings of the tokens in the text, same shape.
        partner: output embeddings of their counterparts, same shape.

    Returns:
        Between 0 and 2, [places].
    """
    return (F.cosine_similarity(states, own, dim=-1) - F.cosine_similarity(states, partner, dim=-1)).abs()
