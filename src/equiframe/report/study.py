"""A study for readers: its tables, and a page with the collapse of each model against its gain."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from equiframe.about import Term
from equiframe.record import StudyFigure, StudyResult
from equiframe.report.figures import Panel, dots, finish, styles, text_of
from equiframe.report.numbers import bounds, decimals, number
from equiframe.uncertainty import Estimate

_ARMS = {"before": "before", "unc3": " + (U)NC3"}


def study_tables(result: StudyResult) -> dict[str, pd.DataFrame]:
    """The tables of a study as text, by caption: for each model, one row per arm and one column per benchmark.

    Values have their standard deviation over seeds, if there are several, and their 95 % interval over items and seeds.
    """
    tables = {}
    models = dict.fromkeys(figure.model for figure in result.figures)
    for model in models:
        found = [figure for figure in result.figures if figure.model == model]
        values = [figure for figure in found if figure.arm not in ("difference", "against")]
        behind = f": {model or 'all models'}" if len(models) > 1 else ""
        for caption, kinds, totals in (
            ("Bias", {"bias"}, {}),
            ("Fairness gain, %", {"gain"}, {"mean gain": "mean", "pooled gain": "pooled"}),
            ("Language understanding", {"understanding"}, {"mean change": "mean change, points"}),
            ("What must be kept", {"kept"}, {}),
            ("Change", {"change"}, {}),
            ("Collapse", {"collapse"}, {}),
        ):
            table = _table([f for f in values if f.kind in kinds or f.kind in totals], totals)
            if len(table):
                tables[caption + behind] = table
        differences = [f for f in found if f.arm == "difference"]
        of_benchmarks = [f for f in differences if f.kind == "gain"]
        if of_benchmarks:
            tables["Fairness gain with (U)NC3 minus without, %" + behind] = _table(of_benchmarks, {})
        of_all = [f for f in differences if f.kind != "gain"]
        if of_all:
            tables["With (U)NC3 minus without" + behind] = _table(
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
            tables["Against the other methods" + behind] = _table(against, columns)
        correlations = [f for f in found if f.kind == "rank correlation"]
        if correlations:
            rows = [{"rank correlation": f.name, "Spearman": _cell(f)} for f in correlations]
            tables["Collapse against bias" + behind] = pd.DataFrame(rows)
    return tables


def study_headlines(result: StudyResult) -> list[str]:
    """The result of each arm in one sentence: bias, and its cost."""
    said = []
    for figure in result.figures:
        if figure.kind == "mean gain" and figure.arm in ("plain", "unc3"):
            of_arm = {
                other.kind: _cell(other)
                for other in result.figures
                if (other.model, other.method, other.arm) == (figure.model, figure.method, figure.arm)
            }
            what = [f"fairness gain {_cell(figure)} %"]
            what += [f"pooled {of_arm['pooled gain']} %"] if "pooled gain" in of_arm else []
            what += [f"language understanding {of_arm['mean change']} points"] if "mean change" in of_arm else []
            said.append(f"{figure.model}, {_arm(figure.method, figure.arm)}: {', '.join(what)}")
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
                name = _arm(method, arm)
                symbol = looks[method].symbol + ("" if arm == "unc3" else "-open")
                figure.add_scatter(
                    x=[c.unc3 for c in shown],
                    y=[100 * c.gain for c in shown if c.gain is not None],
                    mode="markers",
                    marker={"color": looks[method].colour, "symbol": symbol, "size": 9, "line": {"width": 1.5}},
                    name=text_of(name),
                    text=[f"<b>{text_of(name)}</b>, seed {c.seed}" for c in shown],
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
    spread = "" if sd is None else f" ± {number(sd, unit)}"
    ends = "" if figure.low == figure.high else f" {bounds(low, high, unit, signed=signed)}"
    return f"{number(value, unit, signed=signed)}{spread}{ends}"
