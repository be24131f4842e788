"""Score one model on the benchmarks of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd

from equiframe.benchmarks import load_benchmark
from equiframe.benchmarks.benchmark import Benchmark, BenchmarkResult
from equiframe.benchmarks.fine_tuned import FineTunedBenchmark, FineTuneSettings
from equiframe.benchmarks.generated import GeneratedBenchmark
from equiframe.cache import cache_folder, writing_to_cache
from equiframe.config import AuditConfig, DebiasConfig, EvaluateConfig, RunConfig
from equiframe.data import DataSource, stream
from equiframe.errors import CannotScoreError, InputError, MissingDataError
from equiframe.finetuned import score_finetuned
from equiframe.generation import score_generated
from equiframe.generation.measures import check_measures
from equiframe.generation.responses import ResponseFile
from equiframe.generation.served import ChatModel
from equiframe.options import validated
from equiframe.requests import Embedding
from equiframe.runs.answerers import Subject
from equiframe.runs.evaluate import ReadItems, Watched, score
from equiframe.runs.ranks import processes
from equiframe.scoring.engine import LocalAnswerer
from equiframe.words import WordSet

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the stage, the steps done so far, and the number of all steps."""
Scores: TypeAlias = dict[str, tuple[BenchmarkResult, pd.DataFrame]]
"""Numbers and items by benchmark."""
_Benchmark: TypeAlias = Benchmark[Any] | FineTunedBenchmark[Any] | GeneratedBenchmark


def check_options(config: EvaluateConfig | DebiasConfig, benchmarks: Sequence[_Benchmark]) -> None:
    """Refuse options that none of the benchmarks reads.

    Raises:
        InputError: there is one.
    """
    watched = map(load_benchmark, config.watch if isinstance(config, DebiasConfig) else ())
    generates = any(isinstance(one, GeneratedBenchmark) for one in benchmarks)
    scored = [one for one in (*benchmarks, *watched) if isinstance(one, Benchmark)]
    if not generates and (options := config.generation.given()):
        raise InputError(f"{', '.join(options)}: no benchmark of this run lets the model write. Remove it")
    if config.chat_template != "off" and not generates and not any(one.puts_questions for one in scored):
        raise InputError(f"--chat-template {config.chat_template}: no benchmark of this run asks a question. Remove it")
    heads = sorted(set(config.heads) - {"seed"})  # a study gives the seed to every run
    if heads and not any(isinstance(one, FineTunedBenchmark) for one in benchmarks):
        raise InputError(f"--head {heads[0]}: no benchmark of this run fine-tunes the model. Remove it")
    if isinstance(config, EvaluateConfig) and config.check_float32 and not scored:
        raise InputError("--check-float32 compares scores of the model itself, and this run has none. Remove it")


def check_corrected(benchmark: _Benchmark) -> None:
    """Refuse a benchmark whose numbers Self-Debias does not change.

    Raises:
        CannotScoreError: it fine-tunes the model, lets it write, or reads its states.
    """
    problem = None
    if isinstance(benchmark, FineTunedBenchmark):
        problem = "fine-tunes the model"
    elif isinstance(benchmark, GeneratedBenchmark):
        problem = "lets the model write"
    elif set(benchmark.needs) == {Embedding}:
        problem = "reads states of the model"
    if problem:
        raise CannotScoreError(f"{benchmark.spec} {problem}, but Self-Debias only corrects probabilities")


def read_items(config: RunConfig, benchmarks: Sequence[Any]) -> dict[str, ReadItems]:
    """Read the data of a run before a model is loaded; that of a suite is read when it is scored.

    Raises:
        CannotScoreError: responses from a file are to be measured, but no file is given.
        DataError: a file is missing, or not as expected.
        InputError: a group of people, a measure, a word set or a setting of fine-tuning is unknown, an option has no
            effect, or a benchmark needs one process.
    """
    if not isinstance(config, AuditConfig):
        check_options(config, benchmarks)
    for alone in (one for one in benchmarks if processes() > 1 and not isinstance(one, Benchmark)):
        raise InputError(f"{alone.spec} trains or writes in one process: start it without torchrun")
    if config.audit is not None:
        stream(config.audit.text, config.data)
        WordSet.load(config.audit.words)
    for tuned in (one for one in benchmarks if isinstance(one, FineTunedBenchmark)):
        _settings(tuned, config)
    if _is_suite(config):
        return {}
    source = DataSource.of(config.data)
    if not isinstance(config, AuditConfig) and not (isinstance(config, EvaluateConfig) and config.responses):
        for generated in (one for one in benchmarks if isinstance(one, GeneratedBenchmark)):
            check_measures(config.generation.measures)
            generated.prompts(source, config.generation.groups)
    return {one.spec: one.items(source) for one in benchmarks if isinstance(one, Benchmark)}


