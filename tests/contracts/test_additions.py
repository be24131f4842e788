"""What is added takes one new file and at most one line: a benchmark, a method, a collapse metric, an answerer.

The new files are the classes and functions below; the line is a name on the command line, or an entry in ``METRICS``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from equiframe.about import About, Term
from equiframe.benchmarks import Benchmark, Outcome, load_benchmark
from equiframe.benchmarks.asking import each_masked_alone
from equiframe.benchmarks.benchmark import Asked, Measure
from equiframe.benchmarks.row_statistics import mean_of
from equiframe.collapse import METRICS, CollapseMetric
from equiframe.commands.run import run
from equiframe.config import AuditOptions, DebiasConfig, FineTuning
from equiframe.data import stream
from equiframe.methods.text import TextMethod
from equiframe.models import load
from equiframe.record import RunRecord, about
from equiframe.report.figures import collapse_panels, styles
from equiframe.runs.audit import audit_model
from equiframe.runs.evaluate import score

HERE = __name__


class Letters(Benchmark[str]):
    """How surely a model knows an occupation."""

    name = "letters"
    version = 1
    headline = ("overall.surety",)
    about = About("Occupations", "Four words are few.", {"surety": Term("surety", "mean log-probability")})

    def items(self, *_, **__):
        return ["nurse", "cook", "doctor", "teacher"], ()

    def scoring(self, codec):
        return "each token masked alone"

    def rows(self, item, codec):
        return [Outcome(item)]

    def ask(self, item, codec):
        return Asked([each_masked_alone(item, codec)])

    def read(self, item, answers, codec):
        return [{"surety": sum(sum(found) for found in answers[0])}]

    def measures(self, outcomes):
        return [Measure("overall.surety", outcomes.index.to_numpy(), mean_of(outcomes["surety"].to_numpy()), "nats")]


@dataclass(frozen=True)
class PlainText(TextMethod):
    """Fine-tune on a text as it is."""

    name: ClassVar[str] = "plain-text"
    file: str = "gap"

    def text_to_train_on(self, source, seed):
        return stream(self.file, source)


WIDTH = CollapseMetric(
    lambda statistics, classifier: {"width": float(torch.pdist(statistics.means.float()).max())},
    {"width": Term("width of the means", "largest distance between two words", higher_is_better=True)},
)


@dataclass(frozen=True)
class Halves:
    """Answers that every probability is one half."""

    codec: object
    name: str = "halves"
    kind: str = "masked"
    precision: str = "float32"

    def fingerprint(self):
        return "halves"

    def answer(self, requests, progress=None):
        return [(-0.6931471805599453,) * len(request.targets) for request in requests]


@pytest.fixture
def model(model_folders):
    return load(str(model_folders["masked"]), device="cpu")


def test_an_answerer_and_a_benchmark(model):
    result, table = score(Halves(model.codec), load_benchmark(f"{HERE}:Letters"))
    tokens = {word: len(model.codec.places(model.codec.encode(word))) for word in table["item"]}
    assert dict(zip(table["item"], table["surety"], strict=True)) == pytest.approx(
        {word: -0.6931471805599453 * count for word, count in tokens.items()}
    )
    assert (about(result).title, result.headline) == ("Occupations", ("overall.surety",))


def test_a_method_and_a_benchmark_in_a_run(model_folders, gap_folder, tmp_path):
    config = DebiasConfig(
        str(model_folders["masked"]),
        method=f"{HERE}:PlainText",
        benchmarks=(f"{HERE}:Letters",),
        fine_tuning=FineTuning(max_steps=1, batch_size=2),
        data=gap_folder,
        audit=None,
        limit=3,
    )
    run(config, tmp_path / "run")
    record = RunRecord.read(tmp_path / "run")
    assert record.metrics.training.does == "Fine-tune on a text as it is."
    assert record.metrics.results[f"{HERE}:Letters"].items == 3
    assert "Four words are few." in (tmp_path / "run" / "report.html").read_text()


def test_a_collapse_metric_is_measured_recorded_and_shown(model, text, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("\n".join(text * 5))
    monkeypatch.setattr("equiframe.collapse.metrics.METRICS", [*METRICS, WIDTH])
    measured = audit_model(model, AuditOptions(text=str(tmp_path / "text.txt"), words="gender", min_count=2, pairs=0))
    monkeypatch.undo()
    result = measured.results[-1]
    assert result.values["width"] > 0
    assert about(result).terms["width"].name == "width of the means"
    panels = {panel.title: panel for panel in collapse_panels({"run": [result]}, styles(["run"]))}
    assert "higher is more collapsed" in panels["Width of the means"].note
