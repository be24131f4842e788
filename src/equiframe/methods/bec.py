"""BEC: fine-tuning on text with genders swapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorWithPadding

from equiframe.data import CounterfactualSwapper, DataFile, corpus
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.methods.method import Method, Settings
from equiframe.methods.objective import Objective
from equiframe.models.adapter import Feature, Pairing
from equiframe.models.loading import LanguageModel


@dataclass(frozen=True)
class BEC(Method):
    """Fine-tune on GAP sentences whose genders are swapped, with the model's own pretraining loss.

    The loss is the masked-LM cross-entropy (15 % of the tokens; of these 80 % masked, 10 % replaced by a
    random token, 10 % kept), or for a causal LM the next-token cross-entropy.

    Requires: nothing of the model. Data: GAP development and test texts, swapped by
    :class:`equiframe.data.CounterfactualSwapper`, one example a sentence; GAP validation is left for
    measuring.

    Relations: CDA with one-sided swapping on GAP. Published settings: 3 epochs, AdamW 2e-5, linear decay
    without warm-up, batch 16, clip 1.0, seed 42, (U)NC3 weight 100.

    Differs from the public code: padding is not attended (there it is the mask token, attended), and
    labels of (U)NC3 are the true tokens (there the masked ones).

    Reference: Bartl, Nissim and Gatt 2020, "Unmasking Contextual Stereotypes"; Webster et al. 2018 (GAP).
    """

    name: ClassVar[str] = "bec"
    settings: ClassVar[Settings] = Settings(
        epochs=3, learning_rate=2e-5, batch_size=16, max_length=128, unc3_weight=100.0, seed=42
    )

    def training_data(
        self, language_model: LanguageModel, *, folder: Path | None, max_length: int, seed: int
    ) -> tuple[Dataset, tuple[DataFile, ...]]:
        """Swapped GAP sentences, encoded."""
        text = corpus("gap", folder)
        swapper = CounterfactualSwapper.gender()
        swapped = [swapper.swap(sentence) for sentence in text.sentences]
        ids = language_model.tokenizer(swapped, truncation=True, max_length=max_length)["input_ids"]
        return Dataset.from_dict({"input_ids": ids}), text.files

    def collator(self, language_model: LanguageModel) -> Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]:
        """Padding; a masked LM's tokens are masked by the objective."""
        return DataCollatorWithPadding(language_model.tokenizer)

    def objective(
        self, language_model: LanguageModel, data: Dataset, *, pairing: Pairing, feature: Feature
    ) -> Objective:
        """The language-modelling loss."""
        return LanguageModelling(language_model, pairing=pairing, feature=feature)