def watched_of(config: DebiasConfig) -> Watched | None:
    """Prepare the benchmarks to score during training, with their items; None if there are none.

    Raises:
        DataError: a file is missing, or not as expected.
        InputError: a name is unknown, or a benchmark fine-tunes the model itself or lets it write.
    """
    source, read = DataSource.of(config.data), []
    for name in config.watch:
        benchmark = load_benchmark(name)
        if isinstance(benchmark, GeneratedBenchmark):
            raise InputError(f"--watch {name}: this benchmark lets the model write. Score it with --benchmarks")
        if not isinstance(benchmark, Benchmark):
            raise InputError(f"--watch {name}: this benchmark fine-tunes the model itself. Score it with --benchmarks")
        read.append((benchmark, benchmark.items(source)))
    return Watched(read, config.limit, config.token_budget) if read else None


def score_all(
    answerer: Subject,
    reference: LocalAnswerer | None,
    benchmarks: Sequence[_Benchmark],
    config: EvaluateConfig | DebiasConfig,
    read: Mapping[str, ReadItems],
    left_out: dict[str, str],
    tell: Progress,
) -> Scores:
    """Score each benchmark. Return numbers and items; ``left_out`` gets the reasons for benchmarks without numbers.

    Args:
        answerer: the model, or its responses.
        reference: the same model in float32, if it is to be compared.
        benchmarks: benchmarks to score.
        config: config of the run.
        read: items that were already read, see :func:`read_items`.
        left_out: reasons by benchmark, filled here.
        tell: called with the benchmark, the steps done so far, and the number of all steps.

    Raises:
        MissingDataError: the data of a benchmark that was named is missing.
        InputError: no benchmark can be scored.
    """
    scored: Scores = {}
    for benchmark in benchmarks:
        try:
            stage = functools.partial(tell, benchmark.spec)
            scored[benchmark.spec] = _score(answerer, reference, benchmark, config, read.get(benchmark.spec), stage)
        except (MissingDataError, CannotScoreError) as error:
            if isinstance(error, MissingDataError) and not _is_suite(config):
                raise
            left_out[benchmark.spec] = str(error)
    if not scored:
        raise InputError(f"no benchmark can be scored: {'; '.join(left_out.values())}")
    return scored


def _is_suite(config: RunConfig) -> bool:
    return isinstance(config, EvaluateConfig) and config.suite is not None


def _score(
    answerer: Subject,
    reference: LocalAnswerer | None,
    benchmark: _Benchmark,
    config: EvaluateConfig | DebiasConfig,
    read: ReadItems | None,
    progress: Callable[[int, int], None],
) -> tuple[BenchmarkResult, pd.DataFrame]:
    """Score one benchmark; stored results for the same model and data are read again."""
    if isinstance(answerer, LocalAnswerer) and answerer.self_debias is not None:
        check_corrected(benchmark)
    if isinstance(benchmark, GeneratedBenchmark):
        return score_generated(
            answerer,
            benchmark,
            settings=config.generation,
            source=config.data,
            seed=config.seed,
            progress=progress,
            limit=config.limit,
        )
    if isinstance(answerer, ResponseFile):
        raise CannotScoreError(f"{benchmark.spec} asks the model itself, but only responses in a file are given")
    if isinstance(answerer, ChatModel):
        raise CannotScoreError(f"{benchmark.spec} asks for log-probabilities, but a chat endpoint gives text")
    if isinstance(benchmark, FineTunedBenchmark):
        if not isinstance(answerer, LocalAnswerer):
            raise CannotScoreError(f"{benchmark.spec} fine-tunes the model, but a server does not give its weights")
        with writing_to_cache():
            return score_finetuned(
                answerer.language_model,
                benchmark,
                cache=cache_folder() / "finetuned",
                source=config.data,
                settings=_settings(benchmark, config),
                limit=config.limit,
                seed=config.seed,
                progress=progress,
            )
    return score(
        answerer,
        benchmark,
        source=config.data,
        read=read,
        seed=config.seed,
        progress=progress,
        limit=config.limit,
        reference=reference,
    )


def _settings(benchmark: FineTunedBenchmark[Any], config: RunConfig) -> FineTuneSettings:
    """The settings of a benchmark's fine-tuning: the published ones, and those that the run overrides."""
    heads = {} if isinstance(config, AuditConfig) else config.heads
    return validated(FineTuneSettings, {**vars(benchmark.settings), **heads}, of="head")
