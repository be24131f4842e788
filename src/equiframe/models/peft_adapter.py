"""A PEFT adapter: weights that were trained on top of a base model, which it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils import cached_file, find_adapter_config_file

from equiframe.errors import ModelError
from equiframe.models.sources import Source

_WEIGHTS = "adapter_model.safetensors"
_OTHER_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM")


def adapter_of(name: str, source: Source) -> Mapping[str, Any] | None:
    """The configuration of an adapter, or None if the files are those of a whole model.

    Raises:
        ModelError: the adapter names no base model, or does not belong to a language model.
    """
    file = None if source.is_gguf else find_adapter_config_file(source.where, **source.options)
    if file is None:
        return None
    config: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
    if not config.get("base_model_name_or_path"):
        raise ModelError(
            f"{name}: the adapter names no base model: write the base model's name or folder as"
            f" base_model_name_or_path in {file}"
        )
    if (task := config.get("task_type")) in _OTHER_TASKS:
        raise ModelError(
            f"{name}: the adapter was trained for the task {task}, and not for language modelling: choose an adapter"
            " of a masked or a causal language model"
        )
    return config


def has_tokenizer(source: Source) -> bool:
    """Whether a tokenizer was saved with the adapter; if not, the base model's is used."""
    try:
        return cached_file(source.where, "tokenizer_config.json", **source.options) is not None
    except OSError:
        return False


def with_adapter(name: str, model: PreTrainedModel, source: Source) -> PreTrainedModel:
    """A base model with an adapter's weights, merged into its own unless these are quantised.

    Where the adapter brings rows of the embeddings, the base model gets as many first.

    Args:
        name: name of the adapter, for messages.
        model: the base model; it is changed.
        source: of the adapter.

    Raises:
        ModelError: peft is not installed, the adapter's weights are pickled, it learns a prompt, or the base model is
            off-loaded.
    """
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise ModelError(
            f"{name} is a PEFT adapter, and peft is not installed: pip install 'equiframe[lora]'"
        ) from error
    try:
        file = cached_file(source.where, _WEIGHTS, **source.options)
    except OSError as error:
        raise ModelError(
            f"{name}: the adapter has no {_WEIGHTS}, and pickled weights are never read: if you trust them, load the"
            " adapter with peft and save it again with save_pretrained"
        ) from error
    if PeftConfig.from_pretrained(source.where, **source.options).is_prompt_learning:
        raise ModelError(
            f"{name}: the adapter learns a prompt in place of weights, so it cannot be part of the model: choose an"
            " adapter of another type, such as LoRA"
        )
    if any(weight.is_meta for weight in model.parameters()):
        raise ModelError(
            f"{name}: an adapter cannot be put on weights that are off-loaded: leave out --device-map, or merge the"
            " adapter on a machine that holds the model, save it with equiframe.models.save, and give that folder"
        )
    rows = _embedding_rows(file, model)
    if rows is not None and rows != len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(rows, mean_resizing=False)
    adapted = PeftModel.from_pretrained(model, source.where, **source.options)
    if is_quantised(model):
        return adapted.get_base_model()
    merged: PreTrainedModel = adapted.merge_and_unload()
    vars(merged).pop("peft_config", None)  # peft 0.14 leaves it on a merged model, which is an ordinary one
    return merged


def is_quantised(model: PreTrainedModel) -> bool:
    """Whether weights are kept in fewer bits than they are computed with."""
    return getattr(model.config, "quantization_config", None) is not None


def _embedding_rows(file: str, model: PreTrainedModel) -> int | None:
    """Rows of the embeddings, input or output, that an adapter brings, None where it brings none."""
    ends = [
        module_name
        for module_name, module in model.named_modules()
        if module is model.get_input_embeddings() or module is model.get_output_embeddings()
    ]
    with safe_open(file, framework="pt") as stored:
        rows = [
            stored.get_slice(key).get_shape()[0]
            for key in list(stored.keys())
            if any(key.endswith((f"{end}.weight", f"{end}.base_layer.weight")) for end in ends)
        ]
    return max(rows, default=None)
