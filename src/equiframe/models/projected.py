"""A projection on the last hidden states of a model, as part of the model."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from equiframe.errors import InputError, ModelError
from equiframe.models.adapter import input_device

BUFFER = "output_projection"
"""Name of the projection among the buffers of the encoder or decoder stack, and in a checkpoint."""


@torch.no_grad()
def project(model: PreTrainedModel, matrix: Tensor) -> None:
    """Multiply the last hidden states of a model by a matrix from now on, in place.

    The matrix is a buffer of ``model.base_model``, which a forward hook applies to its output: behind the last
    layer and before the transform of a masked LM's head, behind the final norm of GPT-2 and Llama. All that
    reads the stack sees projected states: logits, ``last_hidden_state``, the last of ``hidden_states``, heads
    put on a copy of the stack. Earlier layers, a pooler, and the output embedding itself are as before. This is
    where bias-bench hooks its language models.

    The buffer is saved with the weights, as one tensor more, and :func:`equiframe.models.load` puts it back.
    The loaders of transformers do not: they call the tensor unexpected and give the model without projection.

    A model that is projected already is projected by the product of both.

    Args:
        model: a language model with its head.
        matrix: [dim, dim].

    Raises:
        InputError: not [dim, dim], or not finite.
        ModelError: an architecture without a stack of its own.
    """
    stack = model.base_model
    if stack is model:
        raise ModelError(f"{type(model).__name__} has no encoder apart from its head: it cannot be projected")
    dim = model.config.get_text_config().hidden_size
    if matrix.shape != (dim, dim) or not matrix.isfinite().all():
        raise InputError(f"a projection of shape {tuple(matrix.shape)}: give a finite matrix of {dim} x {dim}")
    before = getattr(stack, BUFFER, None)
    if before is None:
        stack.register_forward_hook(_project_output)
        before = torch.eye(dim)
    product = matrix.double().cpu() @ before.double().cpu()
    stack.register_buffer(BUFFER, product.to(input_device(model), model.dtype))


def _project_output(stack: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
    """The hook. The matrix is that of the module it is called for, which may be a copy of the first one."""
    if not isinstance(output, ModelOutput):
        raise ModelError(f"{type(stack).__name__} is projected: call it with return_dict=True")
    states = output.last_hidden_state
    projected = F.linear(states, stack.get_buffer(BUFFER).to(states.device))
    output.last_hidden_state = projected
    if output.get("hidden_states"):
        output.hidden_states = (*output.hidden_states[:-1], projected)
    return output
