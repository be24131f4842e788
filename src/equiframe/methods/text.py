"""The common part of methods that only change the text: they encode it and use the model's own loss."""

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
    """A method that chooses the text to train on, with the model's own pretraining loss.

    See :class:`equiframe.methods.language_modelling.LanguageModelling`. The settings are BEC's as published.
    """

    settings: ClassVar[Settings] = Settings(
        epochs=3, learning_rate=2e-5, batch_size=16, max_length=128, unc3_weight=100.0, seed=42
    )

    @abstractmethod
    def text_to_train_on(self, source: DataSource, seed: int) -> TextStream:
        """Return the sentences, which are read when they are needed.

        Args:
            source: the source of data files.
            seed: seed of all draws.
        """

    @property
    def needed(self) -> str:
        """Describe what is missing if there is no text, for the error message."""
        return "text of three words or more"

    def training_data(
        self, language_model: LanguageModel, *, source: DataSource, max_length: int, seed: int
    ) -> tuple[Dataset, tuple[DataFile, ...]]:
        """Encode the text."""
        text = self.text_to_train_on(source, seed)
        return encoded(language_model, text, max_length=max_length, name=text.name, needed=self.needed), text.files

    def collator(self, language_model: LanguageModel) -> Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]:
        """Return a function that pads examples; the objective masks a masked LM's tokens."""
        return partial(_padded, PadRight(language_model))

    def objective(
        self, language_model: LanguageModel, data: Dataset, *, pairing: Pairing, feature: Feature
    ) -> Objective:
        """Return the language-modelling loss."""
        return LanguageModelling(language_model, pairing=pairing, feature=feature)


def encoded(
    language_model: LanguageModel,
    texts: Iterable[str],
    *,
    max_length: int,
    name: str,
    needed: str = "text of three words or more",
) -> Dataset:
    """Encode texts as ``input_ids``, on disk and mapped into memory; the file is deleted with the dataset.

    Texts without a token to predict (special tokens alone, or one token of a causal LM) are left out.

    The file is in a new folder where the system keeps temporary files (``$TMPDIR``), and not in the cache of datasets:
    so nothing old can be found there, and nothing remains.

    Args:
        language_model: the model whose tokenizer encodes the texts.
        texts: texts, which are read one at a time.
        max_length: longest example in tokens; longer ones are cut.
        name: name of the text, for the message.
        needed: what is missing if there is no text, for the message.

    Raises:
        DataError: there is no text, or none with a token to predict; or the error of reading it.
    """

    folder = tempfile.TemporaryDirectory(prefix="equiframe-", ignore_cleanup_errors=True)
    found = False
    file = str(Path(folder.name) / "encoded.arrow")
    try:
        # Dataset.from_generator would replace the error of the text by its own error
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
                f"the texts hold no token that {language_model.name} could learn to predict: its tokenizer knows none"
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
