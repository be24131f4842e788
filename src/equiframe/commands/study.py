"""A study: models by methods, each without and with (U)NC3, over seeds, measured in the same way and compared.

Every cell of the grid is a run in its own folder, so a stopped study continues at the cell where it
stopped, and the same command may be started once per device: the processes share the cells among them.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from equiframe.analysis.study import RESAMPLES, Arm, CellKey, study_headlines, summarise_study
from equiframe.benchmarks import load_benchmark
from equiframe.commands.run import run
from equiframe.config import DebiasConfig, EvaluateConfig, FineTuning, RunConfig, StudyConfig, StudyMethod, UNC3Options
from equiframe.config.base import Options, default_of
from equiframe.errors import BusyError, EquiframeError, InputError, RunError
from equiframe.files import written_whole
from equiframe.methods import Method, load_method
from equiframe.options import validated
from equiframe.record import RunRecord, StudyResult, environment, file_name, write_json
from equiframe.report import study_page, study_tables
from equiframe.report.study import READING
from equiframe.runs.scores import Progress, check_corrected

SELF_DEBIAS = "self-debias"
_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "%#&_${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def cells(spec: StudyConfig) -> dict[CellKey, RunConfig]:
    """The configuration of every cell; the cell of the original model has no method.

    Raises:
        InputError: a name or an option is unknown.
    """
    benchmarks = {name: load_benchmark(name) for name in (*spec.benchmarks, *spec.understanding, *spec.kept)}
    for name, benchmark in benchmarks.items():
        if benchmark.spec != name:
            raise InputError(f"{name}: write {benchmark.spec}")
        if any(method.method == SELF_DEBIAS for method in spec.methods):
            check_corrected(benchmark)
    found: dict[CellKey, RunConfig] = {}
    for model, seed in itertools.product(spec.models, spec.seeds):
        before = EvaluateConfig(
            model,
            data=spec.data,
            audit=spec.audit,
            benchmarks=tuple(benchmarks),
            heads={**spec.heads, "seed": seed},
            limit=spec.limit,
            seed=spec.seed,
            token_budget=spec.token_budget,
        )
        found[CellKey(model, "", "before", seed)] = before
        for method in spec.methods:
            for arm, config in _arms(spec, method, before, seed):
                found[CellKey(model, method.name, arm, seed)] = config
    _check_names(found)
    return found


def _check_names(keys: Iterable[CellKey]) -> None:
    """Refuse a study in which two cells would share a folder."""
    named: dict[str, CellKey] = {}
    for key in keys:
        other = named.setdefault(_cell_name(key).lower(), key)  # some file systems ignore case
        if other != key:
            raise InputError(
                f"{' '.join(filter(None, other[:2]))} and {' '.join(filter(None, key[:2]))} would have the same folder,"
                f" {_cell_name(key)}. Give one of them a name that differs in letters or digits"
            )


def _arms(spec: StudyConfig, method: StudyMethod, before: EvaluateConfig, seed: int) -> Iterator[tuple[Arm, RunConfig]]:
    """Yield a method without the term, and with it if it has a loss to which the term can be added."""
    if method.method == SELF_DEBIAS:
        _check_untrained(method)
        if unknown := sorted(set(method.options) - {"bias"}):
            raise InputError(f"{SELF_DEBIAS} has no option {unknown[0]!r}. Available: bias")
        yield "plain", dataclasses.replace(before, self_debias=method.options.get("bias", "gender"))
        return
    loaded = load_method(method.method, method.options)
    published, tuning = 0.0, {}
    if isinstance(loaded, Method):
        published, tuning = loaded.settings.unc3_weight, {**vars(spec.fine_tuning), **method.fine_tuning}
    else:
        _check_untrained(method)
    if method.cc:
        load_method("counterfactual-collapse", method.cc_options)  # a wrong option fails before any work
    weight = published if method.unc3 is None else method.unc3
    terms: dict[Arm, dict[str, Any]] = {"plain": {}}
    if weight:
        terms["unc3"] = {**vars(spec.unc3), **method.term, "weight": weight}
    elif method.term:
        raise InputError(f"{method.name}: term has no effect without a weight. Give one as unc3, or remove term")
    for arm, term in terms.items():
        yield (
            arm,
            DebiasConfig(
                before.model,
                data=before.data,
                audit=before.audit,
                benchmarks=before.benchmarks,
                heads=before.heads,
                limit=before.limit,
                seed=before.seed,
                token_budget=before.token_budget,
                method=method.method,
                method_options=method.options,
                cc=method.cc,
                cc_options=method.cc_options,
                unc3=validated(UNC3Options, term, of="unc3"),
                unc3_words=spec.unc3_words if term else DebiasConfig.unc3_words,
                fine_tuning=validated(FineTuning, {**tuning, "seed": seed}, of="fine_tuning"),
            ),
        )


def _check_untrained(method: StudyMethod) -> None:
    """Refuse settings of training for a method that trains nothing."""
    for name in ("unc3", "term", "cc", "cc_options", "fine_tuning"):
        if getattr(method, name):
            raise InputError(f"{method.name} trains nothing, so {name} has no effect: remove it from the study")


def run_study(spec: StudyConfig, out: Path | str, progress: Progress | None = None) -> StudyResult | None:
    """Run the missing cells of a study, and write its tables when every cell exists.

    Args:
        spec: the study.
        out: its folder; finished cells in it are kept.
        progress: called with the cell and its stage, the steps done so far, and the number of all steps.

    Returns:
        The figures; None if other processes still work on cells. The last process writes the tables.

    Raises:
        EquiframeError: a cell failed (all others are run first) or lacks a measure, or the folder belongs to another
            study.
    """
    out = Path(out)
    _take_own_device()
    configs = cells(spec)
    folders = {key: out / "cells" / _cell_name(key) for key in configs}
    seen: dict[str, tuple[str, Path]] = {}
    for key, config in configs.items():  # all that is finished is checked before any work
        if (folder := folders[key]).exists():
            record = RunRecord.read(folder)
            check_same(record, config, folder)
            _check_measured(spec, record, folder)
            _check_contents(key, record, folder, seen)
    failed: dict[str, list[str]] = {}  # cells by what was wrong with them
    for at, (key, config) in enumerate(configs.items()):
        folder = folders[key]
        stage = f"{at + 1} of {len(configs)}, {folder.name}"
        if folder.exists():
            continue
        try:
            record = run(config, folder, None if progress is None else _named(progress, stage))
        except EquiframeError as error:
            if not (isinstance(error, BusyError) or folder.exists()):  # else it is, or was, another process's
                failed.setdefault(str(error), []).append(folder.name)
        else:
            if not spec.keep_models:
                shutil.rmtree(folder / "model", ignore_errors=True)
            _check_measured(spec, record, folder)
            _check_contents(key, record, folder, seen)
    if failed:
        errors = "; ".join(f"{error} ({', '.join(names)})" for error, names in failed.items())
        count = sum(map(len, failed.values()))
        raise RunError(f"{count} of {len(configs)} cells failed, and the finished ones are kept: {errors}")
    if not all(folder.exists() for folder in folders.values()):
        return None
    records = {key: RunRecord.read(folder) for key, folder in folders.items()}
    result = summarise_study(spec, records, resamples=RESAMPLES)
    _write(spec, result, records.values(), out)
    return result


def _write(spec: StudyConfig, result: StudyResult, records: Iterable[RunRecord], out: Path) -> None:
    """Write every file of the summary, each completely or not at all."""
    tables = study_tables(result)
    texts = {
        "tables.md": f"{READING}\n\n"
        + "\n".join(
            f"{name}\n\n{table.to_markdown(index=False, disable_numparse=True)}\n" for name, table in tables.items()
        ),
        "tables.tex": "\n".join(_latex(name, table) for name, table in tables.items()),
        "report.html": study_page(result, records, made=environment()),
        "figures.csv": pd.DataFrame([figure.model_dump() for figure in result.figures]).to_csv(index=False),
        "study.yaml": yaml.safe_dump(spec.plain(), sort_keys=False),
    }
    for name, text in texts.items():
        with written_whole(out / name, shared=True) as scratch:
            scratch.write_text(text, encoding="utf-8")
    headlines = [headline.model_dump(mode="json") for headline in study_headlines(spec, result)]
    for name, value in (("headline.json", headlines), ("study.json", result.model_dump(mode="json"))):
        with written_whole(out / name, shared=True) as scratch:
            write_json(scratch, value)


def _latex(caption: str, table: pd.DataFrame) -> str:
    shown = table.style.hide(axis="index").format(_in_latex).format_index(_in_latex, axis="columns")
    return shown.to_latex(caption=_in_latex(caption), hrules=True)


def _in_latex(text: object) -> str:
    """A text that LaTeX shows unchanged."""
    return str(text).translate(_LATEX)


def _take_own_device() -> None:
    """Under ``torchrun`` or ``accelerate launch``, make each process run cells alone, on its own device.

    Of the devices that are visible to the processes, each takes the one of its local rank. The processes share only
    the folder of the study, so they must not be taken for ranks of one run.
    """
    if int(os.environ.pop("WORLD_SIZE", "1")) > 1:
        rank = os.environ.get("LOCAL_RANK", "0")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", rank).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[int(rank) % len(visible)]
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def _cell_name(key: CellKey) -> str:
    return file_name("-".join(filter(None, (key.model, key.method, key.arm, f"seed{key.seed}"))))


def check_same(record: RunRecord, config: RunConfig, folder: Path) -> None:
    """Refuse a finished run that was made with other options.

    Raises:
        InputError: an option differs; the message names it.
    """
    made, wanted = _with_defaults(record.provenance.plain(), config), config.plain()
    if isinstance(config, DebiasConfig) and not (config.unc3.weight or made["unc3"]["weight"]):
        wanted = {name: value for name, value in wanted.items() if name not in ("unc3", "unc3_words")}  # no effect
    for name, value in wanted.items():
        if made.get(name) != value:
            raise InputError(
                f"{folder} was made with {name} {made.get(name)!r}, but {value!r} is given now:"
                " give another --out, or remove that folder"
            )


def _check_contents(key: CellKey, record: RunRecord, folder: Path, seen: dict[str, tuple[str, Path]]) -> None:
    """Refuse a cell whose model, texts or benchmarks had another content under the same name in a cell seen before."""
    made, metrics = record.provenance, record.metrics
    contents = {f"{file.name} of {key.method}": file.sha256 for file in made.files if key.method}
    contents |= {f"{file.name} of the audit": file.sha256 for audit in metrics.collapse for file in audit.files}
    for result in metrics.benchmarks:
        contents |= {f"{file.name} of {result.benchmark}": file.sha256 for file in result.files}
        contents[f"the version of {result.benchmark}"] = str(result.version)
    if made.model_before is not None:  # of the model as it was read, which these three decide
        way = "for LoRA" if made.fine_tuning.lora_rank else made.self_debias
        contents[" ".join(filter(None, (key.model, "in", metrics.model.precision, way)))] = made.model_before
    for what, content in contents.items():
        first, where = seen.setdefault(what, (content, folder))
        if first != content:
            raise InputError(
                f"{what} changed between {where} and {folder}:"
                " give another --out, or remove the cells that were made before the change"
            )


def _check_measured(spec: StudyConfig, record: RunRecord, folder: Path) -> None:
    """Refuse a study with a measure that a finished cell lacks, before the other cells are run."""
    results = record.metrics.results
    for measures in (spec.benchmarks, spec.understanding, spec.kept):
        for benchmark, key in measures.items():
            if benchmark not in results:
                why = record.provenance.left_out.get(benchmark, "it was not measured")
                raise InputError(f"{folder}: {benchmark} has no numbers ({why}): leave it out of the study")
            estimates = results[benchmark].estimates
            if key not in estimates:
                raise InputError(f"{benchmark} has no measure {key!r}. Available: {', '.join(estimates)}")
            if measures is spec.benchmarks and estimates[key].ideal is None:
                raise InputError(f"{benchmark} {key} has no ideal, so it has no fairness gain: name another measure")


def _with_defaults(made: Mapping[str, Any], options: Any) -> dict[str, Any]:
    """Options as recorded, plus the defaults of options that did not exist in the version that recorded them."""
    filled = dict(made)
    for known in dataclasses.fields(options):
        value, nested = getattr(options, known.name), made.get(known.name)
        if known.name not in made:
            filled |= _default(known)
        elif dataclasses.is_dataclass(value) and isinstance(nested, Mapping):
            filled[known.name] = _with_defaults(nested, value)
    return filled


def _default(known: dataclasses.Field[Any]) -> dict[str, Any]:
    """The default of an option by its name, in the form that a record stores; empty if there is none."""
    if (default := default_of(known)) is dataclasses.MISSING:
        return {}
    plain = dataclasses.asdict(default) if isinstance(default, Options) else default
    found: dict[str, Any] = json.loads(json.dumps({known.name: plain}, default=str))
    return found


def _named(progress: Progress, cell: str) -> Progress:
    return lambda stage, done, total: progress(f"{cell}: {stage}", done, total)
