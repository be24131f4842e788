"""A projected model: what every reader of its states sees, and what is saved."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    DistilBertConfig,
    ElectraConfig,
    LlamaConfig,
    ModernBertConfig,
    Qwen2Config,
    RobertaConfig,
)

from equiframe.errors import InputError, ModelError
from equiframe.finetuned.classifier import EncoderWithHead
from equiframe.models import forward_at, load, save
from equiframe.models.projected import BUFFER, project
from equiframe.scoring.engine import answer
from equiframe.scoring.requests import Embedding, TokenLogProbs

IDS = torch.tensor([[2, 7, 11, 9, 30, 3], [2, 8, 12, 3, 0, 0]])
MASK = (IDS != 0).long()


def without(dim, *directions):
    """The projection that takes out some directions."""
    basis, _ = torch.linalg.qr(torch.tensor(directions, dtype=torch.float64).T)
    return torch.eye(dim, dtype=torch.float64) - basis @ basis.T


def some_projection(dim=16):
    drawn = torch.randn(2, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return without(dim, *drawn.tolist())


def run(model, **options):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK, return_dict=True, **options)


@pytest.fixture
def matrix():
    return some_projection()


def test_states_and_logits_are_those_computed_by_hand(language_model, matrix):
    model = language_model.model
    before = run(model.base_model, output_hidden_states=True)
    by_hand = before.last_hidden_state @ matrix.float()
    with torch.no_grad():
        head = model.cls if language_model.kind == "masked" else model.lm_head
        logits = head(by_hand)
    project(model, matrix)
    after, whole = run(model.base_model, output_hidden_states=True), run(model, output_hidden_states=True)
    torch.testing.assert_close(after.last_hidden_state, by_hand)
    torch.testing.assert_close(whole.logits, logits)
    for found in (after, whole):
        assert len(found.hidden_states) == len(before.hidden_states) == 3
        torch.testing.assert_close(found.hidden_states[-1], by_hand)
        for new, old in zip(found.hidden_states[:-1], before.hidden_states[:-1], strict=True):
            torch.testing.assert_close(new, old, rtol=0, atol=0)
    assert not torch.allclose(by_hand, before.last_hidden_state, atol=1e-2)


def test_scoring_and_embeddings_see_it(language_model, matrix):
    ids = tuple(IDS[0].tolist())
    requests = [Embedding(ids), Embedding(ids, "cls"), Embedding(ids, "last"), TokenLogProbs(ids, (1, 3), (7, 9))]
    plain = answer(language_model, requests)
    project(language_model.model, matrix)
    projected = answer(language_model, requests)
    for old, new in zip(plain[:3], projected[:3], strict=True):
        torch.testing.assert_close(torch.tensor(new), torch.tensor(old) @ matrix.float(), rtol=1e-4, atol=1e-5)
    logits = run(language_model.model).logits[0].log_softmax(dim=-1)
    assert projected[3] == pytest.approx((float(logits[1, 7]), float(logits[3, 9])), abs=1e-5)
    assert projected[3] != plain[3]


def test_the_audit_reads_projected_states(language_model, matrix):
    where = MASK.bool()
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    plain = forward_at(language_model.model, inputs, where, feature="last-layer").states
    project(language_model.model, matrix)
    read = forward_at(language_model.model, inputs, where, feature="last-layer", layers=True)
    torch.testing.assert_close(read.states, plain @ matrix.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read.layers[-1][where], read.states)


def test_a_copy_of_the_encoder_keeps_it_as_its_own(language_model, matrix):
    project(language_model.model, matrix)
    states = run(language_model.model.base_model).last_hidden_state
    with_head = EncoderWithHead(language_model, "sequence", 2).eval()
    torch.testing.assert_close(run(with_head.encoder).last_hidden_state, states, rtol=0, atol=0)
    copied = copy.deepcopy(language_model.model)
    project(language_model.model, torch.zeros_like(matrix))
    assert not run(language_model.model.base_model).last_hidden_state.any()
    for other in (with_head.encoder, copied.base_model):
        torch.testing.assert_close(run(other).last_hidden_state, states, rtol=0, atol=0)


def test_it_is_a_constant_through_which_gradients_flow(language_model, matrix):
    project(language_model.model, matrix)
    assert all(BUFFER not in name for name, _ in language_model.model.named_parameters())
    state = language_model.model.base_model(input_ids=IDS, attention_mask=MASK).last_hidden_state
    state.sum().backward()
    assert all(p.grad is not None for p in language_model.model.get_input_embeddings().parameters())


def test_two_projections_are_their_product(masked_model):
    first, second = without(16, [1.0] + [0] * 15), without(16, [1.0, 1] + [0] * 14)
    states = run(masked_model.model.base_model).last_hidden_state
    for matrix in (first, second):
        project(masked_model.model, matrix)
    expected = states @ first.float() @ second.float()  # row vectors: the first one acts first
    torch.testing.assert_close(run(masked_model.model.base_model).last_hidden_state, expected)
    assert len(masked_model.model.base_model._forward_hooks) == 1


@pytest.mark.parametrize("shards", [False, True])
def test_saved_and_loaded_to_the_bit(language_model, matrix, tmp_path, shards):
    plain = language_model.fingerprint()
    project(language_model.model, matrix)
    if shards:
        language_model.model.save_pretrained(tmp_path / "m", max_shard_size="4KB")
        language_model.tokenizer.save_pretrained(tmp_path / "m")
        held = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())["weight_map"]
        assert len(set(held.values())) > 2
    else:
        save(language_model, tmp_path / "m")
    again = load(str(tmp_path / "m"), device="cpu")
    assert plain != language_model.fingerprint() == again.fingerprint()
    torch.testing.assert_close(run(again.model).logits, run(language_model.model).logits, rtol=0, atol=0)
    save(again, tmp_path / "again")
    assert load(str(tmp_path / "again"), device="cpu").fingerprint() == again.fingerprint()


def test_transformers_alone_loads_the_model_unprojected(language_model, matrix, tmp_path):
    plain = run(language_model.model).logits
    project(language_model.model, matrix)
    save(language_model, tmp_path / "m")
    auto = AutoModelForMaskedLM if language_model.kind == "masked" else AutoModelForCausalLM
    model, info = auto.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert [key.rpartition(".")[2] for key in info["unexpected_keys"]] == [BUFFER]
    torch.testing.assert_close(run(model.eval()).logits, plain)


COMMON = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
ARCHITECTURES = [
    RobertaConfig(**COMMON, intermediate_size=32, max_position_embeddings=64),
    AlbertConfig(**COMMON, intermediate_size=32, embedding_size=8),
    ElectraConfig(**COMMON, intermediate_size=32, embedding_size=8),
    DistilBertConfig(vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    ModernBertConfig(**COMMON, intermediate_size=32, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3),
    LlamaConfig(**COMMON, intermediate_size=32, bos_token_id=2, eos_token_id=3),
    Qwen2Config(**COMMON, intermediate_size=32, num_key_value_heads=2, bos_token_id=2, eos_token_id=3),
]


@pytest.mark.parametrize("config", ARCHITECTURES, ids=lambda config: config.model_type)
def test_other_architectures(config, matrix, masked_model, tmp_path):
    torch.manual_seed(0)
    kind = "causal" if config.model_type in ("llama", "qwen2") else "masked"
    auto = AutoModelForMaskedLM if kind == "masked" else AutoModelForCausalLM
    model = auto.from_config(config).eval()
    plain = run(model, output_hidden_states=True)
    states = run(model.base_model).last_hidden_state
    project(model, matrix)
    found = run(model, output_hidden_states=True)
    torch.testing.assert_close(found.hidden_states[-1], states @ matrix.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run(model.base_model).last_hidden_state, found.hidden_states[-1])
    torch.testing.assert_close(found.hidden_states[:-1], plain.hidden_states[:-1])
    assert not torch.allclose(found.logits, plain.logits, atol=1e-4)
    save(dataclasses.replace(masked_model, model=model, kind=kind), tmp_path / "m")
    again = load(str(tmp_path / "m"), kind=kind, device="cpu")
    torch.testing.assert_close(run(again.model).logits, found.logits, rtol=0, atol=0)


@pytest.mark.parametrize("wrong", [torch.eye(8), torch.eye(16)[0], torch.full((16, 16), float("nan"))])
def test_a_matrix_that_does_not_fit(masked_model, wrong):
    with pytest.raises(InputError, match="16 x 16"):
        project(masked_model.model, wrong)
    assert not hasattr(masked_model.model.base_model, BUFFER)


def test_a_checkpoint_with_a_matrix_that_does_not_fit(masked_model, tmp_path):
    masked_model.model.base_model.register_buffer(BUFFER, torch.eye(8))
    save(masked_model, tmp_path / "m")
    with pytest.raises(ModelError, match="16 x 16"):
        load(str(tmp_path / "m"), device="cpu")


def test_a_stack_alone_is_refused(masked_model, matrix):
    with pytest.raises(ModelError, match="no encoder apart"):
        project(masked_model.model.base_model, matrix)


def test_no_tuple_slips_by(masked_model, matrix):
    project(masked_model.model, matrix)
    with pytest.raises(ModelError, match="return_dict"):
        masked_model.model.base_model(input_ids=IDS, attention_mask=MASK, return_dict=False)
