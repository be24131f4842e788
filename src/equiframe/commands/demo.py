"""A demonstration on a built-in model: before, after two-sided CDA, and after CDA + counterfactual collapse."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from equiframe.analysis.comparison import compare
from equiframe.commands.compare import write_comparison
from equiframe.commands.run import run
from equiframe.config import AuditOptions, DebiasConfig, EvaluateConfig, FineTuning, RunConfig
from equiframe.record import Comparison, RunRecord, file_name, run_folder
from equiframe.runs.scores import Progress

MODEL = "builtin:minilm-mlm"
AUDIT = AuditOptions(text="bold", sentences=1000)
BENCHMARKS = ("stereoset:dev", "lpbs", "agreement", "lm_loss")
SWAPPED = {"pairs": 960, "language_modelling": 1.0}
TERMS = {"cc1": 20.0, "cc3": 2.0, "agreement": 2.0, "constraint": 0.5}
CDA = DebiasConfig(
    MODEL,
    method="counterfactual-collapse",
    method_options=SWAPPED | dict.fromkeys(TERMS, 0.0),
    fine_tuning=FineTuning(max_steps=120, learning_rate=5e-5),
    audit=AUDIT,
    benchmarks=BENCHMARKS,
)
RUNS: dict[str, RunConfig] = {
    "before": EvaluateConfig(MODEL, audit=AUDIT, benchmarks=BENCHMARKS),
    "two-sided CDA": CDA,
    "CDA + CC": dataclasses.replace(CDA, method_options=SWAPPED | TERMS),
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
