"""Half precision: scored as a whole, compared with float32 on a sample, and never mixed with it."""

from __future__ import annotations

import contextlib
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from equiframe.benchmarks.benchmark import Asked, Benchmark, HalfPrecision, Outcome, half_precision
from equiframe.models.projected import project
from equiframe.runs import evaluate
from equiframe.runs.evaluate import score
from equiframe.runs.record import RunRecord
from equiframe.scoring.engine import answer
from equiframe.scoring.requests import Embedding, TokenLogProbs
from equiframe.scoring.store import AnswerStore
from equiframe.uncertainty import Measure

PLAIN, NEAR, CLEAR = 10, 11, 12
"""Tokens: with logit 1, with one that bfloat16 cannot tell from it, and with logit 2."""


class TwoTokens(Benchmark[int]):
    """Which of two tokens is likelier at a place; every twentieth item is between near ones."""

    name = "two_tokens"
    version = 1
    decisions = (("first", "second"),)

    def __init__(self, count=60):
        self.count = count

    def items(self, source=None):
        return list(range(self.count)), ()

    def scoring(self, codec):
        return "log-probability"

    def rows(self, item, codec):
        return [Outcome(str(item))]

    def ask(self, item, codec):
        return Asked([[TokenLogProbs((2, 5 + item % 20, 3), (1, 1), (PLAIN, CLEAR if item % 20 else NEAR))]])

    def read(self, item, answers, codec):
        (((first, second),),) = answers
        return [{"first": first, "second": second, "constant": math.nan}]

    def measures(self, outcomes):
        wins = (outcomes["second"] > outcomes["first"]).to_numpy(dtype=float)
        return [Measure("wins", np.arange(len(outcomes)), lambda rows: wins[rows].mean(axis=-1), "share")]


@pytest.fixture
def near_tie(masked_model):
    """A model whose logits are its biases."""
    with torch.no_grad():
        masked_model.model.cls.predictions.decoder.weight.zero_()
        bias = masked_model.model.cls.predictions.bias
        bias.zero_()
        bias[[PLAIN, NEAR, CLEAR]] = torch.tensor([1.0, 1.0001, 2.0])
    return masked_model


def test_flips_are_counted_where_bfloat16_cannot_tell_two_tokens_apart(near_tie):
    exact, table = score(near_tie, TwoTokens(), resamples=20)
    half, rounded = score(near_tie, TwoTokens(), resamples=20, precision="bf16")
    assert (exact.half_precision, exact.estimates["wins"].value) == (None, 1.0)
    assert half.estimates["wins"].value == 57 / 60
    assert half.half_precision.flips == 3
    assert str(half.half_precision) == "in bf16 3 of 60 decisions flip"
    moved = (table[["first", "second"]] - rounded[["first", "second"]]).abs().to_numpy().max()
    assert half.half_precision.largest_change == pytest.approx(moved)
    assert (exact.scoring, half.scoring) == ("log-probability", "log-probability, in bf16")


def test_a_sample_spread_over_the_items_is_compared(near_tie, monkeypatch):
    asked, ask = [], evaluate._ask

    def counted(benchmark, language_model, items, **options):
        asked.append((language_model.model.dtype, list(items)))
        return ask(benchmark, language_model, items, **options)

    monkeypatch.setattr(evaluate, "_ask", counted)
    result, table = score(near_tie, TwoTokens(500), resamples=20, precision="fp16", limit=400)
    assert len(table) == 400
    (half, scored), (full, sample) = asked
    assert (half, full) == (torch.float16, torch.float32)
    assert sample == scored[::2]
    assert result.half_precision.items == 200


def test_a_decision_is_the_largest_value_or_the_sign_of_one():
    def compared(decisions, half, full, excluded=None):
        benchmark = TwoTokens()
        benchmark.decisions = decisions
        pairs = [[Outcome("0", {}, dict(zip("abc", values, strict=True)), excluded)] for values in (half, full)]
        return half_precision(benchmark, "bf16", *pairs)

    assert compared([("a", "b", "c")], (3, 2, 1), (3, 1, 2)).flips == 0
    assert compared([("a", "b"), ("b", "c")], (3, 2, 1), (3, 1, 2)).flips == 1
    assert compared([("a", "b", "c")], (3, 2, 1), (3, 3, 2)).flips == 1  # a tie is a decision of its own
    assert compared([("a",)], (1, 2, 1), (0.5, 1, 2)).flips == 0
    assert compared([("a",)], (1, 2, 1), (-0.5, 1, 2)).flips == 1
    none = compared([], (1, 2, 1), (-0.5, 1, 2))
    assert none == HalfPrecision("bf16", items=1, flips=None, largest_change=1.5)
    assert str(none) == "in bf16 the values of 1 items change by up to 1.5"
    assert compared([("a",)], (1, 2, 1), (-0.5, 1, 2), "why") == HalfPrecision("bf16", 0, 0, 0.0)


REQUESTS = [
    *(TokenLogProbs((2, i, i + 1, 3), (1, 2), (i, 7)) for i in range(5, 25)),
    *(Embedding((2, i, 3), "mean") for i in range(5, 15)),
]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_answers_nearly_alike_and_leaves_the_model_alone(language_model, precision):
    project(language_model.model, torch.eye(16))
    before, fingerprint = answer(language_model, REQUESTS), language_model.fingerprint()
    half = language_model.in_precision(precision)
    assert {tensor.dtype for tensor in half.model.state_dict().values()} == {half.model.dtype}
    found = answer(half, REQUESTS)
    assert answer(language_model, REQUESTS) == before != found
    assert (language_model.fingerprint(), language_model.model.dtype) == (fingerprint, torch.float32)
    for mine, other in zip(found, before, strict=True):
        assert mine == pytest.approx(other, abs=0.05)
    assert language_model.in_precision("fp32") is language_model


def test_the_store_does_not_mix_precisions(near_tie, tmp_path):
    def scored(precision, store=None):
        return score(near_tie, TwoTokens(), resamples=20, precision=precision, store=store)[1]

    alone = {precision: scored(precision) for precision in ("fp32", "bf16", "fp16")}
    with contextlib.closing(AnswerStore(tmp_path / "store.sqlite", near_tie)) as store:
        for _ in range(2):
            for precision, expected in alone.items():
                pd.testing.assert_frame_equal(scored(precision, store), expected, check_exact=True)
    assert not alone["fp32"].equals(alone["bf16"])


def test_the_command_says_what_flipped(invoke, model_folders, tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("stereotype,anti_stereotype\nshe is a nurse,he is a nurse\nshe is a cook,he is a cook\n")
    common = ("evaluate", str(model_folders["masked"]), "--benchmarks", f"pairs:{file}")
    out = tmp_path / "run"
    done = invoke(*common, "--precision", "bf16", "--out", str(out))
    assert done.exit_code == 0, done.output
    half = RunRecord.read(out).metrics.benchmarks[0].half_precision
    assert (half.precision, half.items) == ("bf16", 2)
    assert f"{half.flips} of 2 decisions flip" in done.output
    assert f"In bf16 {half.flips} of 2 decisions flip." in (out / "report.html").read_text()
    assert json.loads((out / "config.json").read_text())["precision"] == "bf16"
    done = invoke(*common, "--out", str(tmp_path / "full"))
    assert "flip" not in done.output
    assert RunRecord.read(tmp_path / "full").metrics.benchmarks[0].half_precision is None
