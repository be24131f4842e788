"""Per-item tables of several runs, reduced to the rows that all of them measured."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def counted(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that count, that is, those of items that were not left out."""
    return table[table["excluded"].isna()] if "excluded" in table else table


def stack(tables: Sequence[pd.DataFrame], key: str | list[str] = "item") -> tuple[pd.DataFrame, int]:
    """Stack the rows that every run measured, run after run, in the order of the first.

    Args:
        tables: the table of each run.
        key: the column that identifies the same row in every run, or several columns that do so together.

    Returns:
        One table, and the number of its rows that belong to each run.
    """
    indexed = [counted(table).set_index(key) for table in tables]
    shared = indexed[0].index
    for table in indexed[1:]:
        shared = shared.intersection(table.index, sort=False)
    return pd.concat([table.loc[shared].reset_index() for table in indexed], ignore_index=True), len(shared)
