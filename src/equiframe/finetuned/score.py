"""Score one model on one benchmark that fine-tunes it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from equiframe.benchmarks.benchmark import BenchmarkResult, Outcome, check_names, spread, summarise
from equiframe.benchmarks.fine_tuned import FineTunedBenchmark, FineTuneSettings
from equiframe.data import AnySource, DataSource
from equiframe.errors import DataError
from equiframe.finetuned.classifier import Predictions, fine_tuned_outputs
from equiframe.models import LanguageModel
from equiframe.training import training_precision
from equiframe.uncertainty import RESAMPLES


def score_finetuned(
    language_model: LanguageModel,
    benchmark: FineTunedBenchmark[Any],
    *,
    cache: Path | str,
    source: AnySource = None,
    settings: FineTuneSettings | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: Callable[[int, int], None] | None = None,
    limit: int | None = None,
) -> tuple[BenchmarkResult, pd.DataFrame]:
    """Fine-tune a copy of a model on a task and measure it. The model itself is not changed.

    Args:
        language_model: the model.
        benchmark: see :func:`equiframe.benchmarks.load_benchmark`.
        cache: folder where the outputs of the fine-tuned model are kept; the same call reads them again.
        source: the source of data files: a folder, or ``hub:OWNER/NAME``; by default the data wheel.
        settings: how to fine-tune; by default as for the published figures.
        seed: seed of the bootstrap.
        resamples: number of resamples of the bootstrap.
        progress: called with the training steps done so far, and the number of all steps.
        limit: evaluate this many examples, spread evenly over the data; all by default.

    Returns:
        The numbers, and the table of outcomes with one row per example; ``cut`` is 1 if its text was cut.

    Raises:
        DataError: data is missing or malformed.
        InputError: ``limit`` is below 1, the model can read no example or not as many tokens as ``settings`` say, or
            fp16 is set without a GPU.
        ModelError: a loss is not finite.
    """
    start = time.perf_counter()
    source, settings = DataSource.of(source), settings or benchmark.settings
    if settings.max_length == benchmark.settings.max_length:  # published for models that read so many
        settings = dataclasses.replace(settings, max_length=min(settings.max_length, language_model.window))
    training, training_files = benchmark.training_data(source)
    development, development_files = benchmark.development_data(source)
    evaluation, evaluation_files = benchmark.evaluation_data(source)
    if not (training and evaluation):
        raise DataError(f"{benchmark.spec}: no example to {'evaluate on' if training else 'train on'}")
    check_names(benchmark.spec, (example.item for example in evaluation))
    examples = spread(evaluation, limit)
    given = fine_tuned_outputs(
        language_model,
        head=benchmark.head,
        outputs=benchmark.outputs,
        settings=settings,
        training=training,
        development=development,
        evaluation=examples,
        cache=Path(cache),
        progress=progress,
    )
    return summarise(
        benchmark,
        _outcomes(benchmark, examples, given),
        scoring=_in_words(settings, bool(development), training_precision(settings.precision, language_model.device)),
        files=(*training_files, *development_files, *evaluation_files),
        seconds=time.perf_counter() - start,
        seed=seed,
        resamples=resamples,
        available=len(evaluation),
    )


def _outcomes(benchmark: FineTunedBenchmark[Any], examples: Sequence[Any], given: Predictions) -> list[Outcome]:
    """Make the rows of the examples, with reasons for those that could not be read, and marks on those cut."""
    outcomes = []
    for at, outcome in enumerate(benchmark.outcomes(examples, given.outputs)):
        values = {**outcome.values, "cut": float(at in given.cut)}
        if at in given.excluded:
            values = dict.fromkeys(values, math.nan)
        excluded = outcome.excluded or given.excluded.get(at)
        outcomes.append(dataclasses.replace(outcome, values=values, excluded=excluded))
    return outcomes


def _in_words(settings: FineTuneSettings, is_chosen: bool, precision: str) -> str:
    """Describe how the model was fine-tuned."""
    chosen = ", the best epoch on development data" if is_chosen else ""
    return f"fine-tuned for {settings}{chosen}{'' if precision == 'fp32' else f', in {precision}'}"
