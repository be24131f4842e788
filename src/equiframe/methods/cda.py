"""CDA: fine-tuning on text with added counterfactuals."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from equiframe.data import Bias, DataSource, TextStream, augment, stream, swappers
from equiframe.methods.text import TextMethod


@dataclass(frozen=True)
class CDA(TextMethod):
    """Fine-tune on text in which words of the groups are swapped, with the model's own pretraining loss.

    This is counterfactual data augmentation; the loss is that of
    :class:`equiframe.methods.language_modelling.LanguageModelling`. By default texts with nothing to exchange are
    kept, so that the model keeps seeing all kinds of language. Of GAP's
    sentences 72 % hold a word to exchange for gender, but 2 % for race and 1 % for religion, of BOLD's 26
    %, 3 % and 3 %: for those, ``neutral=false`` trains only on the sentences that matter.

    Requires: nothing special of the model. Data: any text, read one sentence at a time and encoded to a file that
    is mapped into memory, so that the text may be larger than memory.

    Relations: one-sided and with names on GAP, it is BEC.
    Settings: those of BEC, ours. Webster et al. pretrain from scratch, BERT for a million steps;
    bias-bench continues for 2,000 steps of 512 sequences (GPT-2: 256). No (U)NC3 weight is published:
    BEC's, 100, is ours.

    Differs from bias-bench: the forms of "her" and "his" are distinguished by the next words (there "her" always
    becomes "his", and "hers" stays); capitals are kept and words are found next to any mark (there words in lower
    case, alone or before one mark); texts with nothing to exchange are kept (there left out). For race
    and religion one pair of groups is drawn for each text and exchanged in both directions, and other groups stay
    (there each of three groups draws its own replacement, so two may become the same).

    Args:
        text: see :func:`equiframe.data.corpus`: ``gap``, ``bug``, ``bold``, or a file.
        sides: ``two`` keeps original and counterfactual, ``one`` only the counterfactual.
        bias: the bias whose words are exchanged.
        names: for gender, also exchange first names: our own list, in pairs of similar popularity. The idea is
            Hall Maudslay et al.'s; their matching by frequency and gender is not repeated.
        neutral: keep texts with nothing to exchange.

    Reference: Zhao et al. 2018; Lu et al. 2020; Webster et al. 2020; Hall Maudslay et al. 2019 (names); Meade et
    al. 2022 (bias-bench).
    """

    name: ClassVar[str] = "cda"
    text: str = "gap"
    sides: Literal["two", "one"] = "two"
    bias: Bias = "gender"
    names: bool = False
    neutral: bool = True

    def text_to_train_on(self, source: DataSource, seed: int) -> TextStream:
        """Return the augmented text."""
        text, exchanged = stream(self.text, source), swappers(self.bias, names=self.names)
        return dataclasses.replace(
            text,
            read=lambda: augment(text, exchanged, two_sided=self.sides == "two", neutral=self.neutral, seed=seed),
        )

    @property
    def needed(self) -> str:
        """Return the base class's text, plus a word to exchange if sentences without one are left out."""
        return super().needed + ("" if self.neutral else f" with a word of {self.bias} to exchange")
