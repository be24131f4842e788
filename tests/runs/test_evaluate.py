"""Half precision: scored as a whole, compared with float32 on a sample, and never mixed with it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from equiframe.benchmarks.benchmark import Asked, Benchmark, HalfPrecision, Outcome
from equiframe.benchmarks.half_precision import half_precision
from equiframe.errors import DataError, InputError
from equiframe.models.projected import project
from equiframe.record import RunRecord
from equiframe.requests import Embedding, NextSentence, TextCodec, TokenLogProbs
from equiframe.runs import evaluate
from equiframe.runs.evaluate import score
from equiframe.scoring.answering import check_requests
from equiframe.scoring.engine import LocalAnswerer, answer
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


def in_type(language_model, dtype):
    """A copy in another type; what the model was found to be is kept, as logits that are biases alone look odd."""
    found = dataclasses.replace(language_model, model=copy.deepcopy(language_model.model).to(dtype))
    vars(found)["examination"] = language_model.examination
    return found


class Fake:
    """Answers what a test says, without a model."""

    name, kind, precision = "fake", "masked", "float32"

    def __init__(self, tokenizer, say):
        self.codec, self.say = TextCodec(tokenizer, "masked", 64), say

    def fingerprint(self):
        return "fake"

    def answer(self, requests, progress=None):
        check_requests(self, requests)
        return [self.say(request) for request in requests]


def test_whatever_answers_can_be_scored(new_tokenizer):
    fake = Fake(new_tokenizer(), lambda request: (-1.0, float(request.input_ids[1] % 2) - 1.5))
    result, table = score(fake, TwoTokens(), resamples=20)
    assert result.estimates["wins"].value == 0.5
    assert (result.scoring, table["second"].tolist()[:3]) == ("log-probability", [-0.5, -1.5, -0.5])
    fake.precision = "bfloat16"
    changed = Fake(new_tokenizer(), lambda request: (-1.0, -0.5))
    result, _ = score(fake, TwoTokens(), resamples=20, reference=changed)
    assert (result.half_precision.flips, result.scoring) == (30, "log-probability, in bfloat16")
    with pytest.raises(InputError, match="a sequence has 3 tokens, but fake reads 1 to 2"):
        fake.codec = replace(fake.codec, window=2)
        fake.answer([TokenLogProbs((2, 3, 4), (), ())])
    with pytest.raises(InputError, match="fake does not answer NextSentence"):
        fake.answer([NextSentence((2,), (0,))])


def test_items_with_the_same_name_are_refused_before_they_are_scored(new_tokenizer, monkeypatch):
    monkeypatch.setattr(TwoTokens, "rows", lambda *_: [Outcome("0")])
    fake = Fake(new_tokenizer(), lambda request: pytest.fail("it is asked"))
    with pytest.raises(DataError, match="two_tokens: two items are called '0': give each a different name"):
        score(fake, TwoTokens(), resamples=20)


def test_flips_are_counted_where_bfloat16_cannot_tell_two_tokens_apart(near_tie):
    exact, table = score(near_tie, TwoTokens(), resamples=20)
    coarse = in_type(near_tie, torch.bfloat16)
    half, rounded = score(coarse, TwoTokens(), resamples=20, reference=LocalAnswerer(near_tie))
    assert (exact.half_precision, exact.estimates["wins"].value) == (None, 1.0)
    assert half.estimates["wins"].value == 57 / 60
    assert half.half_precision.flips == 3
    assert str(half.half_precision) == "in bfloat16 3 of 60 decisions flip"
    moved = (table[["first", "second"]] - rounded[["first", "second"]]).abs().to_numpy().max()
    assert half.half_precision.largest_change == pytest.approx(moved)
    assert (exact.scoring, half.scoring) == ("log-probability", "log-probability, in bfloat16")
    assert score(coarse, TwoTokens(), resamples=20)[0].half_precision is None


def test_a_sample_spread_over_the_items_is_compared(near_tie, monkeypatch):
    asked, ask = [], evaluate._ask

    def counted(benchmark, answerer, items, progress):
        asked.append((answerer.precision, list(items)))
        return ask(benchmark, answerer, items, progress)

    monkeypatch.setattr(evaluate, "_ask", counted)
    coarse = in_type(near_tie, torch.float16)
    result, table = score(coarse, TwoTokens(500), resamples=20, reference=LocalAnswerer(near_tie), limit=400)
    assert len(table) == 400
    (half, scored), (full, sample) = asked
    assert (half, full) == ("float16", "float32")
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_answers_nearly_alike(language_model, dtype):
    project(language_model.model, torch.eye(16))
    before = answer(language_model, REQUESTS)
    half = in_type(language_model, dtype)
    found = answer(half, REQUESTS)
    assert found != before
    assert half.fingerprint() != language_model.fingerprint()
    for mine, other in zip(found, before, strict=True):
        assert mine == pytest.approx(other, abs=0.05)


def test_the_store_does_not_mix_types(near_tie, tmp_path):
    models = [near_tie, in_type(near_tie, torch.bfloat16), in_type(near_tie, torch.float16)]
    alone = [score(model, TwoTokens(), resamples=20)[1] for model in models]
    for _ in range(2):
        for model, expected in zip(models, alone, strict=True):
            with contextlib.closing(AnswerStore(tmp_path / "store.sqlite", model.fingerprint())) as store:
                found = score(LocalAnswerer(model, store=store), TwoTokens(), resamples=20)[1]
            pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert not alone[0].equals(alone[1])


def test_the_command_says_what_flipped(invoke, model_folders, tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("stereotype,anti_stereotype\nshe is a nurse,he is a nurse\nshe is a cook,he is a cook\n")
    common = ("evaluate", str(model_folders["masked"]), "--benchmarks", f"pairs:{file}")
    out = tmp_path / "run"
    done = invoke(*common, "--dtype", "bfloat16", "--check-float32", "--out", str(out))
    assert done.exit_code == 0, done.output
    half = RunRecord.read(out).metrics.benchmarks[0].half_precision
    assert (half.precision, half.items) == ("bfloat16", 2)
    assert f"{half.flips} of 2 decisions flip" in done.output
    assert f"In bfloat16 {half.flips} of 2 decisions flip." in (out / "report.html").read_text()
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    done = invoke(*common, "--out", str(tmp_path / "full"))
    assert "flip" not in done.output
    assert RunRecord.read(tmp_path / "full").metrics.benchmarks[0].half_precision is None
