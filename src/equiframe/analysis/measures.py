"""Geometry as statistics of the rows of a table, in the same form as the measures of benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from equiframe.benchmarks.row_statistics import ratio_of_sums
from equiframe.uncertainty import Measure, Rows

CONTEXT_COUNTS = ("aligned", "neutral", "agreeing")
"""Columns that count the places of a text; models with the same tokenizer have the same counts."""


def collapse_measures(classes: pd.DataFrame) -> list[Measure]:
    """Return self-duality and (U)NC3 as statistics of a table of classes, or of two such tables stacked.

    Resampling is over words, while the mean of means is kept.
    """
    cosines = classes["cosine"].to_numpy(dtype=np.float64)
    rows = np.arange(len(classes))

    def spread(at: Rows) -> Any:
        return cosines[at].std(axis=-1, ddof=1)

    def level(at: Rows) -> Any:
        return cosines[at].mean(axis=-1)

    return [
        Measure("unc3", rows, spread, unit="cosine", ideal=0.0, higher_is_better=False),
        Measure("nc3_self_duality", rows, level, unit="cosine", ideal=1.0, higher_is_better=True),
    ]


def context_measures(table: pd.DataFrame) -> list[Measure]:
    """Return CC1, CC3 and agreement of one bias, as statistics of a table of pairs, or of two such tables stacked.

    Resampling is over pairs of a text and its counterfactual.
    """
    column = {name: table[name].to_numpy(dtype=np.float64) for name in table.columns.drop(["item", "bias"])}
    found = []
    for key, places, sums, per, unit, ideal in (
        ("cc1_states", "aligned", 2 * column["half_square"], column["square"], "share", 0.0),
        ("cc1_js", "aligned", column["js"], column["aligned"], "nats", 0.0),
        ("cc3_log_odds", "neutral", column["absolute_log_odds"], column["neutral"], "nats", 0.0),
        ("cc3_cosine_gap", "neutral", column["cosine_gap"], column["neutral"], "cosine", 0.0),
        ("agreement", "agreeing", column["agreement"], column["agreeing"], "%", 100.0),
        ("agreement_log_odds", "agreeing", column["log_odds"], column["agreeing"], "nats", None),
    ):
        rows = np.flatnonzero(column[places] > 0)
        if len(rows):
            is_kept = places == "agreeing"
            found.append(Measure(key, rows, ratio_of_sums(sums, per), unit, ideal, higher_is_better=is_kept))
    return found
