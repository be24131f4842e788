"""The kind of a model, masked or causal, and the class of transformers that loads it."""

from __future__ import annotations

from typing import Any

import transformers
from packaging.version import Version
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from equiframe.choices import ModelKind
from equiframe.errors import ModelError

_OTHER_HEADS = ("Classification", "QuestionAnswering", "MultipleChoice", "Regression", "NextSentencePrediction")

_NEEDED = {"doge": "5.23", "nemotron_h": "5.15"}
"""By type of model, the version of transformers in which its tokens do not read later ones; in older ones they do."""


def check_version(config: Any, name: str) -> None:
    """Refuse a model for which the installed transformers gives wrong numbers, and name the version that is right."""
    needed, installed = _NEEDED.get(config.model_type), transformers.__version__
    if needed is not None and Version(installed) < Version(needed):
        raise ModelError(
            f"{name}: in a {config.model_type} model, transformers {installed} lets a token read those after it, so"
            f" that its numbers are wrong: pip install 'transformers>={needed}'"
        )


def auto_class(kind: ModelKind, config: Any) -> Any:
    """The class of transformers that loads such a model; some that read images too have none for text alone."""
    if kind == "masked":
        return AutoModelForMaskedLM
    reads_images = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if reads_images and config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def kind_of(config: Any, name: str, given: ModelKind | None) -> ModelKind:
    """The kind of a model: as given, else by the class that saved the checkpoint, else by the only class that fits."""
    saved = (getattr(config, "architectures", None) or [config.model_type])[0]
    if config.is_encoder_decoder:
        raise ModelError(
            f"{name}: {saved} has an encoder and a decoder, but equiframe reads models that have only one of them:"
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
