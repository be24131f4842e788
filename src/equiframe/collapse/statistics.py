"""Counts, means and within-class scatter of features, computed in one pass, and mergeable."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from equiframe.errors import InputError

_STATE = ("counts", "means", "scatter")
_AT_ONCE = 512  # samples: few enough that what is made of them stays in cache


class ClassStatistics:
    """Count, mean and within-class scatter of features, per class, in one pass.

    A class is a token id, and a feature is the state that the output embedding multiplies. The complete state
    consists of three tensors, and every collapse metric is a function of them:

        counts   [classes]       int64    samples seen, n_c
        means    [classes, dim]  dtype    mu_c, zero where n_c = 0
        scatter  [classes]       float64  sum of ||h - mu_c||^2 over the samples of c

    Merging two states is exact up to rounding and does not depend on the order, so batches, files, ranks and
    resumed runs need one operation only. Scatter is computed around the class mean: a difference of raw sums would
    lose every digit when a class is collapsed, which is the case of interest.

    All methods that change the state do so in place and return it.

    Args:
        class_ids: token ids to follow, [classes], unique, in any order; ``update`` ignores other ids.
        dim: width of a feature.
        dtype: precision of the means: float32, or float64 if features are large compared with the distances
            between their means.
        device: where the state is stored; that of ``class_ids`` by default.

    Raises:
        InputError: ids repeat or are not a vector of integers, or the precision is lower than float32.

    Reference: Chan, Golub and LeVeque 1983 (merging); Wu and Papyan 2024 (tokens as classes).

    Example:
        >>> left = ClassStatistics(torch.tensor([7, 9]), dim=2)
        >>> left.update(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([7, 7])).counts
        tensor([2, 0])
        >>> left.variances
        tensor([1., nan], dtype=torch.float64)
    """

    @torch.inference_mode(False)  # so that a state that was created in inference mode can be changed outside of it
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
        self.class_ids = class_ids.to(device=device, dtype=torch.int64, copy=True)
        self._index()
        if (self._sorted_ids[1:] == self._sorted_ids[:-1]).any():
            raise InputError("class_ids repeat: give each token id once, e.g. torch.unique(class_ids)")
        place = self.class_ids.device
        self.counts = torch.zeros(len(class_ids), dtype=torch.int64, device=place)
        self.means = torch.zeros(len(class_ids), dim, dtype=dtype, device=place)
        self.scatter = torch.zeros(len(class_ids), dtype=torch.float64, device=place)

    def update(self, features: Tensor, token_ids: Tensor) -> ClassStatistics:
        """Add a batch.

        Changes only the rows of classes that occur: O(tokens * dim), whatever the number of classes. After an error
        the state is unchanged.

        Features in half precision are summed in the precision of the means, but they were rounded before: with the
        unit roundoff u (2^-8 for bfloat16, 2^-11 for float16), the error of a mean is at most u times the mean
        length of its samples, and that of a standard deviation at most u times their root mean square length. If
        the standard deviation is a hundredth of the length, bfloat16 can change it by 40 %.

        Args:
            features: [tokens, dim], any floating type; detached.
            token_ids: the class of each, integers [tokens].

        Raises:
            InputError: lengths or ``dim`` differ, or a feature is not finite (its position is named).
        """
        dim = self.means.shape[1]
        if features.ndim != 2 or features.shape[1] != dim or token_ids.shape != features.shape[:1]:
            raise InputError(
                f"features must be [tokens, {dim}] with one token id each, got features {list(features.shape)}"
                f" and token_ids {list(token_ids.shape)}"
            )
        rows, followed = self._rows(token_ids)
        samples = features.detach().to(self.means.device)
        if not followed.all():  # copying all samples takes a tenth of the time
            samples, rows = samples[followed], rows[followed]
        samples = samples.to(self.means.dtype)
        lengths = torch.linalg.vector_norm(samples, dim=1)
        sound = lengths < torch.finfo(samples.dtype).max ** 0.5 / 4  # neither squares nor scatter overflow
        if not sound.all():
            position = int(followed.nonzero()[~sound][0])
            raise InputError(
                f"feature {position} of the batch (token id {int(token_ids[position])}) is not finite, or its"
                " square overflows. Check the model for broken weights, or use a higher precision"
            )
        scratch = samples.new_empty(3, min(len(rows), _AT_ONCE), dim)  # a new one per part takes half of the time
        for start in range(0, len(rows), _AT_ONCE):
            self._add(samples[start : start + _AT_ONCE], rows[start : start + _AT_ONCE], scratch)
        return self

    def merge(self, other: ClassStatistics) -> ClassStatistics:
        """Add another state over the same classes in the same order.

        Raises:
            InputError: the shapes differ, or the classes; the first that does is named.
        """
        self._check_same_classes(other.class_ids, other.means)
        seen = (other.counts > 0).nonzero().squeeze(1)
        rows, place = seen.to(self.means.device), self.means.device
        origin = self.means.index_select(0, rows)
        delta = other.means[seen].to(self.means) - origin
        self._join(rows, origin, delta, other.counts[seen].to(place), other.scatter[seen].to(place))
        return self

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> ClassStatistics:
        """Give every rank the statistics of all ranks; call it once. Without a process group nothing happens.

        Each mean is weighted with its share of the count, so that no sum grows with the number of samples:
        mu = sum_r (n_r / n) mu_r, then scatter = sum_r (scatter_r + n_r ||mu_r - mu||^2).
        """
        if not dist.is_available() or not dist.is_initialized():
            return self
        local = self.counts.clone()
        dist.all_reduce(self.counts, group=group)
        share = local.double() / self.counts.clamp(min=1)
        means = self.means * share.to(self.means.dtype).unsqueeze(1)
        dist.all_reduce(means, group=group)
        self.scatter += local * (self.means - means).square_().sum(1, dtype=torch.float64)
        dist.all_reduce(self.scatter, group=group)
        self.means.copy_(means)
        return self

    def select(self, class_ids: Tensor, *, min_count: int = 1) -> ClassStatistics:
        """A copy for those of ``class_ids``, in their order, that were seen at least ``min_count`` times.

        Ids that are not followed, or were never seen, are left out.
        """
        rows, known = self._rows(class_ids)
        rows = rows[known]
        rows = rows[self.counts[rows] >= min_count]
        chosen = ClassStatistics(self.class_ids[rows], self.means.shape[1], dtype=self.means.dtype)
        for name in _STATE:
            getattr(chosen, name).copy_(getattr(self, name)[rows])
        return chosen

    def following(self, class_ids: Tensor) -> ClassStatistics:
        """These statistics over their own classes and ``class_ids``, in ascending order; a copy if any is new."""
        if self._rows(class_ids)[1].all():
            return self
        wider = ClassStatistics(
            torch.cat([self.class_ids, class_ids.to(self.class_ids)]).unique(),
            self.means.shape[1],
            dtype=self.means.dtype,
        )
        rows, _ = wider._rows(self.class_ids)
        for name in _STATE:
            getattr(wider, name)[rows] = getattr(self, name)
        return wider

    def seen(self, min_count: int = 1) -> ClassStatistics:
        """A copy for all classes with at least ``min_count`` samples."""
        return self.select(self.class_ids, min_count=min_count)

    @property
    def variances(self) -> Tensor:
        """Within-class variance scatter / n_c, population form, float64 [classes].

        0 for a class seen once, nan for one never seen.
        """
        return self.scatter / self.counts

    def to(self, device: torch.device | str) -> ClassStatistics:
        """Move the state to another device."""
        for name in ("class_ids", *_STATE):
            setattr(self, name, getattr(self, name).to(device))
        self._index()
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The state by name, for saving; the tensors are not copied."""
        return {name: getattr(self, name) for name in ("class_ids", *_STATE)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> ClassStatistics:
        """Load a saved state of the same classes.

        Raises:
            InputError: a tensor is missing, or shapes or classes differ; the first class that does is named.
        """
        missing = {"class_ids", *_STATE} - set(state)
        if missing:
            raise InputError(f"the saved statistics lack {', '.join(sorted(missing))}")
        self._check_same_classes(state["class_ids"], state["means"])
        for name in _STATE:
            getattr(self, name).copy_(state[name])
        return self

    def _index(self) -> None:
        """Sort the ids, with the row of each and a sentinel at the end, so that every search finds an entry."""
        ids, order = self.class_ids.sort()
        self._sorted_ids = torch.cat([ids, ids.new_tensor([torch.iinfo(torch.int64).max])])
        self._order = torch.cat([order, order.new_zeros(1)])

    def _rows(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Row of each token id, and whether it is followed (if it is not, the row has no meaning)."""
        ids = token_ids.to(self._sorted_ids)
        slots = torch.searchsorted(self._sorted_ids, ids)
        return self._order[slots], self._sorted_ids[slots] == ids

    def _add(self, samples: Tensor, rows: Tensor, scratch: Tensor) -> None:
        """Add samples [tokens, dim] to rows [tokens], which may repeat; scratch is [3, tokens or more, dim].

        Deviations are taken from the mean so far, or from the first sample of a new class: both lie among the
        samples, so that an offset shared by all features costs no digits.
        """
        classes, members, counts = torch.unique(rows, return_inverse=True, return_counts=True)
        origin, total = scratch[:2, : len(classes)]
        deviations = scratch[2, : len(rows)]
        torch.index_select(self.means, 0, classes, out=origin)
        new = (self.counts[classes] == 0).nonzero().squeeze(1)
        if len(new):
            places = torch.arange(len(members), device=members.device)
            first = torch.zeros_like(classes).scatter_reduce_(0, members, places, "amin", include_self=False)
            origin.index_copy_(0, new, samples[first[new]])
        torch.index_select(origin, 0, members, out=deviations)
        torch.sub(samples, deviations, out=deviations)
        total.zero_().index_add_(0, members, deviations)
        squares = self.scatter.new_zeros(len(classes)).index_add_(0, members, _squared_lengths(deviations))
        after = self.counts[classes] + counts
        # The difference is at least 1 / (_AT_ONCE + 1) of the squares, so it keeps its digits.
        self.scatter.index_add_(0, classes, squares - _squared_lengths(total) / after)
        self.means.index_copy_(0, classes, origin.addcdiv_(total, after.to(total.dtype).unsqueeze(1)))
        self.counts.index_copy_(0, classes, after)

    def _join(self, rows: Tensor, origin: Tensor, delta: Tensor, counts: Tensor, scatter: Tensor) -> None:
        """Add samples to distinct rows: counts > 0 of them, with mean origin + delta, and their scatter around it.

        ``origin`` is the mean of the row so far, or any vector if there is none. It is overwritten.
        """
        before = self.counts[rows]
        after = before + counts
        share = counts.double() / after
        self.counts.index_copy_(0, rows, after)
        self.means.index_copy_(0, rows, origin.addcmul_(delta, share.to(delta.dtype).unsqueeze(1)))
        self.scatter.index_add_(0, rows, scatter + _squared_lengths(delta) * before * share)

    def _check_same_classes(self, class_ids: Tensor, means: Tensor) -> None:
        if self.means.shape != means.shape or self.class_ids.shape != class_ids.shape:
            raise InputError(
                f"the other statistics are {list(means.shape)}, these {list(self.means.shape)}:"
                " [classes, dim] must agree"
            )
        theirs = class_ids.to(self.class_ids)
        differs = (self.class_ids != theirs).nonzero()
        if len(differs):
            at = int(differs[0])
            raise InputError(
                f"class {at} is token {int(self.class_ids[at])} here and {int(theirs[at])} in the other"
                " statistics: select the same class_ids first"
            )


def _squared_lengths(vectors: Tensor) -> Tensor:
    """||v||^2 of each row, float64; no copy of the vectors is made."""
    return torch.linalg.vector_norm(vectors, dim=1).double().square_()
