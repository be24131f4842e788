"""CC1, CC3 and agreement of an audit, against loops over texts read alone; their record, report and comparison."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pandas as pd
import pytest
import torch

from equiframe.analysis.comparison import compare
from equiframe.analysis.measures import context_measures
from equiframe.config import AuditOptions
from equiframe.data import CounterfactualSwapper
from equiframe.errors import InputError
from equiframe.models.pairs import Role, group_ids, read_pair
from equiframe.record import ContextsResult, Metrics, ModelDescription, Provenance, RunRecord
from equiframe.report import run_page
from equiframe.runs.audit import audit_model
from equiframe.runs.contexts import read_contexts
from equiframe.uncertainty import estimate

LINES = [
    "the nurse told her father about his job",
    "his brother met the king and his daughter in the street",
    "the doctor said that her job is a ball",
    "the teacher has his job and the boy likes her",
    "the mosque and the ball are in the street",
    "a ball in the church is a job",
    "nothing of that kind is in this one",
]


@pytest.fixture
def table(language_model):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a random tiny model says nearly the same everywhere
        for parameter in language_model.model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return read_contexts(language_model, lambda: iter(LINES), pairs=10)


def softmax(scores, left_out):
    kept = [0.0 if i in left_out else math.exp(s) for i, s in enumerate(scores)]
    return [k / sum(kept) for k in kept]


@torch.no_grad()
def by_hand(lm, lines):
    """The six numbers over all lines, from one sequence at a time and one place at a time, in float64."""
    groups, swapper = set(group_ids(lm, "gender").tolist()), CounterfactualSwapper.gender()
    weight = lm.model.get_output_embeddings().weight.double()
    shift = 1 if lm.kind == "causal" else 0
    js, half, odds, gaps, agreeing, states = [], [], [], [], [], []
    for line in lines:
        found = {}
        readings = read_pair(lm, line, swapper.swaps(line), max_length=64, draw=random.Random(line))
        for number, reading in enumerate(readings):
            ids = list(reading.ids)
            if lm.kind == "masked":
                ids = [lm.tokenizer.mask_token_id if r else i for i, r in zip(ids, reading.roles, strict=True)]
            kept = []
            handle = lm.model.get_output_embeddings().register_forward_pre_hook(
                lambda _, a, kept=kept: kept.append(a[0])
            )
            logits = lm.model(torch.tensor([ids])).logits[0].double()
            handle.remove()
            for place, role in enumerate(reading.roles):
                own, other = reading.ids[min(place + shift, len(ids) - 1)], reading.partners[place]
                h = kept[0][0, place].double()
                if role == Role.ALIGNED:
                    found.setdefault(number, []).append((softmax(logits[place].tolist(), groups), h))
                d = (logits[place, own] - logits[place, other]).item()
                if role == Role.NEUTRAL:
                    odds.append(abs(d))
                    cosines = [float(h @ w / h.norm() / w.norm()) for w in (weight[own], weight[other])]
                    gaps.append(abs(cosines[0] - cosines[1]))
                if role == Role.AGREEING:
                    agreeing.append(d)
        for (p, h), (q, k) in zip(found.get(0, []), found.get(1, []), strict=True):
            m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
            js.append(sum(x * math.log(x / y) / 2 for s in (p, q) for x, y in zip(s, m, strict=True) if x > 0))
            half.append(float((h - k).square().sum()) / 2)
            states += [h, k]
    mean = torch.stack(states).mean(0)
    return {
        "cc1_states": np.mean(half) / np.mean([float((h - mean).square().sum()) for h in states]),
        "cc1_js": np.mean(js),
        "cc3_log_odds": np.mean(odds),
        "cc3_cosine_gap": np.mean(gaps),
        "agreement": 100 * np.mean([d > 0 for d in agreeing]),
        "agreement_log_odds": np.mean(agreeing),
    }


def test_the_numbers_are_those_of_loops(language_model, table):
    of_gender = table[table["bias"] == "gender"]
    assert set(of_gender["item"]) == {f"gender: {line}" for line in LINES[:4]}
    found = {m.key: estimate(m, seed=0, resamples=50) for m in context_measures(of_gender)}
    expected = by_hand(language_model, LINES[:4])
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].value == pytest.approx(value, rel=1e-3, abs=1e-6), key
        assert found[key].low <= found[key].value <= found[key].high
    assert found["agreement"].higher_is_better
    assert found["cc1_js"].higher_is_better is False


def test_a_large_vocabulary_is_read_in_smaller_parts(language_model, monkeypatch):
    whole = read_contexts(language_model, lambda: iter(LINES), pairs=10)
    monkeypatch.setattr("equiframe.runs.contexts._ROWS", 1)
    monkeypatch.setattr("equiframe.runs.contexts._PLACES", 1)
    pd.testing.assert_frame_equal(read_contexts(language_model, lambda: iter(LINES), pairs=10), whole, atol=1e-5)


def test_biases_with_texts_are_there(table):
    assert set(table["bias"]) == {"gender", "religion"}
    assert (table.groupby("bias").size() == pd.Series({"gender": 4, "religion": 2})).all()
    assert not table.isna().any().any()


def test_the_sample_is_the_same_whatever_else_is_asked(language_model):
    few = read_contexts(language_model, lambda: iter(LINES), pairs=3)
    assert len(few[few["bias"] == "gender"]) == 3
    again = read_contexts(language_model, lambda: iter(LINES), pairs=3)
    pd.testing.assert_frame_equal(few, again)
    every = read_contexts(language_model, lambda: iter(LINES), pairs=10).set_index("item")
    assert set(few["item"]) <= set(every.index)


def test_none_of_it(language_model):
    empty = read_contexts(language_model, lambda: iter(LINES[-1:]), pairs=5)
    assert len(empty) == 0
    with pytest.raises(InputError, match="--pairs -1"):
        AuditOptions(pairs=-1)


def options(tmp_path, **more):
    sentences, words = tmp_path / "text.txt", tmp_path / "words.txt"
    sentences.write_text("".join(f"{line} {'is ' * number}\n" for number in range(6) for line in LINES))
    words.write_text("the\tis\nher\this\n")
    return AuditOptions(text=str(sentences), words=str(words), min_count=1, **more)


def test_an_audit_holds_them(language_model, tmp_path):
    found = audit_model(language_model, options(tmp_path, pairs=8))
    assert [(result.bias, result.pairs) for result in found.contexts] == [("gender", 8), ("religion", 8)]
    assert len(found.pairs) == 16
    for result in found.contexts:
        assert {"cc1_states", "cc1_js"} <= set(result.estimates)
    assert 0 < found.contexts[0].estimates["cc1_states"].value < 1
    none = audit_model(language_model, options(tmp_path, pairs=0))
    assert none.contexts == []
    assert none.results == found.results


def record(lm, tmp_path, **more):
    found = audit_model(lm, options(tmp_path, **more))
    model = ModelDescription(
        name="tiny", kind=lm.kind, architecture="x", parameters=1, vocabulary=1, fingerprint=lm.fingerprint()
    )
    metrics = Metrics(verb="audit", model=model, collapse=found.results, contexts=found.contexts)
    return RunRecord(Provenance(), metrics, classes=found.classes, vectors=found.vectors, pairs=found.pairs)


def test_record_report_and_comparison(language_model, tmp_path):
    before = record(language_model, tmp_path, pairs=12)
    with torch.no_grad():
        for parameter in language_model.model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    after = record(language_model, tmp_path, pairs=8)
    folder = tmp_path / "run"
    folder.mkdir()
    before.write(folder)
    read = RunRecord.read(folder)
    assert read.metrics == before.metrics
    pd.testing.assert_frame_equal(read.pairs, before.pairs)
    page = run_page(before, title="x")
    assert "Contexts and their counterfactuals (gender)" in page
    assert "CC1, variability of predictions" in page
    measures = {(m.benchmark, m.measure): m for m in compare({"before": read, "after": after}).measures["after"]}
    found = measures["contexts:gender", "cc1_js"]
    assert found.difference.count == 8  # what both runs read
    rows = [r.pairs[r.pairs["bias"] == "gender"].set_index("item") for r in (before, after)]
    shared = rows[0].index.intersection(rows[1].index)
    js = [float(r.loc[shared, "js"].sum() / r.loc[shared, "aligned"].sum()) for r in rows]
    assert found.difference.value == pytest.approx(js[1] - js[0])


def test_contexts_of_models_that_read_no_text_alike_are_not_compared(masked_model, causal_model, tmp_path):
    records = {"a": record(masked_model, tmp_path, pairs=8), "b": record(causal_model, tmp_path, pairs=8)}
    comparison = compare(records)
    assert {m.benchmark.partition(":")[0] for m in comparison.measures["b"]} == {"collapse"}
    assert comparison.runs["a"].contexts == records["a"].metrics.contexts
    assert set(comparison.shared) == {m.benchmark for m in comparison.measures["b"]}


def test_few_texts_read_alike_are_compared(language_model, tmp_path):
    before = record(language_model, tmp_path, pairs=8)
    pairs = before.pairs.copy()
    of_gender = np.flatnonzero(pairs["bias"] == "gender")
    other = of_gender[:5]  # as by another tokenizer, which splits their words otherwise
    pairs.loc[other, "aligned"] += 1
    comparison = compare({"before": before, "after": dataclasses.replace(before, pairs=pairs)})
    measures = {(m.benchmark, m.measure): m for m in comparison.measures["after"]}
    assert comparison.shared["contexts:gender"].shared == 3
    assert comparison.shared["contexts:gender"].measured == {"before": 8, "after": 8}
    rows = before.pairs.loc[of_gender[5:]]
    found = measures["contexts:gender", "cc1_js"]
    assert found.first.value == pytest.approx(rows["js"].sum() / rows["aligned"].sum())
    assert found.difference.value == 0
    assert [result.pairs for result in comparison.runs["before"].contexts] == [3, 8]


def test_audits_of_other_states_are_not_compared(language_model, tmp_path):
    before = record(language_model, tmp_path, pairs=8)
    metrics = before.metrics.model_copy(update={"collapse": []})
    records = {
        feature: RunRecord(Provenance(audit={"feature": feature}), metrics, pairs=before.pairs)
        for feature in ("decoder-input", "last-layer")
    }
    with pytest.raises(InputError, match="differ in feature: audit one again"):
        compare(records)


def test_a_record_of_an_older_version_has_none():
    model = {"name": "x", "kind": "causal", "architecture": "x", "parameters": 1, "vocabulary": 1, "fingerprint": "0"}
    assert Metrics.model_validate({"verb": "audit", "model": model}).contexts == []
    assert ContextsResult(bias="gender", pairs=2).estimates == {}
