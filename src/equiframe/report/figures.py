"""Makes figures from records. Pure: the same numbers give the same figure, and nothing is displayed or written."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from equiframe.about import Term
from equiframe.benchmarks.benchmark import BenchmarkResult
from equiframe.record import CollapseResult, about, class_set_name, split_key, term
from equiframe.report.glossary import HISTORY, part_of_loss, sentence_case
from equiframe.report.numbers import direction, interval, number
from equiframe.uncertainty import Estimate

_LANE, _ROW_GAP, _MARGIN = 17, 12, 34  # pixels: one run in a row, between rows, below the rows
_INK, _FAINT = "#1b1f24", "#d5dae0"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_OF_THE_TERM = ("unc3", "mean_cosine")
_BOOKKEEPING = {"step", "epoch", "loss", "learning_rate", "grad_norm", "unc3_weight", "classes_seen"}


class Style(NamedTuple):
    """How one run looks in every figure. Colours have contrast 3:1 or more on white and on near black."""

    colour: str
    symbol: str
    glyph: str


_GREY = Style("#7a828c", "circle", "●")
_STYLES = (
    Style("#0072b2", "diamond", "◆"),
    Style("#d55e00", "square", "■"),
    Style("#009e73", "triangle-up", "▲"),
    Style("#b5628f", "star", "★"),
    Style("#8a6d00", "triangle-down", "▼"),
    Style("#6f74d6", "cross", "✚"),
    Style("#c8455a", "hexagon", "⬢"),
    Style("#3b8a9e", "pentagon", "⬟"),
)


_LONG = 24  # letters of a row's name that a narrow panel has room for


class Panel(NamedTuple):
    """A figure with the heading that a page sets above it."""

    title: str
    note: str
    figure: go.Figure
    is_wide: bool = False


def styles(runs: Sequence[str]) -> dict[str, Style]:
    """A style for each run: several are set against a grey first one. From the tenth on they repeat."""
    first = [_GREY] if len(runs) > 1 else []
    return dict(zip(runs, first + [*_STYLES] * len(runs), strict=False))


def benchmark_panels(runs: Mapping[str, BenchmarkResult], looks: Mapping[str, Style]) -> list[Panel]:
    """Value and 95 % interval of every measure: one panel per kind of measure, one row per group, one colour per run.

    Measures that split or restate another are left to the tables, and so are those that are exactly ideal in every row.

    Args:
        runs: results of one benchmark, by run.
        looks: a style for each run, as :func:`styles` gives them for all runs of a page.
    """
    kinds: dict[Term, dict[str, dict[str, Estimate]]] = {}
    for run, result in runs.items():
        for key, estimate in result.estimates.items():
            rows = kinds.setdefault(term(result, key), {})
            rows.setdefault(split_key(key)[0] or "all", {})[run] = estimate
    panels = []
    for kind, rows in kinds.items():
        exact = all(e.value == e.low == e.high == e.ideal for found in rows.values() for e in found.values())
        if kind.is_derived or (exact and len(rows) > 1):
            continue
        sample = next(iter(next(iter(rows.values())).values()))
        panel = dots(kind, direction(sample), sample.unit, rows, looks)
        panels.append(panel._replace(is_wide=max(map(len, rows)) > _LONG))
    return panels


def collapse_panels(runs: Mapping[str, Sequence[CollapseResult]], looks: Mapping[str, Style]) -> list[Panel]:
    """The principal collapse values: one panel per value, one row per class set, one colour per run.

    Args:
        runs: results over the class sets, by run.
        looks: a style for each run, as :func:`styles` gives them for all runs of a page.
    """
    terms = {key: term for results in runs.values() for r in results for key, term in about(r).terms.items()}
    panels: dict[str, dict[str, dict[str, Estimate]]] = {key: {} for key in terms}
    for run, results in runs.items():
        for result in results:
            for key, estimate in collapse_estimates(result).items():
                panels[key].setdefault(class_set_name(result.class_set), {})[run] = estimate
    ways = {True: "higher is more collapsed", False: "lower is more collapsed", None: ""}
    return [
        dots(terms[key], ways[terms[key].higher_is_better], "", rows, looks) for key, rows in panels.items() if rows
    ]


def collapse_estimates(result: CollapseResult) -> dict[str, Estimate]:
    """The principal collapse values that are defined, with an interval if they have one."""
    found = {}
    for key, known in about(result).terms.items():
        value = result.values.get(key)
        if value is not None:
            way = known.higher_is_better
            bare = Estimate(value, None, None, result.classes, "", ideal=known.ideal, higher_is_better=way)
            found[key] = result.estimates.get(key, bare)
    return found


def cosine_panel(runs: Mapping[str, pd.DataFrame], looks: Mapping[str, Style]) -> Panel:
    """How the cosines between word means and word embeddings are distributed over the fairness words.

    Args:
        runs: the table of classes, by run.
        looks: a style for each run, as :func:`styles` gives them for all runs of a page.
    """
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.55, 0.45], vertical_spacing=0.03)
    pooled = np.concatenate([table["cosine"].to_numpy(dtype=np.float64) for table in runs.values()])
    edges = np.histogram_bin_edges(pooled, bins=30)
    for lane, (run, table) in enumerate(runs.items()):
        style = looks[run]
        cosines = table["cosine"].to_numpy(dtype=np.float64)
        shares = np.histogram(cosines, edges)[0] / max(len(cosines), 1)
        figure.add_scatter(
            x=as_list([edges[0], *edges]),
            y=as_list([0.0, *shares, 0.0]),
            mode="lines",
            line={"shape": "hv", "color": style.colour, "width": 1.6},
            fill="tozeroy",
            fillcolor=faint(style.colour, 0.13),
            hoverinfo="skip",
            showlegend=False,
            row=1,
            col=1,
        )
        scatter = (np.arange(len(cosines)) * 0.618 % 1 - 0.5) * 0.62
        figure.add_scatter(
            x=as_list(cosines),
            y=as_list(lane + scatter),
            mode="markers",
            marker={"color": style.colour, "symbol": style.symbol, "size": 5, "opacity": 0.6},
            name=text_of(run),
            text=[
                f"<b>{text_of(word)}</b> ({text_of(groups)})<br>cosine {cosine:.3f}, {count} samples"
                for word, groups, cosine, count in zip(
                    table["word"], table["groups"], cosines, table["count"], strict=True
                )
            ],
            hovertemplate="%{text}<extra></extra>",
            row=2,
            col=1,
        )
        summary = f"mean {number(float(cosines.mean()))}<br>spread {number(float(cosines.std(ddof=1)))}"
        figure.add_annotation(_beside(lane, summary), yref="y2")
    names = [text_of(run) for run in runs] if len(runs) > 1 else [""]
    finish(figure, height=230 + 52 * len(runs), runs=len(runs))
    figure.update_layout(margin={"r": 92})
    figure.update_yaxes(row=1, col=1, tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(_rows(names), row=2, col=1)
    return Panel(
        "Cosine of each word's mean with its embedding",
        "Top: share of words. Bottom: one mark per word; hover to read the word. (U)NC3 is the spread, NC3 the mean.",
        figure,
        is_wide=True,
    )


def history_panels(runs: Mapping[str, pd.DataFrame], looks: Mapping[str, Style]) -> list[Panel]:
    """The parts of the host's loss, and watched bias scores, over the steps of fine-tuning: a panel for each.

    The whole loss is shown only if the host method names no part, because a loss with (U)NC3 is not comparable.

    Args:
        runs: the logged steps, by run.
        looks: a style for each run, as :func:`styles` gives them for all runs of a page.
    """
    logged = dict.fromkeys(str(column) for table in runs.values() for column in table)
    watched = [c for c in logged if c.startswith("bias/")]
    parts = [c for c in logged if c not in (*_BOOKKEEPING, *_OF_THE_TERM, *watched) and not c.startswith("collapse/")]
    return [
        _over_steps(column, part_of_loss(column), runs, looks) for column in parts or ["loss"] if column in logged
    ] + [_over_steps(column, _watched_term(column), runs, looks) for column in watched]


def _watched_term(column: str) -> Term:
    """The name of a column such as ``bias/lpbs overall.difference``."""
    benchmark, _, key = column.removeprefix("bias/").rpartition(" ")
    named = term(benchmark, key)
    return Term(f"{benchmark}: {split_key(key)[0]} {named.name}", f"{named.reading} (scored during training)")


def step_panels(runs: Mapping[str, pd.DataFrame], looks: Mapping[str, Style], terms: Mapping[str, Term]) -> list[Panel]:
    """Collapse over the steps of fine-tuning: as audits of the fairness words found it, and as the term saw it.

    Args:
        runs: the logged steps, by run.
        looks: a style for each run, as :func:`styles` gives them for all runs of a page.
        terms: what collapse values are called, by key.
    """
    columns = {f"collapse/{key}": named for key, named in terms.items()}
    columns |= {key: HISTORY[key] for key in _OF_THE_TERM}
    return [
        _over_steps(column, named, runs, looks)
        for column, named in columns.items()
        if any(column in table for table in runs.values())
    ]


def _over_steps(column: str, named: Term, runs: Mapping[str, pd.DataFrame], looks: Mapping[str, Style]) -> Panel:
    """One logged number, with one line per run."""
    figure = go.Figure()
    for run, table in runs.items():
        if column not in table:
            continue
        seen = table[["step", column]].dropna()
        figure.add_scatter(
            x=as_list(seen["step"]),
            y=as_list(seen[column]),
            mode="lines+markers",
            line={"color": looks[run].colour, "width": 1.6},
            marker={"symbol": looks[run].symbol, "size": 5},
            name=text_of(run),
            hovertemplate="step %{x}: %{y:.4g}",
        )
    finish(figure, height=230, runs=len(looks))
    figure.update_xaxes(title={"text": "step", "standoff": 6})
    return Panel(sentence_case(named.name), named.reading, figure)


def dots(
    about: Term, way: str, unit: str, rows: Mapping[str, Mapping[str, Estimate]], looks: Mapping[str, Style]
) -> Panel:
    """One row per group with one lane per run: a dot, its interval, and its value at the right edge."""
    figure = go.Figure()
    measured = {run for found in rows.values() for run in found}
    looks = {run: style for run, style in looks.items() if run in measured}
    height = len(looks) * _LANE + _ROW_GAP
    for lane, (run, style) in enumerate(looks.items()):
        shift = (lane - (len(looks) - 1) / 2) * _LANE / height
        shown = [(at, name, found[run]) for at, (name, found) in enumerate(rows.items()) if run in found]
        estimates = [estimate for _, _, estimate in shown]
        figure.add_scatter(
            x=[e.value for e in estimates],
            y=[at + shift for at, _, _ in shown],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [0 if e.high is None else e.high - e.value for e in estimates],
                "arrayminus": [0 if e.low is None else e.value - e.low for e in estimates],
                "thickness": 2,
                "width": 0,
            },
            mode="markers",
            marker={"color": style.colour, "symbol": style.symbol, "size": 8},
            name=text_of(run),
            text=[
                f"<b>{text_of(name)}</b>, {text_of(run)}<br>{interval(e)}" + (f"<br>{e.count} items" if e.count else "")
                for _, name, e in shown
            ],
            hovertemplate="%{text}<extra></extra>",
        )
        for at, _, estimate in shown:
            figure.add_annotation(_beside(at + shift, number(estimate.value, estimate.unit)))
    for ideal in {e.ideal for found in rows.values() for e in found.values() if e.ideal is not None}:
        figure.add_shape(
            type="line",
            x0=ideal,
            x1=ideal,
            y0=0,
            y1=1,
            yref="paper",
            layer="above",
            line={"color": _INK, "width": 1.5, "dash": "4px 3px"},
        )
    finish(figure, height=height * len(rows) + _MARGIN, runs=len(looks))
    figure.update_xaxes(nticks=4)
    figure.update_yaxes(_rows([text_of(name) for name in rows]))
    return Panel(sentence_case(about.name), "; ".join(filter(None, (about.reading, unit, way))), figure)


def _rows(names: Sequence[str]) -> dict[str, Any]:
    """A y axis of named rows, the first on top."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": names,
        "range": [len(names) - 0.5, -0.5],
        "showgrid": False,
        "ticklabelstandoff": 6,
    }


