"""Dropout: fine-tuning on plain text with more of the model's connections dropped."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

import torch
from datasets import Dataset
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from equiframe.data import DataSource, TextStream, stream
from equiframe.errors import InputError
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.methods.objective import Objective, ObjectiveOutput
from equiframe.methods.text import TextMethod
from equiframe.models.adapter import Feature, Pairing
from equiframe.models.language_model import LanguageModel

_Rate = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Dropout(TextMethod):
    """Fine-tune on plain text with a higher dropout rate and the model's own pretraining loss, as a baseline.

    The rates hold inside a training step alone; the model and the configuration that is saved keep their
    own.

    Requires: a model with dropout. In Llama's kind, SmolLM2 among them, only attention has one, and
    ``hidden`` has no effect.

    Relations: CDA without counterfactuals. Settings: those of CDA, ours; bias-bench takes 2,000 steps of
    512 sequences (GPT-2: 256). Published rates (hidden, attention): BERT 0.20 and 0.15, ALBERT 0.05 each
    (Webster et al.'s checkpoints, "Zari"); bias-bench has these, 0.20 and 0.15 for RoBERTa, and 0.15 each
    for GPT-2. The defaults are BERT's for every model.

    Differs from bias-bench: there the raised rates are saved in the model's configuration, and hold in
    whatever it is fine-tuned for next.

    Args:
        text: see :func:`equiframe.data.corpus`: ``gap``, ``bug``, ``bold``, or a file.
        hidden: rate between layers.
        attention: rate on attention weights.

    Reference: Webster et al. 2020, "Measuring and Reducing Gendered Correlations in Pre-trained Models"; Meade et
    al. 2022 (bias-bench).
    """

    name: ClassVar[str] = "dropout"
    text: str = "gap"
    hidden: _Rate = 0.20
    attention: _Rate = 0.15

    def text_to_train_on(self, source: DataSource, seed: int) -> TextStream:
        """The text as it is."""
        return stream(self.text, source)

    def objective(
        self, language_model: LanguageModel, data: Dataset, *, pairing: Pairing, feature: Feature
    ) -> Objective:
        """The language-modelling loss at the rates given.

        Raises:
            InputError: the model has no dropout.
        """
        rates = dropout_rates(language_model.model, hidden=self.hidden, attention=self.attention)
        return RaisedDropout(language_model, rates, pairing=pairing, feature=feature)


Rate: TypeAlias = tuple[nn.Module, str, float]
"""A module, its attribute that holds a rate of dropout, and what the rate shall be."""


class RaisedDropout(LanguageModelling):
    """The language-modelling loss of a model whose rates of dropout are others during the forward pass."""

    def __init__(
        self, language_model: LanguageModel, rates: Sequence[Rate], *, pairing: Pairing, feature: Feature
    ) -> None:
        super().__init__(language_model, pairing=pairing, feature=feature)
        self._rates = rates

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ObjectiveOutput:
        """As the plain loss; the model's own rates are back afterwards."""
        with _rates_set(self._rates):
            return super().forward(model, batch)


@contextlib.contextmanager
def _rates_set(rates: Sequence[Rate]) -> Iterator[None]:
    before = [getattr(module, attribute) for module, attribute, _ in rates]
    try:
        for module, attribute, rate in rates:
            setattr(module, attribute, rate)
        yield
    finally:
        for (module, attribute, _), own in zip(rates, before, strict=True):
            setattr(module, attribute, own)


def dropout_rates(model: PreTrainedModel, *, hidden: float, attention: float) -> list[Rate]:
    """Where a model keeps its rates of dropout, each with its new value.

    Modules have other names in each architecture, so none is told by its name: a model of the same class is built,
    without memory, from a configuration with the new rates, and where one of its modules has another rate than the same
    module of this model, a rate is kept there. A rate is what the configuration calls by a name with "drop" in it, on
    attention weights where "att" is in it too; the share of layers left out ("layerdrop") is none. Where an
    architecture has put no dropout because its rate is 0 (ModernBERT, after attention), none is added.

    Args:
        model: with its configuration; neither changes.
        hidden: rate between layers.
        attention: rate on attention weights.

    Returns:
        Every rate that is not the wanted one already.

    Raises:
        InputError: the configuration of the model has no rate of dropout.
    """
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    own = [
        name
        for name, value in vars(text).items()
        if "drop" in name and "layerdrop" not in name and isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if not own:
        raise InputError(f"{type(model).__name__} has no dropout to raise: choose another --method")
    wanted = (float(hidden), float(attention))
    for name in own:
        setattr(text, name, wanted["att" in name])
    with torch.device("meta"):
        raised = type(model)(config)
    modules = dict(model.named_modules())
    return [
        (modules[name], attribute, value)
        for name, module in raised.named_modules()
        if name in modules
        for attribute, value in vars(module).items()
        if isinstance(value, float) and value in wanted and vars(modules[name]).get(attribute, value) != value
    ]
