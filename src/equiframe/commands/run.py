"""A run: it loads a model, fine-tunes it if requested, measures it, and writes the record."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

from equiframe.benchmarks import load_benchmark, suite
from equiframe.cache import check_cache
from equiframe.config import AuditConfig, DebiasConfig, EvaluateConfig, FineTuning, RunConfig
from equiframe.data import DataFile
from equiframe.errors import ModelError
from equiframe.generation.responses import ResponseFile, write_responses
from equiframe.generation.served import ChatModel
from equiframe.methods import Method, Projection, load_method
from equiframe.models import LanguageModel, save
from equiframe.models.memory import in_less_memory
from equiframe.models.saving import free_weights
from equiframe.progress import listening
from equiframe.record import (
    Metrics,
    ModelDescription,
    Provenance,
    RunRecord,
    claim,
    environment,
    partial_folder,
    run_folder,
)
from equiframe.report import run_page
from equiframe.runs.answerers import Subject, answerer_of, describe, load_of, reference_of
from equiframe.runs.audit import Audit, audit_model
from equiframe.runs.debias import Debiased, check_untrained, debias
from equiframe.runs.evaluate import Watched
from equiframe.runs.ranks import process_group, processes, wait_for_all
from equiframe.runs.scores import Progress, Scores, read_items, score_all, watched_of
from equiframe.runs.terms import AddedTerms
from equiframe.scoring.engine import LocalAnswerer
from equiframe.scoring.store import AnswerStore
from equiframe.training.arguments import check_trackers, with_half_the_batch
from equiframe.words import WordSet

_OF_TRAINING = ("method", "method_options", "cc", "cc_options", "unc3", "fine_tuning")
"""The options that decide how a model is trained; all others only decide how it is measured."""


def run(config: RunConfig, out: Path | str, progress: Progress | None = None) -> RunRecord:
    """Carry out a run and write its folder.

    An interrupted fine-tuning of the same model with the same options and data continues from its last checkpoint.

    Args:
        config: configuration of the run.
        out: folder of the run; it must not exist.
        progress: called with the stage, the steps done so far, and the number of all steps.

    Raises:
        EquiframeError: the run failed; one line says how to fix it, and nothing is left under ``out``.
    """
    out = Path(out)
    tell: Progress = progress or (lambda stage, done, total: None)
    benchmarks = [load_benchmark(name) for name in _names(config)]  # a wrong name fails before any work
    training = _training(config) if isinstance(config, DebiasConfig) else None
    if benchmarks:
        check_cache()
    read = read_items(config, benchmarks)
    watched = watched_of(config) if isinstance(config, DebiasConfig) else None
    with process_group() as rank, _work_folder(out, rank) as work:
        tell("load", 0, 1)
        answerer = answerer_of(config)
        reference, left_out = reference_of(config, answerer)
        tell("load", 1, 1)
        start = answerer.fingerprint()
        claimed = functools.partial(_claim, work, rank, start, answerer)
        debiased: Debiased | None = None
        if training is None or not isinstance(answerer, LocalAnswerer):
            claimed({})
        else:
            stage = functools.partial(tell, "fine-tune")
            watched = watched and dataclasses.replace(watched, chat_template=answerer.chat_template)
            with listening(tell):
                debiased = _debias(answerer.language_model, training, watched, work, claimed, stage)
            answerer = dataclasses.replace(answerer, language_model=debiased.language_model)
        measured: Audit | None = None
        if config.audit is not None and isinstance(answerer, LocalAnswerer):
            model, stage = answerer.language_model, functools.partial(tell, "audit")
            measured = audit_model(model, config.audit, source=config.data, seed=config.seed, progress=stage)
        description = describe(answerer, start if debiased is None else answerer.fingerprint())
        scored = Scores()
        if not isinstance(config, AuditConfig) and benchmarks:
            with contextlib.closing(AnswerStore.of(description.fingerprint)) as store:
                if not isinstance(answerer, ResponseFile | ChatModel):
                    answerer = dataclasses.replace(answerer, store=store)
                scored = score_all(answerer, reference, benchmarks, config, read, left_out, tell)
        about = {"model_before": start, "left_out": left_out}
        record = _record(config, about, description, debiased, measured, scored)
        if rank == 0:
            if debiased is not None:
                save(debiased.language_model, work / "model", release=True)  # nothing below needs the weights
            record.write(work)
            if written := {r.benchmark: record.items[r.benchmark] for r in record.metrics.benchmarks if r.generated}:
                write_responses(work / "responses.jsonl", written)
            title = f"{config.verb}: {config.model}"
            (work / "report.html").write_text(run_page(record, title=title), encoding="utf-8")
            if (logs := work / "checkpoints" / "runs").exists():  # where the Trainer writes for TensorBoard
                shutil.copytree(logs, work / "tensorboard", dirs_exist_ok=True)  # a stopped run may have left some
            shutil.rmtree(work / "checkpoints", ignore_errors=True)
    return record


class _Training(NamedTuple):
    """The objects with which a model is trained."""

    config: DebiasConfig
    method: Method | Projection
    words: WordSet | None
    added: AddedTerms | None


def _training(config: DebiasConfig) -> _Training:
    """Make method and added terms, and read the words of (U)NC3 if it has a weight, before any work.

    Raises:
        InputError: a name or an option is unknown, or an option has no effect.
    """
    method = load_method(config.method, config.method_options)
    if isinstance(method, Projection):
        check_untrained(method, config.unc3, config.fine_tuning, {"--cc": config.cc, "--watch": config.watch})
    check_trackers(config.fine_tuning.report_to)
    words = WordSet.load(config.unc3_words) if config.unc3.weight else None
    if not config.cc:
        return _Training(config, method, words, None)
    terms = load_method("counterfactual-collapse", config.cc_options)
    assert isinstance(terms, Method)
    return _Training(config, method, words, AddedTerms(terms, config.cc))


def _claim(
    work: Path,
    rank: int,
    fingerprint: str,
    answerer: Subject,
    training: Mapping[str, Any],
) -> None:
    """Claim the folder for this run on the first rank, while the others wait."""
    if rank == 0:
        device = answerer.language_model.device.type if isinstance(answerer, LocalAnswerer) else "elsewhere"
        identity = {"model": fingerprint, "kind": answerer.kind, "device": device, "processes": processes()}
        claim(work, {**identity, **training})
    wait_for_all()


def _record(
    config: RunConfig,
    about: Mapping[str, Any],
    description: ModelDescription,
    debiased: Debiased | None,
    measured: Audit | None,
    scored: Scores,
) -> RunRecord:
    return RunRecord(
        provenance=Provenance.model_validate(
            {
                **config.plain(),
                "benchmarks": _names(config),
                **about,
                "files": _files(debiased, measured, scored),
                "words_left_out": None if measured is None else measured.words.summary(),
                "environment": environment(),
            }
        ),
        metrics=Metrics(
            verb=config.verb,
            model=description,
            collapse=[] if measured is None else measured.results,
            contexts=[] if measured is None else measured.contexts,
            benchmarks=[result for result, _ in scored.values()],
            training=None if debiased is None else debiased.result,
        ),
        items={name: table for name, (_, table) in scored.items()},
        classes=None if measured is None else measured.classes,
        vectors=None if measured is None else measured.vectors,
        pairs=None if measured is None else measured.pairs,
        history=None if debiased is None else debiased.history,
    )


def _names(config: RunConfig) -> list[str]:
    """The names of the benchmarks to score, including those of a suite."""
    if isinstance(config, AuditConfig):
        return []
    if isinstance(config, EvaluateConfig) and config.suite is not None:
        return suite(config.suite)
    return list(config.benchmarks)


@contextlib.contextmanager
def _work_folder(out: Path, rank: int) -> Iterator[Path]:
    """The working folder, which the first rank makes and finishes."""
    if rank == 0:
        with run_folder(out) as work:
            wait_for_all()
            yield work
            wait_for_all()
    else:
        wait_for_all()
        yield partial_folder(out)
        wait_for_all()


def _debias(
    language_model: LanguageModel,
    training: _Training,
    watched: Watched | None,
    work: Path,
    claimed: Callable[[Mapping[str, Any]], None],
    progress: Callable[[int, int], None],
) -> Debiased:
    """Fine-tune; if there is too little memory, resume from the last checkpoint with batches of half the size.

    A step still uses equally many examples; a loss that compares the examples of a batch, as MABEL's does, uses half.
    """
    config, method, words, added = training
    resolved = None
    if words is not None:
        resolved = words.resolve(language_model.tokenizer, multi_token=config.unc3.multi_token)
    if config.audit is not None:  # words that this tokenizer does not know are found before training, not after it
        WordSet.load(config.audit.words).resolve(language_model.tokenizer, multi_token=config.audit.multi_token)
    options = {name: value for name, value in config.plain().items() if name in _OF_TRAINING}
    loaded = iter([language_model])

    def given() -> LanguageModel:
        if (first := next(loaded, None)) is not None:
            return first
        free_weights(language_model)  # a step may have changed it
        return load_of(config)

    def attempt(fine_tuning: FineTuning) -> Debiased:
        return debias(
            given(),
            method,
            config.unc3,
            fine_tuning,
            resolved,
            work / "checkpoints",
            added=added,
            claim=lambda read: claimed({**options, **read}),
            audit=config.audit,
            watched=watched,
            source=config.data,
            progress=progress,
        )

    def halved(fine_tuning: FineTuning) -> tuple[FineTuning, str]:
        if isinstance(method, Projection):
            raise ModelError("out of memory: choose another device, or load the model with --dtype bfloat16")
        if dist.is_initialized():
            raise ModelError("out of memory: give a smaller --batch-size, or choose another device")
        half = with_half_the_batch(fine_tuning, method.settings)
        return half, f"continuing with batches of {half.batch_size}, {half.accumulation} per step"

    return in_less_memory(attempt, config.fine_tuning, halved)[0]


def _files(debiased: Debiased | None, measured: Audit | None, scored: Scores) -> list[DataFile]:
    """List every data file once."""
    files: list[DataFile] = [
        *(debiased.files if debiased else ()),
        *(measured.files if measured else ()),
        *(file for result, _ in scored.values() for file in result.files),
    ]
    return list(dict.fromkeys(files))