def _beside(y: float, text: str) -> dict[str, Any]:
    """A label at the right edge, next to its lane."""
    return {
        "x": 1,
        "xref": "paper",
        "xanchor": "left",
        "xshift": 6,
        "y": y,
        "text": text,
        "align": "left",
        "showarrow": False,
    }


def finish(figure: go.Figure, *, height: int, runs: int) -> None:
    """The look that all figures share."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 56, "t": 6, "b": _MARGIN - 6},
        font={"family": _FONT, "size": 12, "color": _INK},
        hoverlabel={"font": {"family": _FONT, "color": "white"}, "align": "left"},
        dragmode=False,
        showlegend=runs > 1,
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
    )
    axis = {
        "zeroline": False,
        "showline": False,
        "automargin": True,
        "fixedrange": True,
        "gridcolor": _FAINT,
        "nticks": 5,
    }
    figure.update_xaxes(axis, tickangle=0)
    figure.update_yaxes(axis)


def faint(colour: str, opacity: float) -> str:
    """A colour ``#rrggbb`` that lets through what lies below."""
    red, green, blue = bytes.fromhex(colour[1:])
    return f"rgba({red}, {green}, {blue}, {opacity})"


def text_of(value: object) -> str:
    """Text of data for a figure, whose labels are read as markup: as it stands, no tag."""
    return html.escape(str(value), quote=False)


def as_list(values: Iterable[Any]) -> list[float]:
    """Numbers as a list, which a page holds as readable JSON."""
    return [round(float(value), 6) for value in values]
