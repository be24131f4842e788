"""Loads a model by name: from the Hub, a local directory, a GGUF file, an adapter, or one of the built-in models."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from packaging.version import Version
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, BertForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from equiframe.choices import SERVER, Dtype, ModelKind, check_model_args
from equiframe.errors import InputError, ModelError
from equiframe.models.builtin import builtin
from equiframe.models.explaining import explained, quiet
from equiframe.models.kinds import auto_class, check_version, kind_of
from equiframe.models.language_model import LanguageModel
from equiframe.models.next_sentence import TENSORS, add_next_sentence_head
from equiframe.models.peft_adapter import adapter_of, has_tokenizer, with_adapter
from equiframe.models.projected import BUFFER, apply_projection
from equiframe.models.quantised import check_quantised
from equiframe.models.sources import Source, find_source, stored_if_unreachable, usable_device
from equiframe.models.tokenizers import read_tokenizer
from equiframe.options import check_choice

DeviceMap: TypeAlias = str | int | Mapping[str, str | int] | None
"""Where transformers and accelerate put the parts of a model that is larger than one device."""

_ON_DISK = "5.17"
"""The version of transformers from which models with parts on disk are tested; 5.8 to 5.15 did not run them."""


def load(
    name: str | Path,
    *,
    kind: ModelKind | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    model_args: Mapping[str, Any] | None = None,
) -> LanguageModel:
    """Load a language model with its head.

    With it come the projection that it was saved with, and BERT's next-sentence head, where there is one. An adapter
    is put on its base model, and merged unless that is quantised. The weights of a GGUF file are unpacked.

    Args:
        name: a hub name, a local directory of a model or of a PEFT adapter, a GGUF file (on the hub
            ``OWNER/NAME:FILE.gguf``), or a built-in model, such as ``builtin:mini-mlm``.
        kind: masked or causal; by default what the checkpoint's architecture says.
        revision: branch, tag or commit on the hub.
        device: by default a GPU if there is one.
        trust_remote_code: whether code from the hub may run.
        dtype: of the weights, which are read in this type and no other; by default the checkpoint's own on a GPU, and
            float32 on a processor.
        device_map: spreads a model over devices and disk, as ``from_pretrained`` of transformers does: ``auto``, or
            places by module name. Excludes ``device``.
        model_args: further arguments of ``from_pretrained``, such as ``quantization_config``,
            ``attn_implementation`` or ``max_memory``.

    Raises:
        InputError: no such kind, type or device on this machine, or a revision of what is not on the hub.
        ModelError: not found, no language-modelling head in the checkpoint, only pickled weights.
    """
    model_args = dict(model_args or {})
    _check(name, kind, device, dtype, device_map, model_args)
    name, given, device = str(name), device, usable_device(device)
    # unlike Path.expanduser, os.path.expanduser leaves ~ as it is where there is no home
    folder = builtin(name) if name.startswith("builtin:") else Path(os.path.expanduser(name))  # noqa: PTH111
    source = stored_if_unreachable(find_source(name, folder, revision))
    with explained(name, model_args):
        adapter = adapter_of(name, source)
    trust: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if adapter is not None:
        base = functools.partial(load, kind=kind, device=given, dtype=dtype, device_map=device_map, **trust)
        return _adapted(name, source, adapter, functools.partial(base, model_args=model_args), trust)
    common = {**source.options, **trust}
    places = {"": str(device)} if device_map is None and device.type != "cpu" else device_map
    exact = torch.float32 if dtype == "auto" and device.type == "cpu" else dtype
    with explained(name, model_args), quiet():
        packed = _unpacked() if source.is_gguf else {}
        config = AutoConfig.from_pretrained(source.where, **common)
        check_version(config, name)
        check_quantised(name, config, model_args)
        kind = kind_of(config, name, kind)
        options = {"dtype": exact, "device_map": places, **common, **packed, **model_args}
        model = _read(name, source, kind, config=config, **options)
        tokenizer = read_tokenizer(source.where, **common)
    return _examined(name, model, tokenizer, kind)


def _check(name: Any, kind: Any, device: Any, dtype: Any, device_map: DeviceMap, model_args: Mapping[str, Any]) -> None:
    """Refuse options with which no model can be loaded."""
    if not isinstance(name, str | Path):
        raise InputError(f"a model is a name or a folder, found {name!r:.60}")
    check_choice("--kind", kind, ModelKind | None)
    check_choice("--dtype", dtype, Dtype)
    check_model_args(model_args)
    if device_map is not None and device is not None:
        raise InputError(f"--device {device} and --device-map cannot be combined: give only one")
    if str(name).startswith(SERVER):
        raise InputError(f"{name}: a server gives neither states nor weights: give the model's hub name or folder")


def _read(name: str, source: Source, kind: ModelKind, *, config: Any, **options: Any) -> PreTrainedModel:
    """The model with all that was saved with it."""
    model, info = auto_class(kind, config).from_pretrained(
        source.where, config=config, use_safetensors=True, output_loading_info=True, **options
    )
    if Version(transformers.__version__) < Version(_ON_DISK) and any(part.is_meta for part in model.parameters()):
        raise ModelError(
            f"{name}: parts of it are on disk, which needs transformers>={_ON_DISK}, and {transformers.__version__} is"
            f" installed: pip install 'transformers>={_ON_DISK}', or leave out --device-map"
        )
    unexpected = set(info["unexpected_keys"])
    if any(key.rpartition(".")[2] == BUFFER for key in unexpected):
        apply_projection(model, _tensor(source, BUFFER))
    if isinstance(model, BertForMaskedLM) and set(TENSORS) <= unexpected:
        add_next_sentence_head(model, {key: _tensor(source, key) for key in TENSORS})
    if missing := sorted(info["missing_keys"]):
        if inside := [key for key in missing if key.startswith(f"{model.base_model_prefix}.")]:
            other = f", but has some for {min(unexpected)}" if unexpected else ""
            raise ModelError(
                f"{name}: the checkpoint has no weights for {inside[0]} (and {len(missing) - 1} more){other}: it is"
                " incomplete, or was saved from a wrapper, such as that of torch.compile: save the model inside it"
            )
        raise ModelError(
            f"{name}: the checkpoint has no weights for {missing[0]} (and {len(missing) - 1} more): it was"
            f" saved without its {kind} language-modelling head; choose one that has it"
        )
    loaded: PreTrainedModel = model
    return loaded


def _adapted(
    name: str,
    source: Source,
    adapter: Mapping[str, Any],
    load_base: Callable[..., LanguageModel],
    trust: Mapping[str, Any],
) -> LanguageModel:
    """An adapter on its base model."""
    named = adapter["base_model_name_or_path"]
    is_local = Path(os.path.expanduser(named)).exists()  # noqa: PTH111
    try:
        base = load_base(named, revision=None if is_local else adapter.get("revision"))
    except ModelError as error:
        raise ModelError(
            f"{name} is an adapter of {named}: {error}. If the base model is elsewhere, write where as"
            " base_model_name_or_path in adapter_config.json"
        ) from error
    with explained(name), quiet():
        model = with_adapter(name, base.model, source)
        own = has_tokenizer(source)
        tokenizer = read_tokenizer(source.where, **source.options, **trust) if own else base.tokenizer
    return _examined(name, model, tokenizer, base.kind)


def _examined(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: ModelKind) -> LanguageModel:
    """A model that is ready for use; problems are reported now, and not after hours."""
    if kind == "masked" and tokenizer.mask_token_id is None:
        raise ModelError(f"{name}: its tokenizer has no mask token; if the model is causal, say --kind causal")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is never attended; any known id will do
    language_model = LanguageModel(name=name, model=model.eval(), tokenizer=tokenizer, kind=kind)
    with explained(name), quiet():
        _ = language_model.examination
    return language_model


def _unpacked() -> dict[str, Any]:
    """Plain weights from a GGUF file; newer versions would else run kernels from the hub on packed ones."""
    try:
        import gguf
    except ImportError:
        raise ModelError("GGUF files need the package gguf: pip install 'equiframe[gguf]'") from None
    if not hasattr(gguf, "__version__"):  # where transformers looks for it with Python 3.10
        gguf.__version__ = importlib.metadata.version("gguf")
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _tensor(source: Source, key: str) -> Tensor:
    """The tensor of a checkpoint, in one file or several, whose name ends with the key.

    Some architectures give the stack another name in their files than in memory.
    """

    def stored_name(names: Iterable[str]) -> str:
        return next(name for name in names if f".{name}".endswith(f".{key}"))

    where, options = source.where, source.options
    try:
        file = cached_file(where, SAFE_WEIGHTS_NAME, **options)
    except OSError:
        index = cached_file(where, SAFE_WEIGHTS_INDEX_NAME, **options)
        shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
        file = cached_file(where, shards[stored_name(shards)], **options)
    with safe_open(file, framework="pt") as stored:
        return stored.get_tensor(stored_name(stored.keys()))
