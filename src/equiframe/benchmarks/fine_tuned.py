"""The one shape of every benchmark that fine-tunes the model before it measures."""

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
"""What is put on the encoder: a linear map of one state, or a scorer of a pronoun and two mentions."""

Span: TypeAlias = tuple[int, int]
"""Start and end of a stretch of text, in characters; the end is the first one after it."""


@dataclass(frozen=True)
class FineTuneSettings:
    """How a model is fine-tuned on a task.

    Args:
        epochs: passes over the training data.
        batch_size: examples a device and step.
        learning_rate: peak rate of AdamW, decaying linearly to zero, without warm-up or weight decay.
        max_length: longest example in tokens; longer texts are cut.
        max_steps: optimizer steps, instead of epochs.
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
        groups: what the example may be grouped by.
    """

    item: str
    text: str
    second: str | None
    label: float
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MentionExample:
    """A text with a pronoun and two people whom it may mean.

    Args:
        item: stable identifier, the same for every model.
        text: the text.
        pronoun: where the pronoun stands.
        candidates: where either person is mentioned.
        label: 0 or 1, the candidate that is meant; 2 where it is neither.
        groups: what the example may be grouped by.
    """

    item: str
    text: str
    pronoun: Span
    candidates: tuple[Span, Span]
    label: int
    groups: Mapping[str, str] = field(default_factory=dict)


Example = TypeVar("Example", TextExample, MentionExample)


class FineTunedBenchmark(Scored, Generic[Example]):
    """Training data to a fine-tuned copy of the model, its outputs to outcomes, outcomes to measures.

    The counterpart of :class:`equiframe.benchmarks.benchmark.Benchmark` for what cannot be asked of a
    language model as it is. A benchmark sees outputs, never a model. Intervals are over the evaluation
    examples: they say nothing of another seed of fine-tuning.

    Attributes:
        settings: how the published figures were fine-tuned.
        head: what is put on the encoder.
        outputs: numbers it gives an example: one per class, or a single one for a score.
    """

    settings: FineTuneSettings
    head: ClassVar[HeadKind] = "sequence"
    outputs: int

    @abstractmethod
    def training_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[Example], tuple[DataFile, ...]]:
        """Find, parse and check what the model is fine-tuned on.

        Args:
            source: the source of data files.

        Raises:
            DataError: naming file, line or field, and what stands there.
        """

    def development_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[Example], tuple[DataFile, ...]]:
        """Examples by whose accuracy the epoch is chosen; none, as here, keeps the last one."""
        return [], ()

    @abstractmethod
    def evaluation_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[Example], tuple[DataFile, ...]]:
        """Find, parse and check what the fine-tuned model is measured on; as ``training_data``."""

    @abstractmethod
    def outcomes(self, examples: Sequence[Example], outputs: NDArray[np.float64]) -> list[Outcome]:
        """One row an evaluation example, in order.

        Args:
            examples: the evaluation examples.
            outputs: what the fine-tuned model gave for each, [examples, outputs]; not-a-number where it
                could not read one, whose row is then excluded by the caller.
        """


def softmax(outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of the classes, [examples, classes]."""
    exponentials = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
