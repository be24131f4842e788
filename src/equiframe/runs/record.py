"""The record of a run: one folder, written whole or not at all.

    config.json          every option, seeds, versions, hashes of model and data
    metrics.json         the numbers, by the schema below
    items/NAME.parquet   one row an item of each benchmark
    classes.parquet      one row a class of the audited word set
    vectors.parquet      mean and embedding of those classes that stand in pairs
    history.parquet      one row a logged step of fine-tuning
    model/               the fine-tuned model, safetensors
    report.html          the same for a reader

A run works in ``OUT.partial`` and renames it to ``OUT`` at its end, so that a folder without that suffix
is complete. What lies in ``OUT.partial`` lets a stopped fine-tuning go on.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import pandas as pd
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from equiframe.benchmarks.benchmark import BenchmarkResult
from equiframe.data import DataFile, read_json
from equiframe.errors import BusyError, RunError
from equiframe.files import written_whole
from equiframe.models.examination import Examination
from equiframe.scoring.requests import ModelKind
from equiframe.uncertainty import Difference, Estimate

SCHEMA: Literal["equiframe.metrics/1"] = "equiframe.metrics/1"
Verb: TypeAlias = Literal["audit", "evaluate", "debias", "compare", "demo"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class ServerDescription(_Frozen):
    """Which server the model was asked through, and what the server says of itself and of the model."""

    url: str
    model: str = Field(description="the name under which it is served")
    root: str | None = Field(description="what the server loaded")
    revision: str | None
    version: str | None = Field(description="of the server's software")
    tokenizer: str = Field(description="by which texts became tokens here")
    window: int = Field(description="the longest sequence that is asked, in tokens")


class ModelDescription(_Frozen):
    """Which model the numbers are about."""

    name: str
    kind: ModelKind
    architecture: str | None = Field(default=None, description="null where a server does not say")
    parameters: int | None = Field(default=None, description="null where a server does not say")
    vocabulary: int
    precision: str = "float32"
    projected: bool = Field(default=False, description="whether a projection acts on its last hidden states")
    fingerprint: str = Field(
        description="SHA-256 of the weights, the configuration and the tokenizer; of a served model, of what its server"
        " says of it and of the tokenizer"
    )
    examination: Examination | None = Field(default=None, description="what the model was found to be after loading")
    server: ServerDescription | None = Field(default=None, description="null where the model was loaded here")

    @property
    def in_words(self) -> str:
        """What it is, for a reader: ``LlamaForCausalLM, 134,515,008 parameters``."""
        if self.server is None:
            return f"{self.architecture}, {self.parameters:,} parameters"
        version = f", version {self.server.version}" if self.server.version else ""
        return f"{self.server.root or self.server.model}, behind a server{version}"


class CollapseResult(_Frozen):
    """Collapse metrics of one class set on one text.

    ``estimates`` holds those that are a statistic over words, with intervals by resampling words.
    """

    class_set: str = Field(description="'vocabulary', or the name of a word set")
    classes: int = Field(description="classes seen often enough to count")
    tokens: int = Field(description="samples of these classes")
    values: dict[str, float | None] = Field(
        description="by flat key: nc1_cdnv_mean, unc3, nc4_agreement, ...; null where undefined"
    )
    estimates: dict[str, Estimate] = {}
    files: tuple[DataFile, ...] = Field((), description="of the text")
    texts: int | None = Field(None, description="texts read; null in records of older versions")
    truncated: int = Field(0, description="those longer than the model's window, cut at its end")
    short: int = Field(0, description="texts of fewer than three words, which were left out")


class ContextsResult(_Frozen):
    """Collapse of contexts: those of texts beside those of their counterfactuals, with intervals by resampling texts.

    ``estimates`` holds ``cc1_states``, ``cc1_js``, ``cc3_log_odds``, ``cc3_cosine_gap``, ``agreement`` and
    ``agreement_log_odds``, as far as the texts have places for them.
    """

    bias: str = Field(description="whose words are swapped: gender, race or religion")
    pairs: int = Field(description="texts read beside their counterfactual")
    estimates: dict[str, Estimate] = {}


class TrainingResult(_Frozen):
    """What debiasing did."""

    method: str
    does: str = Field("", description="the method in a sentence; empty in records of older versions")
    options: dict[str, Any] = Field({}, description="of the method, those left at their defaults included")
    unc3_weight: float
    steps: int
    seconds: float
    final_loss: float | None = Field(description="mean over the last ten steps; null where nothing was trained")


class Metrics(_Frozen):
    """``metrics.json``."""

    schema_version: Literal["equiframe.metrics/1"] = SCHEMA
    verb: Verb
    model: ModelDescription
    collapse: list[CollapseResult] = []
    contexts: list[ContextsResult] = []
    benchmarks: list[BenchmarkResult] = []
    training: TrainingResult | None = None


class ComparedMeasure(_Frozen):
    """One measure of one run against the first run of the comparison, all three numbers over the same items."""

    benchmark: str
    measure: str
    first: Estimate
    second: Estimate
    difference: Difference


class SharedItems(_Frozen):
    """How many items, or words, all runs of a comparison measured, and how many each of them did."""

    shared: int
    measured: dict[str, int] = Field(description="by run")

    @property
    def is_part(self) -> bool:
        """Whether a run measured more than what is compared."""
        return any(count > self.shared for count in self.measured.values())


class Comparison(_Frozen):
    """``metrics.json`` of a comparison: the runs by name, and each later run against the first.

    Where the runs did not measure the same items, the estimates in ``runs`` are those over the items that all share.
    """

    schema_version: Literal["equiframe.metrics/1"] = SCHEMA
    verb: Literal["compare", "demo"]
    runs: dict[str, Metrics]
    measures: dict[str, list[ComparedMeasure]] = Field(description="by name of the later run")
    shared: dict[str, SharedItems] = Field({}, description="by benchmark, or collapse:WORDS")


class StudyFigure(_Frozen):
    """One number of a study: of a model, a method and an arm, over seeds.

    ``kind`` is ``bias`` or ``understanding`` (a benchmark's measure, named by ``name``), ``gain`` (fairness gain on
    one benchmark), ``mean gain`` (over all of them, the headline), ``pooled gain`` (weighted by precision),
    ``mean change`` (of language understanding), ``collapse`` or ``rank correlation``. The arm ``difference`` is with
    (U)NC3 minus without.
    """

    model: str
    method: str = Field(description="empty for the model as it was")
    arm: Literal["before", "plain", "unc3", "difference", "all"]
    kind: Literal[
        "bias", "understanding", "gain", "mean gain", "pooled gain", "mean change", "collapse", "rank correlation"
    ]
    name: str
    unit: str
    value: float | None
    sd: float | None = Field(description="standard deviation over seeds (n-1), where there are several")
    low: float | None = Field(description="95 % interval over items and seeds")
    high: float | None


class StudyCell(_Frozen):
    """One fine-tuned model of a study: its collapse, its pooled gain."""

    model: str
    method: str
    arm: Literal["before", "plain", "unc3"]
    seed: int
    unc3: float | None
    gain: float | None


class StudyResult(_Frozen):
    """``study.json``: what a study came to."""

    schema_version: Literal["equiframe.study/1"] = "equiframe.study/1"
    study: dict[str, Any]
    figures: list[StudyFigure]
    cells: list[StudyCell]


_ITEMS = "items"
_MARK = ".identity.json"  # whose working folder it is
_WORTH_KEEPING = ("checkpoints/*/complete", "*/metrics.json")  # of a fine-tuning; of a demo, its finished runs
_TABLES = ("classes", "vectors", "pairs", "history")
_MOST_ROWS, _LARGEST = 10_000_000, 1 << 32  # of a table, its bytes unpacked: a small file may say that it is huge


@dataclass(frozen=True)
class RunRecord:
    """A finished run in memory.

    Args:
        config: every option, seed, version and hash, as ``config.json`` holds them.
        metrics: the numbers.
        items: per-item table of each benchmark, by its name with variant.
        classes: the audited classes: ``token_id, token, word, form, groups, count, variance, norm, cosine``. ``form``
            names the same class under another tokenizer, see :class:`equiframe.words.word_set.ResolvedWords`.
        vectors: of the audited classes that stand in pairs: ``token_id``, the ids of their ``partners``, the centred
            ``mean`` and the ``embedding``; None in records of older versions.
        pairs: texts that were read beside their counterfactual, see :func:`equiframe.runs.contexts.read_contexts`;
            None in records of older versions.
        history: the logged steps of fine-tuning: ``step``, ``loss``, its named parts, and ``collapse/KEY`` of the
            steps that were audited.
    """

    config: dict[str, Any]
    metrics: Metrics
    items: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    classes: pd.DataFrame | None = None
    vectors: pd.DataFrame | None = None
    pairs: pd.DataFrame | None = None
    history: pd.DataFrame | None = None

    def write(self, folder: Path) -> None:
        """Write everything but model and report into an existing folder."""
        write_json(folder / "config.json", self.config)
        write_json(folder / "metrics.json", self.metrics.model_dump(mode="json"))
        shutil.rmtree(folder / _ITEMS, ignore_errors=True)  # of the same run, stopped while it was written
        for name, table in self.items.items():
            (folder / _ITEMS).mkdir(exist_ok=True)
            table.to_parquet(folder / _ITEMS / _item_file(name), index=False)
        for name in _TABLES:
            file = folder / f"{name}.parquet"
            file.unlink(missing_ok=True)
            if (extra := getattr(self, name)) is not None:
                extra.to_parquet(file, index=False)

    @classmethod
    def read(cls, folder: Path | str) -> RunRecord:
        """Read a finished run.

        Raises:
            DataError: a file is not readable.
            RunError: no such run, or its files do not fit the schema.
        """
        folder = Path(folder)
        metrics = _read_metrics(folder, Metrics)
        items = {}
        for result in metrics.benchmarks:
            items[result.benchmark] = _read_table(folder / _ITEMS / _item_file(result.benchmark))
        optional = {
            name: _read_table(folder / f"{name}.parquet") if (folder / f"{name}.parquet").exists() else None
            for name in _TABLES
        }
        if (classes := optional["classes"]) is not None and "form" not in classes:  # written by an older version
            classes["form"] = classes["token"]
        return cls(config=_read_json(folder / "config.json"), metrics=metrics, items=items, **optional)


def file_name(name: str) -> str:
    """A benchmark's name as a file name: ``crows_pairs:changed`` becomes ``crows_pairs-changed``."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-")


