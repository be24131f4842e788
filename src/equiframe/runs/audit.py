"""Measure the collapse of one model on one text, over the vocabulary and over fairness words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from equiframe.analysis.measures import collapse_measures, context_measures
from equiframe.collapse import ClassStatistics, about_collapse, collapse_metrics, decision_agreement, duality_cosines
from equiframe.collapse.counterfactual import ABOUT_CONTEXTS
from equiframe.config import AuditOptions
from equiframe.data import AnySource, DataFile, DataSource, TextStream, stream
from equiframe.data.spreading import every_nth
from equiframe.errors import InputError
from equiframe.models import Collected, LanguageModel, collect
from equiframe.models.adapter import Classifier, classifier_on
from equiframe.record import CollapseResult, ContextsResult
from equiframe.runs.contexts import read_contexts
from equiframe.uncertainty import estimate
from equiframe.words import ResolvedWords, WordSet

_KEPT = 200_000  # texts: a longer corpus may be larger than memory, and is read twice


@dataclass(frozen=True)
class Audit:
    """Collapse over the vocabulary, over the words and of contexts, with their tables and the files that were read."""

    results: list[CollapseResult]
    contexts: list[ContextsResult]
    classes: pd.DataFrame
    vectors: pd.DataFrame
    pairs: pd.DataFrame
    files: tuple[DataFile, ...]
    words: ResolvedWords


def audit_model(
    language_model: LanguageModel,
    options: AuditOptions,
    *,
    source: AnySource = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Measure collapse over the whole vocabulary, over a word set, and of contexts, on one text.

    Vocabulary and words are measured in one pass. Contexts, those of a text and of its counterfactual, are read from a
    sample of the same texts, see :func:`equiframe.runs.contexts.read_contexts`.

    Args:
        language_model: the model.
        options: how to measure.
        source: the source of data files: a folder, or ``hub:OWNER/NAME``; by default the data wheel.
        seed: seed of the bootstrap.
        progress: called with the sentences, then the pairs, done so far, and the number of all.

    Raises:
        InputError: fewer than two words of the set occur often enough in the text.
    """
    reading = _read(language_model, options, DataSource.of(source), progress)
    words = reading.words
    head = classifier_on(language_model.model, language_model.statistics_device)
    every, chosen = reading.collected.statistics.seen(options.min_count), reading.chosen
    classes = _class_table(language_model, chosen, head.weight, words)
    estimates = {measure.key: estimate(measure, seed=seed) for measure in collapse_measures(classes)}
    results = [
        _result("vocabulary", every, head, reading),
        _result(str(options.words), chosen, head, reading).model_copy(update={"estimates": estimates}),
    ]
    vectors = _vector_table(chosen, head.weight, words.pairs)
    pairs = pd.DataFrame({"bias": []})
    if options.pairs and language_model.tokenizer.is_fast:
        pairs = read_contexts(
            language_model, reading.sentences, pairs=options.pairs, feature=options.feature, progress=progress
        )
    contexts = [
        ContextsResult(
            bias=bias,
            pairs=len(table),
            about=ABOUT_CONTEXTS,
            estimates={measure.key: estimate(measure, seed=seed) for measure in context_measures(table)},
        )
        for bias, table in ((bias, pairs[pairs["bias"] == bias]) for bias in pairs["bias"].unique())
    ]
    return Audit(results, contexts, classes, vectors, pairs, files=reading.text.files, words=words)


def collapse_of_words(
    language_model: LanguageModel, options: AuditOptions, *, source: AnySource = None
) -> dict[str, float]:
    """Return the metrics of :func:`audit_model` for the word set, by flat key, without intervals.

    Raises:
        InputError: fewer than two words of the set occur often enough in the text.
    """
    reading = _read(language_model, options, DataSource.of(source), None, words_alone=True)
    head = classifier_on(language_model.model, language_model.statistics_device)
    found = _result(str(options.words), reading.chosen, head, reading).values
    return {key: value for key, value in found.items() if value is not None}


class _Reading(NamedTuple):
    """What was read from a text: the words, their statistics, and those of all classes that were followed."""

    words: ResolvedWords
    text: TextStream
    sentences: Callable[[], Iterable[str]]
    collected: Collected
    chosen: ClassStatistics


