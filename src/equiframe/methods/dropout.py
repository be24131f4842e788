"""Dropout: fine-tuning on plain text with more of the model's connections dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from datasets import Dataset
from pydantic import Field
from torch import Tensor, nn
from transformers import DataCollatorWithPadding

from equiframe.data import DataFile, stream
from equiframe.errors import InputError
from equiframe.methods.cda import encoded
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.methods.method import Method, Settings
from equiframe.methods.objective import Objective
from equiframe.models.adapter import Feature, Pairing
from equiframe.models.loading import LanguageModel

_Rate = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Dropout(Method):
    """The model's own pretraining loss on plain text, at a higher rate of dropout. A baseline.

    The rates are set on the modules for training alone; the configuration that is saved keeps its own, and
    in use nothing is dropped anyway.

    Requires: a model with dropout. Of Llama's kind only attention has one.

    Relations: CDA without counterfactuals. Settings: those of CDA, ours.

    Args:
        text: see :func:`equiframe.data.corpus`: ``gap``, ``bug``, ``bold``, or a file.
        hidden: rate between layers; bias-bench's value for BERT.
        attention: rate on attention weights, likewise.

    Reference: Webster et al. 2020, "Measuring and Reducing Gendered Correlations in Pre-trained Models".
    """

    name: ClassVar[str] = "dropout"
    settings: ClassVar[Settings] = Settings(
        epochs=3, learning_rate=2e-5, batch_size=16, max_length=128, unc3_weight=100.0, seed=42
    )

    text: str = "gap"
    hidden: _Rate = 0.20
    attention: _Rate = 0.15

    def training_data(
        self, language_model: LanguageModel, *, folder: Path | None, max_length: int, seed: int
    ) -> tuple[Dataset, tuple[DataFile, ...]]:
        """The text as it is, encoded."""
        text = stream(self.text, folder)
        return encoded(language_model, text, max_length=max_length, name=text.name), text.files

    def collator(self, language_model: LanguageModel) -> Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]:
        """Padding; a masked LM's tokens are masked by the objective."""
        return DataCollatorWithPadding(language_model.tokenizer)

    def objective(
        self, language_model: LanguageModel, data: Dataset, *, pairing: Pairing, feature: Feature
    ) -> Objective:
        """The language-modelling loss; the model's rates of dropout are set here.

        Raises:
            InputError: the model has no dropout.
        """
        if not set_dropout(language_model.model, hidden=self.hidden, attention=self.attention):
            raise InputError(f"{type(language_model.model).__name__} has no dropout to raise: choose another --method")
        return LanguageModelling(language_model, pairing=pairing, feature=feature)


def set_dropout(model: nn.Module, *, hidden: float, attention: float) -> int:
    """Set the rates of dropout on a model's modules; its configuration stays as it is.

    A dropout below a module whose name speaks of attention, or of self-attention, and that is no dropout of its
    output, is on attention weights; architectures that call a function instead keep the rate in an attribute
    ``attention_dropout`` or ``dropout_prob``.

    Returns:
        How many rates were set.
    """
    count = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            path = name.lower()
            is_output = any(part in path for part in ("output", "out_drop", "resid", "hidden"))
            module.p = attention if "att" in path and not is_output else hidden
            count += 1
        for attribute in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, attention)
                count += 1
    return count
