"""Streams text through a model into class statistics, in one pass over the text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from equiframe.choices import Visibility as Visibility
from equiframe.collapse import ClassStatistics
from equiframe.errors import InputError, ModelError
from equiframe.models.adapter import Feature, Pairing, classifier, forward_at, pair
from equiframe.models.examination import Examination
from equiframe.models.language_model import LanguageModel
from equiframe.models.memory import in_less_memory
from equiframe.options import check_choice, check_range, check_several

_CHUNK = 4096  # texts tokenised and sorted by length at a time
_MASK_FOLDS = 7  # masked features: each token is masked once, about 15 % of them at a time


@dataclass(frozen=True)
class Collected:
    """The result of one pass over a text.

    Args:
        statistics: counts, means and scatter of the classes.
        held_out_states: features of texts kept out of the statistics, for NC4, [tokens, dim].
        held_out_ids: their classes, [tokens].
        texts: number of texts that were read.
        truncated: number of texts longer than the model's window, which were cut at its end.
    """

    statistics: ClassStatistics
    held_out_states: Tensor
    held_out_ids: Tensor
    texts: int
    truncated: int


def padded_batches(
    sequences: Sequence[Sequence[int]], token_budget: int, examination: Examination
) -> Iterator[tuple[Tensor, Tensor]]:
    """Input ids and attention masks [batch, length], longest first, within the token budget."""
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    start = 0
    while start < len(order):
        length = len(sequences[order[start]])
        batch = [sequences[i] for i in order[start : start + max(1, token_budget // max(length, 1))]]
        if examination.reads_padding:
            batch = [sequence for sequence in batch if len(sequence) == length]
        start += len(batch)
        ids = torch.full((len(batch), length), examination.pad_id)
        mask = torch.zeros(len(batch), length, dtype=torch.int64)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        yield ids, mask


@torch.inference_mode()
def collect(
    language_model: LanguageModel,
    texts: Iterable[str],
    *,
    class_ids: Tensor | None = None,
    pairing: Pairing = "aligned",
    feature: Feature = "decoder-input",
    visibility: Visibility = "visible",
    held_out_every: int = 10,
    held_out_tokens: int = 20_000,
    token_budget: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> Collected:
    """Class statistics of a text under a model.

    Every ``held_out_every``-th text is left out of the statistics, and the features of the first of these are kept
    for NC4, whose decisions need the final means. With ``torch.distributed`` the ranks share the batches of a text
    that all of them are given, and each returns what one process would.

    Args:
        language_model: the model.
        texts: sentences or paragraphs, streamed.
        class_ids: token ids to follow, [classes]; by default every token of the vocabulary that the text has, so that
            memory is taken for these alone.
        pairing: see :func:`equiframe.models.adapter.pair`.
        feature: see :func:`equiframe.models.adapter.forward_at`.
        visibility: for a masked LM, whether a token's state is read with the token visible (one pass), or
            masked (each token masked once, in seven passes). Causal LMs never see the token.
        held_out_every: one in this many texts is kept for NC4.
        held_out_tokens: number of tokens after which no more texts are kept.
        token_budget: places of one forward pass, including padding; a batch that does not fit into memory is halved,
            with a warning.
        progress: called with the number of texts read since the last call.

    Raises:
        InputError: no text, one string instead of several, options that do not fit the model, or features that are
            not finite.
        ModelError: too little memory for one text.
    """
    check_several("texts", texts)
    how = _checked(language_model, pairing, feature, visibility)
    check_range("held_out_every", held_out_every, whole=True, zero=False)
    check_range("held_out_tokens", held_out_tokens, whole=True)
    check_range("token_budget", token_budget, whole=True, zero=False)
    dim, home = classifier(language_model.model).shape[1], language_model.statistics_device
    nothing = torch.empty(0, dtype=torch.int64)
    statistics = ClassStatistics(nothing if class_ids is None else class_ids, dim, device=home)
    split = _Split(held_out_every, held_out_tokens, min(language_model.window, token_budget))
    kept = [(torch.empty(0, dim, device=home), torch.empty(0, dtype=torch.int64, device=home))]
    for chunk in _chunks(texts):
        sequences = _tokenised(language_model.tokenizer, chunk)
        language_model.check_ids(sequences)
        used, held = split(sequences)
        if class_ids is None:
            statistics = statistics.following(torch.tensor(sorted(set().union(*used)), dtype=torch.int64))
        for features, labels in _own_features(language_model, used, token_budget, how):
            statistics.update(features, labels)
        kept += _own_features(language_model, held, token_budget, how)
        if progress is not None:
            progress(len(chunk))
    if split.read == 0:
        raise InputError("no text to read: give at least one sentence")
    states, ids = (_of_all_ranks(torch.cat(parts)) for parts in zip(*kept, strict=True))
    return Collected(statistics.all_reduce(), states, ids, split.read, split.truncated)


_How: TypeAlias = tuple[Tensor, Pairing, Feature, Visibility]
"""The special tokens, and how a state is read."""


def _checked(language_model: LanguageModel, pairing: Pairing, feature: Feature, visibility: Visibility) -> _How:
    """How states are read, if this model allows it."""
    check_choice("pairing", pairing, Pairing)
    check_choice("feature", feature, Feature)
    check_choice("visibility", visibility, Visibility)
    if visibility == "masked" and (language_model.kind != "masked" or pairing == "paper"):
        raise InputError("visibility 'masked' needs a masked LM and pairing 'aligned': leave it out")
    return language_model.special_ids, pairing, feature, visibility


def _rank() -> tuple[int, int]:
    """This process among those that share the work, and their number."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts that are tokenised together."""
    stream, read = iter(texts), 0
    while chunk := list(itertools.islice(stream, _CHUNK)):
        for number, text in enumerate(chunk, start=read + 1):
            if not isinstance(text, str):
                raise InputError(f"text {number} is of type {type(text).__name__}: give strings")
        read += len(chunk)
        yield chunk


