"""Statistics of rows that several benchmarks share, vectorised over leading axes so that they can be resampled.

Each function takes columns of a table, [table], and returns a function from row positions [..., rows] to values [...].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from equiframe.uncertainty import Rows, RowStatistic

Values = NDArray[np.float64]


def mean_of(values: NDArray[Any], scale: float = 1.0) -> RowStatistic:
    """The mean; for a boolean column it is the share of True."""

    def statistic(rows: Rows) -> Values:
        return np.asarray(scale * values[rows].mean(axis=-1))

    return statistic


def ratio_of_sums(sums: Values, counts: Values) -> RowStatistic:
    """A mean over items, from sums over units that are resampled together and the number of items in each unit."""

    def statistic(rows: Rows) -> Values:
        return np.asarray(sums[rows].sum(axis=-1) / counts[rows].sum(axis=-1))

    return statistic


def sums_by_unit(
    outcomes: pd.DataFrame, columns: Mapping[str, Any], chosen: pd.Series[bool]
) -> tuple[NDArray[np.intp], dict[str, Values]]:
    """Sum columns over the items of each unit, which is resampled as a whole and represented by its first item's row.

    Args:
        outcomes: one row per item, with columns ``item`` and ``unit``; two runs may be stacked.
        columns: the columns to sum, by name, [rows].
        chosen: the rows that count.

    Returns:
        The rows of the units, and for each column its sums [rows], 0 elsewhere.
    """
    frame = pd.DataFrame(columns, index=outcomes.index).assign(row=np.arange(len(outcomes)))
    units = frame[chosen].groupby([outcomes.groupby("item").cumcount(), outcomes["unit"]], sort=False)
    rows = units["row"].first().to_numpy(dtype=np.intp)
    found = {name: np.zeros(len(outcomes)) for name in columns}
    for name, column in found.items():
        column[rows] = units[name].sum()
    return rows, found


def contrast_of(values: Values, is_first: NDArray[np.bool_]) -> RowStatistic:
    """Mean over the rows of the first group minus the mean over all others; 0 if either group is empty."""

    def statistic(rows: Rows) -> Values:
        chosen, first = values[rows], is_first[rows]
        total, count = rows.shape[-1], first.sum(axis=-1)
        means = (chosen * first).sum(axis=-1) / np.maximum(count, 1)
        others = (chosen * ~first).sum(axis=-1) / np.maximum(total - count, 1)
        return np.where((count > 0) & (count < total), means - others, 0.0)

    return statistic


def effect_size_of(values: Values, is_first: NDArray[np.bool_], among: NDArray[np.bool_] | None = None) -> RowStatistic:
    """d = (mean of the first group - mean of all others) / standard deviation of both, with n - 1.

    It is 0 if a group is missing or nothing varies. Only the rows in ``among`` count, by default all.
    """

    def statistic(rows: Rows) -> Values:
        chosen = np.ones(rows.shape, dtype=bool) if among is None else among[rows]
        column, first = values[rows], is_first[rows] & chosen
        second = chosen & ~first
        count, firsts = chosen.sum(axis=-1), first.sum(axis=-1)
        mean_first = np.where(first, column, 0).sum(axis=-1) / np.maximum(firsts, 1)
        mean_second = np.where(second, column, 0).sum(axis=-1) / np.maximum(count - firsts, 1)
        mean = np.where(chosen, column, 0).sum(axis=-1) / np.maximum(count, 1)
        squares = np.where(chosen, (column - mean[..., None]) ** 2, 0).sum(axis=-1)
        spread = np.sqrt(squares / np.maximum(count - 1, 1))
        varies = np.where(chosen, column, -np.inf).max(axis=-1) > np.where(chosen, column, np.inf).min(axis=-1)
        is_defined = (firsts > 0) & (firsts < count) & varies
        return np.where(is_defined, (mean_first - mean_second) / np.where(is_defined, spread, 1.0), 0.0)

    return statistic


def f1_of(labels: Values, predicted: Values) -> RowStatistic:
    """100 * F1 of class 1; 0 if no example of it is found."""

    def statistic(rows: Rows) -> Values:
        true, found = labels[rows] == 1, predicted[rows] == 1
        both, either = np.sum(true & found, axis=-1), np.sum(true, axis=-1) + np.sum(found, axis=-1)
        return np.asarray(200 * both / np.maximum(either, 1))

    return statistic


def matthews_of(labels: Values, predicted: Values) -> RowStatistic:
    """100 * Matthews correlation of two classes, which equals Pearson's; 0 if all rows are of one class."""
    return pearson_of((labels == 1).astype(np.float64), (predicted == 1).astype(np.float64), 100)


def pearson_of(first: Values, second: Values, scale: float = 1.0) -> RowStatistic:
    """Pearson's correlation; 0 if one side is constant."""

    def statistic(rows: Rows) -> Values:
        return scale * _correlation(first[rows], second[rows])

    return statistic


def spearman_of(first: Values, second: Values, scale: float = 1.0) -> RowStatistic:
    """Spearman's correlation, with mean ranks for ties; 0 if one side is constant."""

    def statistic(rows: Rows) -> Values:
        return scale * _correlation(stats.rankdata(first[rows], axis=-1), stats.rankdata(second[rows], axis=-1))

    return statistic


def _correlation(first: Values, second: Values) -> Values:
    """Pearson's correlation over the last axis."""
    is_constant = (np.ptp(first, axis=-1) == 0) | (np.ptp(second, axis=-1) == 0)
    first, second = (side - side.mean(axis=-1, keepdims=True) for side in (first, second))
    norm = np.sqrt(np.sum(first**2, axis=-1) * np.sum(second**2, axis=-1))
    return np.where(is_constant, 0.0, np.sum(first * second, axis=-1) / np.where(is_constant, 1.0, norm))
