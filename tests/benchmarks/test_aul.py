"""AUL and AULA: what is asked, scores by hand and by brute force, and attention read from a model."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from equiframe.benchmarks import load_benchmark, outcome_table
from equiframe.benchmarks.aul import AUL, WholePair
from equiframe.benchmarks.benchmark import Outcome
from equiframe.errors import CannotScoreError, ModelError
from equiframe.requests import AttentionWeightedLogProbs, TokenLogProbs
from equiframe.runs.evaluate import score
from equiframe.scoring.engine import LocalAnswerer, answer
from equiframe.scoring.store import AnswerStore

PAIR = WholePair("0", "gender", "she is a nurse", "he is a nurse")


@torch.no_grad()
def sentence_score(language_model, sentence, *, attention=False):
    """One sentence, one call, sums in plain loops."""
    tokenizer = language_model.tokenizer
    if language_model.kind == "causal":
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        ids = tokenizer.encode(sentence, add_special_tokens=False)
        logs = language_model.model(input_ids=torch.tensor([[start, *ids]])).logits[0].double().log_softmax(-1)
        return math.fsum(logs[i, token].item() for i, token in enumerate(ids)) / len(ids)
    ids = tokenizer.encode(sentence)
    model = copy.deepcopy(language_model.model)
    model.set_attn_implementation("eager")
    out = model(input_ids=torch.tensor([ids]), output_attentions=True)
    logs = out.logits[0].double().log_softmax(dim=-1)
    total = 0.0
    for place in range(1, len(ids) - 1):
        weight = 1.0
        if attention:
            received = [
                layer[0, head, query, place].item()
                for layer in out.attentions
                for head in range(layer.shape[1])
                for query in range(len(ids))
            ]
            weight = math.fsum(received) / len(received)
        total += logs[place, ids[place]].item() * weight
    return total / (len(ids) - 2)


def check(language_model, benchmark, items, **options):
    items = items[:: len(items) // 50][:55]
    benchmark.items = lambda source=None: (items, ())
    result, table = score(LocalAnswerer(language_model, token_budget=500), benchmark, resamples=20)
    assert result.excluded == {}
    expected = [
        [sentence_score(language_model, s, **options) for s in (i.stereotype, i.anti_stereotype)] for i in items
    ]
    np.testing.assert_allclose(table[["stereotype", "anti"]], expected, atol=1e-4, rtol=1e-4)
    for group in ("overall", *{item.bias_type for item in items}):
        wins = [a > b for item, (a, b) in zip(items, expected, strict=True) if group in ("overall", item.bias_type)]
        assert result.estimates[f"{group}.metric"].value == pytest.approx(100 * np.mean(wins))


@pytest.fixture(scope="session")
def whole_pairs(pairs):
    return AUL().items()[0]


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama"])
def test_aul_is_the_mean_log_probability_of_what_is_in_view(request, whole_pairs, name):
    check(request.getfixturevalue(name), AUL(), whole_pairs)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_aula_weighs_by_the_attention_received(request, whole_pairs, name):
    check(request.getfixturevalue(name), AUL(weights="aula"), whole_pairs, attention=True)


def test_aul_on_stereoset(clusters, bert):
    benchmark = AUL("stereoset")
    items, (file,) = benchmark.items()
    assert file.name == "stereoset/dev"
    assert [item.item for item in items] == [cluster.item for cluster in clusters]
    assert (items[0].stereotype, items[0].anti_stereotype) == clusters[0].sentences[:2]
    check(bert, benchmark, items)


def test_the_real_data(pairs, whole_pairs):
    assert len(whole_pairs) == len(pairs) == 1508
    assert whole_pairs[7] == WholePair("7", pairs[7].bias_type, pairs[7].sent_more, pairs[7].sent_less)


def test_every_token_but_the_special_ones_is_asked_unmasked(masked_model):
    convert = masked_model.tokenizer.convert_ids_to_tokens
    first, second = AUL().asked(PAIR, masked_model.codec).requests
    assert convert(list(first.input_ids)) == ["[CLS]", "she", "is", "a", "nurse", "[SEP]"]
    assert first.positions == (1, 2, 3, 4)
    assert convert(list(first.targets)) == ["she", "is", "a", "nurse"]
    assert convert(list(second.targets)) == ["he", "is", "a", "nurse"]
    weighted = AUL(weights="aula").asked(PAIR, masked_model.codec).requests
    assert [type(request) for request in weighted] == [AttentionWeightedLogProbs] * 2
    assert weighted[0].input_ids == first.input_ids


def test_scores_by_hand(masked_model):
    answers = [(-1.0, -2.0, -3.0, -2.0), (-1.0, -1.0, -1.0, -2.0)]
    (outcome,) = AUL().outcomes([PAIR], masked_model.codec, lambda _: answers)[0]
    assert outcome.values == {"stereotype": -2.0, "anti": -1.25}


def test_what_cannot_be_scored_says_why(masked_model, causal_model):
    long = "she " * 70
    for benchmark, sentence, codec, reason in (
        (AUL(), "", masked_model.codec, "a text has no token"),
        (AUL(), "", causal_model.codec, "a text has no token"),
        (AUL(), long, masked_model.codec, "longer than the model's window"),
    ):
        pair = WholePair("0", "gender", sentence, "he")
        assert not benchmark.asked(pair, codec).requests
        (outcome,) = benchmark.outcomes([pair], codec, lambda _: [])[0]
        assert reason in outcome.excluded
        assert not outcome.values


def test_aula_of_a_causal_model_is_refused_in_words(causal_model, monkeypatch):
    benchmark = AUL(weights="aula")
    monkeypatch.setattr(benchmark, "items", lambda source=None: ([PAIR], ()))
    with pytest.raises(CannotScoreError, match="aul:aula asks for AttentionWeightedLogProbs, which this causal"):
        score(causal_model, benchmark)


def test_measures_by_hand():
    rows = [("gender", -1.0, -2.0), ("gender", -1.0, -1.0), ("age", -3.0, -2.0), ("age", math.nan, math.nan)]
    outcomes = outcome_table(
        [
            Outcome(
                str(i),
                {"bias_type": bias_type},
                {"stereotype": first, "anti": second},
                excluded="left out" if math.isnan(first) else None,
            )
            for i, (bias_type, first, second) in enumerate(rows)
        ]
    )
    values = {m.key: float(m.statistic(m.rows)) for m in AUL().measures(outcomes)}
    assert values == pytest.approx({"overall.metric": 100 / 3, "gender.metric": 50.0, "age.metric": 0.0})


def test_variants_have_names():
    assert load_benchmark("aul:aula,stereoset").spec == "aul:stereoset,aula"
    assert load_benchmark("aul:crows_pairs,aul").spec == "aul"


def requests_for(language_model, kind, texts):
    found = []
    for text in texts:
        ids = language_model.codec.encode(text)
        found.append(kind(ids, tuple(range(len(ids))), ids))
    return found


def test_attention_does_not_depend_on_the_batch_and_sums_to_one(masked_model, text):
    texts = [*text, "she"]
    logs = answer(masked_model, requests_for(masked_model, TokenLogProbs, texts))
    weighted = requests_for(masked_model, AttentionWeightedLogProbs, texts)
    together = answer(masked_model, weighted)
    for budget in (1, 30):
        for first, second in zip(together, answer(masked_model, weighted, token_budget=budget), strict=True):
            assert first == pytest.approx(second, abs=1e-6)
    for plain, product in zip(logs, together, strict=True):
        assert sum(b / a for a, b in zip(plain, product, strict=True)) == pytest.approx(1, abs=1e-4)


def test_both_kinds_of_request_are_kept_apart_and_the_model_is_left_as_it_was(masked_model, text, tmp_path):
    before = masked_model.model.config._attn_implementation
    assert before != "eager"
    asked = [
        *requests_for(masked_model, TokenLogProbs, text),
        *requests_for(masked_model, AttentionWeightedLogProbs, text),
    ]
    store = AnswerStore(tmp_path / "answers.sqlite", masked_model.fingerprint())
    first = answer(masked_model, asked, store=store)
    assert answer(masked_model, asked, store=store) == first
    assert first[: len(text)] == answer(masked_model, asked[: len(text)])
    assert first[len(text) :] == answer(masked_model, asked[len(text) :])
    assert first[0] != first[len(text)]
    assert masked_model.model.config._attn_implementation == before


def test_a_model_that_keeps_no_attention_is_named(masked_model, text, monkeypatch):
    inner = type(masked_model.model.base_model)
    forward = inner.forward

    def without(self, *arguments, **options):
        out = forward(self, *arguments, **options)
        out.attentions = None
        return out

    monkeypatch.setattr(inner, "forward", without)
    with pytest.raises(ModelError, match="does not return its attention"):
        answer(masked_model, requests_for(masked_model, AttentionWeightedLogProbs, text))
    assert masked_model.model.config._attn_implementation != "eager"


@pytest.mark.parametrize(
    ("name", "options"),
    [("longformer", {"attention_window": [4, 4]}), ("squeezebert", {"embedding_size": 16}), ("roformer", None)],
)
def test_numbers_that_are_no_shares_of_attention_are_refused(masked_model, text, name, options):
    config = AutoConfig.for_model(
        name, vocab_size=masked_model.examination.rows, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=70, pad_token_id=0, **options or {"embedding_size": 16},
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(config).eval()
    torch.nn.init.normal_(next(p for n, p in model.named_parameters() if "query" in n and "weight" in n), std=2.0)
    language_model = dataclasses.replace(masked_model, model=model)
    requests = requests_for(language_model, AttentionWeightedLogProbs, text)
    if options is None:
        assert len(answer(language_model, requests)) == len(text)
    else:
        with pytest.raises(ModelError, match="does not return the shares of its attention"):
            answer(language_model, requests)
