"""Runs that were recorded before provenance had a schema are read like any other.

``recorded`` holds two of them: ``builtin:mini-mlm`` as it was, and after three steps of BEC with (U)NC3; 12 items of
each benchmark were scored, 300 sentences audited.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from equiframe.cli import main
from equiframe.commands.compare import compare_folders
from equiframe.commands.publish import write_card
from equiframe.commands.serve import page_of
from equiframe.errors import RunError
from equiframe.gate import Policy, judge
from equiframe.record import RunRecord
from equiframe.report import run_page

RECORDED = Path(__file__).parent / "recorded"
BEFORE, AFTER = RECORDED / "before", RECORDED / "after"


def test_what_was_given_is_typed_and_the_rest_is_kept():
    made = RunRecord.read(AFTER).provenance
    assert (made.verb, made.model, made.limit) == ("debias", "builtin:mini-mlm", 12)
    assert (made.audit.pairing, made.fine_tuning.lora_rank) == ("aligned", 0)
    assert made.environment.packages["equiframe"] == "0.1.0"
    assert {file.name for file in made.files} >= {"bug/full", "crows_pairs"}
    assert made.plain()["unc3"]["weight"] == 100.0


def test_they_are_compared():
    comparison = compare_folders([BEFORE, AFTER])
    compared = {found.benchmark for found in comparison.measures["after"]}
    assert compared >= {"crows_pairs:changed", "stereoset:dev", "lm_loss", "collapse:fairness", "contexts:gender"}
    loss = next(found for found in comparison.measures["after"] if found.measure == "overall.loss")
    assert loss.first.count == 12
    assert loss.difference.value == pytest.approx(loss.second.value - loss.first.value)


def test_they_have_a_card(tmp_path):
    card = write_card(AFTER, tmp_path / "card.md", before=BEFORE).read_text()
    assert "fine-tuned against bias with the method `bec` and the (U)NC3 term (weight 100) for 3 steps" in card
    assert "CrowS-Pairs" in card
    assert "transformers 5.23.0" in card


def test_they_are_served(tmp_path):
    for folder in (BEFORE, AFTER):
        shutil.copytree(folder, tmp_path / folder.name)
        record = RunRecord.read(folder)
        (tmp_path / folder.name / "report.html").write_text(run_page(record, title=folder.name))
    assert "after against before" in page_of(tmp_path, ["before", "after"])


def test_they_are_judged(tmp_path):
    (tmp_path / "gate.yaml").write_text(
        "fewest_items: 10\nrules:\n  - {benchmark: lm_loss, measure: overall.loss, no_worse_by: 1000}\n"
    )
    judgement = judge(RunRecord.read(AFTER), Policy.read(tmp_path / "gate.yaml"), RunRecord.read(BEFORE))
    assert judgement.outcome == "passed"


@pytest.mark.parametrize("layout", ["lm-eval", "model-index"])
def test_they_are_exported(tmp_path, layout):
    main(["export", str(AFTER), "--layout", layout, "--out", str(tmp_path / "out")])
    assert "crows_pairs" in (tmp_path / "out").read_text()


def test_a_wrong_type_names_the_field(tmp_path):
    shutil.copytree(BEFORE, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    file.write_text(file.read_text().replace('"limit": 12', '"limit": "all"'))
    with pytest.raises(RunError, match=r"config\.json: limit: .* integer"):
        RunRecord.read(tmp_path / "run")
