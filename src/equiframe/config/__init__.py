"""The options of every run: the same classes serve the command line, files and Python."""

from equiframe.config.base import Options
from equiframe.config.files import FileConfig, read_config
from equiframe.config.groups import (
    AuditOptions,
    DataOptions,
    FineTuning,
    GenerationOptions,
    ModelOptions,
    ScoringOptions,
    UNC3Options,
)
from equiframe.config.study import StudyConfig, StudyMethod
from equiframe.config.verbs import (
    AuditConfig,
    BenchmarksConfig,
    CardConfig,
    CompareConfig,
    DebiasConfig,
    EvaluateConfig,
    ExportConfig,
    PushConfig,
    RunConfig,
    ServeConfig,
)

__all__ = [
    "AuditConfig",
    "AuditOptions",
    "BenchmarksConfig",
    "CardConfig",
    "CompareConfig",
    "DataOptions",
    "DebiasConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FileConfig",
    "FineTuning",
    "GenerationOptions",
    "ModelOptions",
    "Options",
    "PushConfig",
    "RunConfig",
    "ScoringOptions",
    "ServeConfig",
    "StudyConfig",
    "StudyMethod",
    "UNC3Options",
    "read_config",
]
