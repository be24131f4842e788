"""The plain language-modelling loss, the objective of every method that changes the text alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equiframe.methods.objective import Objective, ObjectiveOutput
from equiframe.models.adapter import Feature, Pairing, forward_at, pair
from equiframe.scoring.requests import ModelKind

IGNORED = -100


class LanguageModelling(Objective):
    """Masked- or next-token cross-entropy, the mean over labelled tokens.

    The vocabulary head is applied at the labelled places only; for a masked LM that is one in seven.

    Args:
        kind: masked or causal.
        special_ids: ids that are no classes, [specials].
        pairing: which state is the feature of which token, see :func:`equiframe.models.adapter.pair`.
        feature: where the feature is taken, see :func:`equiframe.models.adapter.forward_at`.

    Batch: ``input_ids`` and ``attention_mask`` [batch, length], ``labels`` [batch, length] with -100 where
    nothing is predicted, as the collators of transformers make them.
    """

    special_ids: Tensor

    def __init__(
        self,
        kind: ModelKind,
        special_ids: Tensor,
        *,
        pairing: Pairing = "aligned",
        feature: Feature = "decoder-input",
    ) -> None:
        super().__init__()
        self.kind: ModelKind = kind
        self.pairing: Pairing = pairing
        self.feature: Feature = feature
        self.register_buffer("special_ids", special_ids, persistent=False)

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ObjectiveOutput:
        """Mean cross-entropy in nats over the labelled tokens of the batch; zero if there are none."""
        input_ids, attention_mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
        predicted = labels != IGNORED
        if self.kind == "causal":  # the state at t predicts token t + 1
            labels = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
            predicted = labels != IGNORED
            true_ids = input_ids
        else:
            true_ids = torch.where(predicted, labels, input_ids)
        states_at, token_ids = pair(
            self.kind, input_ids, attention_mask, self.special_ids, true_ids=true_ids, pairing=self.pairing
        )
        read = forward_at(
            model,
            {"input_ids": input_ids, "attention_mask": attention_mask},
            predicted,
            states_at=states_at,
            feature=self.feature,
        )
        assert read.logits is not None
        total = F.cross_entropy(read.logits.float(), labels[predicted], reduction="sum")
        loss = total / predicted.sum().clamp(min=1)
        return ObjectiveOutput(
            loss=loss, features=read.states, token_ids=token_ids, parts={"language_modelling": loss.detach()}
        )
