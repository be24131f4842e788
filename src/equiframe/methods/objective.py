"""What a debiasing objective is: a batch in, a loss and the features it came from out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class ObjectiveOutput:
    """What one batch came to.

    Args:
        loss: scalar to minimise.
        parts: named parts of the loss and other figures for the log, detached scalars.
        features: states that the forward pass computed anyway, one per labelled token, [tokens, dim].
        token_ids: their classes, [tokens].
        term: the share of ``loss`` that belongs to no example, such as (U)NC3's or EWC's; none by default. It counts
            once a step, whatever :meth:`Objective.weight` says of the batch.
    """

    loss: Tensor
    features: Tensor
    token_ids: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    term: Tensor | float = 0.0


class Objective(nn.Module, ABC):
    """A debiasing objective. It knows neither the trainer nor any regularizer put around it.

    It is a module so that what it learns or accumulates is moved, saved and resumed with the run.

    ``works_sharded`` says that it does no more with the model than call it, so that its weights may be shared out
    over ranks (FSDP) behind its back: it has no parameters of its own, keeps none of the model's, and calls no part.

    Where a step accumulates several batches, or several ranks have one each, its loss is the mean of theirs by
    :meth:`weight`: for a mean over tokens or examples, what it is over all of the step's tokens or examples.
    """

    works_sharded: bool = False

    @abstractmethod
    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ObjectiveOutput:
        """Loss of a batch under a model."""

    def weight(self, batch: Mapping[str, Tensor]) -> int:
        """How much the loss of this batch counts beside that of others: by its examples, or by what a subclass says."""
        return len(next(iter(batch.values())))
