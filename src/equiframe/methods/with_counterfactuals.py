"""Any objective, plus the terms of counterfactual collapse on separate pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset
from torch import Tensor, nn

from equiframe.methods.objective import Objective, ObjectiveOutput


class WithCounterfactuals(Objective):
    """L = L_host + weight * L_pairs: the host's loss on its own batch plus that of a batch of pairs drawn here.

    The pairs of a batch follow from the seed, the number of pairs drawn before, which a checkpoint keeps, and the rank:
    a resumed run has the same draws as an unbroken one. Each pair is drawn once before any is drawn again. The term has
    a separate forward pass.

    If a step has several batches, the host's loss is weighted by the host, and the pairs' loss is the plain mean,
    since all batches have equally many pairs.

    Args:
        objective: the host, any debiasing objective.
        term: :class:`equiframe.methods.counterfactual_collapse.CounterfactualObjective`.
        pairs: data of the term.
        collate: function from its examples to a batch.
        weight: weight of the term as a whole.
        batch_size: number of pairs in a batch.
        seed: seed of the draws.
    """

    drawn: Tensor

    def __init__(
        self,
        objective: Objective,
        term: Objective,
        pairs: Dataset,
        collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
        *,
        weight: float,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.term = term
        self.weight_of_term = weight
        self.works_sharded = objective.works_sharded and term.works_sharded
        self._pairs, self._collate, self._batch_size, self._seed = pairs, collate, batch_size, seed
        self.register_buffer("drawn", torch.zeros((), dtype=torch.long))

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ObjectiveOutput:
        """Add the weighted term to the host's loss; the log has the parts of both, the term's as ``pairs/NAME``."""
        host: ObjectiveOutput = self.objective(model, batch)
        pairs = self._collate([self._pairs[row] for row in self.rows()])
        device = next(iter(batch.values())).device
        term: ObjectiveOutput = self.term(model, {name: tensor.to(device) for name, tensor in pairs.items()})
        if self.training:
            self.drawn.add_(self._batch_size * (dist.get_world_size() if dist.is_initialized() else 1))
        parts = {**host.parts, **{f"pairs/{name}": part for name, part in term.parts.items()}}
        of_pairs = self.weight_of_term * term.loss
        return dataclasses.replace(host, loss=host.loss + of_pairs, parts=parts, term=host.term + of_pairs)

    def weight(self, batch: Mapping[str, Tensor]) -> int:
        """Return the host's weight."""
        return self.objective.weight(batch)

    def rows(self) -> list[int]:
        """Return the pairs that this rank draws next."""
        rank = dist.get_rank() if dist.is_initialized() else 0
        count = len(self._pairs)
        begin = int(self.drawn) + rank * self._batch_size
        orders: dict[int, list[int]] = {}
        for place in range(begin, begin + self._batch_size):
            if (epoch := place // count) not in orders:
                generator = torch.Generator().manual_seed(self._seed + epoch)
                orders[epoch] = torch.randperm(count, generator=generator).tolist()
        return [orders[place // count][place % count] for place in range(begin, begin + self._batch_size)]
