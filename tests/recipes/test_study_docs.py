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
    for name, empty in {"study-tables.md": "", "headline.json": "[]", "study-models.csv": "study\n"}.items():
        (tmp_path / "docs" / name).write_text(empty)
    return module


def study(model, gain=0.2):
    def figure(arm, kind, name, value, unit):
        ends = {"value": value, "low": value - 0.1, "high": value + 0.1, "sd": None}
        return StudyFigure(model=model, method=f"of {model}", arm=arm, kind=kind, name=name, unit=unit, **ends)

    figures = [figure("before", "kept", name, 90.0, "%") for name in ("agreement", "other")]
    for arm in ("plain", "unc3"):
        figures.append(figure(arm, "pooled gain", "", gain, "share"))
        figures += [figure(arm, "change", name, -1.0, "%") for name in ("agreement", "other")]
    numbers = dict.fromkeys(("(U)NC3", "NC3", "CC1 gender", "CC3 gender"), 0.5)
    cells = [
        StudyCell(
            model=model, method=f"of {model}", arm=arm, seed=0, unc3=0.5, gain=gain, geometry=numbers, distances={}
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
    table = recipe.pd.concat([recipe.trained_models(study(f"m{number}")) for number in range(4)])
    recipe.frontier(recipe.plt.figure().add_subplot(), table)
    assert [look["label"] for *_, look in drawn] == [f"m{number}" for number in range(4) for _ in ("plain", "unc3")]
    assert {(x, y) for x, y, _ in drawn} == {(20.0, -1.0)}
    assert drawn[0][2]["xerr"] == [[pytest.approx(10.0)], [pytest.approx(10.0)]]


def write(recipe, runs, name, found):
    (runs / name).mkdir(parents=True, exist_ok=True)
    (runs / name / "study.json").write_text(found.model_dump_json())
    (runs / name / "headline.json").write_text(json.dumps([{"model": name, "gain": found.cells[1].gain}]))


def test_one_folder_of_studies_makes_every_file(recipe, tmp_path, capsys):
    for name in recipe.TITLES:
        write(recipe, tmp_path / "runs", name, study(f"builtin:{name}"))
    recipe.main(tmp_path / "runs")
    tables = (recipe.DOCS / "study-tables.md").read_text()
    assert all(f"\n## {title}, seed 0\n" in tables for title in recipe.TITLES.values())
    assert "\n| of builtin:study-gemma + (U)NC3 | −1.0 [−1.1, −0.9] |" in tables
    assert [line["model"] for line in json.loads((recipe.DOCS / "headline.json").read_text())] == [*recipe.HEADLINE]
    models = (recipe.DOCS / "study-models.csv").read_text()
    assert "\nstudy-gemma,study-gemma,of builtin:study-gemma,unc3,20.0000,10.0000,30.0000,-1.0000,-1.1000" in models
    assert all((recipe.DOCS / f"images/{name}.svg").exists() for name in ("frontier", "collapse-gain"))
    assert "all models, without (U)NC3 (3 trained models): NC3 with gain too few models" in capsys.readouterr().out


def test_what_the_docs_show_of_a_study_that_is_not_in_the_folder_stays(recipe, tmp_path):
    for name in recipe.TITLES:
        write(recipe, tmp_path / "all", name, study(f"builtin:{name}"))
    recipe.main(tmp_path / "all")
    names = ("study-tables.md", "headline.json", "study-models.csv", "images/frontier.svg", "images/collapse-gain.svg")
    first = {name: (recipe.DOCS / name).read_text() for name in names}
    write(recipe, tmp_path / "one", "study-gemma", study("builtin:study-gemma"))
    recipe.main(tmp_path / "one")
    assert {name: (recipe.DOCS / name).read_text() for name in names} == first
    write(recipe, tmp_path / "one", "study-gemma", study("another", gain=0.3))
    recipe.main(tmp_path / "one")
    second = {name: (recipe.DOCS / name).read_text() for name in names}
    assert all(second[name] != first[name] for name in names)
    assert "of another" in second["study-tables.md"]
    assert "builtin:study-gemma" not in second["study-tables.md"]
    assert [line["gain"] for line in json.loads(second["headline.json"])] == [0.2, 0.3, 0.2]
    assert second["study-models.csv"].count("of another") == 2


def test_a_folder_without_studies_is_refused_and_nothing_is_written(recipe, tmp_path):
    with pytest.raises(SystemExit, match=r"no study in .*run `equiframe study"):
        recipe.main(tmp_path)
    assert (recipe.DOCS / "headline.json").read_text() == "[]"