def _read(
    language_model: LanguageModel,
    options: AuditOptions,
    source: DataSource,
    progress: Callable[[int, int], None] | None,
    *,
    words_alone: bool = False,
) -> _Reading:
    words = WordSet.load(options.words).resolve(language_model.tokenizer, multi_token=options.multi_token)
    ids = torch.tensor(words.token_ids, device=language_model.statistics_device)
    text = stream(options.text, source)
    unread = iter(text)
    kept = list(itertools.islice(unread, _KEPT))
    texts = len(kept) + sum(1 for _ in unread)
    kept_at = every_nth(texts, options.sentences or texts)
    sentences = len(kept_at)
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, sentences)

    def spread() -> Iterable[str]:
        return itertools.islice(kept if texts == len(kept) else text, kept_at.start, kept_at.stop, kept_at.step)

    collected = collect(
        language_model,
        spread(),
        class_ids=ids if words_alone else None,
        pairing=options.pairing,
        feature=options.feature,
        visibility=options.visibility,
        progress=tell,
    )
    chosen = collected.statistics.select(ids, min_count=options.min_count)
    if len(chosen.class_ids) < 2:
        raise InputError(
            f"{len(chosen.class_ids)} words of {options.words!r} occur at least {options.min_count} times"
            f" in {sentences} sentences of {text.name}: give more text (--text, --sentences), another"
            " --words, or a lower --min-count"
        )
    return _Reading(words, text, spread, collected, chosen)


@torch.inference_mode()
def _result(name: str, statistics: ClassStatistics, head: Classifier, reading: _Reading) -> CollapseResult:
    """Compute all metrics of one class set; NC4 is on the held-out features of its classes."""
    collected = reading.collected
    rows = head.weight[statistics.class_ids]
    values: dict[str, float | None] = {**collapse_metrics(statistics, rows)}
    inside = torch.isin(collected.held_out_ids, statistics.class_ids)
    if inside.any():
        states = collected.held_out_states[inside]
        values["nc4_agreement"] = float(decision_agreement(states, statistics.means, rows))
        if head.bias is not None:
            bias = head.bias[statistics.class_ids]
            values["nc4_agreement_with_bias"] = float(decision_agreement(states, statistics.means, rows, bias))
    finite = {key: value if value is not None and np.isfinite(value) else None for key, value in values.items()}
    return CollapseResult(
        class_set=name,
        classes=len(statistics.class_ids),
        tokens=int(statistics.counts.sum()),
        values=finite,
        files=reading.text.files,
        texts=collected.texts,
        truncated=collected.truncated,
        short=reading.text.short,
        about=about_collapse(),
    )


@torch.inference_mode()
def _class_table(
    language_model: LanguageModel, statistics: ClassStatistics, weight: Tensor, words: ResolvedWords
) -> pd.DataFrame:
    """One row per class: its word, how often it was seen, and how close its mean is to its word embedding."""
    ids = statistics.class_ids.tolist()
    centred = statistics.means - statistics.means.mean(dim=0)
    return pd.DataFrame(
        {
            "token_id": ids,
            "token": language_model.tokenizer.convert_ids_to_tokens(ids),
            "word": [words.word_of[i] for i in ids],
            "form": [words.form_of[i] for i in ids],
            "groups": [", ".join(words.groups_of[i]) for i in ids],
            "count": statistics.counts.tolist(),
            "variance": statistics.variances.tolist(),
            "norm": centred.norm(dim=-1).tolist(),
            "cosine": duality_cosines(statistics.means, weight[statistics.class_ids]).tolist(),
        }
    )


@torch.inference_mode()
def _vector_table(statistics: ClassStatistics, weight: Tensor, pairs: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """One row per class whose counterpart also occurs: its centred mean and its word embedding, in float32."""
    ids = statistics.class_ids.tolist()
    partners: dict[int, list[int]] = {}
    for first, second in pairs:
        if first in ids and second in ids:
            partners.setdefault(first, []).append(second)
            partners.setdefault(second, []).append(first)
    rows = torch.tensor([i in partners for i in ids], device=weight.device)
    means = (statistics.means - statistics.means.mean(dim=0))[rows]
    embeddings = weight[statistics.class_ids[rows]]
    return pd.DataFrame(
        {
            "token_id": [i for i in ids if i in partners],
            "partners": [partners[i] for i in ids if i in partners],
            "mean": list(means.float().cpu().numpy()),
            "embedding": list(embeddings.float().cpu().numpy()),
        }
    )
