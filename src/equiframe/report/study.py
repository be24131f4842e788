"""A study for readers: its tables, and its figures of gain against what was kept and against collapse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from equiframe.about import Term
from equiframe.record import StudyFigure, StudyResult
from equiframe.report.figures import Panel, Style, dots, finish, styles, text_of
from equiframe.report.numbers import bounds, decimals, ideal, number
from equiframe.uncertainty import Estimate

READING = (
    "Each value is a mean over seeds, with ± its standard deviation if there are several seeds, and its [95 % interval]"
    " over items and seeds; that of (U)NC3 is over seeds alone."
)
"""How to read the tables."""

_COUNTED = {  # the options that name measures, and what the measures are for
    "bias": ("benchmarks", "bias"),
    "understanding": ("understanding", "language understanding"),
    "kept": ("kept", "what must be kept"),
}
_ARMS = {"before": "before", "plain": "", "unc3": " + (U)NC3"}


def study_tables(result: StudyResult) -> dict[str, pd.DataFrame]:
    """The tables of a study as text, by caption: for each model, one row per arm and one column per benchmark.

    Values have their standard deviation over seeds, if there are several, and their 95 % interval over items and seeds.
    """
    tables = {"Measures": _measures(result)}
    models = dict.fromkeys(figure.model for figure in result.figures)
    for model in models:
        found = [figure for figure in result.figures if figure.model == model]
        values = [figure for figure in found if figure.arm not in ("difference", "against")]
        suffix = f": {model or 'all models'}" if len(models) > 1 else ""
        for caption, kinds, totals in (
            ("Bias", {"bias"}, {}),
            ("Fairness gain, %", {"gain"}, {"mean gain": "mean", "pooled gain": "pooled"}),
            ("Language understanding", {"understanding"}, {"mean change": "mean change, points"}),
            ("What must be kept", {"kept"}, {}),
            ("Change, after minus before", {"change"}, {}),
            ("Collapse", {"collapse"}, {}),
        ):
            table = _table([f for f in values if f.kind in kinds or f.kind in totals], totals)
            if len(table):
                tables[caption + suffix] = table
        differences = [f for f in found if f.arm == "difference"]
        of_benchmarks = [f for f in differences if f.kind == "gain"]
        if of_benchmarks:
            tables["Fairness gain with (U)NC3 minus without, %" + suffix] = _table(of_benchmarks, {})
        of_all = [f for f in differences if f.kind != "gain"]
        if of_all:
            tables["With (U)NC3 minus without" + suffix] = _table(
                of_all,
                {
                    "mean gain": "mean gain",
                    "pooled gain": "pooled gain",
                    "mean change": "mean change",
                    "collapse": "(U)NC3",
                },
            )
        against = [f for f in found if f.arm == "against"]
        if against:
            columns = {kind: kind for kind in ("mean gain", "pooled gain", "mean change")}
            tables["Against the other methods" + suffix] = _table(against, columns)
        correlations = [f for f in found if f.kind == "rank correlation"]
        if correlations:
            rows = [{"rank correlation": f.name, "Spearman": _cell(f)} for f in correlations]
            chance = f"{0.05 * len(rows):.1f}"
            caption = f"Collapse against bias (chance alone would put about {chance} of {len(rows)} intervals off 0)"
            tables[caption + suffix] = pd.DataFrame(rows)
    return tables


def study_headlines(result: StudyResult) -> list[str]:
    """The result of each arm in one sentence: bias, and its cost."""
    said = []
    for mean in result.figures:
        if mean.kind != "mean gain" or mean.arm not in ("plain", "unc3"):
            continue
        of_arm = [f for f in result.figures if (f.model, f.method, f.arm) == (mean.model, mean.method, mean.arm)]
        what = [f"fairness gain {_cell(mean)} %"]
        what += [f"pooled {_cell(f)} %" for f in of_arm if f.kind == "pooled gain"]
        what += [f"language understanding {_cell(f)} points" for f in of_arm if f.kind == "mean change"]
        kept = [f for f in of_arm if f.kind == "change" and f.name in _kept(result)]
        what += [f"{f.name} {_cell(f)} {_unit(f)}".rstrip() for f in kept]
        said.append(f"{mean.model}, {_arm(mean.method, mean.arm)}: {', '.join(what)}")
    return said


def headline_panels(result: StudyResult) -> list[Panel]:
    """Fairness gain and its cost: one row per method, with a mark and an interval without and with the term."""
    looks = styles(["without (U)NC3", "with (U)NC3"])
    marks = ", ".join(f"{style.glyph} {arm}" for arm, style in looks.items())
    panels = []
    for kind, about, scale in (
        ("mean gain", Term("fairness gain, %", f"mean over benchmarks; {marks}"), 100.0),
        ("pooled gain", Term("pooled fairness gain, %", f"weighted by precision; {marks}"), 100.0),
        ("mean change", Term("language understanding, points", f"after minus before, mean over tasks; {marks}"), 1.0),
    ):
        rows: dict[str, dict[str, Estimate]] = {}
        for f in result.figures:
            if f.kind == kind and f.arm in ("plain", "unc3") and f.value is not None:
                low, high = (None if end is None else scale * end for end in (f.low, f.high))
                arm = "with (U)NC3" if f.arm == "unc3" else "without (U)NC3"
                name = f.method if len({c.model for c in result.cells}) == 1 else f"{f.model}, {f.method}"
                rows.setdefault(name, {})[arm] = Estimate(scale * f.value, low, high, 0, "%", ideal=0.0)
        if rows:
            panels.append(dots(about, "0 is the original model", "", rows, looks))
    return panels


def frontier_points(result: StudyResult) -> dict[tuple[str, str], list[tuple[StudyFigure, StudyFigure]]]:
    """The pooled gain of every arm with its change of what must be kept, by model and kept measure."""
    gains = {(f.model, f.method, f.arm): f for f in result.figures if f.kind == "pooled gain"}
    points: dict[tuple[str, str], list[tuple[StudyFigure, StudyFigure]]] = {}
    for change in result.figures:
        gain = gains.get((change.model, change.method, change.arm))
        if change.kind == "change" and change.name in _kept(result) and change.arm in _ARMS and gain:
            points.setdefault((change.model, change.name), []).append((gain, change))
    return points


def frontier_panels(result: StudyResult) -> list[Panel]:
    """Change of each measure that must be kept against pooled gain: one mark per arm, with both intervals."""
    better = {f.name: f.higher_is_better for f in result.figures if f.kind == "kept"}
    kept_more = {True: ", and a higher one has kept more.", False: ", and a lower one has kept more.", None: "."}
    panels = []
    for (model, name), pairs in frontier_points(result).items():
        looks = styles(["before", *dict.fromkeys(gain.method for gain, _ in pairs)])
        figure = go.Figure()
        for gain, change in pairs:
            figure.add_scatter(
                **_interval("x", gain),
                **_interval("y", change),
                **_mark(looks[gain.method], gain.method, gain.arm),
                hovertemplate=f"%{{text}}<br>gain {_cell(gain)} %<br>{text_of(name)} {_cell(change)}<extra></extra>",
            )
        figure.add_vline(x=0, line={"dash": "dash", "width": 1})
        figure.add_hline(y=0, line={"dash": "dash", "width": 1})
        finish(figure, height=360, runs=1)
        figure.update_xaxes(title={"text": "pooled fairness gain, %", "standoff": 6})
        unit = _unit(pairs[0][1])
        figure.update_yaxes(title={"text": f"change of {text_of(name)}{unit and f', {unit}'}", "standoff": 6})
        marks = ", ".join(f"{style.glyph} {method}" for method, style in looks.items() if method != "before")
        note = f"One mark per method: {marks}; filled with the (U)NC3 term, open without. The dashed lines are the"
        note += " model before training. A mark further to the right has less bias"
        note += kept_more[better[name]]
        panels.append(Panel(f"Gain against {name}, {model}", note, figure, is_wide=True))
    return panels


def study_panels(result: StudyResult) -> list[Panel]:
    """(U)NC3 against fairness gain, with one mark per fine-tuned model."""
    panels = []
    for model in dict.fromkeys(cell.model for cell in result.cells):
        cells = [c for c in result.cells if c.model == model and c.unc3 is not None and c.gain is not None]
        methods = dict.fromkeys(c.method for c in cells)
        looks = styles([*methods])
        figure = go.Figure()
        for method in methods:
            for arm in ("before", "plain", "unc3"):
                shown = [c for c in cells if c.method == method and c.arm == arm]
                if not shown:
                    continue
                figure.add_scatter(
                    x=[c.unc3 for c in shown],
                    y=[100 * c.gain for c in shown if c.gain is not None],
                    **_mark(looks[method], method, arm, [f", seed {c.seed}" for c in shown]),
                    hovertemplate="%{text}<br>(U)NC3 %{x:.4f}<br>gain %{y:.1f} %<extra></extra>",
                )
        finish(figure, height=360, runs=1)
        figure.update_xaxes(title={"text": "(U)NC3 of fairness words (lower is more collapsed)", "standoff": 6})
        figure.update_yaxes(title={"text": "pooled fairness gain, %", "standoff": 6})
        marks = ", ".join(f"{style.glyph} {method or 'before'}" for method, style in looks.items())
        note = f"One mark per model: {marks}; filled with the (U)NC3 term, open without."
        correlation = [f for f in result.figures if f.model == model and f.name == "(U)NC3 with pooled gain"]
        note += "".join(f" Rank correlation {_cell(f)}." for f in correlation)
        panels.append(Panel(f"Collapse against gain, {model}", note, figure, is_wide=True))
    return panels


def _kept(result: StudyResult) -> set[str]:
    """Names of the measures that must be kept; the key is part of the name if a benchmark counts twice."""
    return {figure.name for figure in result.figures if figure.kind == "kept"}


def _unit(change: StudyFigure) -> str:
    """The unit of a change, as :func:`_cell` shows it: a change of a share or a percentage is in points."""
    return "points" if change.unit in ("%", "share") else change.unit


def _mark(style: Style, method: str, arm: str, details: Sequence[str] = ("",)) -> dict[str, Any]:
    """How a scatter shows the models of an arm: filled with the (U)NC3 term, open without."""
    name = text_of(_arm(method, arm))
    symbol = style.symbol + ("" if arm == "unc3" else "-open")
    return {
        "mode": "markers",
        "marker": {"color": style.colour, "symbol": symbol, "size": 9, "line": {"width": 1.5}},
        "name": name,
        "text": [f"<b>{name}</b>{detail}" for detail in details],
    }


def with_ends(figure: StudyFigure) -> tuple[float, float, float]:
    """A value in percent or points, and the two ends of its interval; NaN if undefined."""
    scale = 100.0 if figure.unit == "share" else 1.0
    value, low, high = (np.nan if v is None else scale * v for v in (figure.value, figure.low, figure.high))
    return value, low, high


def _interval(axis: str, figure: StudyFigure) -> dict[str, Any]:
    """A value on an axis with its interval."""
    value, low, high = with_ends(figure)
    return {
        axis: [value],
        f"error_{axis}": {"array": [high - value], "arrayminus": [value - low], "thickness": 1, "width": 0},
    }


def _measures(result: StudyResult) -> pd.DataFrame:
    """What the columns of the other tables are: the measure of each benchmark, its purpose, unit and ideal."""
    rows = {}
    for figure in result.figures:
        if figure.kind in _COUNTED:
            option, purpose = _COUNTED[figure.kind]
            named = result.study.get(option, {})
            key = next((key for name, key in named.items() if figure.name in (name, f"{name} {key}")), "")
            row = {"": figure.name, "measure": key, "of": purpose, "unit": figure.unit, "ideal": ideal(figure)}
            rows[figure.name] = row
    return pd.DataFrame([*rows.values()])


def _table(figures: list[StudyFigure], totals: dict[str, str]) -> pd.DataFrame:
    rows: dict[str, dict[str, str]] = {}
    for figure in figures:
        row = rows.setdefault(_arm(figure.method, figure.arm), {})
        row[totals.get(figure.kind, figure.name)] = _cell(figure)
    table = pd.DataFrame([{"": name, **row} for name, row in rows.items()])
    return table.fillna("")


def _arm(method: str, arm: str) -> str:
    return method + _ARMS.get(arm, "")


def _cell(figure: StudyFigure) -> str:
    if figure.value is None:
        return "undefined"
    scale, unit = (100.0, "%") if figure.unit == "share" else (1.0, figure.unit)
    unit = "%" if unit == "points" else unit
    signed = figure.arm in ("difference", "against") or figure.kind.endswith(("gain", "change"))
    value, sd, low, high = (  # of a table: no powers of ten; + 0.0 makes −0 a 0
        None if v is None else round(v * scale, decimals(unit)) + 0.0
        for v in (figure.value, figure.sd, figure.low, figure.high)
    )
    spread = "" if not figure.sd else f" ± {number(sd, unit)}"
    ends = "" if figure.low == figure.high else f" {bounds(low, high, unit, signed=signed)}"
    return f"{number(value, unit, signed=signed)}{spread}{ends}"
