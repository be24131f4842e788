"""Every supported architecture, by tiny random configurations of each."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from equiframe.errors import InputError, ModelError
from equiframe.models.adapter import forward_at, output_embedding, pair

VOCABULARY = 50
ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
MODELS = {
    "bert": lambda: BertForMaskedLM(BertConfig(**ENCODER)),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**ENCODER)),
    "distilbert": lambda: DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=32, pad_token_id=0)
    ),
    "albert": lambda: AlbertForMaskedLM(AlbertConfig(**ENCODER, embedding_size=8)),
    "electra": lambda: ElectraForMaskedLM(ElectraConfig(**ENCODER, embedding_size=8)),
    "modernbert": lambda: ModernBertForMaskedLM(
        ModernBertConfig(
            **ENCODER, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, reference_compile=False
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=40, bos_token_id=1, eos_token_id=1
        )
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**ENCODER, num_key_value_heads=1, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True)
    ),
}


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


@pytest.fixture
def batch():
    ids = torch.randint(5, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    ids[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def test_logits_at_places_are_those_of_the_plain_model(model, batch):
    where = torch.zeros(3, 9, dtype=torch.bool)
    where[0, 2] = where[1, 5] = where[2, 0] = where[2, 8] = True
    read = forward_at(model, batch, where)
    plain = model(**batch).logits[where]
    torch.testing.assert_close(read.logits, plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_classifier_multiplies_the_state(model, batch):
    where = batch["attention_mask"].bool()
    read = forward_at(model, batch, where)
    head = output_embedding(model)
    by_hand = read.states @ head.weight.T
    if head.bias is not None:
        by_hand = by_hand + head.bias
    torch.testing.assert_close(read.logits, by_hand, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_states_and_logits_at_different_places(model, batch):
    where = torch.zeros(3, 9, dtype=torch.bool)
    where[0, 1] = True
    states_at = batch["attention_mask"].bool()
    read = forward_at(model, batch, where, states_at=states_at)
    assert read.logits.shape == (1, VOCABULARY)
    torch.testing.assert_close(read.states, forward_at(model, batch, states_at, logits=False).states)


@torch.no_grad()
def test_no_logits_at_all(model, batch):
    read = forward_at(model, batch, batch["attention_mask"].bool(), logits=False)
    assert read.logits is None
    assert len(read.states) == int(batch["attention_mask"].sum())


def test_the_hook_is_taken_off_even_after_an_error(model, batch):
    with pytest.raises((TypeError, IndexError, RuntimeError, ValueError)):
        forward_at(model, {"input_ids": torch.tensor([[VOCABULARY + 100]])}, torch.ones(1, 1, dtype=torch.bool))
    assert model(**batch).logits.shape == (3, 9, VOCABULARY)


def test_gradient_reaches_states_and_classifier(model, batch):
    read = forward_at(model, batch, batch["attention_mask"].bool())
    (read.states.square().sum() + read.logits.square().sum()).backward()
    assert output_embedding(model).weight.grad.abs().sum() > 0
    model.zero_grad()


@torch.no_grad()
def test_last_layer_is_before_the_head_transform(batch):
    torch.manual_seed(0)
    model = MODELS["bert"]().eval()
    where = batch["attention_mask"].bool()
    read = forward_at(model, batch, where, feature="last-layer")
    torch.testing.assert_close(read.states, model.bert(**batch).last_hidden_state[where])
    assert not torch.allclose(read.states, forward_at(model, batch, where).states)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ModelError, match="no output embedding"):
        output_embedding(BertModel(BertConfig(**ENCODER)))


class TestPair:
    ids = torch.tensor([[1, 7, 8, 9, 2, 0], [1, 7, 2, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
    specials = torch.tensor([0, 1, 2, 3])

    def test_masked_own_token_without_specials(self):
        where, labels = pair("masked", self.ids, self.mask, self.specials)
        assert where.nonzero().tolist() == [[0, 1], [0, 2], [0, 3], [1, 1]]
        assert labels.tolist() == [7, 8, 9, 7]

    def test_causal_next_token_without_specials(self):
        where, labels = pair("causal", self.ids, self.mask, self.specials)
        assert where.nonzero().tolist() == [[0, 1], [0, 2]]  # without the start token, 1
        assert labels.tolist() == [8, 9]

    def test_causal_with_padding_on_the_left(self):
        ids = torch.tensor([[0, 0, 7, 8]])  # without a start token
        where, labels = pair("causal", ids, torch.tensor([[0, 0, 1, 1]]), self.specials)
        assert where.nonzero().tolist() == [[0, 2]]
        assert labels.tolist() == [8]

    def test_masked_training_batch_counts_visible_tokens_only(self):
        masked = self.ids.clone()
        masked[0, 2] = 3
        where, labels = pair("masked", masked, self.mask, self.specials, true_ids=self.ids)
        assert where.nonzero().tolist() == [[0, 1], [0, 3], [1, 1]]
        assert labels.tolist() == [7, 9, 7]

    @pytest.mark.parametrize("kind", ["masked", "causal"])
    def test_paper_shifts_and_keeps_specials(self, kind):
        where, labels = pair(kind, self.ids, self.mask, self.specials, pairing="paper")
        assert where.nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1]]
        assert labels.tolist() == [7, 8, 9, 2, 7, 2]

    def test_unknown_pairing(self):
        with pytest.raises(InputError, match="aligned"):
            pair("masked", self.ids, self.mask, self.specials, pairing="other")
