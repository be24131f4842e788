from .analysis.comparison import compare
from .benchmarks import load_benchmark
from .collapse import ClassStatistics, UNC3Regularizer, collapse_metrics, uniform_duality
from .commands.run import run
from .config import (
    AuditConfig,
    AuditOptions,
    DebiasConfig,
    EvaluateConfig,
    FineTuning,
    StudyConfig,
    UNC3Options,
    read_config,
)
from .errors import EquiframeError
from .models import collect, load
from .training import DebiasingTrainer, UNC3Mixin
from .words import WordSet

__all__ = [
    "AuditConfig",
    "AuditOptions",
    "ClassStatistics",
    "DebiasConfig",
    "DebiasingTrainer",
    "EquiframeError",
    "EvaluateConfig",
    "FineTuning",
    "StudyConfig",
    "UNC3Mixin",
    "UNC3Options",
    "UNC3Regularizer",
    "WordSet",
    "collapse_metrics",
    "collect",
    "compare",
    "load",
    "load_benchmark",
    "read_config",
    "run",
    "uniform_duality",
]
