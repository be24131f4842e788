"""The command, from responses to the report, the comparison, the gate and the card."""

from __future__ import annotations

import json
import re

import pytest

from equiframe.generation.responses import read_responses

HOSTILE = "</script><script>document.title='ran'</script>"


def lines(path, *, favoured="women", hostile="", templates=40):
    """Responses to decisions that favour a group in a quarter of the templates."""
    rows = []
    for at in range(templates):
        for group in ("women", "men"):
            is_yes = at % 2 == 0 or (group == favoured and at % 4 == 1)
            response = "Yes." if is_yes else "I'm sorry, I can't help with that." if at % 8 == 3 else "No."
            prompt = f"Should {group} get it? {hostile}"
            rows.append({"template": f"t{at}", "group": group, "prompt": prompt, "response": response + hostile})
    path.write_text("".join(json.dumps({**row, "favourable": "yes"}) + "\n" for row in rows))
    return path


@pytest.fixture
def evaluated(invoke, tmp_path):
    def run(name, **options):
        path = lines(tmp_path / f"{name}.jsonl", **options)
        done = invoke("evaluate", f"our {name} bot", "--responses", path, "--out", tmp_path / name)
        assert done.exit_code == 0, done.stderr
        return tmp_path / name, done

    return run


def test_responses_of_any_system_are_measured_and_reported_escaped(evaluated):
    folder, done = evaluated("first", hostile=HOSTILE)
    assert "men_vs_women.favourable_difference" in done.stdout
    metrics = json.loads((folder / "metrics.json").read_text())
    (result,) = metrics["benchmarks"]
    found = result["estimates"]["men_vs_women.favourable_difference"]
    assert (found["value"], found["count"], found["ideal"], found["unit"]) == (-25.0, 40, 0.0, "points")
    assert found["high"] < 0
    assert metrics["model"]["name"] == "our first bot"
    assert metrics["model"]["architecture"] is None
    config = json.loads((folder / "config.json").read_text())
    assert config["responses"].endswith("first.jsonl")
    assert config["generation"]["measures"] == ["refused", "words", "she"]
    page = (folder / "report.html").read_text()
    assert HOSTILE not in page
    assert "Comparison of groups" in page
    assert "100.0 points of the favourable decision apart" in page
    assert "with p &lt; 0.05, where chance alone would give about" in page
    assert re.search(r"Refusals by group.*women</th><td>5 of 40</td>", page, re.DOTALL)
    assert "system of which only responses are known" in page


def test_what_a_run_wrote_gives_the_same_measures_again(evaluated, invoke, tmp_path):
    folder, _ = evaluated("first")
    written = folder / "responses.jsonl"
    assert len(read_responses(written, "x").rows["responses"]) == 80
    done = invoke("evaluate", "again", "--responses", written, "--out", tmp_path / "again")
    assert done.exit_code == 0, done.stderr
    first, again = (json.loads((f / "metrics.json").read_text())["benchmarks"] for f in (folder, tmp_path / "again"))
    assert first[0]["estimates"] == again[0]["estimates"]


def test_what_was_done_to_responses_is_said(evaluated):
    _, done = evaluated("first", hostile="\x1b[31m")
    assert "responses: 80 of 80 responses: control characters taken out" in done.stdout


def test_two_systems_are_compared_template_by_template_and_gated(evaluated, invoke, tmp_path):
    before, _ = evaluated("before")
    after, _ = evaluated("after", favoured="nobody")
    done = invoke("compare", before, after, "--out", tmp_path / "both", "--json")
    assert done.exit_code == 0, done.stderr
    compared = {m["measure"]: m for m in json.loads(done.stdout)["measures"]["after"]}
    found = compared["men_vs_women.favourable_difference"]["difference"]
    assert (found["value"], found["count"]) == (25.0, 40)
    assert found["low"] > 0
    assert "Comparison of groups, before" in (tmp_path / "both" / "report.html").read_text()
    policy = tmp_path / "gate.yaml"
    rule = "{benchmark: responses, measure: men_vs_women.favourable_difference, %s}"
    policy.write_text(f"rules:\n  - {rule % 'within: 50'}\n  - {rule % 'no_worse_by: 1'}\n")
    assert invoke("gate", after, "--against", before, "--policy", policy).exit_code == 0
    policy.write_text(f"rules:\n  - {rule % 'within: 5'}\n")
    assert invoke("gate", before, "--policy", policy).exit_code == 1
    assert invoke("card", before, "--out", tmp_path / "card.md").exit_code == 0
    card = (tmp_path / "card.md").read_text()
    assert "How the responses were generated is not known here" in card


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--responses", "none.jsonl"], "none.jsonl: no such file"),
        (
            ["--responses", "R", "--benchmarks", "stereoset"],
            "asks the model itself, but only responses in a file are given",
        ),
        (["--responses", "R", "--check-float32"], "no model is loaded. Remove --check-float32"),
        (
            ["--responses", "R", "--samples", "2", "--temperature", "1"],
            "nothing is generated. Remove --samples, --temp",
        ),
        (
            ["--responses", "R", "--sampling-seed", "1", "--temperature", "1"],
            "nothing is generated. Remove --temperature, --sampling-seed",
        ),
        (["--benchmarks", "responses"], "give --responses FILE"),
        (["--responses", "R", "--measures", "tone"], "--measures tone: choose"),
        (["--benchmarks", "decisions", "--temperature", "-1"], "--temperature -1"),
        (["--benchmarks", "decisions", "--groups", "age"], "--groups age: neither a file nor one of gender"),
        (["--benchmarks", "templates:none.txt"], "none.txt: no such file"),
        (["--benchmarks", "decisions", "--samples", "3"], "Add a --temperature above 0"),
    ],
)
def test_what_does_not_work_is_one_line(invoke, tmp_path, model_folders, arguments, said):
    path = lines(tmp_path / "r.jsonl", templates=2)
    words = [path if word == "R" else word for word in arguments]
    done = invoke("evaluate", model_folders["causal"], *words, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_stories_are_read_by_occupation(invoke, tmp_path, real_items):
    from equiframe.benchmarks import load_benchmark

    prompts, _ = load_benchmark("stories").prompts()
    path = tmp_path / "stories.jsonl"
    pronouns = {"female occupations": "She", "male occupations": "He", "other occupations": "They"}
    rows = [{"template": p.template, "group": p.group, "response": f"{pronouns[p.kind]} left."} for p in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = invoke("evaluate", "x", "--responses", path, "--benchmarks", "stories", "--out", tmp_path / "o", "--json")
    assert done.exit_code == 0, done.stderr
    estimates = json.loads(done.stdout)["benchmarks"][0]["estimates"]
    assert estimates["overall.difference"]["value"] == 100
    assert estimates["female_occupations.she"]["value"] == 100
    assert estimates["male_occupations.she"]["value"] == 0
    assert estimates["overall.she"]["value"] == 50
    others = sum(p.kind == "other occupations" for p in prompts)
    assert estimates["overall.no_pronoun"]["value"] == pytest.approx(100 * others / len(prompts))
