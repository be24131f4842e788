"""The recipe that draws the pictures of the studies, on studies made on the spot."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from equiframe.record import StudyFigure, StudyResult

pytest.importorskip("matplotlib")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    path = Path(__file__).parents[2] / "recipes" / "study_pictures.py"
    spec = importlib.util.spec_from_file_location("study_pictures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "IMAGES", tmp_path)
    return module


def study(model):
    def figure(arm, kind, name, value, unit):
        ends = {"value": value, "low": value - 0.1, "high": value + 0.1, "sd": None}
        return StudyFigure(model=model, method=f"of {model}", arm=arm, kind=kind, name=name, unit=unit, **ends)

    figures = [figure("before", "kept", name, 90.0, "%") for name in ("agreement", "other")]
    for arm in ("plain", "unc3"):
        figures.append(figure(arm, "pooled gain", "", 0.2, "share"))
        figures += [figure(arm, "change", name, -1.0, "%") for name in ("agreement", "other")]
    return StudyResult(study={"models": [model]}, figures=figures, cells=[])


def test_every_study_has_its_marks_however_many_there_are(recipe, monkeypatch):
    drawn = []
    axes = recipe.plt.Axes
    original = axes.errorbar
    monkeypatch.setattr(
        axes, "errorbar", lambda self, x, y, **look: drawn.append((x, y, look)) or original(self, x, y, **look)
    )
    recipe.frontier([study(f"m{number}") for number in range(4)])
    assert [look["label"] for *_, look in drawn] == [f"m{number}" for number in range(4) for _ in ("plain", "unc3")]
    assert {(x, y) for x, y, _ in drawn} == {(20.0, -1.0)}
    assert drawn[0][2]["xerr"] == [[pytest.approx(10.0)], [pytest.approx(10.0)]]
    assert (recipe.IMAGES / "frontier.svg").read_text().startswith("<?xml")
