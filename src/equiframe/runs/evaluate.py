"""Score one model on one benchmark."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from equiframe.benchmarks.benchmark import Benchmark, BenchmarkResult, Outcome, half_precision, spread, summarise
from equiframe.data import AnySource, DataSource
from equiframe.data.spreading import evenly
from equiframe.errors import CannotScoreError
from equiframe.models import LanguageModel
from equiframe.models.loading import Precision
from equiframe.options import check_choice, check_range
from equiframe.scoring.engine import TOKEN_BUDGET, answer
from equiframe.scoring.store import AnswerStore
from equiframe.uncertainty import RESAMPLES

_COMPARED = 200  # items that half precision is compared on


def score(
    language_model: LanguageModel,
    benchmark: Benchmark[Any],
    *,
    source: AnySource = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    token_budget: int = TOKEN_BUDGET,
    store: AnswerStore | None = None,
    progress: Callable[[int, int], None] | None = None,
    limit: int | None = None,
    precision: Precision = "fp32",
) -> tuple[BenchmarkResult, pd.DataFrame]:
    """Put a benchmark's items to a model.

    Args:
        language_model: the model, in float32.
        benchmark: see :func:`equiframe.benchmarks.load_benchmark`.
        source: where data files are looked for: a folder, or ``hub:OWNER/NAME``; by default the data wheel.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        token_budget: tokens of one forward pass, padding included.
        store: where answers are kept, see :class:`equiframe.scoring.store.AnswerStore`.
        progress: called with the requests answered so far, and their number.
        limit: score this many items, spread evenly over the data; all by default.
        precision: of the model's weights and states; log-probabilities are float32 in any. Of what is scored in
            half precision, 200 items, spread evenly, are scored in float32 too, and the result says what changed.

    Returns:
        The numbers, and the table of outcomes with one row an item.

    Raises:
        DataError: data missing or malformed.
        CannotScoreError: the model cannot answer what the benchmark asks, or cannot score any item.
        InputError: ``limit`` or ``token_budget`` below 1, or no such precision.
        ModelError: a not-a-number answer, or too little memory.
    """
    check_choice("precision", precision, Precision)
    check_range("token_budget", token_budget, whole=True, zero=False)
    start = time.perf_counter()
    items, files = benchmark.items(DataSource.of(source))
    items = spread(items, limit)
    ask = functools.partial(_ask, benchmark, token_budget=token_budget, store=store, progress=progress)
    found = ask(language_model.in_precision(precision), items)
    outcomes = [outcome for part in found for outcome in part]
    seconds = time.perf_counter() - start
    if all(outcome.excluded is not None for outcome in outcomes):
        reasons = dict(Counter(outcome.excluded for outcome in outcomes))
        raise CannotScoreError(f"{benchmark.spec}: no item can be scored with {language_model.name}: {reasons}")
    half = None
    if precision != "fp32":
        sample = evenly(len(items), min(_COMPARED, len(items)))
        again = ask(language_model, [items[i] for i in sample])
        half = half_precision(
            benchmark,
            precision,
            [outcome for i in sample for outcome in found[i]],
            [outcome for part in again for outcome in part],
        )
    in_words = benchmark.scoring(language_model.codec)
    return summarise(
        benchmark,
        outcomes,
        scoring=in_words if half is None else f"{in_words}, in {precision}",
        files=files,
        seconds=seconds,
        seed=seed,
        resamples=resamples,
        half=half,
    )


def _ask(
    benchmark: Benchmark[Any],
    language_model: LanguageModel,
    items: Sequence[Any],
    *,
    token_budget: int,
    store: AnswerStore | None,
    progress: Callable[[int, int], None] | None,
) -> list[list[Outcome]]:
    """The outcomes of each item."""
    put = functools.partial(answer, language_model, token_budget=token_budget, store=store, progress=progress)
    return benchmark.outcomes(items, language_model.codec, put)
