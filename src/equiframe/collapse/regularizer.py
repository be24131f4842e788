"""The (U)NC3 term as a module that turns the features and labels of a batch into a loss term."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from equiframe.errors import InputError


class UNC3Regularizer(nn.Module):
    """lambda times the standard deviation, over the words seen so far, of cos(class mean, word embedding).

    L = weight * std_c cos(mu_c - mu_G, w_c), over the classes c seen so far; mu_G is the mean of their
    means. Each call in training mode first adds the batch to the means. By default, as in the paper, these
    are means over the whole run, of detached features, so that the gradient rotates the rows of the
    classifier (it is orthogonal to each row) and reaches nothing else.

    The term is exactly zero, with a graph and a gradient of zero, until two classes are seen. In evaluation
    mode the means do not change. The state is in buffers, so that training resumes exactly from a checkpoint.
    No operation synchronises with the device.

    With torch.distributed, counts and sums of each batch are summed over ranks, so that every rank has the
    same term as a single process. A trainer that averages gradients over ranks, as DDP does, does not change
    the gradient of the rows. The gradient through the features is distributed over the ranks, each of which
    has the part of its own samples; it is multiplied by the number of ranks, so that the average is again
    the gradient of a single process.

    Args:
        class_ids: token ids of the words, [classes], unique.
        dim: width of a feature.
        weight: lambda.
        warmup_steps: calls in training mode during which lambda rises linearly from 0.
        memory: ``run``, means over all samples so far; ``ema``, per class the exponential moving average of
            its batch means, over the batches that contain it.
        decay: of the moving average; with 0 only the last batch counts.
        through_features: let the gradient pass through the current batch's share of the means. With ``run``
            this share, and so the gradient, falls as 1 / samples so far; with ``ema`` it stays 1 - decay.

    Raises:
        InputError: an option out of range, ids that repeat, or (on call) shapes that do not fit.

    Reference: Xu et al. 2025, the (U)NC3 regularizer.

    Example:
        >>> term = UNC3Regularizer(torch.tensor([1, 2]), dim=2, weight=10.0)
        >>> rows = torch.eye(3, 2)
        >>> bool(term(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 2]), rows) > 0)
        True
        >>> term.last_parts["classes_seen"]
        tensor(2)
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
        if warmup_steps < 0 or not 0 <= weight <= torch.finfo(torch.float32).max:
            raise InputError(f"weight {weight} and warmup_steps {warmup_steps}: give finite numbers of 0 or more")
        ids = torch.unique(class_ids)
        if len(ids) < len(class_ids):
            raise InputError("class_ids repeat: give each token id once, e.g. torch.unique(class_ids)")
        self.weight, self.warmup_steps = weight, warmup_steps
        self.memory, self.decay, self.through_features = memory, decay, through_features
        self._largest_id = int(ids[-1])
        self.register_buffer("class_ids", ids)
        self.register_buffer("counts", torch.zeros(len(ids), dtype=torch.int64))
        self.register_buffer("means", torch.zeros(len(ids), dim))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.last_parts: dict[str, Tensor] = {}

    def forward(self, features: Tensor, token_ids: Tensor, classifier: Tensor) -> Tensor:
        """The weighted term.

        Args:
            features: of all or some tokens of the batch, [tokens, dim].
            token_ids: the class of each, [tokens]; other classes are ignored.
            classifier: the whole output embedding, [vocabulary, dim]. If FSDP2 shards its rows over the
                ranks (a DTensor), only the rows of the words are gathered.

        Returns:
            A scalar >= 0. ``last_parts`` then holds, detached: ``unc3``, the spread itself; ``unc3_weight``;
            ``mean_cosine``, which may fall while the spread falls; and ``classes_seen``.
        """
        dim = self.means.shape[1]
        if (
            features.ndim != 2
            or features.shape[1] != dim
            or token_ids.shape != features.shape[:1]
            or classifier.shape[1:] != (dim,)
        ):
            raise InputError(
                f"features {list(features.shape)}, token_ids {list(token_ids.shape)}, classifier"
                f" {list(classifier.shape)}: expected [tokens, {dim}], [tokens] and [vocabulary, {dim}]"
            )
        if len(classifier) <= self._largest_id:
            raise InputError(
                f"class_ids go up to {self._largest_id}, the classifier has {len(classifier)} rows: give the whole"
                " output embedding"
            )
        means = self._updated_means(features, token_ids) if self.training else self.means
        seen = self.counts > 0
        number = seen.sum()
        centre = (means * seen.unsqueeze(1)).sum(0) / number.clamp(min=1)
        cosines = F.cosine_similarity(means - centre, rows(classifier, self.class_ids).to(means.dtype), dim=1)
        mean_cosine = (cosines * seen).sum() / number.clamp(min=1)
        variance = ((cosines - mean_cosine).square() * seen).sum() / (number - 1).clamp(min=1)
        spread = torch.where(variance > 0, variance, 1.0).sqrt() * (variance > 0)  # no infinite slope at 0
        weight = torch.full_like(spread, self.weight)
        if self.warmup_steps:
            weight = weight * (self.steps / self.warmup_steps).clamp(max=1.0)
        self.last_parts = {
            "unc3": spread.detach(),
            "unc3_weight": weight.detach(),
            "mean_cosine": mean_cosine.detach(),
            "classes_seen": number,
        }
        return weight * spread

    def reset(self) -> None:
        """Forget the class means, as ADEPT does in each epoch. The warm-up continues."""
        self.counts.zero_()
        self.means.zero_()

    def _updated_means(self, features: Tensor, token_ids: Tensor) -> Tensor:
        """Add a batch to the state and return the new means, with the graph of the batch if gradients may pass."""
        classes = len(self.class_ids)
        slots = torch.searchsorted(self.class_ids, token_ids).clamp_(max=classes - 1)
        slots = torch.where(self.class_ids[slots] == token_ids, slots, classes)  # the extra row is removed below
        samples = features.to(self.means.dtype)
        if not self.through_features:
            samples = samples.detach()
        sums = self.means.new_zeros(classes + 1, self.means.shape[1]).index_add(0, slots, samples)[:-1]
        counts = self.counts.new_zeros(classes + 1).index_add_(0, slots, torch.ones_like(slots))[:-1]
        if dist.is_available() and dist.is_initialized():
            ranks, own = dist.get_world_size(), sums
            sums = own.detach().clone()
            dist.all_reduce(sums)
            dist.all_reduce(counts)
            sums = sums + ranks * (own - own.detach())  # value of all ranks, gradient of this rank
        batch_means = sums / counts.clamp(min=1).unsqueeze(1)
        total = self.counts + counts
        share = counts / total.clamp(min=1)
        if self.memory == "ema":
            share = torch.where(self.counts > 0, (counts > 0) * (1 - self.decay), share)
        means = self.means + share.unsqueeze(1) * (batch_means - self.means)
        self.means.copy_(means.detach())
        self.counts.copy_(total)
        self.steps.add_(1)
        return means


def rows(matrix: Tensor, at: Tensor) -> Tensor:
    """Rows of a matrix [rows, dim] that may be sharded over ranks, gathered on every rank.

    Each rank keeps the gradient of its own rows, neither summed nor averaged, so every rank must compute the same
    function of the result, as for (U)NC3.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return matrix[at]
    from torch.distributed.tensor import DTensor, Shard

    if not isinstance(matrix, DTensor):
        return matrix[at]
    if matrix.placements != (Shard(0),):
        return matrix.full_tensor()[at]
    local, mesh = matrix.to_local(), matrix.device_mesh
    places = at - mesh.get_local_rank() * -(-len(matrix) // mesh.size())  # within this rank's rows
    is_own = (places >= 0) & (places < len(local))
    own = torch.zeros(len(at), matrix.shape[1], dtype=local.dtype, device=at.device)
    own = own.index_put((is_own,), local[places[is_own].to(local.device)].to(at.device))
    every = own.detach().clone()
    dist.all_reduce(every, group=mesh.get_group())
    return every + (own - own.detach())
