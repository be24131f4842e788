"""BERT's next-sentence head, which the masked LM of transformers leaves out, as part of the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertForMaskedLM, PreTrainedModel
from transformers.models.bert.modeling_bert import BertPooler

from equiframe.errors import ModelError
from equiframe.models.adapter import input_device

TENSORS = tuple(
    f"{layer}.{name}" for layer in ("bert.pooler.dense", "cls.seq_relationship") for name in ("weight", "bias")
)
"""The names of the head's weights in a checkpoint."""


def add_next_sentence_head(model: BertForMaskedLM, tensors: Mapping[str, Tensor]) -> None:
    """Give a masked LM the pooler and the next-sentence head of its checkpoint, in place.

    Both are frozen: no method trains them, so that the model answers with the same head before and after. They are
    saved with the weights, under the names that ``BertForPreTraining`` reads.

    Args:
        model: a BERT without the head.
        tensors: weights of the head, by the names in ``TENSORS``.
    """
    model.bert.pooler = BertPooler(model.config).requires_grad_(False)
    model.cls.seq_relationship = nn.Linear(model.config.hidden_size, 2).requires_grad_(False)
    model.load_state_dict(dict(tensors), strict=False)
    for added in (model.bert.pooler, model.cls.seq_relationship):
        added.to(input_device(model), model.dtype)


def has_next_sentence_head(model: PreTrainedModel) -> bool:
    """Whether a model has a next-sentence head."""
    return isinstance(model, BertForMaskedLM) and hasattr(model.cls, "seq_relationship")


def next_sentence_log_probs(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Natural log-probability by the head that the second text of a pair follows the first.

    Args:
        model: a model with the head.
        states: last state of the first token of each pair, [pairs, dim].

    Returns:
        [pairs], float32.

    Raises:
        ModelError: the model has no next-sentence head.
    """
    if not has_next_sentence_head(model):
        raise ModelError(f"{type(model).__name__} has no next-sentence head: choose a score that does not need it")
    follows, does_not = model.cls.seq_relationship(model.bert.pooler(states[:, None])).float().unbind(dim=-1)
    return F.logsigmoid(follows - does_not)  # log-softmax, but exact if the head is almost certain
