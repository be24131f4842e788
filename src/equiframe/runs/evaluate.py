"""Score one model on one benchmark."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from equiframe.benchmarks.benchmark import Benchmark, BenchmarkResult, Outcome, outcome_table, spread, summarise
from equiframe.benchmarks.half_precision import half_precision
from equiframe.data import AnySource, DataFile, DataSource
from equiframe.data.spreading import evenly
from equiframe.errors import CannotScoreError
from equiframe.models import LanguageModel
from equiframe.requests import Answer, Request
from equiframe.scoring.answering import Answerer, Progress
from equiframe.scoring.engine import LocalAnswerer
from equiframe.uncertainty import RESAMPLES

_COMPARED = 200  # items that are also scored in float32

ReadItems: TypeAlias = tuple[list[Any], tuple[DataFile, ...]]
"""Items of a benchmark, and the files that they come from."""


def score(
    model: Answerer | LanguageModel,
    benchmark: Benchmark[Any],
    *,
    source: AnySource = None,
    read: ReadItems | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: Progress | None = None,
    limit: int | None = None,
    reference: Answerer | None = None,
) -> tuple[BenchmarkResult, pd.DataFrame]:
    """Score a model on a benchmark's items.

    Args:
        model: an answerer, or a loaded model, which is used as in :class:`equiframe.scoring.engine.LocalAnswerer`.
        benchmark: see :func:`equiframe.benchmarks.load_benchmark`.
        source: the source of data files: a folder, or ``hub:OWNER/NAME``; by default the data wheel.
        read: the result of the benchmark's ``items``, if they were already read.
        seed: seed of the bootstrap.
        resamples: number of resamples of the bootstrap.
        progress: called with the requests answered so far, and the number of all.
        limit: score this many items, spread evenly over the data; all by default.
        reference: the same model in float32; 200 items are also scored with it, and the result says what changed.

    Returns:
        The numbers, and the table of outcomes with one row per item.

    Raises:
        DataError: data is missing or malformed.
        CannotScoreError: the model cannot answer the benchmark's requests, or cannot score any item.
        InputError: ``limit`` is below 1.
        ModelError: an answer is NaN, there is too little memory, or a server does not answer.
    """
    answerer = LocalAnswerer(model) if isinstance(model, LanguageModel) else model
    start = time.perf_counter()
    items, files = benchmark.items(DataSource.of(source)) if read is None else read
    available = len(items)
    items = spread(items, limit)
    found, prompt = _ask(benchmark, answerer, items, progress)
    outcomes = _flat(found)
    seconds = time.perf_counter() - start
    _check_some_counts(benchmark, answerer, outcomes)
    half = None
    if reference is not None:
        sample = evenly(len(items), min(_COMPARED, len(items)))
        again, _ = _ask(benchmark, reference, [items[i] for i in sample], progress)
        half = half_precision(benchmark, answerer.precision, _flat(found[i] for i in sample), _flat(again))
    return summarise(
        benchmark,
        outcomes,
        scoring=_in_words(benchmark, answerer),
        files=files,
        seconds=seconds,
        seed=seed,
        resamples=resamples,
        half=half,
        prompt=prompt,
        available=available,
    )


def _flat(parts: Iterable[Sequence[Outcome]]) -> list[Outcome]:
    """The outcomes of all items."""
    return [outcome for part in parts for outcome in part]


def _in_words(benchmark: Benchmark[Any], answerer: Answerer) -> str:
    """Describe how the items were scored."""
    how = [benchmark.scoring(answerer.codec)]
    if benchmark.puts_questions and answerer.codec.chat_template is not None:
        how.append("by the chat template")
    if answerer.precision != "float32":
        how.append(f"in {answerer.precision}")
    return ", ".join(how)


@dataclass(frozen=True)
class Watched:
    """Benchmarks that are scored while a model is trained: their headline measures, without intervals.

    Args:
        read: each benchmark with its items and files.
        limit: maximum number of items per benchmark, sampled evenly; None for all.
        token_budget: tokens per forward pass.
        chat_template: template in which benchmarks ask questions; plain text by default.
    """

    read: Sequence[tuple[Benchmark[Any], ReadItems]]
    limit: int | None = None
    token_budget: int = 4096
    chat_template: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that its numbers depend on except the model."""
        files = {one.spec: {file.name: file.sha256 for file in files} for one, (_, files) in self.read}
        template = {} if self.chat_template is None else {"chat_template": self.chat_template}
        return {"benchmarks": files, "limit": self.limit, **template}

    def values(self, language_model: LanguageModel) -> dict[str, float]:
        """Return the measures by benchmark and key, such as ``lpbs overall.difference``.

        Raises:
            CannotScoreError: the model cannot answer a benchmark's requests, or cannot score any item.
            ModelError: an answer is NaN, or there is too little memory.
        """
        answerer = LocalAnswerer(language_model, token_budget=self.token_budget, chat_template=self.chat_template)
        values = {}
        for benchmark, (items, _) in self.read:
            found, _ = _ask(benchmark, answerer, spread(items, self.limit), None)
            outcomes = _flat(found)
            _check_some_counts(benchmark, answerer, outcomes)
            for measure in benchmark.measures(outcome_table(outcomes)):
                if measure.key in benchmark.headline or not benchmark.headline:
                    values[f"{benchmark.spec} {measure.key}"] = float(measure.statistic(measure.rows))
        return values


def _check_some_counts(benchmark: Benchmark[Any], answerer: Answerer, outcomes: Sequence[Outcome]) -> None:
    """Refuse a benchmark if all of its items are excluded."""
    if all(outcome.excluded is not None for outcome in outcomes):
        reasons = dict(Counter(outcome.excluded for outcome in outcomes))
        raise CannotScoreError(f"{benchmark.spec}: no item can be scored with {answerer.name}: {reasons}")


def _ask(
    benchmark: Benchmark[Any], answerer: Answerer, items: Sequence[Any], progress: Progress | None
) -> tuple[list[list[Outcome]], str]:
    """Return the outcomes of each item, and the first sequence that was read for them."""
    codec, read = answerer.codec, ""

    def answer(requests: Sequence[Request]) -> Sequence[Answer]:
        nonlocal read
        read = codec.shown(requests[0]) if requests else ""
        return answerer.answer(requests, progress)

    return benchmark.outcomes(items, codec, answer), read
