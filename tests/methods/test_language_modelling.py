"""The host loss against transformers' own, and what it hands to a regularizer."""

from __future__ import annotations

import pytest
import torch
from transformers import DataCollatorForLanguageModeling

from equiframe.methods.language_modelling import LanguageModelling
from equiframe.models.adapter import forward_at


@pytest.fixture
def batch(language_model, text):
    torch.manual_seed(0)
    ids = language_model.tokenizer(text)["input_ids"]
    collator = DataCollatorForLanguageModeling(language_model.tokenizer, mlm=language_model.kind == "masked")
    return dict(collator([{"input_ids": i} for i in ids]))


def test_loss_is_the_models_own(language_model, batch):
    objective = LanguageModelling(language_model.kind, language_model.special_ids)
    out = objective(language_model.model, batch)
    theirs = language_model.model(**batch).loss
    torch.testing.assert_close(out.loss, theirs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out.parts["language_modelling"], theirs.detach(), atol=1e-6, rtol=1e-5)


def test_gradients_are_the_models_own(language_model, batch):
    model = language_model.model
    LanguageModelling(language_model.kind, language_model.special_ids)(model, batch).loss.backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(**batch).loss.backward()
    for mine, parameter in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)


def test_features_are_those_of_unmasked_tokens_with_their_true_ids(masked_model, text):
    ids = masked_model.tokenizer(text[0], return_tensors="pt")
    labels = torch.full_like(ids["input_ids"], -100)
    labels[0, 3] = ids["input_ids"][0, 3]
    masked = ids["input_ids"].clone()
    masked[0, 3] = masked_model.tokenizer.mask_token_id
    batch = {"input_ids": masked, "attention_mask": ids["attention_mask"], "labels": labels}
    out = LanguageModelling("masked", masked_model.special_ids)(masked_model.model, batch)
    words = ids["input_ids"][0, 1:-1].tolist()
    assert out.token_ids.tolist() == words[:2] + words[3:]
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    where = torch.zeros_like(masked, dtype=torch.bool)
    where[0, [i for i in range(1, masked.shape[1] - 1) if i != 3]] = True
    torch.testing.assert_close(out.features, forward_at(masked_model.model, inputs, where).states)


def test_a_batch_with_nothing_to_predict_costs_nothing(masked_model, text):
    ids = masked_model.tokenizer(text[:2], return_tensors="pt", padding=True)
    batch = {
        "input_ids": ids["input_ids"],
        "attention_mask": ids["attention_mask"],
        "labels": torch.full_like(ids["input_ids"], -100),
    }
    out = LanguageModelling("masked", masked_model.special_ids)(masked_model.model, batch)
    assert out.loss.item() == 0.0
    out.loss.backward()
