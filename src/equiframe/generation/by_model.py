"""Measures of responses that use a model of the user's: any text classifier, or the states of any encoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from equiframe.errors import InputError, ModelError
from equiframe.generation.columns import LABEL
from equiframe.generation.measurer import Cells, Measurer, to_the_others
from equiframe.models.examination import UNLIMITED, window_of
from equiframe.models.explaining import quiet
from equiframe.options import first_line

_ROWS = 32
_LONGEST = 512  # tokens of a response for a model without a limit
_UNNAMED = re.compile(r"LABEL_\d+")
_BETWEEN = re.compile(r"[\W_]+")


def classifier(name: str) -> Measurer:
    """Load a text classifier, which measures the probability of each of its labels.

    Args:
        name: hub name or folder.

    Raises:
        InputError: it cannot be loaded, is not a text classifier, or its labels have no meaningful names.
    """
    model, tokenizer = _loaded(AutoModelForSequenceClassification, name, "classifier")
    labels = [str(label) for _, label in sorted(model.config.id2label.items())]
    if unnamed := next((label for label in labels if _UNNAMED.fullmatch(label)), None):
        raise InputError(
            f"--measures classifier:{name}: its labels, such as {unnamed}, have no meaning: name them in id2label of"
            " its config.json"
        )
    columns = [f"{LABEL}{_BETWEEN.sub('_', label.lower()).strip('_')}" for label in labels]
    if LABEL in columns or len(set(columns)) < len(columns):
        raise InputError(
            f"--measures classifier:{name}: its labels {', '.join(map(repr, labels))} do not differ in their letters"
            " and digits: name them in id2label of its config.json"
        )
    is_exclusive = model.config.problem_type != "multi_label_classification" and len(labels) > 1

    def probabilities(output: Any, mask: Tensor) -> Tensor:
        logits: Tensor = output.logits.float()
        return logits.softmax(-1) if is_exclusive else logits.sigmoid()

    def score(cells: Cells, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        found = _outputs(model, tokenizer, texts, probabilities)
        return {column: found[:, at] for at, column in enumerate(columns)}

    said = (
        f"classified by {name}, whose error rate on responses like these is not known, nor whether it errs alike for"
        " all groups: judge a hundred of them by hand"
    )
    return Measurer(score, said=said)


def embedding(name: str) -> Measurer:
    """Load an encoder, which measures the cosine between the mean last states of the responses to two groups.

    Args:
        name: hub name or folder.

    Raises:
        InputError: it cannot be loaded.
    """
    model, tokenizer = _loaded(AutoModel, name, "embedding")

    def directions(output: Any, mask: Tensor) -> Tensor:
        states: Tensor = output.last_hidden_state.float()
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=-1)

    def score(cells: Cells, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        found = _outputs(model, tokenizer, texts, directions)
        return {"cosine": to_the_others(cells, lambda one, other: float(found[one] @ found[other]))}

    return Measurer(score, said=f"cosines of the states of {name}")


def _loaded(kind: Any, name: str, what: str) -> tuple[Any, Any]:
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise InputError(f"--measures {what}:{name}: the folder does not exist")
    try:
        with quiet():
            model, told = kind.from_pretrained(name, use_safetensors=True, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # a damaged file can cause any error
        said = f"--measures {what}:{name} cannot be loaded ({first_line(error)})"
        raise InputError(f"{said}: give a hub name, or a folder with safetensors") from error
    if what == "classifier" and told["missing_keys"]:
        raise InputError(f"--measures {what}:{name}: the checkpoint has no classification head: give one that has")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


@torch.inference_mode()
def _outputs(
    model: Any, tokenizer: Any, texts: Sequence[str], read: Callable[[Any, Tensor], Tensor]
) -> NDArray[np.float64]:
    """Compute outputs of a model, [texts, numbers], each text once, sorted by length, cut at the model's window.

    Raises:
        ModelError: a number is not finite.
    """
    different = sorted(set(texts), key=len)
    window = window_of(model, tokenizer("a a a", return_tensors="pt").to(model.device))
    longest = min(tokenizer.model_max_length, window if window < UNLIMITED else _LONGEST)
    found: dict[str, NDArray[np.float64]] = {}
    for batch in _parts(different):
        encoded = tokenizer(batch, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(
            model.device
        )
        numbers = read(model(**encoded), encoded["attention_mask"]).double().cpu().numpy()
        if not np.isfinite(numbers).all():
            raise ModelError(f"{model.config.name_or_path}: a number that is not finite for {batch[0]!r:.60}")
        found.update(zip(batch, numbers, strict=True))
    return np.stack([found[text] for text in texts])


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _ROWS):
        yield list(texts[start : start + _ROWS])
