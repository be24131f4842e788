"""Paired words in a plane: their class means and embeddings, every run on the axes of the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from equiframe.record import plain
from equiframe.report.figures import Panel, Style, as_list, faint, finish, text_of

PLANE = (
    "Each mark is a word that has a counterpart. Filled marks are the means of its states, minus the mean of all word"
    " means; open marks are its embedding; a line joins the two. All have length 1. The horizontal axis is the"
    " direction from the mean embedding of one group to that of the other, the vertical axis the first principal"
    " component of the rest."
)
"""How to read the plane."""

_LABELS = 12
_WIDTH, _ROOM = 0.3, 0.07  # of a word's name in the figure, as shares of the plane's
_SAME_SPACE = 0.5  # mean cosine of a word's embeddings in two runs; of unrelated models it is near 0

Vectors = NDArray[np.float64]


class _Words(NamedTuple):
    """The words of two groups, a row a word, and their directions, each [words, dim]."""

    table: pd.DataFrame
    groups: tuple[str, str]
    means: Vectors
    embeddings: Vectors


class _Plane(NamedTuple):
    """Two axes, [dim, 2], and what share of the variance they hold of the words they were fitted to."""

    axes: Vectors
    share: float
    words: _Words


def plane_panels(runs: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], looks: Mapping[str, Style]) -> list[Panel]:
    """One panel per run with the words of the two groups that have the most pairs, such as female and male.

    A run is drawn on the axes of the first, so that the two can be compared, if its embeddings still point the same
    way, as those of a fine-tuned model do; an unrelated model has its own axes.

    Args:
        runs: the record's vectors and classes, by run.
        looks: a style for each run, as :func:`equiframe.report.figures.styles` gives them for all runs of a page.
    """
    found = {run: words for run, tables in runs.items() if (words := _paired(*tables)) is not None}
    planes: dict[str, _Plane] = {}
    for run, words in found.items():
        first = next((plane for plane in planes.values() if _is_comparable(plane.words, words)), None)
        planes[run] = first or _fit(words)
    panels = []
    for run, words in found.items():
        plane = planes[run]
        fellows = [found[other] for other in found if planes[other] is plane]
        points = np.concatenate([v @ plane.axes for w in fellows for v in (w.means, w.embeddings)])
        origin = next(other for other in found if planes[other] is plane)
        if origin == run:
            note = f"on its own axes, which explain {100 * plane.share:.0f} % of the variance of its marks"
        else:
            note = f"on the axes of {origin}"
        panels.append(Panel(f"Counterparts, {run}", note, _draw(words, plane, points, looks[run])))
    return panels


def _paired(vectors: pd.DataFrame, classes: pd.DataFrame) -> _Words | None:
    """The words that have counterparts, of the two groups with most pairs between them; None if there are none."""
    table = classes.merge(vectors, on="token_id").set_index("token_id")
    groups = {token: str(text).split(", ") for token, text in table["groups"].items()}
    couples = Counter(
        (one, other)
        for token, partners in table["partners"].items()
        for partner in partners
        for one in groups[token]
        for other in groups.get(partner, [])
        if one < other
    )
    if not couples:
        return None
    couple = max(couples, key=lambda pair: couples[pair])
    side = {token: next((n for n in (0, 1) if couple[n] in groups[token]), None) for token in groups}
    partners = {
        token: [p for p in found if side.get(p) is not None and side[p] != side[token]]
        for token, found in table["partners"].items()
    }
    table = table.assign(side=pd.Series(side), partners=pd.Series(partners))
    table = table[table["side"].notna() & table["partners"].map(bool)]
    table["partner"] = [", ".join(table["word"][p]) for p in table["partners"]]
    table = table.set_index("form")  # the ids of two models may represent different words
    return _Words(table, couple, _directions(table["mean"]), _directions(table["embedding"]))


def _directions(vectors: pd.Series) -> Vectors:
    rows = np.stack([np.asarray(vector, dtype=np.float64) for vector in vectors])
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def _is_comparable(first: _Words, second: _Words) -> bool:
    """Whether the words' embeddings point the same way in both runs."""
    shared = first.table.index.intersection(second.table.index)
    if first.groups != second.groups or first.means.shape[1] != second.means.shape[1] or shared.empty:
        return False
    ours, theirs = (w.embeddings[w.table.index.get_indexer(shared)] for w in (first, second))
    return float((ours * theirs).sum(axis=1).mean()) > _SAME_SPACE


