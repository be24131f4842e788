"""Geometry-aware fine-tuning: any objective, plus the (U)NC3 term."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor, nn

from equiframe.collapse import UNC3Regularizer
from equiframe.methods.objective import Objective, ObjectiveOutput
from equiframe.models.adapter import classifier


class WithUNC3(Objective):
    """L = L_host + lambda * std over fairness words of cos(class mean, word embedding).

    The features come from the host's own forward pass; there is no second one.

    Args:
        objective: the host, any debiasing objective.
        regularizer: the term, with its words, weight and memory.

    Reference: Xu et al. 2025, "Collapsed Language Models Promote Fairness", the (U)NC3 term.
    """

    def __init__(self, objective: Objective, regularizer: UNC3Regularizer) -> None:
        super().__init__()
        self.objective = objective
        self.regularizer = regularizer
        self.works_sharded = objective.works_sharded

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ObjectiveOutput:
        """Add the weighted term to the host's loss; the log has the parts of both."""
        host: ObjectiveOutput = self.objective(model, batch)
        term = self.regularizer(host.features, host.token_ids, classifier(model))
        parts = {**host.parts, **self.regularizer.last_parts}
        return dataclasses.replace(host, loss=host.loss + term, parts=parts, term=host.term + term)

    def weight(self, batch: Mapping[str, Tensor]) -> int:
        """Return the host's weight."""
        return self.objective.weight(batch)
