"""What methods have in common that change the text alone: the text encoded, and the model's own loss."""

from __future__ import annotations

import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, Features, Value
from datasets import Sequence as Column
from datasets.arrow_writer import ArrowWriter
from torch import Tensor

from equiframe.data import DataFile, DataSource, TextStream
from equiframe.errors import DataError
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.methods.method import Method, Settings
from equiframe.methods.objective import Objective
from equiframe.models.adapter import Feature, Pairing
from equiframe.models.encoding import PadRight, cut_at_end
from equiframe.models.language_model import LanguageModel


class TextMethod(Method):
    """A method that says which text to train on, by the model's own pretraining loss.

    See :class:`equiframe.methods.language_modelling.LanguageModelling`. The settings are BEC's as published.
    """

    settings: ClassVar[Settings] = Settings(
        epochs=3, learning_rate=2e-5, batch_size=16, max_length=128, unc3_weight=100.0, seed=42
    )

    @abstractmethod
    def text_to_train_on(self, source: DataSource, seed: int) -> TextStream:
        """The sentences, read as they are needed.

        Args:
            source: the source of data files.
            seed: seed of whatever is drawn.
        """

    @property
    def needed(self) -> str:
        """What is missing if there is no text, for the message."""
        return "text of three words or more"

    def training_data(
        self, language_model: LanguageModel, *, source: DataSource, max_length: int, seed: int
    ) -> tuple[Dataset, tuple[DataFile, ...]]:
        """The text, encoded."""
        text = self.text_to_train_on(source, seed)
        return encoded(language_model, text, max_length=max_length, name=text.name, needed=self.needed), text.files

    def collator(self, language_model: LanguageModel) -> Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]:
        """Padding; a masked LM's tokens are masked by the objective."""
        return partial(_padded, PadRight(language_model))

    def objective(
        self, language_model: LanguageModel, data: Dataset, *, pairing: Pairing, feature: Feature
    ) -> Objective:
        """The language-modelling loss."""
        return LanguageModelling(language_model, pairing=pairing, feature=feature)


def encoded(
    language_model: LanguageModel,
    texts: Iterable[str],
    *,
    max_length: int,
    name: str,
    needed: str = "text of three words or more",
) -> Dataset:
    """Texts as ``input_ids``, on disk and mapped into memory; the file goes when the dataset does.

    Texts without a token to predict (special tokens alone, or one token of a causal LM) are left out.

    It lies in a new folder where the system keeps temporary files (``$TMPDIR``), and not in the cache of datasets:
    nothing stale can be found there, and nothing is left.

    Args:
        language_model: whose tokenizer encodes.
        texts: read one at a time.
        max_length: longest example in tokens; longer ones are cut.
        name: name of the text, for the message.
        needed: what is missing if there is no text, for the message.

    Raises:
        DataError: there is no text, or none with a token to predict; or what reading it raises.
    """

    folder = tempfile.TemporaryDirectory(prefix="equiframe-", ignore_cleanup_errors=True)
    found = False
    file = str(Path(folder.name) / "encoded.arrow")
    try:
        # Dataset.from_generator would replace the error of the text by an error of its own
        with ArrowWriter(path=file, features=Features({"input_ids": Column(Value("int32"))})) as writer:
            for text in texts:
                found = True
                ids = cut_at_end(language_model.tokenizer, text, max_length=max_length)["input_ids"]
                if has_target(language_model, ids):
                    writer.write({"input_ids": ids})
            count, _ = writer.finalize()
        if not found:
            raise DataError(f"no {needed} in it", path=name)
        if not count:
            raise DataError(
                f"its texts hold no token that {language_model.name} could learn to predict: its tokenizer knows none"
                f" of their words, or cuts them off at {max_length} tokens; give other text, or a larger --max-length",
                path=name,
            )
        dataset = Dataset.from_file(file)
    except BaseException:
        folder.cleanup()
        raise
    weakref.finalize(dataset, folder.cleanup)
    return dataset


def has_target(language_model: LanguageModel, ids: Sequence[int]) -> bool:
    """Whether there is a token to predict: one that is not special, or for a causal LM one after the first."""
    if language_model.kind == "causal":
        return len(ids) > 1
    return not set(ids) <= set(language_model.tokenizer.all_special_ids)


def _padded(pad: PadRight, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    return pad([example["input_ids"] for example in examples])
