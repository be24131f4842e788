"""Compares the logits of two models, up to the rounding of their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from equiframe.models.adapter import evaluating, input_device


@torch.no_grad()
def centred_logits(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Logits of one sequence minus their mean over the vocabulary, [length, vocabulary], float32 on the CPU."""
    input_ids = torch.tensor([ids], device=input_device(model))
    with evaluating(model):
        read = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), return_dict=True)
    logits = read.logits[0].float().cpu()
    return logits - logits.mean(dim=-1, keepdim=True)


def distance(first: Tensor, second: Tensor) -> float:
    """Norm of the difference of two tensors over the norm of the second; infinite if it is NaN."""
    found = float((first - second).float().norm() / second.float().norm().clamp_min(torch.finfo(torch.float32).tiny))
    return found if found == found else float("inf")


def tolerance(dtype: torch.dtype) -> float:
    """The distance up to which logits of models with such weights are equal: 0.03 % in float32, 9 % in bfloat16."""
    return float(torch.finfo(dtype).eps ** 0.5)
