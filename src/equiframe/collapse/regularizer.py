"""The (U)NC3 term as a module: features and labels of a batch in, a loss term out."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from equiframe.errors import InputError


class UNC3Regularizer(nn.Module):
    """lambda times the spread, over the words seen so far, of cos(class mean, word embedding).

    Each call in training mode adds the batch to the class means and returns the term. By default, as in the
    paper, the means are those of the whole run, of features cut off from the graph, so that the gradient
    turns the rows of the classifier (it is orthogonal to each row) and reaches nothing else.

    The term is an exact zero, with a graph, until two classes are seen. In evaluation mode nothing is
    added. The state is in buffers: a checkpoint that holds them resumes exactly. With torch.distributed,
    counts and sums of a batch are reduced over ranks, so that value and gradient are those of one process
    (a trainer that averages gradients over ranks, as DDP does, leaves them so: each rank has the same term).

    Args:
        class_ids: token ids of the words, [classes], unique.
        dim: width of a feature.
        weight: lambda.
        warmup_steps: training calls over which lambda rises linearly from 0.
        memory: ``run``, means over all samples so far; ``ema``, per class the exponential moving average of
            its batch means, over the batches that contain it.
        decay: of the moving average; 0 keeps the last batch alone.
        through_features: let the gradient through the current batch's share of the means.

    Raises:
        InputError: an option out of range, ids that repeat, or (on call) shapes that do not fit.

    Reference: Xu et al. 2025, the (U)NC3 regularizer.

    Example:
        >>> term = UNC3Regularizer(torch.tensor([1, 2]), dim=2, weight=10.0)
        >>> rows = torch.eye(3, 2, requires_grad=True)
        >>> float(term(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 2]), rows)) > 0
        True
    """

    class_ids: Tensor
    counts: Tensor
    means: Tensor
    steps: Tensor

    def __init__(
        self,
        class_ids: Tensor,
        dim: int,
        *,
        weight: float,
        warmup_steps: int = 0,
        memory: Literal["run", "ema"] = "run",
        decay: float = 0.9,
        through_features: bool = False,
    ) -> None:
        super().__init__()
        if len(class_ids) < 2:
            raise InputError(f"(U)NC3 is a spread over words and needs two or more, got {len(class_ids)}")
        if memory not in ("run", "ema"):
            raise InputError(f"memory {memory!r}: choose 'run' or 'ema'")
        if not 0 <= decay < 1:
            raise InputError(f"decay {decay}: give a number from 0 up to, not including, 1")
        if warmup_steps < 0 or not weight >= 0:
            raise InputError(f"weight {weight} and warmup_steps {warmup_steps} must not be negative")
        ids = torch.unique(class_ids)
        if len(ids) < len(class_ids):
            raise InputError("class_ids repeat: give each token id once, e.g. torch.unique(class_ids)")
        self.weight, self.warmup_steps = weight, warmup_steps
        self.memory, self.decay, self.through_features = memory, decay, through_features
        self.register_buffer("class_ids", ids)
        self.register_buffer("counts", torch.zeros(len(ids)))
        self.register_buffer("means", torch.zeros(len(ids), dim))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.last_parts: dict[str, Tensor] = {}

    def forward(self, features: Tensor, token_ids: Tensor, classifier: Tensor) -> Tensor:
        """The weighted term.

        Args:
            features: [tokens, dim].
            token_ids: the class of each, [tokens]; other classes are ignored.
            classifier: the whole output embedding, [vocabulary, dim].

        Returns:
            A scalar >= 0. ``last_parts`` holds, detached: ``unc3``, ``unc3_weight``, ``mean_cosine`` and
            ``classes_seen``.
        """
        dim = self.means.shape[1]
        if features.shape[-1] != dim or classifier.shape[-1] != dim or features.shape[:-1] != token_ids.shape:
            raise InputError(
                f"features {list(features.shape)}, token_ids {list(token_ids.shape)}, classifier"
                f" {list(classifier.shape)}: expected [tokens, {dim}], [tokens] and [vocabulary, {dim}]"
            )
        means = self._updated_means(features, token_ids) if self.training else self.means
        seen = self.counts > 0
        present = seen.to(means.dtype)
        number = present.sum()
        centre = (means * present.unsqueeze(1)).sum(0) / number.clamp(min=1)
        cosines = F.cosine_similarity(means - centre, classifier[self.class_ids].to(means.dtype), dim=1)
        cosines = torch.where(seen, cosines, 0.0)
        level = cosines.sum() / number.clamp(min=1)
        variance = ((cosines - level).square() * present).sum() / (number - 1).clamp(min=1)
        spread = torch.where(variance > 0, variance, 1.0).sqrt() * (variance > 0)
        weight = self._weight()
        self.last_parts = {
            "unc3": spread.detach(),
            "unc3_weight": weight,
            "mean_cosine": level.detach(),
            "classes_seen": number,
        }
        return weight * spread

    def _weight(self) -> Tensor:
        """lambda at this step: step / warmup_steps of it during warm-up."""
        if self.warmup_steps == 0:
            return torch.tensor(self.weight, device=self.means.device)
        return self.weight * (self.steps / self.warmup_steps).clamp(max=1.0)

    def _updated_means(self, features: Tensor, token_ids: Tensor) -> Tensor:
        """Add a batch to the state; the new means, with the batch's graph if it is let through."""
        slots = torch.searchsorted(self.class_ids, token_ids).clamp_(max=len(self.class_ids) - 1)
        followed = self.class_ids[slots] == token_ids
        samples, slots = features[followed].to(self.means.dtype), slots[followed]
        if not self.through_features:
            samples = samples.detach()
        sums = torch.zeros_like(self.means).index_add(0, slots, samples)
        counts = torch.zeros_like(self.counts).index_add_(0, slots, torch.ones_like(slots, dtype=self.counts.dtype))
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
            sums = _SumOverRanks.apply(sums)
        batch_means = sums / counts.clamp(min=1).unsqueeze(1)
        total = self.counts + counts
        share = counts / total.clamp(min=1)
        if self.memory == "ema":
            share = torch.where(self.counts > 0, (counts > 0) * (1 - self.decay), share)
        means = self.means + share.unsqueeze(1) * (batch_means - self.means)
        self.means = means.detach()
        self.counts = total
        self.steps = self.steps + 1
        return means


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks whose gradient is summed over ranks too, since each rank's term depends on all samples.

    A trainer that then averages parameter gradients over ranks arrives at the gradient of one process.
    """

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient
