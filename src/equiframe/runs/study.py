"""A study: models by methods, each without and with (U)NC3, over seeds, measured alike and set side by side.

Every cell of the grid is a run in a folder of its own, so a stopped study goes on at the cell where it
stopped, and the same command may be started once a device: the processes share the cells among them.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy import stats

from equiframe.benchmarks import load_benchmark
from equiframe.data import read_text
from equiframe.errors import BusyError, EquiframeError, InputError, RunError
from equiframe.methods import Method, load_method
from equiframe.options import SEEDS, check_range, validated
from equiframe.report import study_page, study_tables
from equiframe.runs.audit import AuditOptions
from equiframe.runs.debias import UNC3Options
from equiframe.runs.gain import (
    Interval,
    Replicates,
    draws_of_seeds,
    gain,
    interval,
    mean_over,
    pooled_gain,
    replicates,
)
from equiframe.runs.record import RunRecord, StudyCell, StudyFigure, StudyResult, environment, file_name, write_json
from equiframe.runs.run import Progress, RunConfig, run
from equiframe.training import FineTuning
from equiframe.uncertainty import RESAMPLES

Arm: TypeAlias = Literal["before", "plain", "unc3"]
SELF_DEBIAS = "self-debias"
_FEWEST_CELLS = 4  # for a rank correlation


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StudyMethod(_Read):
    """One method of a study.

    Args:
        method: its name, or ``self-debias``, which corrects predictions as they are scored (option ``bias``).
        label: what the tables call it; its name by default.
        options: of the method itself.
        fine_tuning: what differs for it from the study's ``fine_tuning``.
        unc3: weight of the (U)NC3 term in the second arm, a number or ``auto``; by default the method's published one.
        term: what differs for it from the study's ``unc3``.
        cc: weight of the terms of counterfactual collapse added to it; 0 for none.
        cc_options: options of these terms.
    """

    method: str
    label: str | None = None
    options: dict[str, Any] = {}
    fine_tuning: dict[str, Any] = {}
    unc3: float | Literal["auto"] | None = None
    term: dict[str, Any] = {}
    cc: float = 0.0
    cc_options: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.label or self.method


class Study(_Read):
    """What a study file says.

    Args:
        models: hub names, local directories, or ``builtin:...``.
        methods: each is run without and with (U)NC3; a projection, which trains nothing, without alone.
        seeds: of fine-tuning, and of the heads of fine-tuned benchmarks.
        benchmarks: of bias, each with the measure whose distance from its ideal counts for the gain.
        understanding: benchmarks of language understanding, each with the measure that counts.
        fine_tuning: how long and how fast, as the options of ``equiframe debias``.
        unc3: options of the term besides its weight.
        unc3_words: the term's words.
        audit: how collapse is measured.
        heads: settings of fine-tuned benchmarks that differ from the published ones.
        data: folder of data files, relative to where the command is given.
        keep_models: keep the weights of each cell; otherwise its record alone.
        token_budget: places of one forward pass in scoring.
        seed: of bootstraps.
    """

    models: tuple[str, ...] = Field(min_length=1)
    methods: tuple[StudyMethod, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    benchmarks: dict[str, str] = Field(min_length=1)
    understanding: dict[str, str] = {}
    fine_tuning: dict[str, Any] = {}
    unc3: dict[str, Any] = {}
    unc3_words: str = "gender"
    audit: dict[str, Any] = {}
    heads: dict[str, float] = {}
    data: Path | None = None
    keep_models: bool = False
    token_budget: int = 4096
    seed: int = 0

    @classmethod
    def read(cls, path: Path) -> Study:
        """A study file.

        Raises:
            DataError: not readable.
            InputError: not YAML, or a field is unknown, missing or of another kind; it is named.
        """
        try:
            return cls.model_validate(yaml.safe_load(read_text(path, largest=1 << 20)))
        except yaml.YAMLError as error:
            raise InputError(f"{path}: not readable as YAML ({error})") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise InputError(f"{path}: {where}: {first['msg']}, found {first['input']!r}") from error

    def cells(self) -> dict[tuple[str, str, Arm, int], RunConfig]:
        """The configuration of every cell, by model, method, arm and seed; ``before`` has no method.

        Raises:
            InputError: an unknown name or option, two methods of one label, or two seeds that are the same.
        """
        labels = [method.name for method in self.methods]
        for what, values in (("methods", labels), ("seeds", list(self.seeds)), ("models", list(self.models))):
            if len(set(values)) < len(values):
                raise InputError(f"{what} of the study: {values} names one twice; give each method a label of its own")
        for spec in (*self.benchmarks, *self.understanding):
            if load_benchmark(spec).spec != spec:
                raise InputError(f"{spec}: write {load_benchmark(spec).spec}")
        for seed in self.seeds:
            check_range("a seed of the study", seed, whole=True, most=SEEDS)
        cells: dict[tuple[str, str, Arm, int], RunConfig] = {}
        for model, seed in itertools.product(self.models, self.seeds):
            before = RunConfig(
                verb="evaluate",
                model=model,
                data=self.data,
                audit=validated(AuditOptions, self.audit, of="audit"),
                benchmarks=(*self.benchmarks, *self.understanding),
                heads={**self.heads, "seed": seed},
                seed=self.seed,
                token_budget=self.token_budget,
            )
            cells[model, "", "before", seed] = before
            for method in self.methods:
                if method.method == SELF_DEBIAS:
                    bias = method.options.get("bias", "gender")
                    cells[model, method.name, "plain", seed] = dataclasses.replace(before, self_debias=bias)
                    continue
                loaded = load_method(method.method, method.options)
                if method.cc:
                    load_method("counterfactual-collapse", method.cc_options)  # a wrong option fails before any work
                published = loaded.settings.unc3_weight if isinstance(loaded, Method) else 0.0
                weight = published if method.unc3 is None else method.unc3
                arms: tuple[Arm, ...] = ("plain", "unc3") if weight else ("plain",)
                for arm in arms:
                    cells[model, method.name, arm, seed] = dataclasses.replace(
                        before,
                        verb="debias",
                        method=method.method,
                        method_options=method.options,
                        cc=method.cc,
                        cc_options=method.cc_options,
                        unc3=validated(
                            UNC3Options,
                            {**self.unc3, **method.term, "weight": weight if arm == "unc3" else 0.0},
                            of="unc3",
                        ),
                        unc3_words=self.unc3_words,
                        fine_tuning=validated(
                            FineTuning, {**self.fine_tuning, **method.fine_tuning, "seed": seed}, of="fine_tuning"
                        ),
                    )
        return cells


def study(spec: Study, out: Path | str, progress: Progress | None = None) -> StudyResult | None:
    """Run what is missing of a study, and write its tables when every cell is there.

    Args:
        spec: the study.
        out: its folder; what is finished in it is kept.
        progress: told how far each cell is.

    Returns:
        The figures; None where other processes still work on cells. The last of them writes the tables.

    Raises:
        EquiframeError: a cell that cannot be run, after all the others have been; or a folder of another study.
    """
    out = Path(out)
    _take_own_device()
    cells = spec.cells()
    failed: dict[str, EquiframeError] = {}
    for at, (key, config) in enumerate(cells.items()):
        folder = out / "cells" / _cell_name(*key)
        stage = f"{at + 1} of {len(cells)}, {folder.name}"
        if folder.exists():
            _check_same(RunRecord.read(folder), config, folder)
            continue
        try:
            run(config, folder, None if progress is None else _named(progress, stage))
        except EquiframeError as error:
            if not (isinstance(error, BusyError) or folder.exists()):  # else it is, or was, another process's
                failed[folder.name] = error
        else:
            if not spec.keep_models:
                shutil.rmtree(folder / "model", ignore_errors=True)
    if failed:
        names = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise RunError(f"{len(failed)} of {len(cells)} cells failed, the others are kept: {names}")
    if not all((out / "cells" / _cell_name(*key)).exists() for key in cells):
        return None
    records = {key: RunRecord.read(out / "cells" / _cell_name(*key)) for key in cells}
    result = summarise_study(spec, records)
    _write(spec, result, records.values(), out)
    return result


def summarise_study(
    spec: Study, records: Mapping[tuple[str, str, Arm, int], RunRecord], *, resamples: int = RESAMPLES
) -> StudyResult:
    """The figures of a study: every measure, gain, price and their differences, with intervals over items and seeds.

    Args:
        spec: the study.
        records: every cell's run.
        resamples: how often items and seeds are drawn anew.
    """
    figures: list[StudyFigure] = []
    cells: list[StudyCell] = []
    for model in spec.models:
        found, of_model = _of_model(spec, model, records, resamples)
        figures += [*found, *_association(of_model, spec.seed, resamples)]
        cells += of_model
    return StudyResult(study=spec.model_dump(mode="json"), figures=figures, cells=cells)


def _of_model(
    spec: Study, model: str, records: Mapping[tuple[str, str, Arm, int], RunRecord], resamples: int
) -> tuple[list[StudyFigure], list[StudyCell]]:
    """All figures of one model, and a point a cell for the scatter of collapse against gain."""
    seeds = len(spec.seeds)
    arms = list(dict.fromkeys((method, arm) for of, method, arm, _ in records if of == model))
    runs = [records[model, method, arm, seed] for method, arm in arms for seed in spec.seeds]
    draws = draws_of_seeds(seeds, seed=spec.seed, resamples=resamples)
    figures: list[StudyFigure] = []

    def add(
        arm: tuple[str, str], kind: str, name: str, unit: str, value: float, resampled: Any, sd: Any = None
    ) -> None:
        figures.append(_figure(model, *arm, kind, name, unit, interval(float(value), resampled), sd))

    def of_arm(values: Replicates, at: int) -> Replicates:
        part = slice(at * seeds, (at + 1) * seeds)
        return Replicates(values.value[part], values.resampled[:, part], values.ideal)

    gains: dict[int, list[tuple[float, NDArray[np.float64]]]] = {at: [] for at in range(len(arms))}
    changes: dict[int, list[tuple[float, NDArray[np.float64]]]] = {at: [] for at in range(len(arms))}
    compared: dict[int, list[tuple[Replicates, Replicates]]] = {at: [] for at in range(len(arms))}
    for kind, measures in (("bias", spec.benchmarks), ("understanding", spec.understanding)):
        for benchmark, key in measures.items():
            tables = [record.items[benchmark] for record in runs]
            values = replicates(load_benchmark(benchmark), key, tables, seed=spec.seed, resamples=resamples)
            unit = next(r for r in runs[0].metrics.benchmarks if r.benchmark == benchmark).estimates[key].unit
            before = of_arm(values, 0)
            for at, arm in enumerate(arms):
                mine = of_arm(values, at)
                sd = mine.value.std(ddof=1) if seeds > 1 else None
                add(arm, kind, benchmark, unit, mine.value.mean(), mean_over(mine.resampled, draws), sd)
                if kind == "understanding":
                    change = mine.value.mean() - before.value.mean()
                    resampled = mean_over(mine.resampled - before.resampled, draws)
                    changes[at].append((change, resampled))
                elif at:
                    gains[at].append(gain(before, mine, draws))
                    add(arm, "gain", benchmark, "share", *gains[at][-1])
                    compared[at].append((before, mine))
    means: dict[tuple[int, str], tuple[float, NDArray[np.float64]]] = {}
    for at, arm in enumerate(arms[1:], start=1):
        means[at, "pooled gain"] = pooled_gain(compared[at], draws)
        add(arm, "pooled gain", "", "share", *means[at, "pooled gain"])
        for kind, unit, found in (("mean gain", "share", gains[at]), ("mean change", "points", changes[at])):
            if found:
                mean = float(np.nanmean([value for value, _ in found]))
                means[at, kind] = mean, np.nanmean([resampled for _, resampled in found], axis=0)
                add(arm, kind, "", unit, *means[at, kind])
    for at, arm in enumerate(arms):
        if arm[1] == "unc3":
            for benchmark, without, with_term in zip(spec.benchmarks, gains[at - 1], gains[at], strict=True):
                difference, resampled = with_term[0] - without[0], with_term[1] - without[1]
                add((arm[0], "difference"), "gain", benchmark, "share", difference, resampled)
            for kind, unit in (("mean gain", "share"), ("pooled gain", "share"), ("mean change", "points")):
                if (at, kind) in means:
                    (plain, plain_resampled), (term, term_resampled) = means[at - 1, kind], means[at, kind]
                    add((arm[0], "difference"), kind, "", unit, term - plain, term_resampled - plain_resampled)
    collapse = np.array([_unc3(record) for record in runs]).reshape(len(arms), seeds)
    for at, arm in enumerate(arms):
        sd = collapse[at].std(ddof=1) if seeds > 1 else None
        add(arm, "collapse", "unc3", "cosine", collapse[at].mean(), mean_over(collapse[at], draws), sd)
        if arm[1] == "unc3":
            change = collapse[at] - collapse[at - 1]
            add((arm[0], "difference"), "collapse", "unc3", "cosine", change.mean(), mean_over(change, draws))
    cells = [
        StudyCell(
            model=model,
            method=method,
            arm=arm,
            seed=seed,
            unc3=_finite(collapse[at, position]),
            gain=_finite(_pooled_by_seed(compared[at], position)) if at else 0.0,
        )
        for at, (method, arm) in enumerate(arms)
        for position, seed in enumerate(spec.seeds)
    ]
    return figures, cells


def _pooled_by_seed(pairs: Sequence[tuple[Replicates, Replicates]], seed: int) -> float:
    """Pooled gain of one fine-tuned model."""

    def alone(runs: Replicates) -> Replicates:
        return Replicates(runs.value[[seed]], runs.resampled[:, [seed]], runs.ideal)

    draws = np.zeros((len(pairs[0][0].resampled), 1), dtype=np.intp)
    return pooled_gain([(alone(before), alone(after)) for before, after in pairs], draws)[0]


def _association(cells: Sequence[StudyCell], seed: int, resamples: int) -> Iterator[StudyFigure]:
    """Does a lower (U)NC3 go with a greater gain? Spearman's rank correlation over the fine-tuned cells of a model."""
    pairs = [(c.unc3, c.gain) for c in cells if c.arm != "before" and c.unc3 is not None and c.gain is not None]
    both = np.array(pairs, dtype=np.float64)
    if len(both) < _FEWEST_CELLS or np.ptp(both, axis=0).min() == 0:
        return
    value = float(stats.spearmanr(*both.T).statistic)
    drawn = stats.rankdata(both[np.random.default_rng(seed).integers(len(both), size=(resamples, len(both)))], axis=1)
    centred = drawn - drawn.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # a resample of one cell alone has no ranks
        resampled = centred.prod(axis=2).sum(axis=1) / np.sqrt((centred**2).sum(axis=1).prod(axis=1))
    yield _figure(
        cells[0].model, "", "all", "rank correlation", "(U)NC3 with pooled gain", "", interval(value, resampled)
    )


