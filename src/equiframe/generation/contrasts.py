"""Comparisons of groups: rates, and paired differences and ratios, with resampled templates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from equiframe.benchmarks.row_statistics import sums_by_unit
from equiframe.generation.columns import Column, column_of
from equiframe.uncertainty import RESAMPLES, Measure, Rows, RowStatistic, exchange_p_value

Values = NDArray[np.float64]
OVERALL = "overall"
VERSUS = "_vs_"
"""The text between two groups in the key of a comparison."""


class Contrast(NamedTuple):
    """Two groups that are compared by a column, as in the keys of the measures."""

    first: str
    second: str
    column: str

    @property
    def key(self) -> str:
        """The prefix of the keys of its measures: ``men_vs_women.favourable``."""
        return f"{self.first}{VERSUS}{self.second}.{self.column}"


def unfit_for_a_group(name: str) -> str | None:
    """Why a group cannot have this name, None if it can: the keys of its measures begin with the name."""
    if name == OVERALL:
        return f"group {name!r}: this name means all groups together: choose another name"
    return f"group {name!r}: {VERSUS!r} separates two groups in a key: choose another name" if VERSUS in name else None


def contrasts_of(keys: Iterator[str] | list[str]) -> list[Contrast]:
    """The contrasts of a result, from the keys of its p-values."""
    found = []
    for key in keys:
        groups, _, kind = key.rpartition(".")
        first, versus, second = groups.partition(VERSUS)
        if versus and kind.endswith("_p"):
            found.append(Contrast(first, second, kind.removesuffix("_p")))
    return found


def group_measures(outcomes: pd.DataFrame) -> list[Measure]:
    """Return all measures of a table of responses: of all, of each group, and of each two groups of an axis.

    A group's rate is the mean over its responses that have the number. Two groups are compared over the units that
    have responses of both, if there are such units; otherwise over all units of either, which are then not paired.

    Args:
        outcomes: one row per response, with ``item``, ``unit``, ``axis``, ``group``, ``excluded`` and some of
            the columns of :func:`equiframe.generation.columns.column_of`; two runs may be stacked.
    """
    counted = outcomes["excluded"].isna()
    measures = []
    for name in map(str, outcomes.columns):
        if (column := column_of(name)) is None:
            continue
        measures += overall_measures(outcomes, name, counted)
        if column.is_compared:
            for axis in outcomes.loc[counted, "axis"].unique():
                measures += _of_axis(outcomes, name, column, counted & (outcomes["axis"] == axis))
    return measures


def rate_of(sums: Values, counts: Values, scale: float) -> RowStatistic:
    """A mean over responses, from sums and counts by unit; the mean of the whole table if no row has a number."""
    whole = scale * sums.sum() / max(counts.sum(), 1)

    def statistic(rows: Rows) -> Values:
        total = counts[rows].sum(axis=-1)
        return np.where(total > 0, scale * sums[rows].sum(axis=-1) / np.maximum(total, 1), whole)

    return statistic


def overall_measures(outcomes: pd.DataFrame, name: str, counted: pd.Series[bool]) -> list[Measure]:
    """Return the mean over all responses, whatever their group."""
    column = column_of(name)
    assert column is not None
    rows, found = sums_by_unit(outcomes, _sum_and_count(outcomes[name]), counted)
    if not found["count"].any():
        return []
    rate = rate_of(found["sum"], found["count"], column.scale)
    return [Measure(f"{OVERALL}.{name}", rows, rate, column.unit, higher_is_better=column.higher_is_better)]


def _sum_and_count(values: pd.Series[float]) -> dict[str, pd.Series[float]]:
    return {"sum": values.fillna(0.0), "count": values.notna().astype(np.float64)}


@dataclass(frozen=True)
class _Cells:
    """The responses of one group. The first row of each unit has their sum, the number of responses with the number,
    the number of all responses, and the mean of the group over some rows."""

    sums: Values
    counts: Values
    responses: Values
    rate: RowStatistic


def _of_axis(outcomes: pd.DataFrame, name: str, column: Column, chosen: pd.Series[bool]) -> list[Measure]:
    """Return the rate of each group of an axis, and the comparison of each two of them."""
    names = outcomes.loc[chosen, "group"].unique()
    groups = sorted(names, key=lambda name: (name.casefold(), name))  # whatever row comes first
    columns = {
        (group, what): values.where(outcomes["group"] == group, 0.0)
        for group in groups
        for what, values in {**_sum_and_count(outcomes[name]), "all": pd.Series(1.0, outcomes.index)}.items()
    }
    rows, found = sums_by_unit(outcomes, {f"{at}": values for at, values in enumerate(columns.values())}, chosen)
    by_group = dict(zip(columns, found.values(), strict=True))
    cells = {}
    for group in groups:
        sums, counts, responses = (by_group[group, what] for what in ("sum", "count", "all"))
        if counts.any():
            cells[group] = _Cells(sums, counts, responses, rate_of(sums, counts, column.scale))
    measures = [
        Measure(
            f"{group}.{name}",
            rows[cell.responses[rows] > 0],
            cell.rate,
            column.unit,
            higher_is_better=column.higher_is_better,
        )
        for group, cell in cells.items()
        if len(groups) > 1
    ]
    for first, second in itertools.combinations(cells, 2):
        measures += _compared(Contrast(first, second, name), rows, cells[first], cells[second], column)
    return measures


def _compared(contrast: Contrast, rows: Rows, first: _Cells, second: _Cells, column: Column) -> list[Measure]:
    """Return difference, ratio and p-value of two groups."""
    has_first, has_second = first.responses[rows] > 0, second.responses[rows] > 0
    is_paired = bool((has_first & has_second).any())
    rows = rows[has_first & has_second] if is_paired else rows[has_first | has_second]
    unit = "points" if column.unit == "%" else column.unit
    p_value = _paired_p(first, second, column) if is_paired else _unpaired_p(first, second)

    def difference(at: Rows) -> Values:
        return np.asarray(first.rate(at) - second.rate(at))

    found = [Measure(f"{contrast.key}_difference", rows, difference, unit, 0.0)]
    if column.has_ratio and second.sums[rows].any():
        found.append(Measure(f"{contrast.key}_ratio", rows, _ratio_of(first, second), "ratio", 1.0))
    return [*found, Measure(f"{contrast.key}_p", rows, p_value, "p", interval=False)]


_LARGEST_RATIO = 100.0


def _ratio_of(first: _Cells, second: _Cells) -> RowStatistic:
    """The rate of the first group over that of the second; 1 if both are 0, and at most 100."""

    def statistic(rows: Rows) -> Values:
        over, under = first.rate(rows), second.rate(rows)
        ratio = np.divide(over, under, out=np.full(np.shape(over), _LARGEST_RATIO), where=under > 0)
        return np.where((over == 0) & (under == 0), 1.0, np.minimum(ratio, _LARGEST_RATIO))

    return statistic


def _paired_p(first: _Cells, second: _Cells, column: Column) -> RowStatistic:
    """The p-value from exchanging the responses of two groups within random units."""
    rate = rate_of(np.append(second.sums, first.sums), np.append(second.counts, first.counts), column.scale)

    def statistic(rows: Rows) -> Values:
        return np.asarray(exchange_p_value(rows, rows + len(first.sums), rate, seed=0))

    return statistic


def _unpaired_p(first: _Cells, second: _Cells) -> RowStatistic:
    """The p-value from exchanging units, with all of their responses, between two groups."""
    rate = rate_of(np.append(first.sums, second.sums), np.append(first.counts, second.counts), 1.0)

    def statistic(rows: Rows) -> Values:
        units = [rows[first.counts[rows] > 0], rows[second.counts[rows] > 0] + len(first.sums)]
        if min(map(len, units)) < 2:
            return np.asarray(1.0)
        test = stats.permutation_test(
            units,
            lambda one, other, axis: rate(one) - rate(other),
            vectorized=True,
            n_resamples=RESAMPLES,
            rng=np.random.default_rng(0),
        )
        return np.asarray(test.pvalue)

    return statistic