def _fit(words: _Words) -> _Plane:
    """From one group's mean embedding to the other's, and the first principal component of what that leaves."""
    is_right = words.table["side"].to_numpy() == 1
    across = words.embeddings[is_right].mean(axis=0) - words.embeddings[~is_right].mean(axis=0)
    across /= np.linalg.norm(across)
    points = np.concatenate([words.means, words.embeddings])
    points = points - points.mean(axis=0)
    up = np.linalg.svd(points - np.outer(points @ across, across), full_matrices=False)[2][0]
    up *= np.sign(up[np.abs(up).argmax()])
    axes = np.stack([across, up], axis=1)
    return _Plane(axes, float(((points @ axes) ** 2).sum() / (points**2).sum()), words)


def _draw(words: _Words, plane: _Plane, points: Vectors, style: Style) -> go.Figure:
    table = words.table
    means, embeddings = words.means @ plane.axes, words.embeddings @ plane.axes
    figure = go.Figure()
    gap = np.full(len(table), np.nan)
    joined = (np.stack([means[:, k], embeddings[:, k], gap], axis=1).ravel() for k in (0, 1))
    x, y = ([None if np.isnan(v) else round(float(v), 4) for v in values] for values in joined)
    figure.add_scatter(x=x, y=y, mode="lines", line={"color": faint(style.colour, 0.4), "width": 1}, hoverinfo="skip")
    pointing = np.where(table["side"] == 0, "triangle-left", "triangle-right")
    for what, at, suffix in (("mean of its states", means, ""), ("embedding", embeddings, "-open")):
        figure.add_scatter(
            x=as_list(at[:, 0]),
            y=as_list(at[:, 1]),
            mode="markers",
            marker={"color": style.colour, "symbol": [s + suffix for s in pointing], "size": 9},
            text=[
                f"<b>{text_of(row.word)}</b> ({text_of(row.groups)})<br>with {text_of(row.partner)}<br>{what}<br>"
                f"cosine of mean and embedding {row.cosine:.3f}<br>{row.samples:,} samples"
                for row in table.rename(columns={"count": "samples"}).itertuples()
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    low, high = points.min(axis=0), points.max(axis=0)
    for form in _labelled(plane, high - low):
        if form in table.index:
            (x, y), is_right = embeddings[table.index.get_loc(form)], table["side"][form] == 1
            anchor = {"xanchor": "left", "xshift": 6} if is_right else {"xanchor": "right", "xshift": -6}
            figure.add_annotation(anchor, x=x, y=y, text=text_of(table["word"][form]), showarrow=False)
    finish(figure, height=340, runs=1)
    figure.update_layout(margin={"r": 8})
    pad = (0.3, 0.06) * (high - low)
    left, right = (text_of(_side(group)) for group in words.groups)
    figure.update_xaxes(
        title={"text": f"← {left}       {right} →", "standoff": 6}, range=as_list([low[0] - pad[0], high[0] + pad[0]])
    )
    figure.update_yaxes(range=as_list([low[1] - pad[1], high[1] + pad[1]]))
    return figure


def _labelled(plane: _Plane, extent: Vectors) -> list[str]:
    """The most frequent words with room for their names, by the positions of the marks in the first run."""
    table = plane.words.table
    places = plane.words.embeddings @ plane.axes / extent
    marks = np.concatenate([places, plane.words.means @ plane.axes / extent])
    sides = table["side"].to_numpy()
    kept: list[int] = []
    for at in np.argsort(-table["count"].to_numpy(), kind="stable"):
        outward = (marks[:, 0] - places[at, 0]) * (1 if sides[at] else -1)
        in_line = abs(marks[:, 1] - places[at, 1]) < _ROOM / 2
        is_clear = not (in_line & (outward > 0) & (outward < _WIDTH)).any()
        below_or_above = [abs(places[at, 1] - places[k, 1]) > _ROOM for k in kept if sides[k] == sides[at]]
        if is_clear and all(below_or_above):
            kept.append(int(at))
    return [str(table.index[at]) for at in kept[:_LABELS]]


def _side(group: str) -> str:
    """``gender/female`` as ``female``."""
    return plain(group.rpartition("/")[2])
