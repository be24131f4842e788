"""BERT's next-sentence head: kept from the checkpoint, saved with the model, never trained."""

from __future__ import annotations

import pytest
import torch
from transformers import BertForPreTraining

from equiframe.errors import InputError
from equiframe.models import load, save
from equiframe.models.next_sentence import TENSORS
from equiframe.models.projected import project
from equiframe.requests import NextSentence, TokenLogProbs
from equiframe.scoring.engine import answer


@pytest.fixture
def folder(masked_model, tmp_path):
    """A checkpoint as BERT was published: the weights of the masked model, and a next-sentence head."""
    torch.manual_seed(0)
    model = BertForPreTraining(masked_model.model.config)
    model.load_state_dict(masked_model.model.state_dict(), strict=False)
    model.save_pretrained(tmp_path / "checkpoint")
    masked_model.tokenizer.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def with_head(folder):
    return load(str(folder), device="cpu")


def pairs(language_model):
    texts = [("she is a nurse", "he is a doctor"), ("a ball", "the king and the queen"), ("her father", "she told her")]
    return [language_model.codec.next_sentence(*pair) for pair in texts]


def head_of(language_model):
    return {key: tensor.clone() for key, tensor in language_model.model.state_dict().items() if key in TENSORS}


def test_a_model_has_the_head_where_its_checkpoint_has_it(with_head, masked_model, causal_model, folder):
    assert with_head.codec.has_next_sentence
    assert set(head_of(with_head)) == set(TENSORS)
    assert not any(with_head.model.get_parameter(key).requires_grad for key in TENSORS)
    stored = BertForPreTraining.from_pretrained(folder).state_dict()
    for key, tensor in head_of(with_head).items():
        torch.testing.assert_close(tensor, stored[key], rtol=0, atol=0)
    for language_model in (masked_model, causal_model):
        assert not language_model.codec.has_next_sentence
        assert head_of(language_model) == {}
    with pytest.raises(InputError, match="does not answer NextSentence"):
        answer(masked_model, pairs(masked_model))
    with pytest.raises(InputError, match="3 tokens, but 2 types"):
        NextSentence((2, 5, 3), (0, 0))


def test_the_fingerprint_holds_the_head_and_the_rest_is_as_before(with_head, masked_model):
    assert with_head.fingerprint() != masked_model.fingerprint()
    ids = masked_model.codec.encode("she is a nurse")
    request = TokenLogProbs(ids, (1, 2), (7, 9))
    assert answer(with_head, [request]) == answer(masked_model, [request])
    before = with_head.fingerprint()
    with torch.no_grad():
        with_head.model.cls.seq_relationship.bias[0] += 1
    assert with_head.fingerprint() != before


@pytest.mark.parametrize("shards", [False, True])
def test_it_is_saved_under_the_names_that_transformers_reads(with_head, tmp_path, shards):
    if shards:
        with_head.model.save_pretrained(tmp_path / "saved", max_shard_size="10KB")
        with_head.tokenizer.save_pretrained(tmp_path / "saved")
    else:
        save(with_head, tmp_path / "saved")
    again = load(str(tmp_path / "saved"), device="cpu")
    assert again.fingerprint() == with_head.fingerprint()
    assert answer(again, pairs(again)) == answer(with_head, pairs(with_head))
    reference, info = BertForPreTraining.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"]
    for key, tensor in head_of(with_head).items():
        torch.testing.assert_close(tensor, reference.state_dict()[key], rtol=0, atol=0)


@torch.no_grad()
def test_it_reads_the_states_of_a_projected_model(with_head):
    plain = answer(with_head, pairs(with_head))
    project(with_head.model, torch.zeros(16, 16))
    projected = answer(with_head, pairs(with_head))
    head = with_head.model.cls.seq_relationship
    expected = head(with_head.model.bert.pooler.dense.bias.tanh()).log_softmax(dim=-1)[0].item()
    assert projected == [pytest.approx((expected,), abs=1e-5)] * 3
    assert len(set(plain)) == 3


@pytest.mark.parametrize("lora", [0, 2])
def test_debiasing_leaves_the_head_alone(invoke, with_head, folder, text, tmp_path, lora):
    sentences = tmp_path / "text.txt"
    sentences.write_text("\n".join(text * 4))
    common = ("debias", str(folder), "--method", "cda", "--set", f"text={sentences}", "--text", str(sentences))
    size = ("--max-steps", "2", "--batch-size", "4", "--learning-rate", "0.01", "--precision", "fp32")
    done = invoke(*common, *size, "--lora", str(lora), "--benchmarks", "", "--out", str(tmp_path / "run"))
    assert done.exit_code == 0, (done.output, done.exception)
    after = load(str(tmp_path / "run" / "model"), device="cpu")
    assert after.fingerprint() != with_head.fingerprint()
    assert after.codec.has_next_sentence
    for key, tensor in head_of(with_head).items():
        torch.testing.assert_close(after.model.state_dict()[key], tensor, rtol=0, atol=0)
    assert answer(after, pairs(after)) != answer(with_head, pairs(with_head))  # the encoder moved
