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
    """

    loss: Tensor
    features: Tensor
    token_ids: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module, ABC):
    """A debiasing objective. It knows neither the trainer nor any regularizer put around it.

    It is a module so that what it learns or accumulates is moved, saved and resumed with the run.

    ``works_sharded`` says that it does no more with the model than call it, so that its weights may be shared out
    over ranks (FSDP) behind its back: it has no parameters of its own, keeps none of the model's, and calls no part.
    """

    works_sharded: bool = False

    @abstractmethod
    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ObjectiveOutput:
        """Loss of a batch under a model."""
