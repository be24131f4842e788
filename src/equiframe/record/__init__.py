"""The output of a run: its numbers, its provenance, its tables, and the folder that holds them."""

from equiframe.benchmarks import BenchmarkResult
from equiframe.record.facts import about, class_set_name, is_headline, plain, split_key, suite_of, term
from equiframe.record.folder import claim, file_name, partial_folder, run_folder, write_json
from equiframe.record.provenance import AuditedWith, Environment, FineTunedWith, Provenance, environment
from equiframe.record.run_record import RunRecord, read_comparison, read_metrics
from equiframe.record.schema import (
    COLLAPSE,
    CONTEXTS,
    CollapseResult,
    ComparedMeasure,
    Comparison,
    ContextsResult,
    Metrics,
    ModelDescription,
    Result,
    ServerDescription,
    SharedItems,
    TrainingResult,
)
from equiframe.record.study import StudyCell, StudyFigure, StudyHeadline, StudyResult

__all__ = [
    "COLLAPSE",
    "CONTEXTS",
    "AuditedWith",
    "BenchmarkResult",
    "CollapseResult",
    "ComparedMeasure",
    "Comparison",
    "ContextsResult",
    "Environment",
    "FineTunedWith",
    "Metrics",
    "ModelDescription",
    "Provenance",
    "Result",
    "RunRecord",
    "ServerDescription",
    "SharedItems",
    "StudyCell",
    "StudyFigure",
    "StudyHeadline",
    "StudyResult",
    "TrainingResult",
    "about",
    "claim",
    "class_set_name",
    "environment",
    "file_name",
    "is_headline",
    "partial_folder",
    "plain",
    "read_comparison",
    "read_metrics",
    "run_folder",
    "split_key",
    "suite_of",
    "term",
    "write_json",
]
