"""The command: exit codes, what it prints and writes, on runs made by hand and on real ones of the built-in model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
import yaml

from equiframe.gate import Policy, example_policy, judge
from equiframe.models import load
from equiframe.record import RunRecord
from equiframe.report import gate as output

ROOT = Path(__file__).parents[2]

PAIRS = "pairs:mine.csv"
LIMITS = {"passed": 35, "failed": 10, "not judged": 26}
CODES = {"passed": 0, "failed": 1, "not judged": 3}


@pytest.fixture
def write_policy(tmp_path):
    def write(*rules, required=()):
        file = tmp_path / "gate.yaml"
        file.write_text(json.dumps({"required": list(required), "rules": list(rules)}))  # JSON is YAML
        return file

    return write


@pytest.fixture
def run(make_run, preferring, tmp_path):
    folder = tmp_path / "after"
    folder.mkdir()
    make_run(pairs=preferring(300, 400)).write(folder)
    return folder


def rule(limit, benchmark=PAIRS, measure="overall.prefers_stereotype", kind="within"):
    return {"benchmark": benchmark, "measure": measure, kind: limit}


LOSS = rule(0.1, "lm_loss", "overall.loss", "no_worse_by")


@pytest.mark.parametrize("outcome", CODES)
def test_the_exit_code_says_what_came_out(invoke, run, write_policy, outcome):
    file = write_policy(rule(LIMITS[outcome]))
    done = invoke("gate", run, "--policy", file)
    assert done.exit_code == CODES[outcome]
    assert f"{outcome.upper()}: 1 {outcome}" in done.output
    assert "75.0 [" in done.output
    as_json = invoke("gate", run, "--policy", file, "--json")
    assert as_json.exit_code == CODES[outcome]
    found = json.loads(as_json.output)
    assert (found["schema_version"], found["outcome"]) == ("equiframe.gate/1", outcome)
    assert found["rulings"][0]["items"] == 400
    assert (found["rulings"][0]["items_needed"] is not None) == (outcome == "not judged")


def test_chance_is_told(invoke, run, write_policy):
    done = invoke("gate", run, "--policy", write_policy(*[rule(limit) for limit in (20, 21, 22, 23)]))
    assert "4 rules on 95 % intervals" in done.output
    assert "at most 18.5 % if the rules are independent and 20.0 % if they are not" in done.output
    done = invoke("gate", run, "--policy", write_policy(rule(20)))
    assert "it passes or fails wrongly with a probability of at most 5.0 %." in done.output


def test_reports_hold_every_ruling(invoke, run, write_policy, tmp_path):
    file = write_policy(*map(rule, LIMITS.values()), required=[PAIRS, "lm_loss"])
    junit, markdown = tmp_path / "gate.xml", tmp_path / "gate.md"
    markdown.write_text("what was there before")
    done = invoke("gate", run, "--policy", file, "--junit", junit, "--markdown", markdown)
    assert done.exit_code == 1
    suite = ET.parse(junit).getroot().find("testsuite")
    assert {key: suite.get(key) for key in ("tests", "failures", "errors")} == {
        "tests": "5",
        "failures": "2",
        "errors": "1",
    }
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert len(cases) == 5
    assert (
        cases["lm_loss: has been measured"]
        .find("failure")
        .get("message")
        .startswith("the run has not measured this benchmark")
    )
    (error,) = [case.find("error") for case in cases.values() if case.find("error") is not None]
    assert "more items" in error.get("message")
    assert cases[f"{PAIRS}: has been measured"].find("*") is None
    text = markdown.read_text()
    assert text.startswith("## Bias gate ✗ FAILED: 2 passed, 2 failed, 1 not judged\n\nModel: by \\| hand.\n")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 7
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)
    assert len([line for line in text.splitlines() if line.startswith("- ")]) == 3


def test_names_cannot_break_the_reports(make_run, preferring):
    policy = Policy.model_validate({"rules": [rule(5, PAIRS, "<b>\x01|\n*")]})
    judgement = judge(make_run(pairs=preferring(200, 400)), policy)
    case = ET.fromstring(output.junit(judgement)).find("testsuite/testcase")
    assert case.get("name") == f"{PAIRS} <b>\ufffd|\n*: within 5 of its ideal"
    (row,) = [line for line in output.markdown(judgement).splitlines() if line.startswith(r"| pairs")]
    assert r"&lt;b&gt;" in row
    assert row.replace(r"\|", "").count("|") == 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run": None, "policy": None}, "the folder of a run and --policy FILE are required. equiframe gate --example"),
        ({"policy": None}, "the folder of a run and --policy FILE are required"),
        ({"run": "nothing"}, "nothing is not a finished run"),
        ({"--against": "nothing"}, "nothing is not a finished run"),
        ({"policy": "nothing.yaml"}, "nothing.yaml: cannot be read"),
        ({"--junit": "no/such/folder.xml"}, "no/such/folder.xml: cannot be written"),
        ({"--markdown": "no/such/folder.md"}, "no/such/folder.md: cannot be written"),
    ],
)
def test_wrong_use_is_told_from_a_failed_gate(invoke, run, write_policy, change, said):
    given = {"run": run, "policy": write_policy(rule(20)), **change}
    arguments = [given.pop("run")] if given["run"] else []
    options = {"--policy": given.get("policy"), **{key: value for key, value in given.items() if key[0] == "-"}}
    done = invoke("gate", *arguments, *(word for pair in options.items() if pair[1] for word in pair))
    assert done.exit_code == 2
    assert said in done.output


def test_a_defect_is_told_from_a_failed_gate(invoke, run, write_policy, monkeypatch):
    monkeypatch.setattr("equiframe.gate.judge", None)  # calling it is a defect
    done = invoke("gate", run, "--policy", write_policy(rule(20)))
    assert done.exit_code == 70
    assert "TypeError: 'NoneType' object is not callable" in done.stderr
    assert done.stderr.endswith("This is a defect of equiframe. Please report it with the lines above.\n")


def test_the_example_is_printed(invoke):
    done = invoke("gate", "--example")
    assert (done.exit_code, done.output) == (0, example_policy())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """25 pairs of sentences, too few to judge."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    people, places = ("nurse", "doctor", "teacher", "engineer", "king"), ("street", "job", "ball", "house", "car")
    rows = [f"She told the {a} about the {b}.,He told the {a} about the {b}." for a in people for b in places]
    file.write_text("stereotype,anti_stereotype\n" + "\n".join(rows) + "\n")
    return file


