"""The differences between architectures: the output embedding, its input state, and the token that the state is for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from equiframe.choices import Feature as Feature
from equiframe.choices import ModelKind
from equiframe.choices import Pairing as Pairing
from equiframe.errors import InputError, ModelError


@dataclass(frozen=True)
class Read:
    """The result of one forward pass.

    Args:
        states: the requested features, [tokens, dim].
        logits: vocabulary scores at the requested places, [places, vocabulary]; None if not requested.
        layers: outputs of the embeddings and of each layer, [batch, length, dim] each; empty if not requested.
    """

    states: Tensor
    logits: Tensor | None
    layers: tuple[Tensor, ...] = ()


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, without the wrappers of data parallelism or of a compiler."""
    while isinstance(inner := getattr(model, "module", getattr(model, "_orig_mod", None)), nn.Module):
        model = inner
    return model


def input_device(model: nn.Module) -> torch.device:
    """The device of a model's input; for a model that is spread over devices, off-loaded parts come last."""
    places = (getattr(model, "hf_device_map", None) or {}).values()
    if not places:
        return next(model.parameters()).device
    return torch.device(next((place for place in places if place not in ("cpu", "disk")), "cpu"))


def weights_in_place(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and weights, buffers included, by name; those that are off-loaded are fetched one module at a time."""
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_meta:
            module, _, attribute = name.rpartition(".")
            owner = model.get_submodule(module)
            with align_module_device(owner):
                tensor = getattr(owner, attribute)
        yield name, tensor


@contextlib.contextmanager
def own_forward(model: nn.Module) -> Iterator[None]:
    """Remove the autocast that accelerate puts around the forward pass of a model in training, and restore it later."""
    attributes = vars(unwrap(model))
    wrapped = attributes.pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            attributes["forward"] = wrapped


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and restore the modes later."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def output_embedding(model: nn.Module) -> nn.Module:
    """The last linear map of a language model, whose rows are the classifier of the collapse analysis.

    Returns:
        A module with ``weight`` [vocabulary, dim] and perhaps ``bias`` [vocabulary].

    Raises:
        ModelError: the model has no such map.
    """
    get = getattr(unwrap(model), "get_output_embeddings", None)
    head = get() if callable(get) else None
    if not isinstance(head, nn.Module) or not isinstance(head.weight, Tensor):
        raise ModelError(
            f"{type(unwrap(model)).__name__} has no output embedding: load it with its language-modelling"
            " head, as AutoModelForMaskedLM or AutoModelForCausalLM does"
        )
    return head


def classifier(model: nn.Module) -> Tensor:
    """The weight of the output embedding, [vocabulary, dim]."""
    weight: Tensor = output_embedding(model).weight  # type: ignore[assignment]
    return weight


def state_size(model: nn.Module) -> int:
    """The width of the last hidden states, which in OPT-350m is smaller than that of its layers."""
    config: Any = unwrap(model).config
    text = config.get_text_config()
    return int(getattr(text, "word_embed_proj_dim", text.hidden_size))


class Classifier(NamedTuple):
    """The output embedding on one device: ``weight`` [vocabulary, dim] and ``bias`` [vocabulary], if it has one."""

    weight: Tensor
    bias: Tensor | None


def classifier_on(model: nn.Module, device: torch.device) -> Classifier:
    """The output embedding on a device, wherever the model keeps it."""
    head = output_embedding(model)
    with align_module_device(head):
        weight, bias = classifier(model), getattr(head, "bias", None)
        return Classifier(weight.to(device), None if bias is None else bias.to(device))


def forward_at(
    model: nn.Module,
    inputs: dict[str, Tensor],
    where: Tensor,
    *,
    states_at: Tensor | None = None,
    logits: bool = True,
    layers: bool = False,
    feature: Feature = "decoder-input",
) -> Read:
    """Run a language model once and apply its output embedding only where it is read.

    A hook on the output embedding keeps its input, which is the state that the classifier multiplies in
    every architecture, and passes on only the requested rows. Everything below runs as usual.

    Args:
        model: a masked or causal language model, possibly wrapped for data parallelism.
        inputs: what its forward takes, without labels.
        where: places whose logits are wanted, bool [batch, length].
        states_at: places whose states are wanted, if not the same.
        logits: False leaves the vocabulary out altogether.
        layers: whether the whole states of every layer are wanted too.
        feature: ``decoder-input`` (default), the state right before the output embedding, or
            ``last-layer``, the last layer of the stack, before the transform that BERT's head has.

    Returns:
        States and logits in row-major order of their places.
    """
    states_at = where if states_at is None else states_at
    kept: list[Tensor] = []

    def keep_rows(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Tensor]:
        state: Tensor = arguments[0]
        if state.shape[:-1] != where.shape:
            raise ModelError(
                f"{type(unwrap(model)).__name__} gives its head states of shape {tuple(state.shape)},"
                f" expected [batch, length, dim] with {tuple(where.shape)} in front"
            )
        kept.append(state[states_at.to(state.device)].to(states_at.device))
        return (state[where.to(state.device)] if logits else state[:0, 0],)

    last_layer = feature == "last-layer"
    handle = output_embedding(model).register_forward_pre_hook(keep_rows)
    try:
        out = model(**inputs, output_hidden_states=last_layer or layers, return_dict=True)
    finally:
        handle.remove()
    if not kept:
        raise ModelError(f"{type(unwrap(model)).__name__} did not call its output embedding")
    states = out.hidden_states[-1].to(states_at.device)[states_at] if last_layer else kept[0]
    return Read(
        states=states,
        logits=out.logits if logits else None,
        layers=tuple(out.hidden_states) if layers else (),
    )


def pair(
    kind: ModelKind,
    input_ids: Tensor,
    attention_mask: Tensor,
    special_ids: Tensor,
    *,
    true_ids: Tensor | None = None,
    pairing: Pairing = "aligned",
) -> tuple[Tensor, Tensor]:
    """Which states are features, and the class of each.

    ``aligned``: in a masked LM the state at t belongs to token t, in a causal LM to token t + 1; padding
    and special tokens are not classes, and the states at them are not features: the state at a start token is the same
    in every text. In a batch masked for training, ``true_ids`` holds the text before masking, and only places that
    show their own token count, as in an audit of unmasked text.

    ``paper``: what the paper's code does with every model. The state at t belongs to ``input_ids[t + 1]``,
    special tokens and masks included.

    Args:
        kind: masked or causal.
        input_ids: what the model reads, [batch, length].
        attention_mask: 1 on tokens, 0 on padding, [batch, length].
        special_ids: ids of special tokens, [specials].
        true_ids: the text before masking, [batch, length].
        pairing: see above.

    Returns:
        Places, bool [batch, length], and their class ids [tokens] in row-major order.
    """
    where = torch.zeros_like(input_ids, dtype=torch.bool)
    attended = attention_mask.bool()
    if pairing == "paper":
        where[:, :-1] = attended[:, 1:]
        return where, input_ids[:, 1:][where[:, :-1]]
    if pairing != "aligned":
        raise InputError(f"pairing {pairing!r} is unknown: choose 'aligned' or 'paper'")
    tokens = input_ids if true_ids is None else true_ids
    is_class = attended & (tokens == input_ids) & ~torch.isin(tokens, special_ids)
    if kind == "masked":
        return is_class, tokens[is_class]
    is_feature = attended & ~torch.isin(input_ids, special_ids)
    where[:, :-1] = is_feature[:, :-1] & is_class[:, 1:]
    return where, tokens[:, 1:][where[:, :-1]]
