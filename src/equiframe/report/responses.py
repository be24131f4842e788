"""Responses in a report: comparisons of groups, refusals, and pairs of responses that differ most."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import pandas as pd
from scipy import stats

from equiframe.about import Term
from equiframe.analysis.tables import counted
from equiframe.benchmarks.benchmark import BenchmarkResult
from equiframe.data.spreading import evenly
from equiframe.generation.columns import FAVOURABLE
from equiframe.generation.contrasts import Contrast, contrasts_of
from equiframe.record import plain, term
from equiframe.report.figures import Panel, Style, dots
from equiframe.report.glossary import sentence_case
from equiframe.report.numbers import interval, number
from equiframe.uncertainty import Estimate

_SHOWN = 10
_LOOKED_AT = 2000  # maximum number of pairs of responses, spread evenly
_LONGEST = 600  # characters shown of a response
FOUR_FIFTHS = (0.8, 1.25)
"""The limits for the ratio of two rates, by the four-fifths line of US agencies in both directions."""


class Compared(NamedTuple):
    """A comparison of two groups: the rate of each, the difference, the ratio, the p-value and the q-value."""

    groups: str
    first: str
    second: str
    difference: str
    ratio: str
    p: str
    q: str
    is_told: bool


class Side(NamedTuple):
    """A response, and the probability of the favourable answer if it is known."""

    group: str
    prompt: str
    text: str
    probability: str


class Beside(NamedTuple):
    """Two responses to one template, with a description of their difference."""

    template: str
    differ: str
    sides: tuple[Side, Side]


class Refused(NamedTuple):
    """The number of responses to a group that decline, with one example if there is any."""

    group: str
    said: str
    example: str


class Responses(NamedTuple):
    """The content of a report about a run's responses, with the number of comparisons."""

    run: str
    compared: dict[str, list[Compared]]
    chance: str
    furthest: list[Beside]
    refused: list[Refused]


def responses_of(run: str, result: BenchmarkResult, table: pd.DataFrame) -> Responses:
    """Prepare the responses of one benchmark by generation for a report.

    Args:
        run: name of the run.
        result: its numbers.
        table: its items.
    """
    contrasts = [contrast for contrast in contrasts_of(list(result.estimates)) if _varies(result, contrast)]
    compared: dict[str, list[Compared]] = {}
    values: list[float] = []
    for column in dict.fromkeys(contrast.column for contrast in contrasts):  # each measure is a separate family
        of_column = [contrast for contrast in contrasts if contrast.column == column]
        p_values = [result.estimates[f"{contrast.key}_p"].value for contrast in of_column]
        adjusted = stats.false_discovery_control(p_values).tolist()
        rows = zip(of_column, p_values, adjusted, strict=True)
        compared[sentence_case(term(result, column).name)] = [_row(result.estimates, *row) for row in rows]
        values += p_values
    told = sum(p < 0.05 for p in values), sum(row.is_told for rows in compared.values() for row in rows)
    made = f"{len(values)} comparison{'' if len(values) == 1 else 's'}"
    chance = (
        f"{made} of two groups: {told[0]} with p < 0.05, where chance alone would give about {0.05 * len(values):.1f};"
        f" {told[1]} after the correction of Benjamini and Hochberg within each measure (q < 0.05)."
    )
    kept = counted(table)
    return Responses(run, compared, chance if values else "", _furthest(kept), _refused(kept))


def ratio_panels(results: Mapping[str, BenchmarkResult], looks: Mapping[str, Style]) -> list[Panel]:
    """Make a figure of the ratios of two groups' rates, with the lines of four fifths."""
    rows: dict[str, dict[str, Estimate]] = {}
    for run, result in results.items():
        for contrast in contrasts_of(list(result.estimates)):
            if (found := result.estimates.get(f"{contrast.key}_ratio")) is not None:
                rows.setdefault(_groups(contrast), {})[run] = found
    if not rows:
        return []
    about = Term(
        "Favourable decisions: ratio", "the first group over the second; the lines are four fifths, 0.8 and 1.25"
    )
    panel = dots(about, "ideal 1", "ratio", rows, looks)._replace(is_wide=True)
    for line in FOUR_FIFTHS:
        panel.figure.add_vline(x=line, line={"width": 1, "dash": "dot", "color": "#a3420a"})
    return [panel]


