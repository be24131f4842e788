"""ADEPT: words found, states read at their own tokens, each loss by hand and by loops, trained, resumed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from equiframe.data import DataSource
from equiframe.data.word_sentences import balanced, counterparts, word_sentences
from equiframe.errors import DataError, InputError
from equiframe.methods import load_method
from equiframe.methods.adept import (
    ADEPT,
    divergence_loss,
    inner_product_loss,
    representation_loss,
    word_states,
)
from equiframe.models import load
from equiframe.models.adapter import forward_at
from equiframe.runs.debias import UNC3Options, debias
from equiframe.training import FineTuning
from equiframe.words import WordSet


def entropy(p):
    return -sum(x * math.log2(x) for x in p if x > 0)


def divergence_by_loops(prototypes, neutral, rho):
    p = []
    for a in prototypes:
        weights = [math.exp(-sum((x - y) ** 2 for x, y in zip(a, n, strict=True)) / (2 * rho**2)) for n in neutral]
        p.append([w / sum(weights) for w in weights])
    found = []
    for i in range(len(p)):
        for k in range(i + 1, len(p)):
            mixed = [(x + y) / 2 for x, y in zip(p[i], p[k], strict=True)]
            found.append(entropy(mixed) - (entropy(p[i]) + entropy(p[k])) / 2)
    return sum(found) / len(found)


@pytest.mark.parametrize("groups", [2, 3])
def test_divergence_is_that_of_loops(groups):
    generator = torch.Generator().manual_seed(groups)
    prototypes = torch.randn(groups, 6, generator=generator, dtype=torch.float64)
    neutral = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    found = divergence_loss(prototypes, neutral, rho=1.3)
    assert float(found) == pytest.approx(divergence_by_loops(prototypes.tolist(), neutral.tolist(), 1.3), abs=1e-12)


def test_divergence_by_hand():
    prototypes = torch.tensor([[0.0], [10.0]])
    # each group is near to its own word alone: two disjoint distributions, one bit
    assert float(divergence_loss(prototypes, prototypes, rho=0.5)) == pytest.approx(1.0)
    assert float(divergence_loss(prototypes, torch.tensor([[5.0], [5.0]]), rho=0.5)) == pytest.approx(0.0)
    assert float(divergence_loss(prototypes, torch.tensor([[5.0]]), rho=0.5)) == 0.0
    assert float(divergence_loss(prototypes, torch.zeros(0, 1), rho=0.5)) == 0.0
    far = torch.tensor([[0.0], [1e4]], requires_grad=True)
    divergence_loss(prototypes, far, rho=0.5).backward()
    assert torch.isfinite(far.grad).all()


def test_inner_products_by_hand():
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    neutral = torch.tensor([[3.0, 1.0], [1.0, 0.0]])
    assert float(inner_product_loss(prototypes, neutral, layers=1)) == pytest.approx(2.0**2 + 1.0**2)
    # as two layers of one dimension: the means over words and layers are 1 and 0.5
    assert float(inner_product_loss(prototypes, neutral, layers=2)) == pytest.approx(1.0**2 + 0.5**2)
    assert float(inner_product_loss(prototypes, neutral[:0], layers=1)) == 0.0


@given(layers=st.integers(1, 4), dim=st.integers(1, 3), words=st.integers(1, 5), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_inner_products_are_those_of_loops(layers, dim, words, seed):
    generator = torch.Generator().manual_seed(seed)
    neutral = torch.randn(words, layers, dim, generator=generator, dtype=torch.float64)
    prototypes = torch.randn(2, layers, dim, generator=generator, dtype=torch.float64)
    expected = 0.0
    for a in prototypes.tolist():
        products = [
            sum(x * y for x, y in zip(a[layer], word[layer], strict=True))
            for word in neutral.tolist()
            for layer in range(layers)
        ]
        expected += (sum(products) / len(products)) ** 2
    found = inner_product_loss(prototypes.flatten(1), neutral.flatten(1), layers=layers)
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(groups=st.integers(2, 4), words=st.integers(2, 6), rho=st.floats(0.5, 20), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_divergence_is_between_0_and_1_bit_and_knows_no_order(groups, words, rho, seed):
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(groups, 3, generator=generator, dtype=torch.float64)
    neutral = 3 * torch.randn(words, 3, generator=generator, dtype=torch.float64)
    found = float(divergence_loss(prototypes, neutral, rho=rho))
    assert -1e-12 <= found <= 1 + 1e-12
    assert found == pytest.approx(divergence_by_loops(prototypes.tolist(), neutral.tolist(), rho), abs=1e-9)
    other = divergence_loss(prototypes.flip(0), neutral[torch.randperm(words, generator=generator)], rho=rho)
    assert float(other) == pytest.approx(found, abs=1e-12)
    moved = divergence_loss(prototypes + 1, neutral + 1, rho=rho)
    assert float(moved) == pytest.approx(found, abs=1e-9)


def test_representation_by_hand_and_by_loops():
    before = torch.tensor([[[0.0, 0.0]], [[1.0, 2.0]]])
    after = torch.tensor([[[1.0, 0.0]], [[1.0, 4.0]]])
    assert float(representation_loss(after, before, form="mse")) == pytest.approx((1 + 4) / 4)
    expected = 0.0
    for old, new in zip(before.reshape(-1, 2).tolist(), after.reshape(-1, 2).tolist(), strict=True):
        for sign in (1, -1):
            p, q = (np.exp(sign * np.array(x)) / np.exp(sign * np.array(x)).sum() for x in (old, new))
            expected += float((p * np.log2(p / q)).sum()) / 2
    assert float(representation_loss(after, before, form="kl")) == pytest.approx(expected, rel=1e-5)
    assert float(representation_loss(before, before, form="kl")) == pytest.approx(0.0, abs=1e-6)


def test_word_states_are_the_means_of_the_words_own_tokens():
    layers = torch.randn(3, 2, 5, 4)
    found = word_states(layers, torch.tensor([1, 0]), torch.tensor([2, 3]))
    first = torch.cat([layer[0, 1] for layer in layers])
    second = torch.cat([layer[1, 0:3].mean(0) for layer in layers])
    torch.testing.assert_close(found, torch.stack([first, second]))


def test_sentences_by_word():
    texts = [
        "she met a nurse and She left",
        "the Nurse's friend, a cook, knew nurses and a nurse",
        "he and she came",
        "it rained in Sheffield",
        "Nurse",
        "mother the nurse " * 50,
    ]
    found = list(word_sentences(texts, ["she", "he", "mother"], ["nurse", "nurses", "cook"]))
    assert [(text, {word: text[slice(*span)] for word, span in spans.items()}) for text, spans in found] == [
        (texts[0], {"she": "she"}),
        (texts[1], {"nurse": "Nurse", "cook": "cook", "nurses": "nurses"}),
        (texts[2], {"he": "he", "she": "she"}),
    ]
    assert found[0][1]["she"] == (0, 3)  # the first of two


def test_counterparts_are_the_rows_of_the_lists():
    gender = WordSet.builtin("gender")
    assert counterparts(gender, ("female", "male"))[:2] == [("she", "he"), ("her", "him")]
    assert set(counterparts(gender, ("female", "male"))) == set(gender.counterparts("female", "male"))
    religion = counterparts(WordSet.builtin("religion"), ("christian", "jewish", "muslim"))
    assert ("church", "synagogue", "mosque") in religion
    assert len(religion) == len(set(religion)) == 8


def test_counterparts_are_equally_many_and_none_is_taken_twice():
    items = {"her": [1, 2, 3, 4], "him": [5], "his": [6, 7, 8], "hers": [9, 10], "she": [11], "he": []}
    rows = [("she", "he"), ("her", "him"), ("her", "his"), ("hers", "his"), ("queen", "king")]
    assert balanced(items, rows, fewest=1) == [(1, 5), (2, 6), (3, 7), (4, 8)]
    assert balanced(items, rows, fewest=2) == [(1, 6), (2, 7), (3, 8)]
    assert balanced(items, rows, fewest=4) == []


@given(
    counts=st.lists(st.integers(0, 6), min_size=6, max_size=6),
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(3, 5)), max_size=6),
    fewest=st.integers(1, 3),
)
@settings(max_examples=50, deadline=None)
def test_balance_by_hand_over_hand(counts, rows, fewest):
    items = {str(word): [(word, at) for at in range(count)] for word, count in enumerate(counts)}
    found = balanced(items, [(str(a), str(b)) for a, b in rows], fewest=fewest)
    queues, expected = {word: list(of_word) for word, of_word in items.items()}, []
    for a, b in rows:
        one, other = queues[str(a)], queues[str(b)]
        if len(one) >= fewest and len(other) >= fewest:
            while one and other:
                expected.append((one.pop(0), other.pop(0)))
    assert found == expected


@pytest.fixture
def sentences(tmp_path):
    file = tmp_path / "text.txt"
    neutral = ["the nurse is a cook", "a teacher and a ball"] * 3
    file.write_text("\n".join(["here she is", "now he was a king"] * 6 + neutral))
    return str(file)


@pytest.mark.parametrize("name", ["masked_model", "causal_model"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_places_are_those_of_the_word(name, side, request, sentences, monkeypatch):
    lm = request.getfixturevalue(name)
    monkeypatch.setattr(lm.tokenizer, "padding_side", side)
    method = ADEPT(text=sentences, fewest=1)
    data, files = method.training_data(lm, source=DataSource(), max_length=32, seed=0)
    assert len(files) == 1
    assert set(data["group"]) == {-1, 0, 1}
    assert len({data["group"].count(kind) for kind in (-1, 0, 1)}) == 1
    batch = method.collator(lm)(data.to_list())
    seen = {-1: set(), 0: set(), 1: set()}
    for ids, group, start, end in zip(batch["input_ids"], batch["group"], batch["start"], batch["end"], strict=True):
        seen[int(group)].add(lm.tokenizer.decode(ids[start:end]).strip())
    assert seen == {-1: {"nurse", "cook", "teacher"}, 0: {"she"}, 1: {"he"}}


def objective_of(lm, sentences, **options):
    method = ADEPT(text=sentences, fewest=1, **options)
    data, _ = method.training_data(lm, source=DataSource(), max_length=32, seed=0)
    objective = method.objective(lm, data, pairing="aligned", feature="decoder-input")
    return objective, method.collator(lm)(data.to_list()), data


@pytest.mark.parametrize("name", ["masked_model", "causal_model"])
@pytest.mark.parametrize(("loss", "weights"), [("adept", (0.3, 0.7)), ("dpce", (0.2, 0.8))])
def test_the_loss_is_that_of_plain_calls(name, loss, weights, request, sentences):
    lm = request.getfixturevalue(name)
    objective, batch, _ = objective_of(lm, sentences, loss=loss, rho=2.0)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # away from the original
    objective.eval()
    out = objective(lm.model.eval(), batch)

    def states(model):
        with torch.no_grad():
            found = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
            )
        return torch.stack(found.hidden_states).double()

    now, before = states(lm.model), states(objective._original[0])
    neutral = batch["group"] == -1
    words = [
        torch.cat([layer[row, batch["start"][row] : batch["end"][row]].mean(0) for layer in now])
        for row in torch.nonzero(neutral).flatten().tolist()
    ]
    prototypes = objective.prototypes.double()
    if loss == "adept":
        bias = divergence_by_loops(prototypes.tolist(), torch.stack(words).tolist(), 2.0)
    else:
        bias = sum(float(torch.stack(words).matmul(a).mean() / len(now)) ** 2 for a in prototypes)
    squares = [
        (now[layer, row, place] - before[layer, row, place]).square().mean()
        for row in torch.nonzero(~neutral).flatten().tolist()
        for place in torch.nonzero(batch["attention_mask"][row]).flatten().tolist()[lm.kind == "causal" :]
        for layer in range(len(now))
    ]
    assert float(out.parts["bias"]) == pytest.approx(bias, rel=1e-4, abs=1e-6)
    assert float(out.parts["representation"]) == pytest.approx(float(torch.stack(squares).mean()), rel=1e-4)
    expected = weights[0] * out.parts["bias"] + weights[1] * out.parts["representation"]
    torch.testing.assert_close(out.loss.detach(), expected)


def test_prototypes_are_means_of_the_groups_and_follow_the_model(masked_model, sentences):
    objective, batch, _ = objective_of(masked_model, sentences, refresh=2)
    with torch.no_grad():
        hidden = masked_model.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
        ).hidden_states
    states = word_states(torch.stack(hidden), batch["start"], batch["end"])
    for group in (0, 1):
        torch.testing.assert_close(objective.prototypes[group], states[batch["group"] == group].mean(0))
    first = objective.prototypes.clone()
    with torch.no_grad():
        for parameter in masked_model.model.parameters():
            parameter.add_(0.1)
    objective.train()
    masked_model.model.train()
    for step, changed in enumerate((False, False, True)):
        objective(masked_model.model, batch)
        assert torch.equal(objective.prototypes, first) != changed, step
    assert masked_model.model.training
    assert "prototypes" in objective.state_dict()
    assert not any("original" in name for name in objective.state_dict())
    assert not list(objective.parameters())


@pytest.mark.parametrize("loss", ["adept", "dpce"])
def test_the_bias_falls_when_it_is_trained_alone(loss, masked_model, sentences):
    objective, batch, _ = objective_of(masked_model, sentences, loss=loss, rho=2.0, representation_weight=0.0)
    optimizer = torch.optim.AdamW(masked_model.model.parameters(), lr=1e-3)
    values = []
    for _ in range(30):
        out = objective(masked_model.model, batch)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        values.append(float(out.parts["bias"]))
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize("form", ["mse", "kl"])
def test_the_representation_loss_falls_when_it_is_trained_alone(form, masked_model, sentences):
    objective, batch, _ = objective_of(masked_model, sentences, bias_weight=0.0, representation=form)
    assert float(objective.eval()(masked_model.model, batch).loss.detach()) == pytest.approx(0.0, abs=1e-6)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in masked_model.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    optimizer = torch.optim.AdamW(masked_model.model.parameters(), lr=3e-3)
    values = []
    for _ in range(40):
        out = objective(masked_model.model, batch)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        values.append(float(out.parts["representation"]))
    assert values[-1] < 0.5 * values[0]


def test_padding_changes_nothing(language_model, sentences):
    objective, batch, _ = objective_of(language_model, sentences, rho=2.0)
    objective.eval()
    with torch.no_grad():
        for parameter in language_model.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    out = objective(language_model.model, batch)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    padding = torch.full((len(ids), 4), language_model.tokenizer.pad_token_id)
    wider = batch | {"input_ids": torch.cat([ids, padding], 1), "attention_mask": torch.cat([mask, 0 * padding], 1)}
    other = objective(language_model.model, wider)
    for name, value in out.parts.items():
        torch.testing.assert_close(other.parts[name], value, rtol=1e-4, atol=1e-6)
    assert torch.equal(other.token_ids, out.token_ids)


@pytest.mark.parametrize("kept", ["neutral", "attribute"])
def test_a_batch_of_one_kind(kept, masked_model, sentences):
    objective, batch, _ = objective_of(masked_model, sentences, rho=2.0)
    rows = (batch["group"] == -1) == (kept == "neutral")
    out = objective(masked_model.model, {name: tensor[rows] for name, tensor in batch.items()})
    out.loss.backward()
    assert float(out.parts["representation" if kept == "neutral" else "bias"]) == 0.0
    assert torch.isfinite(out.loss)


def test_features_are_those_of_the_one_forward_pass(language_model, sentences):
    objective, batch, _ = objective_of(language_model, sentences)
    objective.eval()
    calls = []
    handle = language_model.model.register_forward_hook(lambda *_: calls.append(1))
    out = objective(language_model.model, batch)
    handle.remove()
    assert len(calls) == 1
    ids, mask = batch["input_ids"], batch["attention_mask"]
    is_word = mask.bool() & ~torch.isin(ids, language_model.special_ids)
    if language_model.kind == "causal":  # the state at t is for token t + 1
        expected, where = ids[:, 1:][is_word[:, 1:]], is_word[:, 1:]
        where = torch.cat([where, torch.zeros_like(where[:, :1])], 1)
    else:
        expected, where = ids[is_word], is_word
    assert torch.equal(out.token_ids, expected)
    inputs = {"input_ids": ids, "attention_mask": mask}
    torch.testing.assert_close(out.features, forward_at(language_model.model, inputs, where).states)


def test_autocast_leaves_loss_prototypes_and_gradients_whole(masked_model, sentences):
    objective, batch, _ = objective_of(masked_model, sentences, refresh=1, rho=2.0)
    objective.train()
    first, found = objective.prototypes.clone(), []
    for _ in range(2):  # the second time they are computed anew
        masked_model.model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = objective(masked_model.model, batch)
        out.loss.backward()
        found.append({name for name, p in masked_model.model.named_parameters() if p.grad is not None})
    assert out.loss.dtype == torch.float32
    assert found[0] == found[1]
    assert any("attention" in name for name in found[0])
    torch.testing.assert_close(objective.prototypes, first)  # in float32, not to three digits
    masked_model.model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(
        masked_model.model.forward
    )  # as accelerate
    objective(masked_model.model, batch)
    torch.testing.assert_close(objective.prototypes, first)


def test_a_resumed_run_is_the_unbroken_one(model_folders, sentences, tmp_path):
    def run(folder, broken):
        lm = load(str(model_folders["masked"]), device="cpu")
        tuning = FineTuning(max_steps=5, batch_size=6, learning_rate=1e-3, precision="fp32", save_steps=3)
        words = WordSet.builtin("gender").resolve(lm.tokenizer)

        def stop(done, _):
            if broken and done == 4:
                raise KeyboardInterrupt

        method = ADEPT(text=sentences, fewest=1, refresh=2, rho=2.0)
        done = debias(lm, method, UNC3Options(weight=5.0), tuning, words, folder, progress=stop)
        return done.language_model.model.state_dict()

    whole = run(tmp_path / "whole", broken=False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", broken=True)
    assert (tmp_path / "broken" / "checkpoint-3" / "complete").exists()
    saved = load_file(tmp_path / "broken" / "checkpoint-3" / "objective.safetensors")
    assert int(saved["objective.steps"]) == 3
    assert set(saved) >= {"objective.prototypes", "objective.steps"}
    resumed = run(tmp_path / "broken", broken=False)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_religion_has_three_groups(masked_model, tmp_path):
    file = tmp_path / "text.txt"
    kinds = ["a christian came here", "a jewish man came", "the muslim came here", "the nurse came here"]
    file.write_text("\n".join(kinds))
    method = ADEPT(text=str(file), bias="religion", fewest=1)
    data, _ = method.training_data(masked_model, source=DataSource(), max_length=64, seed=0)
    assert sorted(data["group"]) == [-1, 0, 1, 2]
    objective, batch, _ = objective_of(masked_model, str(file), bias="religion", rho=2.0)
    assert len(objective.prototypes) == 3
    assert torch.isfinite(objective(masked_model.model, batch).loss)


def test_a_slow_tokenizer_is_refused(masked_model, sentences):
    class Slow:
        is_fast = False

    slow = dataclasses.replace(masked_model, tokenizer=Slow())
    with pytest.raises(InputError, match="fast tokenizer"):
        ADEPT(text=sentences, fewest=1).training_data(slow, source=DataSource(), max_length=32, seed=0)


def test_malformed_text_is_named(masked_model, tmp_path):
    file = tmp_path / "text.jsonl"
    file.write_text('{"text": "she is a nurse"}\n{"text": 3}\n')
    with pytest.raises(DataError, match="line 2"):
        ADEPT(text=str(file)).training_data(masked_model, source=DataSource(), max_length=32, seed=0)


@pytest.mark.parametrize("kind", ["masked", "causal"])
@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_from_text_to_a_fine_tuned_model(kind, weight, model_folders, sentences, tmp_path):
    lm = load(str(model_folders[kind]), device="cpu")
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    done = debias(
        lm,
        ADEPT(text=sentences, fewest=1),
        UNC3Options(weight=weight),
        FineTuning(max_steps=3, batch_size=6, learning_rate=1e-3, precision="fp32"),
        WordSet.builtin("gender").resolve(lm.tokenizer),
        tmp_path / "checkpoints",
    )
    assert {"bias", "representation"} <= set(done.history)
    assert ("unc3" in done.history) == bool(weight)
    after = done.language_model.model.state_dict()
    assert set(after) == set(before)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_options_are_checked(masked_model, tmp_path):
    assert load_method("adept", {"rho": "10", "loss": "dpce"}) == ADEPT(rho=10.0, loss="dpce")
    assert ADEPT(bias_weight=1.0).weights == (1.0, 0.7)
    for wrong in ({"rho": 0}, {"loss": "adebt"}, {"bias": "race"}, {"refresh": 0}, {"colour": 1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            load_method("adept", wrong)


@pytest.mark.parametrize(
    ("lines", "fewest", "message"),
    [
        (["she was here", "the nurse was here"], 1, "no counterparts of female and male"),
        (["she was here", "now he was here", "the nurse was here"], 2, "have 2 sentences each"),
        (["she was here", "now he was here", "he met a nurse"], 1, "no sentence with a profession"),
    ],
)
def test_text_without_a_kind_of_sentence_is_refused(lines, fewest, message, masked_model, tmp_path):
    file = tmp_path / "few.txt"
    file.write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        ADEPT(text=str(file), fewest=fewest).training_data(masked_model, source=DataSource(), max_length=32, seed=0)


def test_words_cut_off_and_a_causal_models_first_token_are_left_out(language_model, tmp_path):
    file = tmp_path / "text.txt"
    start = ["she is a cook", "the man met a girl", "the woman met a boy", "teacher and boss", "a teacher is a cook"]
    file.write_text("\n".join([*start, "the man is in the street with a ball and the king is she"]))
    method = ADEPT(text=str(file), fewest=1)
    data, _ = method.training_data(language_model, source=DataSource(), max_length=12, seed=0)
    tokenizer = language_model.tokenizer
    words = [(row["group"], tokenizer.decode(row["input_ids"][row["start"] : row["end"]]).strip()) for row in data]
    assert {word for group, word in words if group >= 0} == {"woman", "man", "girl", "boy"}  # no "she", no "king"
    if language_model.kind == "causal":
        assert all(row["start"] > 0 for row in data)


def test_it_is_a_frozen_dataclass_and_its_data_a_dataset(masked_model, sentences):
    data, _ = ADEPT(text=sentences, fewest=1).training_data(masked_model, source=DataSource(), max_length=32, seed=0)
    assert isinstance(data, Dataset)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ADEPT().rho = 3.0
