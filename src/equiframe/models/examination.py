"""Examines a model in two short forward passes, independently of its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from equiframe.errors import ModelError
from equiframe.models.adapter import classifier, evaluating, forward_at, input_device
from equiframe.requests import ModelKind

UNLIMITED = 2**31
"""The window of a model that nothing limits."""

_LENGTH = 6  # length of the sequence that is read
_PADDING = 2


@dataclass(frozen=True)
class Examination:
    """The properties of a model that were found.

    Args:
        rows: tokens that have an embedding and a logit.
        pad_id: an id for padding that the model knows. Padding is never attended, so any id works.
        window: the longest sequence, in tokens: by the table of positions that the forward pass reads, else by the
            configuration and the tokenizer.
        reads_padding: whether padding changes the output for a text, as in FNet and ConvBERT. Such a model reads texts
            of one length at a time.
    """

    rows: int
    pad_id: int
    window: int
    reads_padding: bool


@torch.inference_mode()
def examine(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: ModelKind) -> Examination:
    """Examine a model before its numbers are used.

    Args:
        name: name of the model, for the message.
        model: the model with its head.
        tokenizer: its tokenizer.
        kind: the expected kind of the model.

    Raises:
        ModelError: the tokenizer has no word; or the model reads later tokens and was expected to be causal, or does
            not read them and was expected to be masked.
    """
    rows = min(len(model.get_input_embeddings().weight), len(classifier(model)))
    specials = set(tokenizer.all_special_ids)
    words = sorted(set(tokenizer.get_vocab().values()) - specials)
    if not words:
        raise ModelError(
            f"{name}: its tokenizer has {len(specials)} special tokens and no word, so the folder lacks its tokenizer's"
            " files: save the tokenizer next to the model by save_pretrained"
        )
    if not (known := [token for token in words if token < rows]):
        raise ModelError(
            f"{name}: none of its tokenizer's words has one of its {rows} embeddings: does it belong to another model?"
        )
    pad_id = _known(rows, tokenizer.pad_token_id, getattr(model.config.get_text_config(), "pad_token_id", None))
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))
    ids = torch.tensor(known)[order].repeat(_LENGTH + 1)[: _LENGTH + 1]
    text, other = ids[:-1], torch.cat([ids[:-2], ids[-1:]])  # they differ in their last token
    with evaluating(model):
        with _Lookups() as lookups:
            both = _logits(model, torch.stack([text, other]), kind)
        padded = torch.cat([text, text.new_full((_PADDING,), pad_id)])
        longer = torch.cat([ids[-1:], text[1:], text[:_PADDING]])  # another first token
        beside = _logits(model, torch.stack([padded, longer]), kind, unread=_PADDING)
    scale = (both[0] - both[0].mean(dim=-1, keepdim=True)).norm(dim=-1).mean()
    tolerance = 1e-5 if model.dtype in (torch.float32, torch.float64) else 1e-2
    ahead = (both[0, :-1] - both[1, :-1]).norm(dim=-1).max() / scale
    if kind == "causal" and ahead > tolerance:
        raise ModelError(
            f"{name}: the output of {type(model).__name__} for a token depends on later tokens, so it is not a causal"
            " language model: give --kind masked, or set is_decoder in its configuration if it was trained as a decoder"
        )
    after = (beside[1, 1:_LENGTH] - both[0, 1:]).norm(dim=-1).max()
    if kind == "masked" and text[-1] != other[-1] and ahead == 0 and after > 0:
        raise ModelError(
            f"{name}: the output of {type(model).__name__} for a token does not depend on later tokens, but on earlier"
            " ones, so it is not a masked language model: give --kind causal"
        )
    return Examination(
        rows=rows,
        pad_id=pad_id,
        window=min(lookups.window(_LENGTH) or _configured(model), tokenizer.model_max_length),
        reads_padding=bool((beside[0, :_LENGTH] - both[0]).norm(dim=-1).max() / scale > 10 * tolerance),
    )


def window_of(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> int:
    """The longest sequence that a model reads, in tokens; ``UNLIMITED`` if nothing limits it.

    Args:
        model: any model, with or without a head.
        inputs: arguments of its forward for one text, whose token ids do not count up by 1.
    """
    with _Lookups() as lookups:
        model(**inputs)
    return lookups.window(inputs["input_ids"].shape[-1]) or _configured(model)


class _Lookups(TorchFunctionMode):
    """Watches which rows of which tables are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[tuple[int, Tensor]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if function in (torch.embedding, torch.nn.functional.embedding):
            # one has the indices first, the other the table
            tensors = [*args, *(named[key] for key in ("input", "indices", "weight") if key in named)][:2]
            table, indices = sorted(tensors, key=lambda tensor: not tensor.is_floating_point())
            self._seen.append((len(table), indices))
        return function(*args, **named)

    def window(self, length: int) -> int | None:
        """Rows of the smallest table that is read one row after the other, from the first row that is read."""
        found = []
        for rows, indices in self._seen:
            if indices.numel() in (length, 2 * length) and indices.shape[-1] == length:
                first = indices.reshape(-1, length)[0]
                if bool((first.diff() == 1).all()):
                    found.append(rows - int(first[0]))
        return min(found, default=None)


def _logits(model: PreTrainedModel, ids: Tensor, kind: ModelKind, unread: int = 0) -> Tensor:
    """Logits [2, length, vocabulary] in float32; ``unread`` places at the end of the first row are padding."""
    mask = torch.ones_like(ids)
    mask[0, ids.shape[1] - unread :] = 0
    device = input_device(model)
    inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    if kind == "causal":
        inputs["use_cache"] = False
    read = forward_at(model, inputs, torch.ones_like(ids, dtype=torch.bool).to(device))
    assert read.logits is not None
    return read.logits.float().reshape(*ids.shape, -1)


def _known(rows: int, *ids: int | None) -> int:
    """The first id that has a row, else 0."""
    return next((found for found in ids if found is not None and 0 <= found < rows), 0)


def _configured(model: PreTrainedModel) -> int:
    """The longest sequence by the configuration; some, such as XLNet's, use -1 for no limit."""
    config = model.config.get_text_config()
    named = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
    return next((int(found) for found in named if found is not None and found > 0), UNLIMITED)
