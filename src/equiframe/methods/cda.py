"""CDA: fine-tuning on text to which its counterfactual is added."""

from __future__ import annotations

import functools
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorWithPadding

from equiframe.data import Bias, DataFile, augment, stream, swappers
from equiframe.errors import DataError
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.methods.method import Method, Settings
from equiframe.methods.objective import Objective
from equiframe.models.adapter import Feature, Pairing
from equiframe.models.loading import LanguageModel


@dataclass(frozen=True)
class CDA(Method):
    """Counterfactual data augmentation: the model's own pretraining loss on text whose groups are exchanged.

    The loss is that of :class:`equiframe.methods.language_modelling.LanguageModelling`. Texts with nothing to
    exchange stay in, so that the model keeps seeing what it was trained on.

    Requires: nothing of the model. Data: any text, read one sentence at a time and encoded to a file that is mapped
    into memory, so that it may be larger than memory.

    Relations: one-sided on GAP it is BEC, but for the texts without a gendered word, which BEC keeps too.
    Settings: those of BEC, ours; Webster et al. train from scratch or continue for as many steps as their
    pretraining had, bias-bench for 2,000 steps of 128. No (U)NC3 weight is published: BEC's, 100, is ours.

    Differs from public code: "her" and "his" are told apart by what follows (bias-bench's list always makes "her" "him"
    or "his"); a word is exchanged within its pair of groups, so a sentence is swapped whole; where a
    religion or a race has several others, one is drawn for each sentence.

    Args:
        text: see :func:`equiframe.data.corpus`: ``gap``, ``bug``, ``bold``, or a file.
        sides: ``two`` keeps original and counterfactual, ``one`` the counterfactual alone.
        bias: whose words are exchanged.
        names: for gender, exchange first names too.

    Reference: Zhao et al. 2018; Lu et al. 2020; Webster et al. 2020; Hall Maudslay et al. 2019 (names).
    """

    name: ClassVar[str] = "cda"
    settings: ClassVar[Settings] = Settings(
        epochs=3, learning_rate=2e-5, batch_size=16, max_length=128, unc3_weight=100.0, seed=42
    )

    text: str = "gap"
    sides: Literal["two", "one"] = "two"
    bias: Bias = "gender"
    names: bool = False

    def training_data(
        self, language_model: LanguageModel, *, folder: Path | None, max_length: int, seed: int
    ) -> tuple[Dataset, tuple[DataFile, ...]]:
        """The augmented text, encoded."""
        text = stream(self.text, folder)
        sentences = augment(text, swappers(self.bias, names=self.names), two_sided=self.sides == "two", seed=seed)
        return encoded(language_model, sentences, max_length=max_length, name=text.name), text.files

    def collator(self, language_model: LanguageModel) -> Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]:
        """Padding; a masked LM's tokens are masked by the objective."""
        return DataCollatorWithPadding(language_model.tokenizer)

    def objective(
        self, language_model: LanguageModel, data: Dataset, *, pairing: Pairing, feature: Feature
    ) -> Objective:
        """The language-modelling loss."""
        return LanguageModelling(language_model, pairing=pairing, feature=feature)


def encoded(language_model: LanguageModel, texts: Iterable[str], *, max_length: int, name: str) -> Dataset:
    """Texts as ``input_ids``, on disk and mapped into memory; the file goes when the dataset does.

    Args:
        language_model: whose tokenizer encodes.
        texts: read one at a time.
        max_length: longest example in tokens; longer ones are cut.
        name: of the text, for the message.

    Raises:
        DataError: there is no text.
    """

    def rows() -> Iterator[dict[str, list[int]]]:
        for text in texts:
            yield {"input_ids": language_model.tokenizer(text, truncation=True, max_length=max_length)["input_ids"]}

    folder = tempfile.mkdtemp(prefix="equiframe-")
    remove = functools.partial(shutil.rmtree, folder, ignore_errors=True)
    try:
        # the folder is new, so nothing stale is found in it, and the fingerprint only has to be given
        dataset: Dataset = Dataset.from_generator(rows, cache_dir=folder, fingerprint="encoded")
    except ValueError as error:
        remove()
        raise DataError("no text of three words or more in it", path=name) from error
    except BaseException:
        remove()
        raise
    weakref.finalize(dataset, remove)
    return dataset
