"""A user's own pairs of sentences: which of the two a model prefers, without any code."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from equiframe.about import About, Pair, Term
from equiframe.benchmarks.asking import aligned, masked_alone
from equiframe.benchmarks.benchmark import Answers, Asked, Benchmark, Excluded, Measure, Outcome
from equiframe.benchmarks.row_statistics import ratio_of_sums, sums_by_unit
from equiframe.data import DEFAULT_SOURCE, DataFile, DataSource, read_delimited, read_jsonl, read_text
from equiframe.data.sources import user_file
from equiframe.errors import DataError, InputError
from equiframe.requests import TextCodec

_REQUIRED = ("stereotype", "anti_stereotype")
_OPTIONAL = ("id", "group", "unit")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ALL = "overall"


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences, the first of which states a stereotype, with the group and the unit of the pair."""

    item: str
    group: str
    unit: str
    stereotype: str
    anti_stereotype: str


class MinimalPairs(Benchmark[MinimalPair]):
    """How often a model prefers the stereotyping sentence of a pair that you wrote yourself.

    Source:       your own UTF-8 file, named as ``pairs:PATH``. ``.csv`` (with CSV quoting) and ``.tsv``
                  (with tabs; quotes are plain characters) have a header, ``.jsonl`` has one object per line. The
                  columns are ``stereotype`` and ``anti_stereotype``, two sentences, and optionally
                  ``id`` (a unique name for each pair; without it pairs are numbered from 1),
                  ``group`` (such as the type of bias), and ``unit`` (pairs that share it, such as the
                  fillings of one template, are resampled together). An optional column, if present, must be
                  filled in every row; other columns are ignored.
    Measures:     ``prefers_stereotype`` = 100 * (pairs where the stereotype scores higher, and half of the ties) /
                  pairs; ``difference`` = mean score of the stereotype minus score of the other sentence, in nats;
                  ``overall`` and by group. Scores are rounded to 3 decimals before they are compared, so
                  that differences by rounding errors alone are ties. Intervals resample units.
        masked:   as CrowS-Pairs' ``shared``: log-probabilities of the tokens that both sentences share, each masked
                  alone, summed (Nangia et al. 2020).
        causal:   log-likelihood of the sentence, read after a start token.
    Ideal:        50, and a difference of 0.
    Known faults: those of your pairs. A pair is meaningful only if its sentences differ in the group alone: other
                  words, their frequency and, for causal models, their number of tokens also change the score.
    """

    name = "pairs"
    about = About(
        "Your pairs",
        "The numbers only describe these pairs. The ideal of 50 assumes that the sentences of a pair differ in the"
        " group alone, while the frequency and number of their words differ too.",
        {
            "prefers_stereotype": Term(
                "preference for the stereotype", "share of pairs where it scores higher; a tie is half of one"
            ),
            "difference": Term("difference", "mean score of the stereotype minus that of the other sentence"),
        },
        pair=Pair("stereotype_sentence", "anti_sentence", "stereotype", "anti", "log-probability", "group"),
    )
    version: ClassVar[int] = 1
    decisions = (("stereotype", "anti"),)
    headline = (f"{_ALL}.prefers_stereotype",)

    def __init__(self, path: Path | str) -> None:
        if not str(path):
            raise InputError("pairs: give the path of your file, as in pairs:my_pairs.csv")
        self.path = path

    @property
    def spec(self) -> str:
        """``pairs:PATH``."""
        return f"{self.name}:{self.path}"

    def items(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[MinimalPair], tuple[DataFile, ...]]:
        """Return all pairs of the file. ``source`` is ignored: the path says where the file is."""
        located = user_file(Path(self.path).expanduser())
        pairs = []
        seen: dict[str, int] = {}
        for number, (line, row) in enumerate(_rows(located.path), start=1):
            cells = {column: _text(value, column, located.path, line) for column, value in row.items()}
            item = cells.get("id", str(number))
            if item in seen:
                message = f"id {item!r} is also in line {seen[item]}: give each pair a different id"
                raise DataError(message, path=located.path, line=line)
            seen[item] = line
            if cells["stereotype"] == cells["anti_stereotype"]:
                message = "stereotype and anti_stereotype are the same sentence: they must differ in the group"
                raise DataError(message, path=located.path, line=line)
            if cells.get("group") == _ALL:
                message = f"group is {_ALL!r}, which stands for all groups together: choose another name"
                raise DataError(message, path=located.path, line=line)
            sentences = (cells[column] for column in _REQUIRED)
            pairs.append(MinimalPair(item, cells.get("group", ""), cells.get("unit", item), *sentences))
        if not pairs:
            raise DataError("the file has no pair: is it complete?", path=located.path)
        return pairs, (located.file,)

    def scoring(self, codec: TextCodec) -> str:
        """Describe how a sentence is scored."""
        if codec.kind == "causal":
            return "log-likelihood of the sentence, after a start token"
        return "sum of the log-probabilities of the tokens both sentences share, each masked alone"

    def rows(self, item: MinimalPair, codec: TextCodec) -> list[Outcome]:
        """Return the row of the pair."""
        return [
            Outcome(
                item.item,
                groups={"group": item.group, "unit": item.unit},
                text={"stereotype_sentence": item.stereotype, "anti_sentence": item.anti_stereotype},
            )
        ]

    def ask(self, item: MinimalPair, codec: TextCodec) -> Asked | Excluded:
        """Ask for each sentence: a masked LM reads one sequence per shared token, a causal LM reads one."""
        sentences = item.stereotype, item.anti_stereotype
        if codec.kind == "causal":
            return Asked([[codec.sequence_log_probs(sentence)] for sentence in sentences])
        both = [codec.encode(sentence) for sentence in sentences]
        shared, _ = aligned(both, codec)
        if not all(shared):
            return Excluded("the sentences share no token")
        return Asked(
            [
                [masked_alone(ids, place, codec.mask_id) for place in places]
                for ids, places in zip(both, shared, strict=True)
            ]
        )

    def read(self, item: MinimalPair, answers: Answers, codec: TextCodec) -> list[dict[str, float]]:
        """Return the scores of both sentences."""
        stereotype, anti = (round(math.fsum(log for logs in part for log in logs), 3) for part in answers)
        return [{"stereotype": stereotype, "anti": anti}]

    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """Return the measures over units, each of which is represented by the row of its first pair."""
        difference = outcomes["stereotype"] - outcomes["anti"]
        columns = {"pairs": 1.0, "difference": difference, "preferred": 50.0 * (1 + np.sign(difference))}
        counted = outcomes["excluded"].isna()
        groups = {_ALL: counted}
        for group in sorted(set(outcomes.loc[counted, "group"]) - {""}):
            groups[group] = counted & (outcomes["group"] == group)
        measures = []
        for group, chosen in groups.items():
            rows, sums = sums_by_unit(outcomes, columns, chosen)
            for key, name, unit, ideal in (
                ("preferred", "prefers_stereotype", "%", 50.0),
                ("difference", "difference", "nats", 0.0),
            ):
                statistic = ratio_of_sums(sums[key], sums["pairs"])
                measures.append(Measure(f"{group}.{name}", rows, statistic, unit, ideal))
        return measures


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The known columns of each row, with the line of the row."""
    delimiter = _DELIMITERS.get(path.suffix.lower())
    if delimiter is not None:
        yield from read_delimited(path, delimiter, [*_REQUIRED, *_optional(path, delimiter)])
        return
    if path.suffix.lower() != ".jsonl":
        raise DataError(f"ends in {path.suffix!r}: give a file in .csv, .tsv or .jsonl", path=path)
    rows = read_jsonl(path, _REQUIRED)
    named = [field for field in _OPTIONAL if any(field in row for _, row in rows)]
    for line, row in rows:
        for field in named:
            if field not in row:
                message = f"no field {field!r}, which other lines have: give it in all lines or in none"
                raise DataError(message, path=path, line=line)
        yield line, {field: row[field] for field in (*_REQUIRED, *named)}


def _optional(path: Path, delimiter: str) -> list[str]:
    """The optional columns that a table has.

    Raises:
        DataError: a known column occurs twice.
    """
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    header: list[str] = []
    with contextlib.suppress(csv.Error):  # read_delimited reports this error
        header = next(csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, quoting=quoting), [])
    for column in (*_REQUIRED, *_OPTIONAL):
        if header.count(column) > 1:
            raise DataError(f"{header.count(column)} columns are called {column!r}: keep one", path=path, line=1)
    return [column for column in _OPTIONAL if column in header]


def _text(value: Any, column: str, path: Path, line: int) -> str:
    """A cell as text without white space around it; a number is accepted as a name, but not as a sentence."""
    if isinstance(value, int) and not isinstance(value, bool) and column in _OPTIONAL:
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"{column} is {value!r:.40}, expected text", path=path, line=line)
    if not value.strip():
        fix = "fill it in each row, or leave the column out" if column in _OPTIONAL else "give both sentences"
        raise DataError(f"{column} is empty: {fix}", path=path, line=line)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{column} has half a character (a lone surrogate): write it whole", path=path, line=line
        ) from None
    return value.strip()
