"""The plain language-modelling loss, which is the objective of every method that only changes the text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equiframe.methods.objective import Objective, ObjectiveOutput
from equiframe.models.adapter import Feature, Pairing, forward_at, pair
from equiframe.models.language_model import LanguageModel


class LanguageModelling(Objective):
    """Masked- or next-token cross-entropy, the mean over predicted tokens.

    A masked LM's batch is masked here, on the device and in the step, so that the draws follow from
    the state of the random generator that a checkpoint keeps, however far the data loader has run ahead:
    a resumed run has the same draws as an unbroken one. The vocabulary head is applied only at predicted places.

    Args:
        language_model: gives the kind of model, its mask and special tokens; its weights are not kept.
        mask_share: share of the tokens predicted by a masked LM; of these 80 % are masked, 10 % replaced by
            a random token, 10 % left unchanged.
        pairing: which state is the feature of which token, see :func:`equiframe.models.adapter.pair`.
            ``paper`` takes the model's input as labels, masks included, as the paper's BEC does.
        feature: where the feature is taken, see :func:`equiframe.models.adapter.forward_at`.

    Batch: ``input_ids`` and ``attention_mask``, [batch, length].

    Reference: Devlin et al. 2019 (masking).
    """

    works_sharded = True
    special_ids: Tensor

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        mask_share: float = 0.15,
        pairing: Pairing = "aligned",
        feature: Feature = "decoder-input",
    ) -> None:
        super().__init__()
        self.kind = language_model.kind
        self.mask_id = language_model.tokenizer.mask_token_id
        rows = len(language_model.model.get_input_embeddings().weight)
        self.vocabulary = min(len(language_model.tokenizer), rows)
        self.mask_share = mask_share
        self.pairing: Pairing = pairing
        self.feature: Feature = feature
        self.register_buffer("special_ids", language_model.special_ids, persistent=False)

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ObjectiveOutput:
        """Compute the mean cross-entropy in nats over the predicted tokens; zero if there are none."""
        true_ids, attention_mask = batch["input_ids"], batch["attention_mask"]
        if self.kind == "masked":
            input_ids, predicted = self._masked(true_ids, attention_mask)
            targets = true_ids[predicted]
        else:  # the state at t predicts token t + 1
            input_ids = true_ids
            predicted = self._targets(true_ids, attention_mask)
            targets = true_ids[:, 1:][predicted[:, :-1]]
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
        loss = F.cross_entropy(read.logits.float(), targets, reduction="sum") / max(len(targets), 1)
        return ObjectiveOutput(
            loss=loss, features=read.states, token_ids=token_ids, parts={"language_modelling": loss.detach()}
        )

    def weight(self, batch: Mapping[str, Tensor]) -> int:
        """Count the tokens; a causal LM predicts each of them, a masked LM a share that is the same in any batch."""
        return int(self._targets(batch["input_ids"], batch["attention_mask"]).sum())

    def _targets(self, true_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mark places that may be predicted, or whose state predicts the next token, bool [batch, length]."""
        if self.kind == "masked":
            return attention_mask.bool() & ~torch.isin(true_ids, self.special_ids.to(true_ids.device))
        predicting = torch.zeros_like(true_ids, dtype=torch.bool)
        predicting[:, :-1] = (attention_mask[:, :-1] * attention_mask[:, 1:]).bool()
        return predicting

    def _masked(self, true_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input of the model, and the places that it has to predict."""
        words = self._targets(true_ids, attention_mask)
        draw = torch.rand(true_ids.shape, device=true_ids.device)
        fate = torch.rand(true_ids.shape, device=true_ids.device)
        anything = torch.randint_like(true_ids, self.vocabulary)
        predicted = words & (draw < self.mask_share)
        shown = torch.where(fate < 0.8, self.mask_id, torch.where(fate < 0.9, anything, true_ids))
        return torch.where(predicted, shown, true_ids), predicted
