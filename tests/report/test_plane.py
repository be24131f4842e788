"""The plane of paired words: who is in it, and which runs share its axes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from equiframe.report.figures import styles
from equiframe.report.plane import plane_panels

WORDS = ["she", "he", "woman", "man", "nurse", "christian", "muslim"]
GROUPS = ["g/female", "g/male", "g/female", "g/male, jobs", "jobs", "faith/christian", "faith/muslim"]
PARTNERS = [[11], [10], [13, 99], [12], [10], [16], [15]]  # 99 did not occur


def tables(seed=0, *, turn=None, dim=6):
    """Classes and vectors whose female and male words lie apart along the first axis."""
    rng = np.random.default_rng(seed)
    side = np.array([-1, 1, -1, 1, 0, 0, 0])[:, None] * np.eye(dim)[0]
    embeddings = 4 * side + rng.normal(size=(7, dim))
    means = embeddings + 0.1 * rng.normal(size=(7, dim))
    if turn is not None:
        embeddings, means = embeddings @ turn, means @ turn
    ids = np.arange(10, 17)
    classes = pd.DataFrame({"token_id": ids, "word": WORDS, "form": WORDS, "groups": GROUPS, "count": 9, "cosine": 0.5})
    vectors = pd.DataFrame(
        {"token_id": ids, "partners": PARTNERS, "mean": list(means), "embedding": [7 * row for row in embeddings]}
    )
    return vectors, classes


def marks(panel):
    """Names and places of the means, and of the embeddings."""
    _, means, embeddings = panel.figure.data
    names = [text.partition("</b>")[0].removeprefix("<b>") for text in means.text]
    return names, *(np.stack([trace.x, trace.y], axis=1) for trace in (means, embeddings))


def test_the_groups_with_most_pairs_are_shown_on_their_sides():
    (panel,) = plane_panels({"a": tables()}, styles(["a"]))
    names, means, embeddings = marks(panel)
    assert names == ["she", "he", "woman", "man"]  # the nurse has a counterpart, but stands in neither group
    assert list(panel.figure.data[1].marker.symbol) == ["triangle-left", "triangle-right"] * 2
    assert np.sign(embeddings[:, 0]).tolist() == np.sign(means[:, 0]).tolist() == [-1, 1, -1, 1]
    assert panel.figure.layout.xaxis.title.text.split() == ["←", "female", "male", "→"]
    assert panel.figure.data[1].text[3].startswith("<b>man</b> (g/male, jobs)<br>with woman<br>mean of its states<br>")
    lines = np.array(panel.figure.data[0].x, dtype=float).reshape(4, 3)
    assert lines[:, :2] == pytest.approx(np.stack([means[:, 0], embeddings[:, 0]], axis=1), abs=1e-4)


def test_the_axes_are_unit_and_orthogonal_directions():
    vectors, classes = tables()
    (panel,) = plane_panels({"a": (vectors, classes)}, styles(["a"]))
    _, _, embeddings = marks(panel)
    rows = np.stack(vectors["embedding"])[:4]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    across = rows[[1, 3]].mean(axis=0) - rows[[0, 2]].mean(axis=0)
    across /= np.linalg.norm(across)
    assert embeddings[:, 0] == pytest.approx(rows @ across, abs=1e-5)
    rest = rows - np.outer(rows @ across, across)
    assert (np.linalg.norm(rest, axis=1) >= np.abs(embeddings[:, 1]) - 1e-5).all()


def test_a_fine_tuned_run_is_drawn_on_the_axes_of_the_first():
    runs = {"before": tables(), "after": tables()}
    moved = runs["after"][0]
    moved["embedding"] = [row + 1.5 * np.eye(6)[2] for row in moved["embedding"]]
    first, second = plane_panels(runs, styles([*runs]))
    assert second.note == "on the axes of before"
    assert marks(first)[1].tolist() == marks(second)[1].tolist()  # the means did not move
    assert first.figure.layout.xaxis.range == second.figure.layout.xaxis.range


def test_a_model_of_another_origin_has_axes_of_its_own():
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))
    turn = np.roll(turn, 1, axis=1) @ np.diag([1, -1, 1, -1, 1, -1])
    runs = {"a": tables(), "b": tables(turn=turn), "c": tables(dim=8)}
    notes = [panel.note for panel in plane_panels(runs, styles([*runs]))]
    assert all(note.startswith("on its own axes") for note in notes)


def test_without_pairs_there_is_no_plane():
    vectors, classes = tables()
    assert plane_panels({"a": (vectors.iloc[4:5], classes)}, styles(["a"])) == []
    assert plane_panels({}, {}) == []


def test_text_of_data_is_no_markup():
    vectors, classes = tables()
    evil = classes.assign(word="<img src=x>", groups=["<b>a", "<i>b"] * 3 + ["c"])
    (panel,) = plane_panels({"a": (vectors, evil)}, styles(["a"]))
    text = str(panel.figure.to_dict())
    assert "<img" not in text
    assert "<i>" not in text


def test_words_and_not_ids_are_what_two_runs_share():
    vectors, classes = tables()
    other = dict(zip(range(10, 17), (16, 10, 15, 11, 14, 12, 13), strict=True))  # a vocabulary of another order
    renamed = vectors.assign(
        token_id=vectors["token_id"].map(other), partners=[[other.get(p, 99) for p in row] for row in PARTNERS]
    )
    runs = {"a": (vectors, classes), "b": (renamed, classes.assign(token_id=classes["token_id"].map(other)))}
    first, second = plane_panels(runs, styles([*runs]))
    assert second.note == "on the axes of a"
    assert sorted(zip(*(part.tolist() if hasattr(part, "tolist") else part for part in marks(first)), strict=True)) == (
        sorted(zip(*(part.tolist() if hasattr(part, "tolist") else part for part in marks(second)), strict=True))
    )
    labels = [(a.text, a.x, a.y) for a in first.figure.layout.annotations]
    assert labels
    assert sorted(labels) == sorted((a.text, a.x, a.y) for a in second.figure.layout.annotations)
