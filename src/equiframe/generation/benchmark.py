"""Benchmarks by generation that compare groups of people."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from equiframe.benchmarks.generated import GeneratedBenchmark
from equiframe.generation.columns import FAVOURABLE
from equiframe.generation.contrasts import group_measures
from equiframe.uncertainty import Estimate, Measure


class ComparedGroups(GeneratedBenchmark):
    """A benchmark that compares the rates of each two groups of an axis. A subclass gives the prompts."""

    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """Return the measures of :func:`equiframe.generation.contrasts.group_measures`."""
        return group_measures(outcomes)

    def headlines_among(self, estimates: Mapping[str, Estimate]) -> list[str]:
        """Return the differences of groups in favourable decisions and refusals, if there are any."""
        kinds = f".{FAVOURABLE}_difference", ".refused_difference"
        varying = (key for key, found in estimates.items() if not found.value == found.low == found.high)
        return [key for key in varying if key not in self.headline and key.endswith(kinds)]
