"""Dropout: fine-tuning on plain text with a higher dropout rate."""

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

    The rates apply only inside a training step; the model and the saved configuration keep their
    own rates.

    Requires: a model with dropout. Models like Llama, including SmolLM2, have it only on attention, so that
    ``hidden`` has no effect on them.

    Relations: CDA without counterfactuals. Settings: those of CDA, ours; bias-bench takes 2,000 steps of
    512 sequences (GPT-2: 256). Published rates (hidden, attention): BERT 0.20 and 0.15, ALBERT 0.05 each
    (Webster et al.'s checkpoints, "Zari"); bias-bench has these, 0.20 and 0.15 for RoBERTa, and 0.15 each
    for GPT-2. The defaults are BERT's for every model.

    Differs from bias-bench: there the raised rates are saved in the model's configuration, and remain
    in effect when the model is fine-tuned later.

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
        """Return the text unchanged."""
        return stream(self.text, source)

    def objective(
        self, language_model: LanguageModel, data: Dataset, *, pairing: Pairing, feature: Feature
    ) -> Objective:
        """Return the language-modelling loss at the given rates.

        Raises:
            InputError: the model has no dropout.
        """
        rates = dropout_rates(language_model.model, hidden=self.hidden, attention=self.attention)
        return RaisedDropout(language_model, rates, pairing=pairing, feature=feature)


Rate: TypeAlias = tuple[nn.Module, str, float]
"""A module, the name of its attribute that holds a dropout rate, and the new rate."""


class RaisedDropout(LanguageModelling):
    """The language-modelling loss of a model, with other dropout rates during the forward pass."""

    def __init__(
        self, language_model: LanguageModel, rates: Sequence[Rate], *, pairing: Pairing, feature: Feature
    ) -> None:
        super().__init__(language_model, pairing=pairing, feature=feature)
        self._rates = rates

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ObjectiveOutput:
        """Compute the plain loss at the raised rates; the model's own rates are restored afterwards."""
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
    """Find where a model keeps its dropout rates, with the new value for each.

    Modules have different names in each architecture, so none is identified by name: a model of the same class is
    built, without memory, from a configuration with the new rates; where one of its modules has another rate than the
    same module of this model, a rate is kept there. A rate is any value whose name in the configuration contains
    "drop"; it is a rate on attention weights if the name also contains "att"; the share of layers left out
    ("layerdrop") is not a rate. If an architecture built no dropout because its rate is 0 (ModernBERT, after
    attention), none is added.

    Args:
        model: a model with its configuration; neither changes.
        hidden: rate between layers.
        attention: rate on attention weights.

    Returns:
        Every rate that does not yet have its new value.

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
