"""What is saved is read again by transformers alone, and compared with what is in memory."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from equiframe.errors import ModelError
from equiframe.models import load, save, saving

IDS = torch.tensor([[2, 7, 11, 9, 30, 3]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def test_transformers_reads_the_model_in_memory(language_model, tmp_path):
    with torch.no_grad():
        for weight in language_model.model.parameters():
            weight *= 1.5
    save(language_model, tmp_path / "m")
    auto = AutoModelForMaskedLM if language_model.kind == "masked" else AutoModelForCausalLM
    torch.testing.assert_close(logits(auto.from_pretrained(tmp_path / "m")), logits(language_model.model))
    assert not (tmp_path / "m" / "README.md").exists()


def louder(_, __, output):
    output.logits = 1.01 * output.logits
    return output


def untied_in_secret(model):
    """As if a method had given the output embedding a weight of its own and told nobody."""
    model.lm_head.weight = torch.nn.Parameter(1.1 * model.lm_head.weight)


UNSAVED = {
    "hook": lambda model: model.register_forward_hook(louder),
    "buffer": lambda model: model.base_model.register_forward_hook(shifted),
    "config": lambda model: setattr(model.config, "layer_norm_epsilon", 0.5),
}


def shifted(_, __, output):
    output.last_hidden_state = output.last_hidden_state + torch.arange(16) / 8
    return output


@pytest.mark.parametrize("change", UNSAVED)
def test_what_is_not_among_the_weights_is_an_error(causal_model, tmp_path, change):
    save(causal_model, tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    UNSAVED[change](causal_model.model)
    with pytest.raises(ModelError, match=r"m\.partial: .* not the one in memory: the logits of .* differ by \d"):
        save(causal_model, tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before


def test_a_weight_that_is_untied_in_memory_alone(causal_model, tmp_path):
    """Transformers sees that the two differ and reads both: no error, and the logits are right."""
    untied_in_secret(causal_model.model)
    save(causal_model, tmp_path / "m")
    torch.testing.assert_close(logits(load(tmp_path / "m", device="cpu").model), logits(causal_model.model))


def test_a_tokenizer_that_changes_when_it_is_read_again(masked_model, tmp_path, monkeypatch, new_tokenizer):
    other = new_tokenizer()
    other.add_tokens("nurse .")
    monkeypatch.setattr(saving.AutoTokenizer, "from_pretrained", lambda *_, **__: other)
    other.backend_tokenizer.normalizer = None
    with pytest.raises(ModelError, match="splits 'She is a nurse"):
        save(masked_model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_the_type_of_the_checkpoint(language_model, tmp_path, monkeypatch):
    read = []
    original = PreTrainedModel.from_pretrained.__func__

    def noted(cls, *arguments, **options):
        found = original(cls, *arguments, **options)
        read.append(found.dtype)
        return found

    language_model.model.to(torch.bfloat16)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(noted))
    save(language_model, tmp_path / "m")
    assert read == [torch.bfloat16]


def test_memory_need_not_hold_two_models(language_model, tmp_path, monkeypatch):
    held, original = [], PreTrainedModel.from_pretrained.__func__
    tensors = {**dict(language_model.model.named_parameters()), **dict(language_model.model.named_buffers())}
    expected = logits(language_model.model)

    def noted(cls, *arguments, **options):
        held.append(sum(tensor.untyped_storage().nbytes() for tensor in tensors.values()))
        return original(cls, *arguments, **options)

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(noted))
    save(language_model, tmp_path / "m")
    save(language_model, tmp_path / "m", release=True)
    assert held[0] > 0
    assert held[1] == 0
    torch.testing.assert_close(logits(load(tmp_path / "m", device="cpu").model), expected)


def test_texts_longer_than_the_window(masked_model, tmp_path):
    short = dataclasses.replace(masked_model)
    short.tokenizer.model_max_length = 3
    save(short, tmp_path / "m")
    assert load(tmp_path / "m", device="cpu").window == 3


def test_a_device_without_room_is_not_needed(masked_model, tmp_path, monkeypatch):
    moved = []

    def full(model, device):
        moved.append(str(device))
        if len(moved) == 1:
            raise torch.OutOfMemoryError("no room")
        return model

    monkeypatch.setattr(PreTrainedModel, "to", full)
    save(masked_model, tmp_path / "m")
    assert moved == ["cpu", "cpu"]
