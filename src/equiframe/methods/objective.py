"""The interface of a debiasing objective: it maps a batch to a loss and the features that it was computed from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class ObjectiveOutput:
    """The result of one batch.

    Args:
        loss: scalar to minimise.
        parts: named parts of the loss and other figures for the log, detached scalars.
        features: states that the forward pass computed anyway, one per labelled token, [tokens, dim].
        token_ids: their classes, [tokens].
        term: the part of ``loss`` that belongs to no example, such as (U)NC3's or EWC's; by default there is none. It
            counts once per step, whatever :meth:`Objective.weight` says about the batch.
    """

    loss: Tensor
    features: Tensor
    token_ids: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    term: Tensor | float = 0.0


class Objective(nn.Module, ABC):
    """A debiasing objective. It depends neither on the trainer nor on a regularizer around it.

    It is a module, so that what it learns or accumulates is moved, saved and resumed with the run.

    ``works_sharded`` says that it only calls the model, so that the model's weights may be sharded
    over ranks (FSDP): the objective itself has no parameters, keeps none of the model's, and calls no part of it.

    If a step accumulates several batches, or several ranks have one each, its loss is the mean of theirs, weighted by
    :meth:`weight`: for a mean over tokens or examples, it is the mean over all tokens or examples of the step.
    """

    works_sharded: bool = False

    @abstractmethod
    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ObjectiveOutput:
        """Compute the loss of a batch under a model."""

    def weight(self, batch: Mapping[str, Tensor]) -> int:
        """Return the weight of this batch's loss among several: its number of examples, or what a subclass returns."""
        return len(next(iter(batch.values())))
