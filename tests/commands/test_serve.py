"""What the browser is shown: runs of one folder alone, the comparison of the command, the scores of the benchmark."""

from __future__ import annotations

import csv
import functools
import json
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from equiframe.analysis.comparison import compare
from equiframe.benchmarks import load_benchmark
from equiframe.commands.compare import compare_folders
from equiframe.commands.overview import COLUMNS, overview
from equiframe.commands.run import run
from equiframe.commands.serve import application, finished_runs, models_of, page_of, score_pair, toggled
from equiframe.config import EvaluateConfig
from equiframe.errors import InputError, RunError
from equiframe.models import BUILTIN
from equiframe.record import RunRecord
from equiframe.report import comparison_page
from equiframe.report.numbers import interval
from equiframe.scoring.engine import answer

HOSTILE = '<img src=x onerror="alert(1)">&run=..'
PAIR = ("she is a nurse and he saw her", "he is a nurse and he saw his")


@pytest.fixture(scope="module")
def root(tmp_path_factory, model_folders):
    """Two runs, one of them deeper, one with a hostile name and a model; and what must not be found."""
    folder = tmp_path_factory.mktemp("serve")
    file = folder / "pairs.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("stereotype", "anti_stereotype"), PAIR, ("she is", "he is")])
    runs = folder / "runs"
    for name, kind in (("first", "masked"), ("study/second", "masked")):
        config = EvaluateConfig(str(model_folders[kind]), benchmarks=(f"pairs:{file}",))
        run(config, runs / name)
    (runs / HOSTILE / "model").mkdir(parents=True)
    (runs / HOSTILE / "report.html").write_text("<p>a report</p>")
    (folder / "secret" / "model").mkdir(parents=True)
    (runs / "first" / "model").symlink_to(folder / "secret" / "model")
    (folder / "secret" / "report.html").write_text("secret")
    (runs / "link").symlink_to(folder / "secret")
    (runs / "page").mkdir()
    (runs / "page" / "report.html").symlink_to(folder / "secret" / "report.html")
    return runs


def test_runs_are_those_of_the_folder(root):
    assert list(finished_runs(root)) == sorted(["first", "study/second", HOSTILE])
    assert models_of(root) == {**{name: name for name in BUILTIN}, HOSTILE: str(root / HOSTILE / "model")}
    with pytest.raises(RunError, match="is not a folder"):
        finished_runs(root / "none")


@pytest.mark.parametrize("name", ["../secret", "link", "page", "/etc", "first/../../secret", "", "."])
def test_nothing_outside_is_shown(root, name):
    with pytest.raises(RunError, match="is not a finished run"):
        page_of(root, [name])


def test_pages_are_the_reports_and_the_comparison(root):
    assert page_of(root, ["first"]) == (root / "first" / "report.html").read_text(encoding="utf-8")
    records = {name: RunRecord.read(root / name) for name in ("first", "study/second")}
    expected = comparison_page(records, compare(records), title="first / study/second")
    assert page_of(root, ["first", "study/second"]) == expected
    with pytest.raises(RunError, match="not a finished run"):
        page_of(root, ["first", HOSTILE])


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_a_pair_is_scored_as_the_benchmark_does(request, kind, tmp_path):
    model = request.getfixturevalue(f"{kind}_model")
    first, second, table = score_pair(model, f" {PAIR[0]} ", PAIR[1])
    pd.DataFrame([PAIR], columns=["stereotype", "anti_stereotype"]).to_csv(tmp_path / "pairs.csv", index=False)
    benchmark = load_benchmark(f"pairs:{tmp_path / 'pairs.csv'}")
    (item,), _ = benchmark.items()
    (outcome,) = benchmark.outcomes([item], model.codec, functools.partial(answer, model))[0]
    assert {"stereotype": first, "anti": second} == outcome.values
    assert table["nats"].sum() == pytest.approx(first, abs=1e-3)
    assert table["nats (anti)"].sum() == pytest.approx(second, abs=1e-3)
    words = "is a nurse and he saw" if kind == "masked" else PAIR[0]
    assert re.sub("##| ", "", "".join(table["stereotype"])) == words.replace(" ", "")
    beside = dict(zip(table["stereotype"].str.strip(), table["anti-stereotype"].str.strip(), strict=True))
    assert beside["nurse"] == "nurse"
    assert beside.get("she", "he") == "he"


