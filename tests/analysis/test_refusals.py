"""What is not comparable is refused with the difference: by benchmark, by audit, by what the runs share."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pandas as pd
import pytest

from equiframe.analysis.comparison import compare
from equiframe.benchmarks.benchmark import Generated
from equiframe.commands.compare import compare_folders
from equiframe.errors import InputError, RunError
from equiframe.record import RunRecord

RECORDED = Path(__file__).parents[1] / "record" / "recorded"


@pytest.fixture(scope="module")
def runs():
    return {name: RunRecord.read(RECORDED / name) for name in ("before", "after")}


def benchmark(record, **changes):
    """The run with one of its benchmarks, changed."""
    result = dataclasses.replace(record.metrics.benchmarks[0], **changes)
    return dataclasses.replace(record, metrics=record.metrics.model_copy(update={"benchmarks": [result]}))


def alone(record):
    """The run with benchmarks alone."""
    metrics = record.metrics.model_copy(update={"collapse": [], "contexts": []})
    return dataclasses.replace(record, metrics=metrics, classes=None, pairs=None)


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"version": 99}, "version"), ({"files": ()}, "files"), ({"scoring": "by ear"}, "scoring")],
)
def test_other_versions_data_or_scoring(runs, changes, what):
    other = benchmark(runs["after"], **changes)
    with pytest.raises(InputError, match=f"crows_pairs:changed: before and after differ in {what}: evaluate one again"):
        compare({"before": runs["before"], "after": other})


def test_responses_with_and_without_a_chat_template(runs):
    def asked(is_chat):
        return benchmark(alone(runs["before"]), generated=Generated("a model", chat_template=is_chat))

    with pytest.raises(InputError, match="after differ in the use of a chat template: evaluate one again"):
        compare({"before": asked(True), "after": asked(False)})
    assert compare({"before": asked(True), "after": asked(None)}).measures["after"]  # a file does not say it


@pytest.mark.parametrize("option", ["multi_token", "pairing", "feature", "visibility"])
def test_audits_by_other_options(runs, option):
    made = runs["after"].provenance
    other = made.model_copy(update={"audit": made.audit.model_copy(update={option: "another"})})
    with pytest.raises(InputError, match=f"audit: before and after differ in {option}: audit one again"):
        compare({"before": runs["before"], "after": dataclasses.replace(runs["after"], provenance=other)})


def test_one_run_alone(runs):
    with pytest.raises(InputError, match="a comparison needs two runs or more, found 1"):
        compare({"before": runs["before"]})


def test_nothing_in_common(runs):
    first, second = alone(runs["before"]), alone(runs["after"])
    metrics = second.metrics.model_copy(
        update={"benchmarks": [found for found in second.metrics.benchmarks if found.benchmark == "lm_loss"]}
    )
    first = benchmark(first)
    with pytest.raises(InputError, match="before and after have no measure in common"):
        compare({"before": first, "after": dataclasses.replace(second, metrics=metrics)})


def test_items_that_hardly_overlap(runs):
    def renamed(table):
        return table.assign(item=[f"other {item}" for item in table["item"]])

    items = {name: renamed(table) for name, table in runs["after"].items.items()}
    with pytest.raises(InputError, match=r"the runs share 0 items \(before 12, after 12\), too few to compare"):
        compare({"before": alone(runs["before"]), "after": dataclasses.replace(alone(runs["after"]), items=items)})


def test_items_in_other_groups(runs):
    moved = {
        name: table.assign(bias_type=table["bias_type"].iloc[::-1].tolist()) if "bias_type" in table else table
        for name, table in runs["after"].items.items()
    }
    with pytest.raises(InputError, match=r"the items of .* differ between the runs: evaluate one again"):
        compare({"before": alone(runs["before"]), "after": dataclasses.replace(alone(runs["after"]), items=moved)})


def test_folders_of_one_name_and_folders_without_a_run(tmp_path):
    shutil.copytree(RECORDED / "before", tmp_path / "before")
    with pytest.raises(InputError, match="two runs have the same name among before, before: rename one folder"):
        compare_folders([RECORDED / "before", tmp_path / "before"])
    with pytest.raises(RunError, match=r"nowhere is not a finished run: it has no metrics\.json"):
        compare_folders([RECORDED / "before", tmp_path / "nowhere"])


def test_what_is_refused_writes_nothing(runs, tmp_path):
    shutil.copytree(RECORDED / "after", tmp_path / "after")
    table = pd.read_parquet(tmp_path / "after" / "items" / "lm_loss.parquet").assign(item="x")
    table.to_parquet(tmp_path / "after" / "items" / "lm_loss.parquet")
    with pytest.raises(InputError, match="lm_loss: the runs share"):
        compare_folders([RECORDED / "before", tmp_path / "after"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
