"""Benchmarks by generation that compare groups of people."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from equiframe.benchmarks.generated import GeneratedBenchmark
from equiframe.generation.columns import FAVOURABLE
from equiframe.generation.contrasts import group_measures
from equiframe.uncertainty import Estimate, Measure


class ComparedGroups(GeneratedBenchmark):
    """Rates of each group, and each two groups of an axis compared. A subclass gives the prompts."""

    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """See :func:`equiframe.generation.contrasts.group_measures`."""
        return group_measures(outcomes)

    def headlines_among(self, estimates: Mapping[str, Estimate]) -> list[str]:
        """Differences of the groups, where there are any, in favourable decisions and refusals."""
        kinds = f".{FAVOURABLE}_difference", ".refused_difference"
        varying = (key for key, found in estimates.items() if not found.value == found.low == found.high)
        return [key for key in varying if key not in self.headline and key.endswith(kinds)]
