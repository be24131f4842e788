"""A copy of a language model's encoder under a new head."""

from __future__ import annotations

import copy
import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equiframe.benchmarks.fine_tuned import HeadKind
from equiframe.errors import ModelError
from equiframe.models import LanguageModel
from equiframe.models.adapter import state_size
from equiframe.models.peft_adapter import is_quantised

_DROPOUT = 0.1


class EncoderWithHead(nn.Module):
    """A copy of a model's encoder, in float32, under a new head.

    ``sequence`` maps one state, after dropout: a masked LM's first token, a causal LM's last one.
    ``mentions`` represents the pronoun and both candidates by the first, the last and the mean state of
    their tokens, and scores a candidate by a perceptron over pronoun, candidate and their product; its
    outputs are both candidates' scores and 0 for neither.

    Args:
        language_model: the model whose weights are copied.
        head: the kind of head, see above.
        outputs: number of outputs for an example; 3 with ``mentions``.

    Raises:
        ModelError: the architecture does not separate an encoder from its language-modelling head, or the weights are
            quantised or spread over devices.
    """

    def __init__(self, language_model: LanguageModel, head: HeadKind, outputs: int) -> None:
        super().__init__()
        model = language_model.model
        if model.base_model is model:
            raise ModelError(f"{type(model).__name__} has no encoder separate from its head: it cannot be fine-tuned")
        if is_quantised(model) or language_model.is_spread:
            raise ModelError(
                f"{language_model.name}: a fine-tuned benchmark copies and trains the model, which weights that are"
                " quantised or spread over devices do not allow: leave out --model-arg and --device-map"
            )
        self.encoder = copy.deepcopy(model.base_model).float()
        self.encoder.requires_grad_(True)
        self.takes_types = "token_type_ids" in inspect.signature(self.encoder.forward).parameters
        self.reads_last = language_model.kind == "causal"
        self.outputs = outputs
        dim = state_size(model)
        if head == "sequence":
            self.head = nn.Sequential(nn.Dropout(_DROPOUT), nn.Linear(dim, outputs))
        else:
            self.head = nn.Sequential(nn.Linear(9 * dim, dim), nn.GELU(), nn.Dropout(_DROPOUT), nn.Linear(dim, 1))
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.head.to(language_model.device)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        spans: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute outputs [batch, outputs], with the loss if there are labels.

        Args:
            input_ids: tokens, [batch, length].
            attention_mask: 1 on tokens, 0 on padding, [batch, length].
            token_type_ids: 1 on the second text of a pair, [batch, length].
            spans: first and last token of pronoun and candidates, [batch, 3, 2].
            labels: classes or scores, [batch].
        """
        types = {"token_type_ids": token_type_ids} if self.takes_types and token_type_ids is not None else {}
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        if spans is None:
            at = attention_mask.sum(dim=1) - 1 if self.reads_last else torch.zeros_like(input_ids[:, 0])
            logits = self.head(states[torch.arange(len(states), device=states.device), at])
        else:
            logits = self._mention_scores(states, spans)
        logits = logits.float()
        if labels is None:
            return {"logits": logits}
        if self.outputs == 1:
            loss = F.mse_loss(logits.squeeze(-1), labels.float())
        else:
            loss = F.cross_entropy(logits, labels.long())
        return {"loss": loss, "logits": logits}

    def _mention_scores(self, states: Tensor, spans: Tensor) -> Tensor:
        """Compute the scores of both candidates, and 0, [batch, 3]."""
        places = torch.arange(states.shape[1], device=states.device)
        inside = (places >= spans[..., :1]) & (places <= spans[..., 1:])
        weights = (inside / inside.sum(dim=-1, keepdim=True)).to(states.dtype)
        rows = torch.arange(len(states), device=states.device)[:, None]
        ends = states[rows, spans[..., 0]], states[rows, spans[..., 1]]
        pronoun, first, second = torch.cat([*ends, weights @ states], dim=-1).unbind(dim=1)
        scores = [self.head(torch.cat([pronoun, one, pronoun * one], dim=-1)) for one in (first, second)]
        return torch.cat([*scores, torch.zeros_like(scores[0])], dim=-1)