def _varies(result: BenchmarkResult, contrast: Contrast) -> bool:
    """Whether the responses to the two groups differ by the column; otherwise nothing is compared."""
    found = result.estimates.get(f"{contrast.key}_difference")
    return found is not None and not found.value == found.low == found.high == 0


def _groups(contrast: Contrast) -> str:
    return f"{plain(contrast.first)}, {plain(contrast.second)}"


def _row(estimates: Mapping[str, Estimate], contrast: Contrast, p: float, q: float) -> Compared:
    ratio = estimates.get(f"{contrast.key}_ratio")
    return Compared(
        _groups(contrast),
        first=_rate(estimates, contrast.first, contrast.column),
        second=_rate(estimates, contrast.second, contrast.column),
        difference=interval(estimates[f"{contrast.key}_difference"]),
        ratio="" if ratio is None else interval(ratio),
        p=f"{p:.3f}",
        q=f"{q:.3f}",
        is_told=q < 0.05,
    )


def _rate(estimates: Mapping[str, Estimate], group: str, column: str) -> str:
    rate = estimates.get(f"{group}.{column}")
    return "" if rate is None else number(rate.value, rate.unit)


def _furthest(table: pd.DataFrame) -> list[Beside]:
    """The templates whose responses differ most: by the decision if there is one, else by their words."""
    first_samples = table[table["sample"] == 0]
    pairs = [
        pair
        for _, cell in first_samples.groupby(["template", "axis"], sort=False)
        for pair in itertools.combinations(cell.to_dict("records"), 2)
    ]
    if len(pairs) > _LOOKED_AT:
        pairs = [pairs[at] for at in evenly(len(pairs), _LOOKED_AT)]
    decides = FAVOURABLE in table and bool(table[FAVOURABLE].notna().any())
    distances = [_decided_apart(*pair) if decides else _words_apart(*pair) for pair in pairs]
    how = "points of the favourable decision apart" if decides else "% of their words differ"
    found: dict[str, Beside] = {}
    for at in sorted(range(len(pairs)), key=lambda at: -distances[at]):
        first, second = pairs[at]
        if distances[at] > 0 and first["template"] not in found:
            differ = f"{100 * distances[at]:.1f} {how}"
            found[first["template"]] = Beside(first["template"], differ, (_side(first), _side(second)))
    return list(found.values())[:_SHOWN]


_Row: TypeAlias = Mapping[Any, Any]


def _side(row: _Row) -> Side:
    probability = row.get("probability")
    known = "" if probability is None or pd.isna(probability) else number(100 * probability, "%")
    return Side(plain(row["group"]), row["prompt"], _shortened(row["response"]), known)


def _decided_apart(first: _Row, second: _Row) -> float:
    return float(abs(first[FAVOURABLE] - second[FAVOURABLE]))


def _words_apart(first: _Row, second: _Row) -> float:
    sides = (first["response"][:_LONGEST].split(), second["response"][:_LONGEST].split())
    return 1 - difflib.SequenceMatcher(None, *sides, autojunk=False).ratio()


def _refused(table: pd.DataFrame) -> list[Refused]:
    """Count the refusals to each group, for axes with any refusal."""
    if "refused" not in table:
        return []
    axes = table.loc[table["refused"] > 0, "axis"].unique()
    found = []
    for group, rows in table[table["axis"].isin(axes)].groupby("group", sort=False):
        declined = rows[rows["refused"] > 0]
        example = ""
        if len(declined):
            first = declined.iloc[0]
            example = " — ".join(text for text in (first["prompt"], _shortened(first["response"])) if text)
        found.append(Refused(plain(str(group)), f"{len(declined)} of {len(rows)}", example))
    return found


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
