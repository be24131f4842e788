"""CDA: fine-tuning on text to which its counterfactual is added."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from datasets import Dataset, Features, Value
from datasets import Sequence as Column
from datasets.arrow_writer import ArrowWriter
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

    The loss is that of :class:`equiframe.methods.language_modelling.LanguageModelling`. By default texts
    with nothing to exchange stay in, so that the model keeps seeing language of all kinds. Of GAP's
    sentences 72 % hold a word to exchange for gender, but 2 % for race and 1 % for religion, of BOLD's 26
    %, 3 % and 3 %: there ``neutral=false`` trains on those that matter.

    Requires: nothing of the model. Data: any text, read one sentence at a time and encoded to a file that
    is mapped into memory, so that it may be larger than memory.

    Relations: one-sided with names on GAP it is BEC.
    Settings: those of BEC, ours. Webster et al. pretrain from scratch, BERT for a million steps;
    bias-bench continues for 2,000 steps of 512 sequences (GPT-2: 256). No (U)NC3 weight is published:
    BEC's, 100, is ours.

    Differs from bias-bench: "her" and "his" are told apart by what follows (there "her" always becomes
    "his", and "hers" stays); capitals are kept and words are found beside any mark (there words in lower
    case, alone or before one mark); texts with nothing to exchange are kept (there left out). For race
    and religion one pair of groups is drawn for each text and exchanged both ways, and other groups stay
    (there each of three groups draws its own replacement, so two may become the same).

    Args:
        text: see :func:`equiframe.data.corpus`: ``gap``, ``bug``, ``bold``, or a file.
        sides: ``two`` keeps original and counterfactual, ``one`` the counterfactual alone.
        bias: whose words are exchanged.
        names: for gender, exchange first names too: a list of our own, in pairs of like popularity. The idea is
            Hall Maudslay et al.'s; their matching by frequency and gender is not repeated.
        neutral: keep texts with nothing to exchange.

    Reference: Zhao et al. 2018; Lu et al. 2020; Webster et al. 2020; Hall Maudslay et al. 2019 (names); Meade et
    al. 2022 (bias-bench).
    """

    name: ClassVar[str] = "cda"
    settings: ClassVar[Settings] = Settings(
        epochs=3, learning_rate=2e-5, batch_size=16, max_length=128, unc3_weight=100.0, seed=42
    )

    text: str = "gap"
    sides: Literal["two", "one"] = "two"
    bias: Bias = "gender"
    names: bool = False
    neutral: bool = True

    def training_data(
        self, language_model: LanguageModel, *, folder: Path | None, max_length: int, seed: int
    ) -> tuple[Dataset, tuple[DataFile, ...]]:
        """The augmented text, encoded."""
        text = stream(self.text, folder)
        sentences = augment(
            text,
            swappers(self.bias, names=self.names),
            two_sided=self.sides == "two",
            neutral=self.neutral,
            seed=seed,
        )
        needed = "text of three words or more" + ("" if self.neutral else f" with a word of {self.bias} to exchange")
        return encoded(language_model, sentences, max_length=max_length, name=text.name, needed=needed), text.files

    def collator(self, language_model: LanguageModel) -> Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]:
        """Padding; a masked LM's tokens are masked by the objective."""
        return DataCollatorWithPadding(language_model.tokenizer)

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

    It lies in a new folder where the system keeps temporary files (``$TMPDIR``), and not in the cache of datasets:
    nothing stale can be found there, and nothing is left.

    Args:
        language_model: whose tokenizer encodes.
        texts: read one at a time.
        max_length: longest example in tokens; longer ones are cut.
        name: of the text, for the message.
        needed: what there is none of where there is no text, for the message.

    Raises:
        DataError: there is no text, or what reading it raises.
    """

    folder = tempfile.TemporaryDirectory(prefix="equiframe-", ignore_cleanup_errors=True)
    file = str(Path(folder.name) / "encoded.arrow")
    try:
        # Dataset.from_generator would hide what is wrong with the text behind an error of its own
        with ArrowWriter(path=file, features=Features({"input_ids": Column(Value("int32"))})) as writer:
            for text in texts:
                ids = language_model.tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
                writer.write({"input_ids": ids})
            count, _ = writer.finalize()
        if not count:
            raise DataError(f"no {needed} in it", path=name)
        dataset = Dataset.from_file(file)
    except BaseException:
        folder.cleanup()
        raise
    weakref.finalize(dataset, folder.cleanup)
    return dataset
