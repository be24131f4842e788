"""BEC: fine-tuning on text with genders swapped."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from equiframe.data import CounterfactualSwapper, DataSource, TextStream, stream
from equiframe.methods.text import TextMethod


@dataclass(frozen=True)
class BEC(TextMethod):
    """Fine-tune on GAP sentences with swapped genders, with the model's own pretraining loss.

    The loss is the masked-LM cross-entropy (15 % of the tokens; of these 80 % masked, 10 % replaced by a
    random token, 10 % kept), or for a causal LM the next-token cross-entropy.

    Requires: nothing special of the model. Data: GAP development and test texts, swapped by
    :class:`equiframe.data.CounterfactualSwapper`, one example per sentence; GAP validation is kept for
    measuring.

    Relations: one-sided CDA on GAP with names. Published settings: 3 epochs, AdamW 2e-5, linear decay
    without warm-up, batch 16, clip 1.0, seed 42, (U)NC3 weight 100.

    Differs from the public code: padding is not attended (there it is the mask token, attended), labels of
    (U)NC3 are the true tokens (there the masked ones), and GAP validation is not trained on (there it is).

    Reference: Bartl, Nissim and Gatt 2020, "Unmasking Contextual Stereotypes"; Webster et al. 2018 (GAP).
    """

    name: ClassVar[str] = "bec"

    def text_to_train_on(self, source: DataSource, seed: int) -> TextStream:
        """Return swapped GAP sentences."""
        text, swapper = stream("gap", source), CounterfactualSwapper.gender()
        return dataclasses.replace(text, read=lambda: map(swapper.swap, text))
