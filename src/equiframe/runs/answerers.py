"""The model of a run, on this machine or on a server, and its description in the record."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeAlias

import torch.distributed as dist
from accelerate.utils import get_max_memory

from equiframe.chat import read_template
from equiframe.config import AuditConfig, DebiasConfig, EvaluateConfig, RunConfig, ScoringOptions
from equiframe.errors import InputError
from equiframe.generation.responses import ResponseFile, read_responses
from equiframe.generation.served import ChatModel, connect_chat
from equiframe.methods import Method, load_method
from equiframe.models import LanguageModel, load
from equiframe.models.peft_adapter import is_quantised
from equiframe.models.projected import is_projected
from equiframe.record import ModelDescription, ServerDescription
from equiframe.scoring.engine import LocalAnswerer
from equiframe.scoring.self_debias import SelfDebias

if TYPE_CHECKING:
    from equiframe.scoring.served import ServedModel

Subject: TypeAlias = "LocalAnswerer | ServedModel | ChatModel | ResponseFile"
"""What a run measures: a model here, a model on a server by tokens or by messages, or responses from a file."""
_QUANTISATION = "quantization_config"


def answerer_of(config: RunConfig) -> Subject:
    """Make the answerer of a run; if it is local, it holds the model that is audited and fine-tuned."""
    if isinstance(config, EvaluateConfig) and config.responses is not None:
        return read_responses(config.responses, config.model)
    if isinstance(config, EvaluateConfig) and config.is_served and config.chat_template == "server":
        return connect_chat(config.model, concurrency=config.concurrency)
    if isinstance(config, EvaluateConfig) and config.is_served:
        from equiframe.scoring.served import connect

        if dist.is_initialized():
            raise InputError(f"{config.model} is used by one process: start it without torchrun")
        served = connect(
            config.model,
            tokenizer=config.tokenizer,
            concurrency=config.concurrency,
            trust_remote_code=config.trust_remote_code,
        )
        template = read_template(config.chat_template, served.codec.tokenizer, config.model)
        return dataclasses.replace(served, codec=dataclasses.replace(served.codec, chat_template=template))
    language_model = load_of(config)
    token_budget = ScoringOptions.token_budget if isinstance(config, AuditConfig) else config.token_budget
    bias = config.self_debias if isinstance(config, EvaluateConfig) else None
    return LocalAnswerer(
        language_model,
        token_budget=token_budget,
        self_debias=None if bias is None else SelfDebias.against(bias, language_model.tokenizer),
        chat_template=None if isinstance(config, AuditConfig) else _chat_template(config.chat_template, language_model),
    )


def _chat_template(value: str, language_model: LanguageModel) -> str | None:
    if value != "off" and language_model.kind == "masked":
        raise InputError(f"--chat-template {value}: {language_model.name} is a masked LM, and masked LMs do not chat")
    return read_template(value, language_model.tokenizer, language_model.name)


def load_of(config: RunConfig) -> LanguageModel:
    """Load the model to measure; trained weights are float32 unless the user says otherwise."""
    trains_all = (
        isinstance(config, DebiasConfig)
        and not config.fine_tuning.lora_rank
        and isinstance(load_method(config.method, config.method_options), Method)
    )
    return load(
        config.model,
        kind=config.kind,
        revision=config.revision,
        device=config.device,
        trust_remote_code=config.trust_remote_code,
        dtype="float32" if config.dtype == "auto" and trains_all else config.dtype,
        device_map=config.device_map,
        model_args=config.model_args,
    )


def _in_float32(config: EvaluateConfig) -> EvaluateConfig:
    """The configuration of the same model, without the options that make it smaller."""
    arguments = {name: value for name, value in config.model_args.items() if name != _QUANTISATION}
    return dataclasses.replace(config, dtype="float32", model_args=arguments)


def _no_reference(language_model: LanguageModel, config: EvaluateConfig) -> str | None:
    """Why a model cannot be compared with itself in float32, None if it can."""
    if language_model.precision == "float32":
        return "the model is scored in float32"
    if is_quantised(language_model.model) and _QUANTISATION not in config.model_args:
        return "the checkpoint is quantised, and its original weights are not known"
    needed = 4 * language_model.model.num_parameters()
    memory, device = get_max_memory(), language_model.device
    place = device.type if device.type in memory else device.index or 0
    free = sum(memory.values()) if config.device_map is not None else memory.get(place, max(memory.values()))
    if needed > free:
        return f"in float32 the weights take {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free"
    return None


def reference_of(config: RunConfig, answerer: Subject) -> tuple[LocalAnswerer | None, dict[str, str]]:
    """Load the model in float32 for comparison, if requested; or say why this is not possible."""
    if not (isinstance(config, EvaluateConfig) and config.check_float32 and isinstance(answerer, LocalAnswerer)):
        return None, {}
    if reason := _no_reference(answerer.language_model, config):
        return None, {"check against float32": reason}
    return dataclasses.replace(answerer, language_model=load_of(_in_float32(config))), {}


def describe(answerer: Subject, fingerprint: str) -> ModelDescription:
    """Describe a model for the record."""
    if isinstance(answerer, ResponseFile):
        return ModelDescription(name=answerer.name, kind=answerer.kind, vocabulary=0, fingerprint=fingerprint)
    if isinstance(answerer, ChatModel):
        return ModelDescription(
            name=answerer.name,
            kind=answerer.kind,
            vocabulary=0,
            fingerprint=fingerprint,
            server=_server(answerer, tokenizer="its own", window=0),
        )
    if isinstance(answerer, LocalAnswerer):
        model, examination = answerer.language_model.model, answerer.language_model.examination
        return ModelDescription(
            name=answerer.name,
            kind=answerer.kind,
            architecture=type(model).__name__,
            parameters=model.num_parameters(),
            vocabulary=examination.rows,
            precision=answerer.precision,
            projected=is_projected(model),
            examination=examination,
            fingerprint=fingerprint,
            chat_template=answerer.chat_template,
        )
    return ModelDescription(
        name=answerer.name,
        kind=answerer.kind,
        vocabulary=len(answerer.codec.tokenizer),
        fingerprint=fingerprint,
        chat_template=answerer.codec.chat_template,
        server=_server(answerer, tokenizer=answerer.codec.tokenizer.name_or_path, window=answerer.codec.window),
    )


def _server(answerer: ChatModel | ServedModel, *, tokenizer: str, window: int) -> ServerDescription:
    """Describe for the record the server that ran a model."""
    return ServerDescription(
        url=answerer.url,
        model=answerer.model,
        root=answerer.root,
        revision=answerer.revision,
        version=answerer.version,
        tokenizer=tokenizer,
        window=window,
    )
