"""Saves a model to a folder, and checks that transformers alone reads the same model from it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoTokenizer

from equiframe.errors import ModelError
from equiframe.models.adapter import input_device
from equiframe.models.explaining import quiet
from equiframe.models.kinds import auto_class
from equiframe.models.language_model import LanguageModel
from equiframe.models.projected import fold, is_projected
from equiframe.models.same_logits import centred_logits, distance, tolerance

README = "README.md"
READ_BY_TRANSFORMERS = """\
A projection takes the bias out of this model's last hidden states. It is folded into the weights of the head, so
`from_pretrained` of transformers gives the debiased logits. The hidden states that transformers gives are those of the
original model, because no weight of the encoder can hold the projection: load the model with `equiframe.load` for
whatever reads states instead of logits, such as sentence embeddings, SEAT, or a classifier trained on top. The tensor
`output_projection`, which transformers reports as unexpected, is this projection.
"""
"""The text for readers of a projected model's folder."""

_TEXTS = (
    "She is a nurse and he is a doctor.",
    "The woman and her brother went to the market, and it rained all day.",
    "In 2021, the city of Paris had 2,145,906 people!",
)


def save(language_model: LanguageModel, folder: Path, *, release: bool = False) -> None:
    """Write model and tokenizer as safetensors, and read them again with transformers alone.

    Everything is written under a temporary name first; an older folder is replaced. A projection is first folded into
    the weights, see :func:`equiframe.models.projected.fold`. The model that is read again, in the type of the
    checkpoint, takes as much memory as the saved one: on the same device, or on the CPU if the device is full.

    Args:
        language_model: model to save.
        folder: folder to write; with a projection it gets a README.md that explains what transformers reads.
        release: whether to free the weights of ``language_model`` before the folder is read again, so that memory never
            holds both. The model cannot be used afterwards.

    Raises:
        ModelError: the model that transformers reads gives other tokens or other logits.
    """
    fold(language_model.model)
    scratch = folder.with_name(folder.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    with quiet():
        language_model.model.save_pretrained(scratch)
        language_model.tokenizer.save_pretrained(scratch)
    if is_projected(language_model.model):
        (scratch / README).write_text(READ_BY_TRANSFORMERS, encoding="utf-8")
    expected = _outputs(language_model)
    if release:
        free_weights(language_model)
    _check(language_model, expected, scratch)
    shutil.rmtree(folder, ignore_errors=True)
    scratch.replace(folder)


def free_weights(language_model: LanguageModel) -> None:
    """Free the memory of a model that someone still refers to. The model cannot be used afterwards."""
    for tensor in (*language_model.model.parameters(), *language_model.model.buffers()):
        tensor.grad, tensor.data = None, tensor.data.new_empty(0)


class _Output(NamedTuple):
    """The tokens of a text, and their centred logits [tokens, vocabulary]."""

    text: str
    ids: list[int]
    logits: Tensor


def _outputs(language_model: LanguageModel) -> list[_Output]:
    """What a model in memory reads and predicts for a few short texts."""
    read = [(text, language_model.tokenizer(text)["input_ids"][: language_model.window]) for text in _TEXTS]
    return [_Output(text, ids, centred_logits(language_model.model, ids)) for text, ids in read]


def _check(language_model: LanguageModel, expected: list[_Output], folder: Path) -> None:
    """Compare what transformers reads from a folder with the model in memory, whose weights may be gone."""
    model, tokenizer = language_model.model, language_model.tokenizer
    auto = auto_class(language_model.kind, model.config)
    with quiet():
        again = _loader(auto, model).from_pretrained(folder, dtype="auto", use_safetensors=True)
        tokenizer_again = _loader(AutoTokenizer, tokenizer).from_pretrained(folder)
    try:
        again.to(input_device(model))
    except torch.OutOfMemoryError:
        again.to("cpu")
    for text, ids, logits in expected:
        if tokenizer_again(text)["input_ids"][: language_model.window] != ids:
            raise ModelError(
                f"{folder}: the tokenizer that transformers reads from it splits {text!r} into other tokens than the"
                " one in memory; the model is complete, so save the right tokenizer next to it"
            )
        apart = distance(centred_logits(again, ids), logits)
        if apart > tolerance(model.dtype):
            raise ModelError(
                f"{folder}: transformers reads a model from it that is not the one in memory: the logits of {text!r}"
                f" differ by {apart:.2%} of their size. Something that changes the logits is not among the weights,"
                " such as a hook, a patched forward, or a weight whose tie the configuration does not know"
            )


def _loader(auto: Any, original: Any) -> Any:
    """The class with which a user would load it; for remote code, which was allowed to run, the class itself."""
    return auto if type(original).__module__.startswith("transformers.") else type(original)