@dataclass
class _Split:
    """Separates texts for the statistics from held-out texts: every n-th text, until there are enough."""

    every: int
    tokens: int
    window: int
    read: int = 0
    truncated: int = 0
    kept: int = 0

    def __call__(self, sequences: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
        used, held = [], []
        for sequence in sequences:
            self.read += 1
            self.truncated += len(sequence) > self.window
            if self.read % self.every:
                used.append(sequence[: self.window])
            elif self.kept < self.tokens:
                held.append(sequence[: self.window])
                self.kept += len(held[-1])
        return used, held


def _tokenised(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The ids of each text; the ranks share the work."""
    rank, ranks = _rank()
    own = texts[rank::ranks]
    ids: list[list[int]] = tokenizer(own, add_special_tokens=True, verbose=False)["input_ids"] if own else []
    if ranks == 1:
        return ids
    shares: list[list[list[int]]] = [[]] * ranks
    dist.all_gather_object(shares, ids)
    return [shares[number % ranks][number // ranks] for number in range(len(texts))]


def _of_all_ranks(rows: Tensor) -> Tensor:
    """The rows [own, ...] of every rank, one rank after the other."""
    _, ranks = _rank()
    if ranks == 1:
        return rows
    numbers = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(ranks)]
    dist.all_gather(numbers, torch.tensor([len(rows)], device=rows.device))
    padded = rows.new_zeros(max(map(int, numbers)), *rows.shape[1:])
    padded[: len(rows)] = rows
    shares = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(shares, padded)
    return torch.cat([share[: int(number)] for share, number in zip(shares, numbers, strict=True)])


def _own_features(
    language_model: LanguageModel, sequences: Sequence[Sequence[int]], token_budget: int, how: _How
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and class ids of this rank's share of the batches."""
    home, (rank, ranks) = language_model.statistics_device, _rank()
    dim = classifier(language_model.model).shape[1]
    batches = padded_batches([s for s in sequences if s], token_budget, language_model.examination)
    for input_ids, mask in itertools.islice(batches, rank, None, ranks):
        for features, labels in _features_in_memory(language_model, input_ids, mask, how):
            if features.shape[1] != dim:
                raise InputError(
                    f"--feature last-layer: the last layer of {language_model.name} has states of {features.shape[1]}"
                    f" numbers, which cannot be compared with the {dim} of its output embeddings: leave it out"
                )
            yield features.to(home), labels.to(home)


def _features_in_memory(
    language_model: LanguageModel, input_ids: Tensor, mask: Tensor, how: _How
) -> list[tuple[Tensor, Tensor]]:
    """Features and class ids of one padded batch, computed in parts if memory is insufficient."""
    device = language_model.device

    def read(texts: int) -> list[tuple[Tensor, Tensor]]:
        parts = zip(input_ids.split(texts), mask.split(texts), strict=True)
        return [
            found for ids, own in parts for found in _features(language_model, ids.to(device), own.to(device), *how)
        ]

    def halved(texts: int) -> tuple[int, str]:
        if texts == 1:
            raise ModelError(
                f"{device} has too little free memory for {input_ids.shape[1]} tokens of {language_model.name}: stop"
                " other programs that use it, or choose another device"
            )
        half = (texts + 1) // 2
        return half, f"a batch of {len(input_ids)} texts is read in parts of {half}"

    return in_less_memory(read, len(input_ids), halved)[0]


def _features(
    language_model: LanguageModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    special_ids: Tensor,
    pairing: Pairing,
    feature: Feature,
    visibility: Visibility,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features [tokens, dim] and class ids [tokens] of one padded batch, over one forward pass or seven."""
    where, labels = pair(language_model.kind, input_ids, attention_mask, special_ids, pairing=pairing)
    if visibility == "visible":
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        yield forward_at(language_model.model, inputs, where, logits=False, feature=feature).states, labels
        return
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    for fold in range(_MASK_FOLDS):
        masked = where & (places % _MASK_FOLDS == fold)
        inputs = {
            "input_ids": input_ids.masked_fill(masked, language_model.tokenizer.mask_token_id),
            "attention_mask": attention_mask,
        }
        read = forward_at(language_model.model, inputs, masked, logits=False, feature=feature)
        yield read.states, input_ids[masked]
