"""ADEPT: words found, states read at their own tokens, each loss by hand and by loops, trained, resumed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from datasets import Dataset

from equiframe.errors import DataError, InputError
from equiframe.methods import load_method
from equiframe.methods.adept import (
    ADEPT,
    divergence_loss,
    inner_product_loss,
    representation_loss,
    word_sentences,
    word_states,
)
from equiframe.models import load
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
    assert float(inner_product_loss(prototypes, neutral)) == pytest.approx(2.0**2 + 1.0**2)
    assert float(inner_product_loss(prototypes, neutral[:0])) == 0.0


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


def test_sentences_by_kind():
    texts = ["she met a nurse", "the nurse came", "he and she came", "it rained", "Nurse", "mother the nurse " * 50]
    found = [(kind, text, text[slice(*span)]) for kind, text, span in word_sentences(texts, [["she"], ["he"]])]
    assert found == [
        (0, "she met a nurse", "she"),
        (-1, "the nurse came", "nurse"),
        (0, "he and she came", "she"),
        (1, "he and she came", "he"),
    ]


@pytest.fixture
def sentences(tmp_path):
    file = tmp_path / "text.txt"
    neutral = ["the nurse is a cook", "a teacher and a ball"] * 3
    file.write_text("\n".join(["she is here", "he was a king"] * 6 + neutral))
    return str(file)


@pytest.mark.parametrize("name", ["masked_model", "causal_model"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_places_are_those_of_the_word(name, side, request, sentences, monkeypatch):
    lm = request.getfixturevalue(name)
    monkeypatch.setattr(lm.tokenizer, "padding_side", side)
    method = ADEPT(text=sentences)
    data, files = method.training_data(lm, folder=None, max_length=32, seed=0)
    assert len(files) == 1
    assert set(data["group"]) == {-1, 0, 1}
    assert len({data["group"].count(kind) for kind in (-1, 0, 1)}) == 1
    batch = method.collator(lm)(data.to_list())
    words = {-1: {"nurse", "teacher"}, 0: {"she"}, 1: {"he"}}
    swapped = {-1: words[-1], 0: words[1], 1: words[0]}
    seen = {-1: set(), 0: set(), 1: set()}
    for ids, group, start, end in zip(batch["input_ids"], batch["group"], batch["start"], batch["end"], strict=True):
        seen[int(group)].add(lm.tokenizer.decode(ids[start:end]).strip())
    assert seen in (words, swapped)  # whichever group stands first in the list


def objective_of(lm, sentences, **options):
    method = ADEPT(text=sentences, **options)
    data, _ = method.training_data(lm, folder=None, max_length=32, seed=0)
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
        bias = sum(float(torch.stack(words).matmul(a).mean()) ** 2 for a in prototypes)
    squares = [
        (now[layer, row, place] - before[layer, row, place]).square().mean()
        for row in torch.nonzero(~neutral).flatten().tolist()
        for place in torch.nonzero(batch["attention_mask"][row]).flatten().tolist()
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


@pytest.mark.parametrize("kind", ["masked", "causal"])
@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_from_text_to_a_fine_tuned_model(kind, weight, model_folders, sentences, tmp_path):
    lm = load(str(model_folders[kind]), device="cpu")
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    done = debias(
        lm,
        ADEPT(text=sentences),
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
    file = tmp_path / "few.txt"
    file.write_text("she was here\nthe rain fell down\n")
    with pytest.raises(DataError, match="no sentence with a neutral word"):
        ADEPT(text=str(file)).training_data(masked_model, folder=None, max_length=32, seed=0)


def test_it_is_a_frozen_dataclass_and_its_data_a_dataset(masked_model, sentences):
    data, _ = ADEPT(text=sentences).training_data(masked_model, folder=None, max_length=32, seed=0)
    assert isinstance(data, Dataset)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ADEPT().rho = 3.0
