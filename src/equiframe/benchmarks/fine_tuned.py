"""The common structure of every benchmark that fine-tunes the model before it measures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from equiframe.benchmarks.benchmark import Outcome, Scored
from equiframe.choices import TrainingPrecision
from equiframe.data import DEFAULT_SOURCE, DataFile, DataSource
from equiframe.options import SEEDS, check_choice, check_range

HeadKind: TypeAlias = Literal["sequence", "mentions"]
"""The head on the encoder: a linear map of one state, or a scorer of a pronoun and two mentions."""

Span: TypeAlias = tuple[int, int]
"""Start and end of a part of a text, in characters; the end is exclusive."""


@dataclass(frozen=True)
class FineTuneSettings:
    """How a model is fine-tuned on a task.

    Args:
        epochs: passes over the training data.
        batch_size: examples per device and step.
        learning_rate: peak rate of AdamW, decaying linearly to zero, without warm-up or weight decay.
        max_length: longest example in tokens; longer texts are cut.
        max_steps: number of optimizer steps; it replaces ``epochs``.
        seed: seed of the new head, of dropout and of the order of the examples.
        precision: precision of training (auto = bf16 if the GPU supports it, else fp32).

    Raises:
        InputError: a number that is out of range.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    max_length: int
    max_steps: int | None = None
    seed: int = 0
    precision: TrainingPrecision = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate"):
            check_range(name, getattr(self, name), zero=False)
        for name in ("batch_size", "max_length", "max_steps"):
            check_range(name, getattr(self, name), whole=True, zero=False)
        check_range("seed", self.seed, whole=True, most=SEEDS)
        check_choice("precision", self.precision, TrainingPrecision)

    def __str__(self) -> str:
        length = f"{self.max_steps} steps" if self.max_steps else f"{self.epochs:g} epochs"
        return (
            f"{length} in batches of {self.batch_size}, learning rate {self.learning_rate:g},"
            f" at most {self.max_length} tokens"
        )


@dataclass(frozen=True)
class TextExample:
    """A sentence or a pair of sentences, and its class or score.

    Args:
        item: stable identifier, the same for every model.
        text: the sentence, or the first of the pair.
        second: the second of the pair.
        label: number of the class, or the score.
        groups: what the example can be grouped by.
    """

    item: str
    text: str
    second: str | None
    label: float
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MentionExample:
    """A text with a pronoun and two people to whom it may refer.

    Args:
        item: stable identifier, the same for every model.
        text: the text.
        pronoun: where the pronoun is.
        candidates: where each person is mentioned.
        label: 0 or 1, the candidate to whom the pronoun refers; 2 if it refers to neither.
        groups: what the example can be grouped by.
    """

    item: str
    text: str
    pronoun: Span
    candidates: tuple[Span, Span]
    label: int
    groups: Mapping[str, str] = field(default_factory=dict)


Example = TypeVar("Example", TextExample, MentionExample)


class FineTunedBenchmark(Scored, Generic[Example]):
    """A benchmark that fine-tunes a copy of the model, turns its outputs into outcomes, and those into measures.

    The counterpart of :class:`equiframe.benchmarks.benchmark.Benchmark` for tasks that a language model cannot
    do without training. A benchmark sees outputs, never a model. Intervals are over the evaluation
    examples: they do not cover other seeds of fine-tuning.

    Attributes:
        settings: how the models of the published figures were fine-tuned.
        head: the head that is put on the encoder.
        outputs: number of outputs for each example: one per class, or a single one for a score.
    """

    settings: FineTuneSettings
    head: ClassVar[HeadKind] = "sequence"
    outputs: int

    @abstractmethod
    def training_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[Example], tuple[DataFile, ...]]:
        """Find, parse and check the examples that the model is fine-tuned on.

        Args:
            source: the source of data files.

        Raises:
            DataError: the data is not as expected; the error names the file, the line or field, and the content.
        """

    def development_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[Example], tuple[DataFile, ...]]:
        """Return the examples whose accuracy selects the epoch. None, as here, keeps the last epoch."""
        return [], ()

    @abstractmethod
    def evaluation_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[Example], tuple[DataFile, ...]]:
        """Find, parse and check the examples that the fine-tuned model is measured on; see ``training_data``."""

    @abstractmethod
    def outcomes(self, examples: Sequence[Example], outputs: NDArray[np.float64]) -> list[Outcome]:
        """Return one row per evaluation example, in order.

        Args:
            examples: the evaluation examples.
            outputs: outputs of the fine-tuned model, [examples, outputs]; NaN for an example that it
                could not read, whose row the caller then excludes.
        """


def softmax(outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the probabilities of the classes, [examples, classes]."""
    exponentials = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
