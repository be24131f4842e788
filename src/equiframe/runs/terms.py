"""The terms that are added to a method's objective: (U)NC3, and those of counterfactual collapse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainingArguments, set_seed

from equiframe.collapse import UNC3Regularizer
from equiframe.config import UNC3Options
from equiframe.data.spreading import every_nth
from equiframe.methods import Method, Objective, WithCounterfactuals, WithUNC3, balanced_weight
from equiframe.models import LanguageModel
from equiframe.models.adapter import classifier
from equiframe.progress import tracked
from equiframe.words import ResolvedWords

_BALANCED_BATCHES = 16


@dataclass(frozen=True)
class AddedTerms:
    """Terms of counterfactual collapse that are added to a method, see :class:`equiframe.methods.WithCounterfactuals`.

    Args:
        method: the terms, and the pairs that they use.
        weight: weight of all terms together, above 0.
    """

    method: Method
    weight: float = 1.0


def with_pairs(
    objective: Objective,
    added: AddedTerms,
    language_model: LanguageModel,
    pairs: Dataset,
    unc3: UNC3Options,
    arguments: TrainingArguments,
) -> Objective:
    """A host with the terms of counterfactual collapse added, on half as many pairs as it has examples in a batch."""
    return WithCounterfactuals(
        objective,
        added.method.objective(language_model, pairs, pairing=unc3.pairing, feature=unc3.feature),
        pairs,
        added.method.collator(language_model),
        weight=added.weight,
        batch_size=max(1, arguments.per_device_train_batch_size // 2),
        seed=arguments.seed,
    )


def with_term(
    objective: Objective,
    language_model: LanguageModel,
    unc3: UNC3Options,
    words: ResolvedWords,
    dataset: Dataset,
    collator: Callable[..., Any],
    arguments: TrainingArguments,
) -> tuple[Objective, float]:
    """A host with the (U)NC3 term, and the term's weight."""
    model, device = language_model.model, language_model.device

    def regularizer(weight: float) -> UNC3Regularizer:
        term = UNC3Regularizer(
            torch.tensor(words.token_ids),
            classifier(model).shape[1],
            weight=weight,
            warmup_steps=unc3.warmup_steps * arguments.gradient_accumulation_steps,  # it counts batches
            memory=unc3.memory,
            decay=unc3.decay,
            through_features=unc3.through_features,
        )
        return term.to(device)

    if unc3.weight == "auto":
        batches = tracked(
            _first_batches(dataset, collator, arguments.per_device_train_batch_size, device),
            "balance the weight of (U)NC3",
            _BALANCED_BATCHES,
        )
        weight = balanced_weight(objective.to(device), regularizer(1.0), model, batches)
        set_seed(arguments.seed)
    else:
        weight = unc3.weight
    return WithUNC3(objective, regularizer(weight)), weight


def _first_batches(dataset: Dataset, collator: Any, size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Batches of examples that are spread evenly over the data."""
    chosen = dataset.select(every_nth(len(dataset), size * _BALANCED_BATCHES))
    for start in range(0, len(chosen), size):
        batch = collator(chosen.select(range(start, min(start + size, len(chosen)))).to_list())
        yield {name: tensor.to(device) for name, tensor in batch.items()}
