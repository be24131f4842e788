"""The recipe that writes what docs/ shows of the studies, on studies made on the spot."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from equiframe.record import StudyCell, StudyFigure, StudyResult

pytest.importorskip("matplotlib")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    path = Path(__file__).parents[2] / "recipes" / "study_docs.py"
    spec = importlib.util.spec_from_file_location("study_docs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DOCS", tmp_path / "docs")
    (tmp_path / "docs/images").mkdir(parents=True)
    return module


def study(model):
    def figure(arm, kind, name, value, unit):
        ends = {"value": value, "low": value - 0.1, "high": value + 0.1, "sd": None}
        return StudyFigure(model=model, method=f"of {model}", arm=arm, kind=kind, name=name, unit=unit, **ends)

    figures = [figure("before", "kept", name, 90.0, "%") for name in ("agreement", "other")]
    for arm in ("plain", "unc3"):
        figures.append(figure(arm, "pooled gain", "", 0.2, "share"))
        figures += [figure(arm, "change", name, -1.0, "%") for name in ("agreement", "other")]
    numbers = dict.fromkeys(("(U)NC3", "NC3", "CC1 gender", "CC3 gender"), 0.5)
    cells = [
        StudyCell(
            model=model, method=f"of {model}", arm=arm, seed=0, unc3=0.5, gain=0.2, geometry=numbers, distances={}
        )
        for arm in ("before", "plain", "unc3")
    ]
    spec = {"models": [model], "seeds": [0], "benchmarks": {}, "understanding": {}, "kept": {"agreement": "gender"}}
    return StudyResult(study=spec, figures=figures, cells=cells)


def test_every_study_has_its_marks_however_many_there_are(recipe, monkeypatch):
    drawn = []
    axes = recipe.plt.Axes
    original = axes.errorbar
    monkeypatch.setattr(
        axes, "errorbar", lambda self, x, y, **look: drawn.append((x, y, look)) or original(self, x, y, **look)
    )
    recipe.frontier(recipe.plt.figure().add_subplot(), [study(f"m{number}") for number in range(4)])
    assert [look["label"] for *_, look in drawn] == [f"m{number}" for number in range(4) for _ in ("plain", "unc3")]
    assert {(x, y) for x, y, _ in drawn} == {(20.0, -1.0)}
    assert drawn[0][2]["xerr"] == [[pytest.approx(10.0)], [pytest.approx(10.0)]]


def test_one_folder_of_studies_makes_every_file(recipe, tmp_path, capsys):
    for name in recipe.TITLES:
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "study.json").write_text(study(f"builtin:{name}").model_dump_json())
        (tmp_path / "runs" / name / "headline.json").write_text(json.dumps([{"model": name, "gain": 20.0}]))
    recipe.main(tmp_path / "runs")
    tables = (recipe.DOCS / "study-tables.md").read_text()
    assert all(f"\n## {title}, seed 0\n" in tables for title in recipe.TITLES.values())
    assert "\n| of builtin:study-gemma + (U)NC3 | −1.0 [−1.1, −0.9] |" in tables
    assert [line["model"] for line in json.loads((recipe.DOCS / "headline.json").read_text())] == [*recipe.HEADLINE]
    assert all((recipe.DOCS / f"images/{name}.svg").exists() for name in ("frontier", "collapse-gain"))
    assert "all models, without (U)NC3 (3 trained models): NC3 with gain too few models" in capsys.readouterr().out