def _figure(
    model: str, method: str, arm: Any, kind: Any, name: str, unit: str, ends: Interval, sd: Any = None
) -> StudyFigure:
    value, low, high = (_finite(end) for end in (ends.value, ends.low, ends.high))
    return StudyFigure(
        model=model,
        method=method,
        arm=arm,
        kind=kind,
        name=name,
        unit=unit,
        value=value,
        sd=_finite(sd),
        low=low,
        high=high,
    )


def _write(spec: Study, result: StudyResult, records: Iterable[RunRecord], out: Path) -> None:
    """Every file of the summary, each whole or not at all."""
    tables = study_tables(result)
    texts = {
        "tables.md": "\n".join(
            f"{name}\n\n{table.to_markdown(index=False, disable_numparse=True)}\n" for name, table in tables.items()
        ),
        "tables.tex": "\n".join(
            table.style.hide(axis="index").format(escape="latex").to_latex(caption=name, hrules=True)
            for name, table in tables.items()
        ),
        "report.html": study_page(result, records, made=environment()),
        "figures.csv": pd.DataFrame([figure.model_dump() for figure in result.figures]).to_csv(index=False),
        "study.yaml": yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False),
    }
    for name, text in texts.items():
        (out / f"{name}.partial").write_text(text, encoding="utf-8")
        (out / f"{name}.partial").replace(out / name)
    write_json(out / "study.json.partial", result.model_dump(mode="json"))
    (out / "study.json.partial").replace(out / "study.json")


def _take_own_device() -> None:
    """Under ``torchrun`` or ``accelerate launch``, run cells alone: each process on the device of its local rank.

    The processes meet in the folder of the study alone, so nothing may take them for ranks of one run.
    """
    if int(os.environ.pop("WORLD_SIZE", "1")) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("LOCAL_RANK", "0")
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def _cell_name(model: str, method: str, arm: Arm, seed: int) -> str:
    return file_name("-".join(filter(None, (model, method, arm, f"seed{seed}"))))


def _check_same(record: RunRecord, config: RunConfig, folder: Path) -> None:
    """A finished cell counts for this study only if it was made as this study would make it."""
    for name, value in config.plain().items():
        if record.config.get(name) != value:
            raise InputError(
                f"{folder} was made with {name} {record.config.get(name)!r}, the study says {value!r}:"
                " give another --out, or remove that folder"
            )


def _unc3(record: RunRecord) -> float:
    """(U)NC3 of the fairness words, the class set audited beside the vocabulary."""
    value = record.metrics.collapse[-1].values["unc3"]
    return float("nan") if value is None else value


def _named(progress: Progress, cell: str) -> Progress:
    return lambda stage, done, total: progress(f"{cell}: {stage}", done, total)


def _finite(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
