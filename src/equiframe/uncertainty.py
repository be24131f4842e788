"""Intervals and paired tests, by resampling items. scipy does the statistics; this file fits it to tables.

A statistic here is a function of *row positions* in a table of per-item outcomes, not of values: then one
function serves for the estimate (all rows), the bootstrap (resampled rows), the paired difference of two
models (the same rows of both), and the permutation test (rows exchanged between models), also where
the number is no plain mean, such as ICAT.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.intp]
RowStatistic: TypeAlias = Callable[[Rows], NDArray[np.float64]]
"""Maps row positions [..., rows] to values [...], over the last axis."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval.

    Args:
        value: the statistic on all items.
        low: lower end of the interval, None where there are too few items for one.
        high: upper end.
        count: items it rests on.
        unit: ``%``, ``share``, ``nats``, ...
        ideal: the value of an unbiased (or perfect) model, None where there is none.
        higher_is_better: True or False where the number has a direction, None where ``ideal`` lies inside.
    """

    value: float
    low: float | None
    high: float | None
    count: int
    unit: str
    ideal: float | None = None
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class Difference:
    """Second run minus first run on the same items.

    Args:
        value: the difference of the two statistics.
        low: lower end of the paired 95 % bootstrap interval.
        high: upper end.
        p_value: two-sided paired permutation test of no difference.
        count: items both runs scored.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None
    count: int
