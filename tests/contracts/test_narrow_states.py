"""OPT-350m: its last states are narrower than its layers, which everything that reads states must allow for."""

from __future__ import annotations

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from equiframe.errors import ModelError
from equiframe.finetuned.head import EncoderWithHead
from equiframe.methods.adept import ADEPT, PrototypeObjective
from equiframe.methods.mabel import MABEL
from equiframe.models import LanguageModel
from equiframe.models.adapter import state_size

IDS = torch.tensor([[3, 4, 5], [6, 7, 8], [3, 4, 5], [6, 7, 8]])
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


@pytest.fixture
def narrow(causal_model):
    config = OPTConfig(
        vocab_size=len(causal_model.tokenizer), hidden_size=16, word_embed_proj_dim=8, ffn_dim=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    return LanguageModel("opt", OPTForCausalLM(config).eval(), causal_model.tokenizer, "causal")


def test_a_head_fits_the_states(narrow):
    assert state_size(narrow.model) == 8
    assert EncoderWithHead(narrow, "sequence", 3)(**BATCH)["logits"].shape == (4, 3)


def test_mabel_reads_the_states(narrow):
    objective = MABEL().objective(narrow, None, pairing="aligned", feature="decoder-input")
    assert torch.isfinite(objective(narrow.model, BATCH).loss)


def test_adept_compares_layers_of_one_width(narrow):
    sample = {**BATCH, "start": torch.ones(4), "end": torch.full((4,), 2)}
    with pytest.raises(ModelError, match="the layers of this model differ in width"):
        PrototypeObjective(narrow, ADEPT(), [sample, sample])
