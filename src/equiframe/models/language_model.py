"""A language model, in the form that the rest of the library uses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from equiframe.choices import ModelKind
from equiframe.errors import ModelError
from equiframe.models.adapter import input_device, weights_in_place
from equiframe.models.examination import Examination, examine
from equiframe.models.next_sentence import has_next_sentence_head
from equiframe.models.peft_adapter import is_quantised
from equiframe.requests import TextCodec


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer, and what the rest of the library needs to know about it.

    Args:
        name: name that the user gave.
        model: the model, in evaluation mode.
        tokenizer: its tokenizer.
        kind: masked or causal.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: ModelKind

    @property
    def device(self) -> torch.device:
        """The device of the model, or of its input if the model is spread over several devices."""
        return input_device(self.model)

    @property
    def statistics_device(self) -> torch.device:
        """The device of class statistics: that of the model, or the CPU if the GPU has no float64 (mps)."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    @property
    def is_spread(self) -> bool:
        """Whether parts of the model are on several devices, or on disk."""
        places = set((getattr(self.model, "hf_device_map", None) or {}).values())
        return len(places) > 1 or "disk" in places

    @property
    def precision(self) -> str:
        """The precision of its numbers: ``bfloat16``, or ``float32, quantised by torchao``."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        if not is_quantised(self.model):
            return dtype
        config = self.model.config.quantization_config
        method = config["quant_method"] if isinstance(config, Mapping) else config.quant_method
        return f"{dtype}, quantised by {getattr(method, 'value', method)}"

    @cached_property
    def examination(self) -> Examination:
        """The properties that were found, see :func:`equiframe.models.examination.examine`."""
        return examine(self.name, self.model, self.tokenizer, self.kind)

    @cached_property
    def codec(self) -> TextCodec:
        """How the model reads text."""
        return TextCodec(self.tokenizer, self.kind, self.window, has_next_sentence_head(self.model))

    @property
    def window(self) -> int:
        """The longest sequence that the model takes, in tokens."""
        return self.examination.window

    @property
    def special_ids(self) -> torch.Tensor:
        """Ids that represent no word of the text, [specials], on the model's device."""
        return torch.tensor(sorted(self.tokenizer.all_special_ids), dtype=torch.int64, device=self.device)

    def check_ids(self, sequences: Iterable[Sequence[int]]) -> None:
        """Refuse tokens that the tokenizer knows but the model does not.

        Raises:
            ModelError: there is such a token; the error names the first one.
        """
        rows = self.examination.rows
        if (largest := max((max(sequence, default=0) for sequence in sequences), default=0)) >= rows:
            token = self.tokenizer.convert_ids_to_tokens(largest)
            raise ModelError(
                f"{self.name}: its tokenizer gives token {token!r} the id {largest}, but the model has embeddings for"
                f" the ids below {rows}: resize its embeddings, or take the tokenizer that it was trained with"
            )

    def fingerprint(self, correction: object = None) -> str:
        """Compute SHA-256 over everything that decides the model's output for a text.

        This includes the names, shapes and bytes of all weights, the configuration, how attention is computed, the
        tokenizer, and a correction of the predictions, if any: the repr of ``correction``, such as Self-Debias.
        """
        digest = hashlib.sha256(b"" if correction is None else repr(correction).encode())
        digest.update(json.dumps(_read_by_forward(self.model.config.to_dict()), sort_keys=True, default=str).encode())
        for name, tensor in weights_in_place(self.model):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            for part in _parts(tensor):
                digest.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        for adapter in getattr(self.model, "peft_config", {}).values():
            digest.update(json.dumps(adapter.to_dict(), sort_keys=True, default=_sorted_text).encode())
        digest.update(f"{self.model.config._attn_implementation} {tokenizer_identity(self.tokenizer)}".encode())
        return digest.hexdigest()


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors of a quantised tensor; a plain tensor alone."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _parts(getattr(tensor, name))
    else:
        yield tensor


def _sorted_text(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


_NOT_READ_BY_FORWARD = frozenset(
    """_name_or_path transformers_version architectures dtype torch_dtype use_cache id2label label2id problem_type
    output_attentions output_hidden_states return_dict""".split()
)


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Everything that decides the ids of a text, except how the last call padded or cut it."""
    parts: dict[str, Any] = {"vocabulary": tokenizer.get_vocab(), "specials": sorted(tokenizer.all_special_ids)}
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        parts |= json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    return json.dumps(parts, sort_keys=True)


def _read_by_forward(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, nested ones included, without fields that only name, save or train the model."""
    return {
        key: _read_by_forward(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _NOT_READ_BY_FORWARD
    }
