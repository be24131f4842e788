"""Counts, means and within-class scatter of features, one pass, mergeable."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from equiframe.errors import InputError


class ClassStatistics:
    """Count, mean and within-class scatter of features, per class, in one pass.

    A class is a token id, a feature the state that the output embedding multiplies. The whole state is
    three tensors, and every collapse metric is a function of them:

        counts   [classes]       int64    samples seen, n_c
        means    [classes, dim]  dtype    mu_c, zero where n_c = 0
        scatter  [classes]       float64  sum of ||h - mu_c||^2 over the samples of c

    Merging two states is exact up to rounding and does not depend on order, so batches, files, ranks and
    resumed runs are one operation. Scatter is kept about its own mean: a difference of raw sums would lose
    every digit when a class is collapsed, which is what we measure.

    Args:
        class_ids: token ids to follow, [classes], unique; others are ignored by ``update``.
        dim: width of a feature.
        dtype: precision of the means, float32 or float64.
        device: where the state lives; that of ``class_ids`` by default.

    Raises:
        InputError: ids repeat or are not a vector of integers, or the precision is under float32.

    Reference: Chan, Golub and LeVeque 1983 (merging); Wu and Papyan 2024 (tokens as classes).

    Example:
        >>> left = ClassStatistics(torch.tensor([7, 9]), dim=2)
        >>> left.update(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([7, 7])).counts
        tensor([2, 0])
        >>> left.variances
        tensor([1., nan], dtype=torch.float64)
    """

    def __init__(
        self,
        class_ids: Tensor,
        dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype {dtype} is too coarse to accumulate in: choose torch.float32 or torch.float64")
        if class_ids.ndim != 1 or class_ids.is_floating_point():
            raise InputError(f"class_ids must be a vector of integers, got {class_ids.dtype} {list(class_ids.shape)}")
        self.class_ids = class_ids.to(device=device, dtype=torch.int64)
        self._sorted_ids, self._order = self.class_ids.sort()
        if (self._sorted_ids[1:] == self._sorted_ids[:-1]).any():
            raise InputError("class_ids repeat: give each token id once, e.g. torch.unique(class_ids)")
        place = self.class_ids.device
        self.counts = torch.zeros(len(class_ids), dtype=torch.int64, device=place)
        self.means = torch.zeros(len(class_ids), dim, dtype=dtype, device=place)
        self.scatter = torch.zeros(len(class_ids), dtype=torch.float64, device=place)

    def update(self, features: Tensor, token_ids: Tensor) -> ClassStatistics:
        """Add a batch, in place.

        Touches only the rows of classes that occur: O(tokens * dim), free of the number of classes.

        Args:
            features: [tokens, dim], any floating type; detached.
            token_ids: the class of each, int64 [tokens].

        Raises:
            InputError: lengths or ``dim`` differ, or a feature is not finite (its position is named).
        """
        dim = self.means.shape[1]
        if features.ndim != 2 or features.shape[1] != dim or token_ids.shape != features.shape[:1]:
            raise InputError(
                f"features must be [tokens, {dim}] with one token id each, got features {list(features.shape)}"
                f" and token_ids {list(token_ids.shape)}"
            )
        if len(self.class_ids) == 0 or len(token_ids) == 0:
            return self
        slots = torch.searchsorted(self._sorted_ids, token_ids).clamp_(max=len(self.class_ids) - 1)
        followed = self._sorted_ids[slots] == token_ids
        classes, members, counts = torch.unique(self._order[slots[followed]], return_inverse=True, return_counts=True)
        samples = features.detach()[followed].to(self.means.dtype)
        sums = self.means.new_zeros(len(classes), dim).index_add_(0, members, samples)
        means = sums / counts.unsqueeze(1)
        residuals = samples - means[members]
        scatter = self.scatter.new_zeros(len(classes)).index_add_(0, members, residuals.square().sum(1).double())
        if not torch.isfinite(scatter).all():
            where = int((~torch.isfinite(samples).all(dim=1)).nonzero()[0]) if not samples.isfinite().all() else 0
            token = int(followed.nonzero()[where])
            raise InputError(
                f"feature {token} of the batch (token id {int(token_ids[token])}) is not finite, or its square"
                " overflows: look for a broken model or half precision"
            )
        self._add(classes, counts, means, scatter)
        return self

    def merge(self, other: ClassStatistics) -> ClassStatistics:
        """Add another state over the same classes, in place.

        Raises:
            InputError: the classes differ; the first that does is named.
        """
        if len(self.class_ids) != len(other.class_ids) or self.means.shape != other.means.shape:
            raise InputError(
                f"cannot merge {list(other.means.shape)} into {list(self.means.shape)}: [classes, dim] must agree"
            )
        differs = (self.class_ids != other.class_ids.to(self.class_ids.device)).nonzero()
        if len(differs):
            at = int(differs[0])
            raise InputError(
                f"cannot merge: class {at} is token {int(self.class_ids[at])} here and"
                f" {int(other.class_ids[at])} there; select the same class_ids first"
            )
        seen = (other.counts > 0).nonzero().squeeze(1)
        place = self.means.device
        parts = (other.counts[seen], other.means[seen], other.scatter[seen])
        self._add(seen.to(place), *(part.to(place) for part in parts))
        return self

    def _add(self, rows: Tensor, counts: Tensor, means: Tensor, scatter: Tensor) -> None:
        """Join samples summed up as counts > 0, means and scatter into distinct rows."""
        before = self.counts[rows]
        after = before + counts
        delta = means.to(self.means.dtype) - self.means[rows]
        between = delta.double().square().sum(1) * before * counts / after
        self.counts[rows] = after
        self.means[rows] += delta * (counts / after).to(delta.dtype).unsqueeze(1)
        self.scatter[rows] += scatter + between

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> ClassStatistics:
        """Give every rank the statistics of all ranks, in place; without a process group nothing happens.

        Each mean enters with its share of the count, so that no sum grows with the number of samples:
        mu = sum_r (n_r / n) mu_r, then scatter = sum_r (scatter_r + n_r ||mu_r - mu||^2).
        """
        if not dist.is_available() or not dist.is_initialized():
            return self
        local = self.counts.clone()
        dist.all_reduce(self.counts, group=group)
        share = local / self.counts.clamp(min=1)
        means = self.means * share.to(self.means.dtype).unsqueeze(1)
        dist.all_reduce(means, group=group)
        self.scatter += local * (self.means - means).double().square().sum(1)
        dist.all_reduce(self.scatter, group=group)
        self.means = means
        return self

    def select(self, class_ids: Tensor, *, min_count: int = 1) -> ClassStatistics:
        """The statistics of those of ``class_ids`` seen at least ``min_count`` times; unknown ids are left out."""
        ids = class_ids.to(self.class_ids)
        if len(self.class_ids) == 0:
            return ClassStatistics(ids[:0], self.means.shape[1], dtype=self.means.dtype)
        slots = torch.searchsorted(self._sorted_ids, ids).clamp_(max=len(self.class_ids) - 1)
        rows = self._order[slots[self._sorted_ids[slots] == ids]]
        rows = rows[self.counts[rows] >= min_count]
        chosen = ClassStatistics(self.class_ids[rows], self.means.shape[1], dtype=self.means.dtype)
        chosen.counts, chosen.means, chosen.scatter = self.counts[rows], self.means[rows], self.scatter[rows]
        return chosen

    def seen(self, min_count: int = 1) -> ClassStatistics:
        """The statistics of all classes with at least ``min_count`` samples."""
        return self.select(self.class_ids, min_count=min_count)

    @property
    def variances(self) -> Tensor:
        """Within-class variance scatter / n_c, population form, float64 [classes]; nan where n_c = 0."""
        return self.scatter / self.counts
