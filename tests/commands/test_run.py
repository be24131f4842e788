"""What a run reads, and when."""

from __future__ import annotations

import pytest

from equiframe.benchmarks.crows_pairs import CrowSPairs
from equiframe.commands.run import run
from equiframe.config import EvaluateConfig
from equiframe.errors import MissingDataError


def test_the_data_of_a_benchmark_are_parsed_once(model_folders, tmp_path, monkeypatch):
    parsed, items = [], CrowSPairs.items

    def counted(self, source):
        parsed.append(source)
        return items(self, source)

    monkeypatch.setattr(CrowSPairs, "items", counted)
    record = run(EvaluateConfig(str(model_folders["masked"]), benchmarks=("crows_pairs",), limit=5), tmp_path / "run")
    assert len(parsed) == 1
    assert record.metrics.results["crows_pairs"].items == 5


def test_data_that_are_missing_are_missed_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("equiframe.runs.answerers.load", None)
    with pytest.raises(MissingDataError, match="hurtlex"):
        run(EvaluateConfig("builtin:mini-mlm", benchmarks=("honest",), data=tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()
