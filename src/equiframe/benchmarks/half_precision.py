"""The changes that half precision makes to a benchmark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from equiframe.benchmarks.benchmark import Benchmark, HalfPrecision, Outcome


def half_precision(
    benchmark: Benchmark[Any], precision: str, half: Sequence[Outcome], full: Sequence[Outcome]
) -> HalfPrecision:
    """Compare the outcomes of the same items in half precision and in float32."""
    pairs = [(mine, other) for mine, other in zip(half, full, strict=True) if other.excluded is None]
    changes = [abs(value - other.values[name]) for mine, other in pairs for name, value in mine.values.items()]
    flips = sum(_decided(mine, benchmark.decisions) != _decided(other, benchmark.decisions) for mine, other in pairs)
    return HalfPrecision(
        precision,
        items=len(pairs),
        flips=flips if benchmark.decisions else None,
        largest_change=max((change for change in changes if not math.isnan(change)), default=0.0),
    )


def _decided(outcome: Outcome, decisions: Sequence[tuple[str, ...]]) -> list[list[str]]:
    """For each decision, the name that wins, or all names in a tie."""
    decided = []
    for names in decisions:
        scores = {name: outcome.values[name] for name in names}
        if len(names) == 1:
            scores["0"] = 0.0
        decided.append([name for name, score in scores.items() if score == max(scores.values())])
    return decided
