"""Class means beside the rows of the classifier: self-duality NC3, its uniformity (U)NC3, and decisions, NC4.

Notation: mu_c the mean of class c, mu_G the unweighted mean of the class means, m_c = mu_c - mu_G,
s2_c the within-class variance, w_c the classifier row, u(x) = x / ||x||.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from equiframe.collapse.centring import centred_beside_rows
from equiframe.errors import InputError

_LOGITS = 1 << 24  # samples times classes decided on at a time


def duality_cosines(means: Tensor, classifier: Tensor) -> Tensor:
    """Alignment of each class mean with its classifier row, cos(mu_c - mu_G, w_c).

    Args:
        means: class means, [classes, dim]; mu_G is their unweighted mean, so that the cosine of one class
            depends on which others stand beside it.
        classifier: rows of the output embedding for the same classes, [classes, dim].

    Returns:
        [classes], in [-1, 1], ideal 1, differentiable in both. A zero vector counts as cosine 0.

    Raises:
        InputError: shapes differ, or fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC3.

    Example:
        >>> duality_cosines(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        tensor([1., 0.])
    """
    return F.cosine_similarity(*centred_beside_rows(means, classifier), dim=1)


def self_duality(means: Tensor, classifier: Tensor) -> Tensor:
    """Mean alignment of class means with their classifier rows, NC3.

    Args:
        means: class means, [classes, dim].
        classifier: rows of the output embedding for the same classes, [classes, dim].

    Returns:
        The mean over classes of cos(mu_c - mu_G, w_c), a scalar in [-1, 1], differentiable in both. Ideal
        1; higher is more collapsed.

    Raises:
        InputError: shapes differ, or fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC3.

    Example:
        >>> frame = torch.eye(4) - 1 / 4              # a simplex ETF
        >>> round(float(self_duality(frame, -frame)), 6)
        -1.0
    """
    return duality_cosines(means, classifier).mean()


def duality_distance(means: Tensor, classifier: Tensor) -> Tensor:
    """Mean distance between the directions of centred class means and of their classifier rows, NC3.

    Args:
        means: class means, [classes, dim].
        classifier: rows of the output embedding for the same classes, [classes, dim].

    Returns:
        The mean over classes of ||u(w_c) - u(m_c)||, a scalar in [0, 2]. Ideal 0; lower is more collapsed.
        The paper's code sums the coordinates of that difference instead, which is no distance.

    Raises:
        InputError: shapes differ, or fewer than two classes.

    Reference: Wu and Papyan 2024; Papyan, Han and Donoho 2020 for self-duality.

    Example:
        >>> frame = torch.eye(4) - 1 / 4              # a simplex ETF
        >>> round(float(duality_distance(frame, -frame)), 6)
        2.0
    """
    vectors, rows = centred_beside_rows(means, classifier)
    return (F.normalize(rows, dim=1) - F.normalize(vectors, dim=1)).norm(dim=1).mean()


def uniform_duality(means: Tensor, classifier: Tensor) -> Tensor:
    """Spread of the alignment between class means and their classifier rows, (U)NC3.

    The standard deviation over classes of cos(mu_c - mu_G, w_c). It is blind to how good the alignment is:
    read it beside :func:`self_duality`, its mean.

    Args:
        means: class means, [classes, dim], every class seen, at least two.
        classifier: rows of the output embedding for the same classes, [classes, dim].

    Returns:
        A scalar in [0, sqrt(2)], n - 1 form, differentiable in both arguments (the gradient at 0 is 0).
        Ideal 0: each word is as well aligned as every other. Lower is more collapsed.

    Raises:
        InputError: shapes differ, or fewer than two classes.

    Reference: Xu et al. 2025, (U)NC3; Papyan, Han and Donoho 2020 for self-duality.

    Example:
        >>> frame = torch.eye(4) - 1 / 4              # a simplex ETF, dual to itself
        >>> bool(uniform_duality(frame, 3 * frame) < 1e-6)
        True
    """
    return duality_cosines(means, classifier).std()


def decision_agreement(features: Tensor, means: Tensor, classifier: Tensor, bias: Tensor | None = None) -> Tensor:
    """Share of samples that nearest class mean and linear classifier decide alike, NC4.

    Whether the decision is right plays no part. Give features that did not enter the means.

    Args:
        features: samples, [tokens, dim].
        means: class means, [classes, dim], every class seen.
        classifier: rows of the output embedding for the same classes, [classes, dim].
        bias: [classes]; with it the linear decision is the model's own among these classes. The paper's code
            leaves it out.

    Returns:
        A scalar in [0, 1], float64; ideal 1, higher is more collapsed. nan without samples.

    Raises:
        InputError: shapes differ, or fewer than two classes.

    Reference: Papyan, Han and Donoho 2020, NC4.

    Example:
        >>> frame = torch.eye(4) - 1 / 4              # a simplex ETF, dual to itself
        >>> float(decision_agreement(frame, frame, frame))
        1.0
    """
    vectors, rows = centred_beside_rows(means, classifier)
    if features.ndim != 2 or features.shape[1] != means.shape[1]:
        raise InputError(f"features must be [tokens, {means.shape[1]}], got {list(features.shape)}")
    if bias is not None and bias.shape != means.shape[:1]:
        raise InputError(f"bias must be [{len(means)}] as the classes are, got {list(bias.shape)}")
    # ||h - mu_c||^2 is least where (h - mu_G) m_c - ||m_c||^2 / 2 is greatest.
    offsets = -0.5 * vectors.square().sum(1)
    centre = means.to(rows.dtype).mean(dim=0)
    bias = None if bias is None else bias.to(rows.dtype)
    agreed = torch.zeros((), dtype=torch.int64, device=means.device)
    for part in features.split(max(1, _LOGITS // len(means))):
        part = part.to(rows.dtype)
        nearest = F.linear(part - centre, vectors, offsets).argmax(1)
        agreed += (nearest == F.linear(part, rows, bias).argmax(1)).sum()
    return agreed.double() / len(features)
