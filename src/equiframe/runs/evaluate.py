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
from equiframe.options import check_range
from equiframe.scoring.engine import TOKEN_BUDGET, answer
from equiframe.scoring.store import AnswerStore
from equiframe.uncertainty import RESAMPLES

_COMPARED = 200  # items that are scored in float32 too


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
    reference: LanguageModel | None = None,
) -> tuple[BenchmarkResult, pd.DataFrame]:
    """Put a benchmark's items to a model.

    Args:
        language_model: the model, in any precision; log-probabilities are float32 in all.
        benchmark: see :func:`equiframe.benchmarks.load_benchmark`.
        source: where data files are looked for: a folder, or ``hub:OWNER/NAME``; by default the data wheel.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        token_budget: tokens of one forward pass, padding included.
        store: where answers are kept, see :class:`equiframe.scoring.store.AnswerStore`.
        progress: called with the requests answered so far, and their number.
        limit: score this many items, spread evenly over the data; all by default.
        reference: the same model in float32. 200 items, spread evenly, are scored with it too, and the result says
            what changed.

    Returns:
        The numbers, and the table of outcomes with one row an item.

    Raises:
        DataError: data missing or malformed.
        CannotScoreError: the model cannot answer what the benchmark asks, or cannot score any item.
        InputError: ``limit`` or ``token_budget`` below 1.
        ModelError: a not-a-number answer, or too little memory.
    """
    check_range("token_budget", token_budget, whole=True, zero=False)
    start = time.perf_counter()
    items, files = benchmark.items(DataSource.of(source))
    items = spread(items, limit)
    ask = functools.partial(_ask, benchmark, token_budget=token_budget, progress=progress)
    found = ask(language_model, items, store=store)
    outcomes = [outcome for part in found for outcome in part]
    seconds = time.perf_counter() - start
    if all(outcome.excluded is not None for outcome in outcomes):
        reasons = dict(Counter(outcome.excluded for outcome in outcomes))
        raise CannotScoreError(f"{benchmark.spec}: no item can be scored with {language_model.name}: {reasons}")
    half, precision = None, language_model.precision
    if reference is not None:
        sample = evenly(len(items), min(_COMPARED, len(items)))
        again = ask(reference, [items[i] for i in sample], store=None)
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
        scoring=in_words if precision == "float32" else f"{in_words}, in {precision}",
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
