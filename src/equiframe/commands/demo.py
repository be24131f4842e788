"""A demonstration on a built-in model: original, after BEC, and after BEC + (U)NC3, compared with each other."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from equiframe.analysis.comparison import compare
from equiframe.commands.compare import write_comparison
from equiframe.commands.run import run
from equiframe.config import AuditOptions, DebiasConfig, EvaluateConfig, FineTuning, RunConfig, UNC3Options
from equiframe.record import Comparison, RunRecord, file_name, run_folder
from equiframe.runs.scores import Progress

MODEL = "builtin:mini-mlm"
AUDIT = AuditOptions(sentences=2000)
BENCHMARKS = ("stereoset:dev", "crows_pairs:changed", "lm_loss")
BEC = DebiasConfig(
    MODEL,
    method="bec",
    fine_tuning=FineTuning(max_steps=120, max_length=64, learning_rate=1e-4),
    audit=AUDIT,
    benchmarks=BENCHMARKS,
)
RUNS: dict[str, RunConfig] = {
    "before": EvaluateConfig(MODEL, audit=AUDIT, benchmarks=BENCHMARKS),
    "BEC": BEC,
    "BEC + (U)NC3": dataclasses.replace(BEC, unc3=UNC3Options(weight=100.0), unc3_words="fairness"),
}


def demo(out: Path, progress: Progress | None = None) -> Comparison:
    """Audit, debias and compare the built-in masked LM, and write one report.

    Args:
        out: folder of the comparison, with a folder for each run in it; it must not exist.
        progress: called with the stage, the steps done so far, and the number of all steps.
    """
    with run_folder(out, {"demo": {name: config.plain() for name, config in RUNS.items()}}) as work:
        records = {}
        for name, config in RUNS.items():
            folder = work / file_name(name)
            tell = None if progress is None else functools.partial(_named, progress, name)
            records[name] = RunRecord.read(folder) if folder.exists() else run(config, folder, tell)
        comparison = compare(records, verb="demo")
        write_comparison(work, records, comparison, title=f"demo: {MODEL}")
    return comparison


def _named(progress: Progress, name: str, stage: str, done: int, total: int) -> None:
    progress(f"{name}: {stage}", done, total)
