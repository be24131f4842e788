"""A run's folder: whole or not at all, readable by its schema, refused when it is not ours."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from equiframe.benchmarks.benchmark import BenchmarkResult, HalfPrecision
from equiframe.data import DataFile
from equiframe.errors import DataError, RunError
from equiframe.record import (
    CollapseResult,
    Metrics,
    ModelDescription,
    Provenance,
    RunRecord,
    environment,
    file_name,
    run_folder,
)
from equiframe.uncertainty import Estimate


def make_record(value: float = 55.0) -> RunRecord:
    estimate = Estimate(value=value, low=value - 3, high=value + 3, count=3, unit="%", ideal=50.0)
    result = BenchmarkResult(
        benchmark="crows_pairs:changed",
        version=1,
        scoring="each changed token masked alone",
        files=(DataFile(name="crows_pairs", origin="wheel", sha256="0" * 64, is_known_version=True),),
        items=3,
        excluded={"empty side": 1},
        estimates={"overall.score": estimate},
        seconds=1.5,
    )
    metrics = Metrics(
        verb="evaluate",
        model=ModelDescription(
            name="m", kind="masked", architecture="Bert", parameters=1, vocabulary=2, fingerprint="f"
        ),
        collapse=[CollapseResult(class_set="vocabulary", classes=2, tokens=9, values={"unc3": 0.1, "nc1": None})],
        benchmarks=[result],
    )
    table = pd.DataFrame({"item": ["a", "b", "c"], "score": [1.0, 2.0, 3.0], "excluded": [None, None, "why"]})
    return RunRecord(Provenance(model="m"), metrics=metrics, items={"crows_pairs:changed": table})


def test_round_trip(tmp_path):
    record = make_record()
    record.write(tmp_path)
    again = RunRecord.read(tmp_path)
    assert again.metrics == record.metrics
    assert again.provenance.plain() == record.provenance.plain()
    pd.testing.assert_frame_equal(
        again.items["crows_pairs:changed"], record.items["crows_pairs:changed"], check_dtype=False
    )
    assert again.classes is again.vectors is again.history is None


def test_vectors_keep_their_numbers(tmp_path):
    rows = [np.float32([0.1, -2.5]), np.float32([3e-8, 1.0])]
    vectors = pd.DataFrame({"token_id": [5, 7], "partners": [[7], [5]], "mean": rows, "embedding": rows[::-1]})
    dataclasses.replace(make_record(), vectors=vectors).write(tmp_path)
    again = RunRecord.read(tmp_path).vectors
    for name in ("partners", "mean", "embedding"):
        assert [list(row) for row in again[name]] == [list(row) for row in vectors[name]]


def test_the_environment_names_the_command(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/site-packages/equiframe/__main__.py", "audit", "a model", "--out", "x"])
    assert environment().command == "equiframe audit 'a model' --out x"
    monkeypatch.setattr("sys.argv", ["examples/study.py"])
    assert environment().command == "study.py"


def test_half_precision_is_kept_and_records_from_before_it_are_read(tmp_path):
    result = make_record().metrics.benchmarks[0]
    half = dataclasses.replace(result, half_precision=HalfPrecision("bf16", items=3, flips=1, largest_change=0.25))
    record = dataclasses.replace(make_record(), metrics=make_record().metrics.model_copy(update={"benchmarks": [half]}))
    record.write(tmp_path)
    assert RunRecord.read(tmp_path).metrics.benchmarks == [half]
    stored = json.loads((tmp_path / "metrics.json").read_text())
    del stored["benchmarks"][0]["half_precision"]
    (tmp_path / "metrics.json").write_text(json.dumps(stored))
    assert RunRecord.read(tmp_path).metrics.benchmarks == [result]


def test_a_number_that_is_not_finite_is_never_written(tmp_path):
    with pytest.raises(RunError, match=r"metrics\.json: a number is not finite"):
        make_record(float("nan")).write(tmp_path)
    assert not (tmp_path / "metrics.json").exists()


def test_a_finished_block_becomes_the_folder(tmp_path):
    out = tmp_path / "deep" / "run"
    with run_folder(out, {"a": 1}) as work:
        (work / "x").write_text("1")
        assert not out.exists()
    assert (out / "x").read_text() == "1"
    assert sorted(path.name for path in out.parent.iterdir()) == ["run"]
    assert [path.name for path in out.iterdir()] == ["x"]


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match="exists"), run_folder(tmp_path / "run", {}):
        raise AssertionError("not reached")


def test_an_error_leaves_nothing_under_the_name(tmp_path):
    with pytest.raises(ZeroDivisionError), run_folder(tmp_path / "run", {}) as work:
        (work / "half").touch()
        _ = 1 / 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("identity", "kept"), [({"a": 1}, True), ({"a": 2}, False)])
def test_an_interrupted_run_goes_on_only_as_itself(tmp_path, identity, kept):
    with pytest.raises(ZeroDivisionError), run_folder(tmp_path / "run", {"a": 1}) as work:
        (work / "checkpoint").touch()
        _ = 1 / 0
    with run_folder(tmp_path / "run", identity) as work:
        assert (work / "checkpoint").exists() is kept


def test_two_processes_on_one_folder(tmp_path):
    with (
        FileLock(tmp_path / "run.lock"),
        pytest.raises(RunError, match="another process"),
        run_folder(tmp_path / "run", {}),
    ):
        raise AssertionError("not reached")


def test_a_lock_that_cannot_be_deleted_stays(tmp_path, monkeypatch):
    unlink = Path.unlink

    def in_use(self, missing_ok=False):  # as on Windows, where the lock is still open
        if self.suffix == ".lock":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", in_use)
    for name in ("run", "other"):
        with run_folder(tmp_path / name, {}) as work:
            (work / "metrics.json").touch()
        assert (tmp_path / name / "metrics.json").exists()


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(RunError, match="No space left"), run_folder(tmp_path / "run", {}):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    def closed(self, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("pathlib.Path.exists", closed)
    with pytest.raises(RunError, match="Permission denied"), run_folder(tmp_path / "run", {}):
        raise AssertionError("not reached")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_parent_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunError, match="Permission denied"), run_folder(tmp_path / "run", {}):
            raise AssertionError("not reached")
    finally:
        tmp_path.chmod(0o700)


def test_a_parent_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write the run"), run_folder(tmp_path / "file" / "run", {}):
        raise AssertionError("not reached")


def test_a_run_that_another_process_ended_meanwhile_is_kept(tmp_path, monkeypatch):
    def taken(self, *_, **__):  # by the time the lock is free, the other's run is there
        (tmp_path / "run").mkdir()

    monkeypatch.setattr(FileLock, "acquire", taken)
    with pytest.raises(RunError, match="exists"), run_folder(tmp_path / "run", {}):
        raise AssertionError("not reached")


def test_no_run_there(tmp_path):
    with pytest.raises(RunError, match="not a finished run"):
        RunRecord.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.pop("model"), "model"),
        (lambda m: m.update(schema_version="equiframe.metrics/99"), "schema_version"),
        (lambda m: m["benchmarks"][0].update(items="many"), "benchmarks.0.items"),
        (lambda m: m.update(extra=1), "extra"),
    ],
)
def test_a_record_that_does_not_fit_names_the_place(tmp_path, change, named):
    make_record().write(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    change(metrics)
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(RunError, match=named):
        RunRecord.read(tmp_path)


def test_broken_files(tmp_path):
    make_record().write(tmp_path)
    (tmp_path / "items" / "crows_pairs-changed.parquet").write_bytes(b"no")
    with pytest.raises(RunError, match="Parquet"):
        RunRecord.read(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(DataError, match=r"metrics\.json, line 1: .*JSON"):
        RunRecord.read(tmp_path)


def test_a_small_table_that_says_it_is_huge_is_not_unpacked(tmp_path):
    make_record().write(tmp_path)
    bomb = pd.DataFrame({"item": pd.Categorical.from_codes([0] * 10_000_001, ["a"])})
    file = tmp_path / "items" / "crows_pairs-changed.parquet"
    bomb.to_parquet(file)
    assert file.stat().st_size < 100_000
    with pytest.raises(RunError, match="10,000,001 rows"):
        RunRecord.read(tmp_path)


def test_file_names_stay_inside_the_folder():
    assert file_name("crows_pairs:changed") == "crows_pairs-changed"
    assert "/" not in file_name("../../etc/passwd")


def test_benchmarks_that_are_named_by_paths_keep_their_items_apart(tmp_path):
    names = ["pairs:a/b.csv", "pairs:a-b.csv", f"pairs:/{'long/' * 60}b.csv"]
    record = make_record()
    results = [dataclasses.replace(record.metrics.benchmarks[0], benchmark=name) for name in names]
    tables = {name: pd.DataFrame({"item": [name]}) for name in names}
    RunRecord(Provenance(model="m"), record.metrics.model_copy(update={"benchmarks": results}), tables).write(tmp_path)
    again = RunRecord.read(tmp_path)
    assert {name: table["item"][0] for name, table in again.items.items()} == {name: name for name in names}
