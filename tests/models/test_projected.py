"""A projected model: what every reader of its states sees, and what is saved."""

from __future__ import annotations

import copy
import json

import numpy as np
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
    OPTConfig,
    Qwen2Config,
    RobertaConfig,
)

from equiframe.errors import InputError, ModelError
from equiframe.finetuned.head import EncoderWithHead
from equiframe.models import LanguageModel, forward_at, load, save
from equiframe.models.projected import BUFFER, fold, project, stack_of
from equiframe.requests import Embedding, TokenLogProbs
from equiframe.scoring.engine import answer

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


@pytest.mark.parametrize("width", [8, 16])
def test_states_of_opt_may_be_narrower_than_its_layers(width):
    config = OPTConfig(
        vocab_size=40, hidden_size=16, word_embed_proj_dim=width, ffn_dim=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    matrix = some_projection(width)
    by_hand = run(model.base_model).last_hidden_state @ matrix.float()
    with torch.no_grad():
        logits = model.lm_head(by_hand)
    project(model, matrix)
    torch.testing.assert_close(run(model).logits, logits)
    torch.testing.assert_close(run(model.base_model).last_hidden_state, by_hand)


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


@pytest.mark.parametrize("second", [[0.0, 1.0] + [0] * 14, [1.0, 1] + [0] * 14, [1.0] + [0] * 15])
def test_two_projections_take_out_both_directions(language_model, second):
    first = [1.0] + [0] * 15
    both = without(16, first, second) if second != first else without(16, first)
    head = copy.deepcopy(language_model.model.cls if language_model.kind == "masked" else language_model.model.lm_head)
    states = run(language_model.model.base_model).last_hidden_state @ both.float()
    for direction in (first, second):
        project(language_model.model, without(16, direction))
    torch.testing.assert_close(run(language_model.model.base_model).last_hidden_state, states, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run(language_model.model).logits, head(states), rtol=1e-4, atol=1e-5)
    assert len(language_model.model.base_model._forward_hooks) == 1


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


def plain(language_model, folder):
    """What a user has without equiframe."""
    auto = AutoModelForMaskedLM if language_model.kind == "masked" else AutoModelForCausalLM
    return auto.from_pretrained(folder)


def test_transformers_alone_gives_the_projected_logits_and_the_original_states(language_model, matrix, tmp_path):
    before = run(language_model.model), run(language_model.model.base_model).last_hidden_state
    project(language_model.model, matrix)
    save(language_model, tmp_path / "m")
    model = plain(language_model, tmp_path / "m")
    torch.testing.assert_close(run(model).logits, run(language_model.model).logits)
    assert not torch.allclose(run(model).logits, before[0].logits, atol=1e-3)
    torch.testing.assert_close(run(model.base_model).last_hidden_state, before[1])
    readme = (tmp_path / "m" / "README.md").read_text()
    assert "equiframe.load" in readme
    assert "those of the\noriginal model" in readme


def test_one_weight_changes_to_the_product(language_model, matrix):
    before = {name: tensor.clone() for name, tensor in language_model.model.state_dict().items()}
    project(language_model.model, matrix)
    after = language_model.model.state_dict()
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    masked = language_model.kind == "masked"
    assert changed == ["cls.predictions.transform.dense.weight" if masked else "lm_head.weight"]
    np.testing.assert_allclose(after[changed[0]], before[changed[0]].double().numpy() @ matrix.numpy(), atol=1e-7)
    assert language_model.model.config.tie_word_embeddings is masked
    assert [*after.keys() - before.keys()] == [f"{language_model.model.base_model_prefix}.{BUFFER}"]


def test_a_trained_projected_model_is_folded_when_it_is_saved(language_model, matrix, tmp_path):
    project(language_model.model, matrix)
    with torch.no_grad():
        for weight in language_model.model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    expected = run(language_model.model).logits
    save(language_model, tmp_path / "m")
    for model in (plain(language_model, tmp_path / "m"), load(str(tmp_path / "m"), device="cpu").model):
        torch.testing.assert_close(run(model).logits, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_is_folded_and_saved(language_model, matrix, tmp_path):
    model = language_model.model.to(torch.bfloat16)
    before = run(model).logits
    project(model, matrix)
    save(language_model, tmp_path / "m")
    again = plain(language_model, tmp_path / "m")
    assert again.dtype == torch.bfloat16
    assert not torch.allclose(run(again).logits, before, atol=5e-2)
    torch.testing.assert_close(run(again).logits, run(model).logits, rtol=5e-2, atol=2e-2)


def test_a_head_that_is_not_linear_is_refused(language_model, matrix):
    model = language_model.model
    head = model.cls.predictions.transform.dense if language_model.kind == "masked" else model.lm_head
    head.register_forward_pre_hook(lambda _, inputs: (inputs[0].tanh(),))
    before = run(model).logits
    with pytest.raises(ModelError, match="one linear layer"):
        project(model, matrix)
    assert not hasattr(model.base_model, BUFFER)
    torch.testing.assert_close(run(model).logits, before, rtol=0, atol=0)


COMMON = {"vocab_size": 101, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
ARCHITECTURES = [
    RobertaConfig(**COMMON, intermediate_size=32, max_position_embeddings=64),
    AlbertConfig(**COMMON, intermediate_size=32, embedding_size=8),
    ElectraConfig(**COMMON, intermediate_size=32, embedding_size=8),
    DistilBertConfig(vocab_size=101, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
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
    model.save_pretrained(tmp_path / "m")
    masked_model.tokenizer.save_pretrained(tmp_path / "m")
    again = load(str(tmp_path / "m"), kind=kind, device="cpu")
    torch.testing.assert_close(run(again.model).logits, found.logits, rtol=0, atol=0)


WRONG = {
    "8": (torch.eye(8), "16 x 16"),
    "row": (torch.eye(16)[0], "16 x 16"),
    "nan": (torch.full((16, 16), float("nan")), "16 x 16"),
    "twice": (2 * torch.eye(16), "its own square"),
    "oblique": (
        torch.diag(torch.tensor([0.0] + [1.0] * 15)) + torch.nn.functional.pad(torch.ones(1, 1), (1, 14, 0, 15)),
        "symmetric",
    ),
}


@pytest.mark.parametrize(("wrong", "said"), WRONG.values(), ids=WRONG)
def test_a_matrix_that_is_no_projection_of_the_states(masked_model, wrong, said):
    with pytest.raises(InputError, match=said):
        project(masked_model.model, wrong)
    assert not hasattr(masked_model.model.base_model, BUFFER)


def test_a_checkpoint_with_a_matrix_that_does_not_fit(masked_model, tmp_path):
    masked_model.model.base_model.register_buffer(BUFFER, torch.eye(8))
    masked_model.model.save_pretrained(tmp_path / "m")
    masked_model.tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match="16 x 16"):
        load(str(tmp_path / "m"), device="cpu")


def test_a_stack_alone_is_refused(masked_model, matrix):
    with pytest.raises(ModelError, match="no encoder separate"):
        project(masked_model.model.base_model, matrix)


def test_no_tuple_slips_by(masked_model, matrix):
    project(masked_model.model, matrix)
    with pytest.raises(ModelError, match="return_dict"):
        masked_model.model.base_model(input_ids=IDS, attention_mask=MASK, return_dict=False)


def test_one_direction_is_folded_into_weights_in_half_precision(causal_model, tmp_path):
    """It is a small part of 576 dimensions: less than 8 roundings to bfloat16 of the whole weight."""
    shape = {"hidden_size": 576, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 8}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(causal_model.tokenizer), tie_word_embeddings=True, **shape)
    model = AutoModelForCausalLM.from_config(config).bfloat16().eval()
    ids = {"input_ids": IDS[:1]}
    with torch.no_grad():
        states = model.model(**ids).last_hidden_state[0]
        direction = states.double().mean(dim=0)
        weight = model.lm_head.weight.clone()
        project(model, without(576, direction.tolist()))
        save(LanguageModel("llama", model, causal_model.tokenizer, "causal"), tmp_path / "model")
        live, read = (
            load(tmp_path / "model", device="cpu", dtype="bfloat16").model,
            AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto").eval(),
        )
        right = states.double() @ without(576, direction.tolist()) @ weight.double().T
        for found in (model, live, read):
            assert found.lm_head.weight.dtype == torch.bfloat16
            logits = found(**ids).logits[0].double()
            assert (logits - right).norm() < 0.02 * right.norm()
        assert ((states @ weight.T).double() - right).norm() > 0.1 * right.norm()
        assert stack_of(live).get_buffer(BUFFER).dtype == torch.float32
        before = model.lm_head.weight.clone()
        fold(model)
        assert model.lm_head.weight.equal(before)
