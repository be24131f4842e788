"""See, measure and reduce the social bias of language models by the geometry of neural collapse."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "ClassStatistics": "equiframe.collapse",
    "UNC3Regularizer": "equiframe.collapse",
    "collapse_metrics": "equiframe.collapse",
    "uniform_duality": "equiframe.collapse",
    "WordSet": "equiframe.words",
    "load": "equiframe.models",
    "collect": "equiframe.models",
    "DebiasingTrainer": "equiframe.training",
    "UNC3Mixin": "equiframe.training",
    "load_benchmark": "equiframe.benchmarks",
    "RunConfig": "equiframe.runs.run",
    "run": "equiframe.runs.run",
    "compare": "equiframe.runs.compare",
    "EquiframeError": "equiframe.errors",
}

__all__ = [*sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Public names, loaded on first use: torch takes seconds, and ``--help`` must not wait for it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'equiframe' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