def _item_file(benchmark: str) -> str:
    """Where a benchmark's items are kept; of one that is named by a path, told apart by a digest of it."""
    name = file_name(benchmark)
    if "/" in benchmark:
        name = f"{name[-100:]}-{hashlib.sha256(benchmark.encode()).hexdigest()[:8]}"
    return f"{name}.parquet"


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and machines: indented, keys in the given order, no not-a-number constants.

    Raises:
        RunError: a number is not finite.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise RunError(f"{path.name}: a number is not finite ({error}); please report this as a fault") from error
    path.write_text(text + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    if not path.exists():
        raise RunError(f"{path.parent} is not a finished run: it has no {path.name}")
    return read_json(path)


_Model = TypeVar("_Model", bound=BaseModel)


def _read_metrics(folder: Path, schema: type[_Model]) -> _Model:
    value = _read_json(folder / "metrics.json")
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise RunError(
            f"{folder / 'metrics.json'}: {place}: {first['msg']}; edited, or written by another version:"
            " run the command again"
        ) from error


def read_comparison(folder: Path | str) -> Comparison:
    """Read the numbers of a finished comparison.

    Raises:
        DataError: its file is not readable.
        RunError: no such run, or its file does not fit the schema.
    """
    return _read_metrics(Path(folder), Comparison)


def _read_table(path: Path) -> pd.DataFrame:
    try:
        said = pq.read_metadata(path)
        size = sum(said.row_group(i).total_byte_size for i in range(said.num_row_groups))
        if said.num_rows > _MOST_ROWS or size > _LARGEST:
            raise RunError(f"{path}: {said.num_rows:,} rows, {size:,} bytes: no table of ours is so large")
        return pd.read_parquet(path)
    except RunError:
        raise
    except Exception as error:  # pandas and arrow raise of every kind on a damaged file
        raise RunError(f"{path}: not readable as Parquet ({error}); run the command again") from error


def partial_folder(out: Path | str) -> Path:
    """Where a run works until it is finished."""
    out = Path(out).resolve()
    return out.with_name(out.name + ".partial")


@contextlib.contextmanager
def run_folder(out: Path | str, identity: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """A working folder beside ``out`` that becomes ``out`` when the block ends without an error.

    Args:
        out: the folder of the run; it must not exist.
        identity: see :func:`claim`; None where the block calls it, when it knows all that decides the run.

    Raises:
        BusyError: another process works on ``out``.
        RunError: ``out`` exists, another run left something in the working folder, or the disk refuses.
    """
    out = Path(out).resolve()
    work = partial_folder(out)
    lock = FileLock(out.with_name(out.name + ".lock"), blocking=False)
    try:
        _refuse_existing(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with lock:
            _refuse_existing(out)  # by now, perhaps, by the process that had the lock
            work.mkdir(exist_ok=True)
            try:
                if identity is not None:
                    claim(work, identity)
                yield work
                (work / _MARK).unlink(missing_ok=True)
                work.replace(out)
            finally:
                if work.exists() and {path.name for path in work.iterdir()} <= {_MARK}:
                    shutil.rmtree(work)  # nothing to go on from
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        raise BusyError(f"another process is writing {out}: wait for it, or choose another --out") from None
    except OSError as error:
        if error.errno is None:
            raise
        place = Path(error.filename or out)
        if place.is_relative_to(out.parent) or out.is_relative_to(place):
            raise RunError(f"cannot write the run to {out}: {error.strerror}") from error
        raise RunError(f"{place}: {error.strerror}") from error


def claim(work: Path, identity: Mapping[str, Any]) -> None:
    """Make a working folder this run's own, before anything in it is read.

    Where an interrupted run of the same identity left it, it stays as it was. What another run left there is removed
    if nothing could go on from it.

    Args:
        work: the folder that :func:`run_folder` gave.
        identity: all that what lies in it follows from: options, and hashes of the model and of the files read.

    Raises:
        RunError: another run left whole checkpoints there, or finished parts; says in what it differed.
    """
    mark = work / _MARK
    wanted = json.loads(json.dumps(identity, default=str))
    before = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else None
    if before == wanted:
        return
    if next((path for pattern in _WORTH_KEEPING for path in work.glob(pattern)), None) is not None:
        raise RunError(
            f"{work} holds what a stopped run has done, and this is another run ({_difference(before or {}, wanted)}):"
            " give it as it was to go on from there, or another --out, or delete that folder to begin anew"
        )
    shutil.rmtree(work)
    work.mkdir()
    with written_whole(mark) as scratch:
        write_json(scratch, wanted)


def _difference(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In what two identities differ, in words; hashes are no news to a reader."""
    said = []
    for name in dict.fromkeys([*before, *wanted]):
        old, new = before.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            said += [_changed(f"{name} {key}", old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new])]
        else:
            said.append(_changed(name, old, new))
    return ", ".join(filter(None, said))


def _changed(name: str, old: Any, new: Any) -> str:
    if old == new:
        return ""
    is_hash = any(isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) for value in (old, new))
    return f"another {name}" if is_hash else f"{name} {new!r:.60}, it was {old!r:.60}"


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise RunError(f"{out} exists: choose another --out, or remove it first")


def environment() -> dict[str, Any]:
    """What a reader needs to know to run it again: command, date, platform, versions."""
    program = Path(sys.argv[0])
    name = "equiframe" if program.parts[-2:] == ("equiframe", "__main__.py") else program.name
    packages = ("equiframe", "torch", "transformers", "tokenizers", "numpy", "scipy", "pandas")
    return {
        "command": shlex.join([name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }
