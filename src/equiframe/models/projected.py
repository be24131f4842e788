"""A projection on the last hidden states of a model, as part of the model."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from equiframe.errors import InputError, ModelError
from equiframe.models.adapter import input_device
from equiframe.models.same_logits import centred_logits, distance, tolerance

BUFFER = "output_projection"
"""Name of the projection among the buffers of the encoder or decoder stack, and in a checkpoint."""

_SAME_DIRECTION = 1e-4  # 1 - cosine of two directions that count as one: a stored matrix is rounded
_ROWS = 16_384  # of a weight that are multiplied at a time
_LENGTH = 6  # of the sequence that tells which layer reads the states


@torch.no_grad()
def project(model: PreTrainedModel, matrix: Tensor) -> None:
    """Project the last hidden states of a model from now on, in place.

    Two things change. The projection P becomes a buffer of the stack of layers, whose output a forward hook projects:
    after the last layer and before the head of a masked LM, after the final norm of GPT-2 and Llama, where
    bias-bench hooks its language models. All that reads the stack sees projected states: logits,
    ``last_hidden_state``, the last of ``hidden_states``, heads put on a copy of the stack. Earlier layers and a pooler
    are as before. And P is folded into the weights, see :func:`fold`.

    The buffer is saved with the weights, as one tensor more, and :func:`equiframe.models.load` applies it again. The
    loaders of transformers ignore it: what they load gives the projected model's logits, by the folded weights, and
    the original's states. No weight of the stack could hold the projected states themselves: a stack ends in a norm,
    whose outputs all have the same mean or length before they are scaled, and projected states do not.

    A model that is projected already is projected onto what both projections leave.

    Args:
        model: a language model with its head.
        matrix: an orthogonal projection, [dim, dim].

    Raises:
        InputError: not [dim, dim], not finite, or no orthogonal projection.
        ModelError: an architecture without a stack of its own, or a head that does not read the states by one linear
            layer. The model is as before.
    """
    _check(model, matrix)
    matrix = matrix.double().cpu()
    if not (torch.allclose(matrix, matrix.T, atol=1e-6) and torch.allclose(matrix @ matrix, matrix, atol=1e-6)):
        raise InputError("the matrix is not an orthogonal projection: give one that is symmetric and its own square")
    if is_projected(model):
        removed = 2 * torch.eye(len(matrix)) - stack_of(model).get_buffer(BUFFER).double().cpu() - matrix
        values, directions = torch.linalg.eigh((removed + removed.T) / 2)
        kept = directions[:, values < _SAME_DIRECTION]
        matrix = kept @ kept.T
    matrix = matrix.to(input_device(model), model.dtype)
    reader = _reader(model, matrix)
    apply_projection(model, matrix)
    _fold_into(model, reader, matrix)


def apply_projection(model: PreTrainedModel, matrix: Tensor) -> None:
    """Multiply the last hidden states by a matrix, in place, and leave the weights as they are.

    Args:
        model: one into whose weights the projection is folded already.
        matrix: [dim, dim].

    Raises:
        InputError: not [dim, dim], or not finite.
        ModelError: an architecture without a stack of its own.
    """
    _check(model, matrix)
    stack = stack_of(model)
    if not is_projected(model):
        stack.register_forward_hook(_project_output)
    stack.register_buffer(BUFFER, matrix.to(input_device(model), model.dtype))


@torch.no_grad()
def fold(model: PreTrainedModel) -> None:
    """Fold a model's projection into the weight that reads the last states, in place, so that logits need no hook.

    The weight W [out, dim] becomes W P, which reads of any state what W reads of the projected one; a bias stays as
    it is. W is the first linear layer of a masked LM's head, and the output embedding of a causal LM; where that is
    tied to the word embeddings it becomes a weight of its own, and the configuration says ``tie_word_embeddings:
    false``. The logits of the model do not change, because P is its own square. Training a projected model unfolds
    it; a model that is folded, or not projected, stays to the bit.

    Raises:
        ModelError: the logits depend on the last states by more than one linear layer.
    """
    if is_projected(model):
        matrix = stack_of(model).get_buffer(BUFFER)
        _fold_into(model, _reader(model, matrix), matrix)


def is_projected(model: PreTrainedModel) -> bool:
    """Whether a projection is applied to its last states."""
    return any(name.rpartition(".")[2] == BUFFER for name, _ in model.named_buffers())


def stack_of(model: PreTrainedModel) -> nn.Module:
    """The layers of a language model, whose output its head reads: its base model, of OPT and its like the decoder.

    Raises:
        ModelError: an architecture without a stack of its own.
    """
    if model.base_model is model:
        raise ModelError(f"{type(model).__name__} has no encoder apart from its head: it cannot be projected")
    decoder = getattr(model.base_model, "decoder", None)
    return decoder if isinstance(decoder, PreTrainedModel) else model.base_model


def _check(model: PreTrainedModel, matrix: Tensor) -> None:
    """Refuse a model without a stack, and a matrix that does not fit."""
    stack_of(model)
    dim = model.config.get_text_config().hidden_size
    if matrix.shape != (dim, dim) or not matrix.isfinite().all():
        raise InputError(f"a projection of shape {tuple(matrix.shape)}: give a finite matrix of {dim} x {dim}")


def _reader(model: PreTrainedModel, matrix: Tensor) -> nn.Linear:
    """The linear layer by which the head reads the last states: with its input projected, the logits are the same."""
    stack = stack_of(model)
    inside = set(stack.modules())
    ids = [number % len(model.get_input_embeddings().weight) for number in range(_LENGTH)]
    called: list[nn.Linear] = []

    def note(layer: nn.Module, _: Any) -> None:
        assert isinstance(layer, nn.Linear)
        called.append(layer)

    with contextlib.ExitStack() as hooks:
        hooks.enter_context(stack.register_forward_hook(lambda _, __, output: _multiplied(stack, output, matrix)))
        for layer in model.modules():
            if isinstance(layer, nn.Linear) and layer not in inside:
                hooks.enter_context(layer.register_forward_pre_hook(note))
        projected = centred_logits(model, ids)
    if called and called[0].in_features == len(matrix):
        with called[0].register_forward_pre_hook(lambda _, read: (F.linear(read[0], matrix.to(read[0].device)),)):
            if distance(centred_logits(model, ids), projected) <= tolerance(model.dtype):
                return called[0]
    raise ModelError(
        f"{type(model).__name__} cannot be projected: its head does not read the last hidden states by one linear layer"
    )


def _fold_into(model: PreTrainedModel, reader: nn.Linear, matrix: Tensor) -> None:
    """Multiply the weight of a layer by a projection, unless rounding alone would change it."""
    weight = reader.weight
    if weight.is_meta:
        raise ModelError("the weights that read the last hidden states are off-loaded: load the model on one device")
    factor = matrix.to(weight.device, torch.float32)
    folded = torch.cat([(rows.float() @ factor).to(weight.dtype) for rows in weight.split(_ROWS)])
    if distance(weight, folded) <= 8 * torch.finfo(weight.dtype).eps:
        return
    if sum(shared is weight for _, shared in model.named_parameters(remove_duplicate=False)) > 1:
        reader.weight = nn.Parameter(folded, requires_grad=weight.requires_grad)
        model.config.tie_word_embeddings = False
    else:
        weight.copy_(folded)


def _project_output(stack: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
    """The hook. The matrix is that of the module it is called for, which may be a copy of the first one."""
    return _multiplied(stack, output, stack.get_buffer(BUFFER))


def _multiplied(stack: nn.Module, output: Any, matrix: Tensor) -> Any:
    """The output of a stack with its last states multiplied by a matrix."""
    if not isinstance(output, ModelOutput):
        raise ModelError(f"{type(stack).__name__} is projected: call it with return_dict=True")
    projected = F.linear(output.last_hidden_state, matrix.to(output.last_hidden_state.device))
    output.last_hidden_state = projected
    if output.get("hidden_states"):
        output.hidden_states = (*output.hidden_states[:-1], projected)
    return output