def test_a_token_that_one_sentence_has_stands_alone(causal_model):
    _, _, table = score_pair(causal_model, "she is a nurse", "she is nurse")
    alone = table[table["anti-stereotype"] == ""]
    assert list(alone["stereotype"].str.strip()) == ["a"]
    assert alone["difference"].isna().all()


@pytest.mark.parametrize("pair", [("", "he is"), ("he is", " he is "), ("she", "he")])
def test_pairs_that_say_nothing_are_refused(masked_model, pair):
    with pytest.raises(InputError, match=r"that differ|share no token"):
        score_pair(masked_model, *pair)


def test_without_gradio_the_error_says_how_to_get_it(tmp_path):
    code = (
        "import sys, pathlib; sys.modules['gradio'] = None\n"
        "from equiframe.commands.serve import application; application(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert "pip install 'equiframe[serve]'" in done.stderr


def test_application_serves_these_pages_and_no_file(root):
    pytest.importorskip("gradio")
    from starlette.testclient import TestClient

    with TestClient(application(root)) as client:
        shown = client.get("/report", params={"run": HOSTILE})
        assert shown.text == "<p>a report</p>"
        refused = client.get("/report", params={"run": "../<b>"})
        assert refused.status_code == 404
        assert refused.headers["content-type"].startswith("text/plain")
        for path in ("/docs", f"/gradio_api/file={root.parent}/secret/report.html"):
            assert client.get(path).status_code in (403, 404)
        page = client.get("/").text
        assert HOSTILE not in page
        assert "fonts.googleapis" not in page
        assert '"analytics_enabled":false' in page


def test_the_folders_own_run_is_listed(root):
    own = finished_runs(root / "first")
    assert own == {"first": (root / "first").resolve()}
    assert page_of(root / "first", ["first"]) == page_of(root, ["first"])
    assert list(overview(own)["run"]) == ["first"]


def test_the_table_lists_every_run_newest_first(root, model_folders, tmp_path):
    dated = {"first": "2026-03-01T10:00:00+00:00", "study/second": "2026-03-02T09:30:00+00:00"}
    copies = tmp_path / "runs"
    shutil.copytree(root, copies, symlinks=True)
    for name, date in dated.items():
        file = copies / name / "config.json"
        config = json.loads(file.read_text())
        config["environment"]["date"] = date
        file.write_text(json.dumps(config))
    compare_folders([copies / "first", copies / "study" / "second"], copies / "both")
    (copies / "damaged").mkdir()
    for file in ("report.html", "metrics.json", "config.json"):
        (copies / "damaged" / file).write_text("{")
    table = overview(finished_runs(copies))
    assert list(table.columns) == list(COLUMNS)
    assert set(table["run"][:3]) == {"both", "damaged", HOSTILE}  # written now
    assert list(table["run"][3:]) == ["study/second", "first"]
    assert list(table["date"]) == sorted(table["date"], reverse=True)
    rows = table.set_index("run")
    assert list(rows.loc[["first", "study/second"], "date"]) == ["2026-03-01 10:00", "2026-03-02 09:30"]
    assert list(rows.loc[["both", "first", "study/second"], "what was done"]) == ["compare", "evaluate", "evaluate"]
    assert rows.loc["first", "model"] == str(model_folders["masked"])
    estimates = RunRecord.read(copies / "first").metrics.benchmarks[0].estimates
    shown = rows.loc["first", "headline measures [95 %]"]
    assert interval(estimates["overall.prefers_stereotype"]) in shown
    assert rows.loc["both", "model"] == "first, second"
    assert list(rows.loc["damaged"].drop("date")) == [""] * 3


def test_a_row_is_picked_and_dropped():
    assert toggled((), "a") == ["a"]
    assert toggled(["a", "b"], "a") == ["b"]
    assert toggled(["a"], "b") == ["a", "b"]  # the first one stays the reference
