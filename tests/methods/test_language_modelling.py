"""The host loss against transformers' own, and what it hands to a regularizer."""

from __future__ import annotations

import pytest
import torch

from equiframe.methods.language_modelling import LanguageModelling
from equiframe.models.adapter import forward_at


@pytest.fixture
def batch(language_model, text):
    return dict(language_model.tokenizer(text, return_tensors="pt", padding=True))


def labelled(objective, batch):
    """The batch as transformers' own loss takes it, with the masks that the objective is about to draw."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if objective.kind == "causal":
        return {**batch, "labels": ids.masked_fill(mask == 0, -100)}
    state = torch.get_rng_state()
    masked, predicted = objective._masked(ids, mask)
    torch.set_rng_state(state)
    return {"input_ids": masked, "attention_mask": mask, "labels": ids.masked_fill(~predicted, -100)}


def test_loss_and_gradients_are_the_models_own(language_model, batch):
    model, objective = language_model.model, LanguageModelling(language_model, mask_share=0.4)
    torch.manual_seed(3)
    theirs = model(**labelled(objective, batch)).loss
    out = objective(model, batch)
    torch.testing.assert_close(out.loss, theirs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out.parts["language_modelling"], theirs.detach(), atol=1e-6, rtol=1e-5)
    out.loss.backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    theirs.backward()
    for mine, parameter in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)


def test_masking_is_fifteen_per_cent_of_words_eighty_ten_ten(masked_model):
    torch.manual_seed(0)
    objective = LanguageModelling(masked_model)
    ids = torch.randint(5, len(masked_model.tokenizer), (400, 100))
    ids[:, 0], ids[:, -1] = 2, 3
    mask = torch.ones_like(ids)
    mask[:, 90:] = 0
    shown, predicted = objective._masked(ids, mask)
    assert not predicted[:, 0].any()
    assert not predicted[:, 90:].any()
    assert torch.equal(shown[~predicted], ids[~predicted])
    count = predicted.sum().item()
    assert count / (400 * 89) == pytest.approx(0.15, abs=0.01)
    masked = (shown == masked_model.tokenizer.mask_token_id) & predicted
    kept = (shown == ids) & predicted
    assert masked.sum().item() / count == pytest.approx(0.8, abs=0.03)
    assert kept.sum().item() / count == pytest.approx(0.1, abs=0.03)


def test_features_are_those_of_tokens_in_sight_with_their_true_ids(masked_model, text):
    objective = LanguageModelling(masked_model, mask_share=0.5)
    batch = dict(masked_model.tokenizer(text[:2], return_tensors="pt", padding=True))
    torch.manual_seed(1)
    masked = labelled(objective, batch)["input_ids"]
    assert (masked != batch["input_ids"]).any()
    out = objective(masked_model.model, batch)
    in_sight = (masked == batch["input_ids"]) & (masked > 4)
    assert torch.equal(out.token_ids, batch["input_ids"][in_sight])
    inputs = {"input_ids": masked, "attention_mask": batch["attention_mask"]}
    torch.testing.assert_close(out.features, forward_at(masked_model.model, inputs, in_sight).states)


def test_a_batch_with_nothing_to_predict_costs_nothing(language_model, batch):
    batch["attention_mask"] = torch.zeros_like(batch["attention_mask"])
    batch["attention_mask"][:, 0] = 1
    batch["input_ids"][:] = language_model.special_ids[0]
    out = LanguageModelling(language_model)(language_model.model, batch)
    assert out.loss.item() == 0.0
    out.loss.backward()
