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
from equiframe.models.adapter import input_device, state_size
from equiframe.models.same_logits import centred_logits, distance, tolerance

BUFFER = "output_projection"
"""Name of the projection among the buffers of the encoder or decoder stack, and in a checkpoint."""

_SAME_DIRECTION = 1e-4  # 1 - cosine of two directions that count as one: a stored matrix is rounded
_ROWS = 16_384  # rows of a weight that are multiplied at a time
_LENGTH = 6  # length of the sequence that shows which layer reads the states


@torch.no_grad()
def project(model: PreTrainedModel, matrix: Tensor) -> None:
    """Project the last hidden states of a model from now on, in place.

    Two things change. First, the projection P becomes a buffer of the stack of layers, whose output a forward hook
    projects: after the last layer and before the head of a masked LM, after the final norm of GPT-2 and Llama, where
    bias-bench hooks its language models. Everything that reads the stack sees projected states: logits,
    ``last_hidden_state``, the last of ``hidden_states``, heads put on a copy of the stack. Earlier layers and a pooler
    do not change. Second, P is folded into the weights, see :func:`fold`.

    The buffer is saved with the weights, as an additional tensor, and :func:`equiframe.models.load` applies it again.
    The loaders of transformers ignore it: their model gives the projected model's logits, by the folded weights, and
    the original's states. No weight of the stack could hold the projected states themselves: a stack ends in a norm,
    whose outputs all have the same mean or length before they are scaled, but projected states do not.

    A model that is already projected is projected onto the intersection of both projections.

    Args:
        model: a language model with its head.
        matrix: an orthogonal projection, [dim, dim].

    Raises:
        InputError: the matrix is not [dim, dim], not finite, or not an orthogonal projection.
        ModelError: the architecture has no separate stack, or its head does not read the states by one linear
            layer. The model is then unchanged.
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
    matrix = matrix.to(input_device(model), _precise(model))
    reader = _reader(model, matrix)
    apply_projection(model, matrix)
    _fold_into(model, reader, matrix)


def apply_projection(model: PreTrainedModel, matrix: Tensor) -> None:
    """Multiply the last hidden states by a matrix, in place, and do not change the weights.

    Args:
        model: a model whose weights already include the projection.
        matrix: [dim, dim].

    Raises:
        InputError: the matrix is not [dim, dim], or not finite.
        ModelError: the architecture has no separate stack.
    """
    _check(model, matrix)
    stack = stack_of(model)
    if not is_projected(model):
        stack.register_forward_hook(_project_output)
    stack.register_buffer(BUFFER, matrix.to(input_device(model), _precise(model)))


@torch.no_grad()
def fold(model: PreTrainedModel) -> None:
    """Fold a model's projection into the weight that reads the last states, in place, so that logits need no hook.

    The weight W [out, dim] becomes W P, which reads from any state what W reads from the projected one; a bias does
    not change. W is the first linear layer of a masked LM's head, and the output embedding of a causal LM; if that is
    tied to the word embeddings, it becomes a separate weight, and the configuration says ``tie_word_embeddings:
    false``. The logits of the model do not change, because P is its own square. Training a projected model unfolds
    it; a model that is folded, or not projected, is not changed by a single bit.

    Raises:
        ModelError: the logits depend on the last states by more than one linear layer.
    """
    if is_projected(model):
        matrix = stack_of(model).get_buffer(BUFFER)
        _fold_into(model, _reader(model, matrix), matrix)


def is_projected(model: PreTrainedModel) -> bool:
    """Whether a projection is applied to the model's last states."""
    return any(name.rpartition(".")[2] == BUFFER for name, _ in model.named_buffers())


def stack_of(model: PreTrainedModel) -> nn.Module:
    """The layers of a language model, whose output its head reads: its base model, or for OPT and similar the decoder.

    Raises:
        ModelError: the architecture has no separate stack.
    """
    if model.base_model is model:
        raise ModelError(f"{type(model).__name__} has no encoder separate from its head: it cannot be projected")
    decoder = getattr(model.base_model, "decoder", None)
    return decoder if isinstance(decoder, PreTrainedModel) else model.base_model


def _check(model: PreTrainedModel, matrix: Tensor) -> None:
    """Refuse a model without a stack, and a matrix that does not fit."""
    stack_of(model)
    dim = state_size(model)
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
        with called[0].register_forward_pre_hook(lambda _, read: (_times(read[0], matrix),)):
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
    rest = torch.eye(len(factor), device=factor.device) - factor
    left = torch.stack([(rows.float() @ rest).norm() for rows in weight.split(_ROWS)]).norm() / weight.float().norm()
    share = (rest.trace().clamp_min(0) / len(rest)).sqrt()  # of a random weight that the projection takes out
    if left <= 8 * torch.finfo(torch.float32).eps + share * torch.finfo(weight.dtype).eps:
        return
    folded = weight
    if sum(shared is weight for _, shared in model.named_parameters(remove_duplicate=False)) > 1:
        folded = nn.Parameter(torch.empty_like(weight), requires_grad=weight.requires_grad)
        reader.weight = folded
        model.config.tie_word_embeddings = False
    for rows, place in zip(weight.split(_ROWS), folded.split(_ROWS), strict=True):
        place.copy_(rows.float() @ factor)


def _precise(model: PreTrainedModel) -> torch.dtype:
    """The type of a projection: float32 or finer, because in half precision it leaves some of what it removes."""
    return torch.promote_types(model.dtype, torch.float32)


def _times(states: Tensor, matrix: Tensor) -> Tensor:
    """States [..., dim] multiplied by a symmetric matrix, in the type of the matrix, as states of their own type."""
    return F.linear(states.to(matrix.dtype), matrix.to(states.device)).to(states.dtype)


def _project_output(stack: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
    """The hook. It uses the matrix of the module that it is called for, which may be a copy of the first one."""
    return _multiplied(stack, output, stack.get_buffer(BUFFER))


def _multiplied(stack: nn.Module, output: Any, matrix: Tensor) -> Any:
    """The output of a stack, with its last states multiplied by a matrix."""
    if not isinstance(output, ModelOutput):
        raise ModelError(f"{type(stack).__name__} is projected: call it with return_dict=True")
    projected = _times(output.last_hidden_state, matrix)
    output.last_hidden_state = projected
    if output.get("hidden_states"):
        output.hidden_states = (*output.hidden_states[:-1], projected)
    return output