@pytest.fixture(scope="module")
def workflow(pairs, tmp_path_factory):
    """Where the steps of the manual's workflow ran as GitHub runs them, the built-in model as its own candidate."""
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    folder = tmp_path_factory.mktemp("workflow")
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/howto/gate.md").read_text(), re.MULTILINE | re.DOTALL)
    job = yaml.safe_load(text)["jobs"]["gate"]
    steps = [step["run"] for step in job["steps"] if "run" in step and "pip install" not in step["run"]]
    assert len(steps) == 3
    (folder / "gate.yaml").write_text(json.dumps({"required": ["lm_loss"], "rules": [LOSS]}))
    given = {"RELEASED": "builtin:mini-mlm", "CANDIDATE": "builtin:mini-mlm", "LIMIT": "60"}
    given["BENCHMARKS"] = f"pairs:{pairs},lm_loss"
    assert job["env"].keys() == given.keys()
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": programs, "GITHUB_STEP_SUMMARY": str(folder / "summary.md"), **given}
    for step in steps:
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_workflow_of_the_manual_passes_the_built_in_model_against_itself(workflow):
    assert "PASSED: 2 passed" in (workflow / "summary.md").read_text()
    assert ET.parse(workflow / "gate.xml").getroot().find("testsuite").get("tests") == "2"
    assert RunRecord.read(workflow / "runs" / "after").metrics.benchmarks[1].estimates["overall.loss"].count == 60


def test_a_damaged_model_fails(invoke, workflow, pairs, write_policy, tmp_path):
    loaded = load("builtin:mini-mlm", device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in loaded.model.parameters():
            weight += 0.5 * weight.std() * torch.randn_like(weight) if weight.ndim > 1 else 0.0
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    done = invoke("evaluate", tmp_path / "model", "--benchmarks", "lm_loss", "--limit", 60, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    done = invoke("gate", tmp_path / "run", "--against", workflow / "runs/before", "--policy", write_policy(LOSS))
    assert done.exit_code == 1, done.output
    assert "the whole interval is outside the limit" in done.output


def test_too_few_items_of_the_built_in_model_cannot_be_judged(invoke, workflow, pairs, write_policy):
    policy = write_policy(LOSS, rule(45, f"pairs:{pairs}"))
    done = invoke("gate", workflow / "runs/after", "--against", workflow / "runs/before", "--policy", policy)
    assert done.exit_code == 3, done.output
    assert "it uses only 25 items: at least 5 more (30 in total) are needed" in done.output
    assert "NOT JUDGED: 1 passed, 1 not judged" in done.output
