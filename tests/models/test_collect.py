"""One pass over a text, in memory that does not grow with it."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from transformers import AlbertConfig, AlbertForMaskedLM

from equiframe.errors import InputError
from equiframe.models import collect


def test_what_is_held_out_is_bounded_and_the_rest_is_counted(masked_model, text):
    few = collect(masked_model, text * 10, held_out_every=2, held_out_tokens=30, token_budget=64)
    many = collect(masked_model, text * 40, held_out_every=2, held_out_tokens=30, token_budget=64)
    for collected in (few, many):
        assert 30 <= len(collected.held_out_ids) < 30 + 64
        assert len(collected.held_out_states) == len(collected.held_out_ids)
    assert torch.equal(many.statistics.counts, 4 * few.statistics.counts)
    assert many.texts == 4 * few.texts


def test_memory_is_taken_for_the_tokens_of_the_text_alone_and_the_numbers_are_those_of_all(
    language_model, text, monkeypatch
):
    rows = language_model.examination.rows
    all_of_them = collect(language_model, text, class_ids=torch.arange(rows)).statistics
    monkeypatch.setattr(sys.modules[collect.__module__], "_CHUNK", 2)  # new tokens come chunk by chunk
    found = collect(language_model, text).statistics
    read = set().union(*language_model.tokenizer(text)["input_ids"])
    assert found.class_ids.tolist() == sorted(read & set(range(rows)))
    assert len(found.means) < len(all_of_them.means) == rows
    for name in ("counts", "means", "scatter"):
        one, other = (getattr(each.seen(), name).double() for each in (found, all_of_them))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_text_is_read_as_it_comes(masked_model, text, monkeypatch):
    monkeypatch.setattr(sys.modules[collect.__module__], "_CHUNK", 8)
    taken = done = 0
    ahead = []

    def lines():
        nonlocal taken
        for line in text * 10:
            taken += 1
            yield line

    def progress(count):
        nonlocal done
        done += count
        ahead.append(taken - done)

    collect(masked_model, lines(), progress=progress)
    assert done == 10 * len(text)
    assert max(ahead) == 0


def test_a_last_layer_of_another_width_than_the_output_embedding_is_refused(masked_model, text):
    config = AlbertConfig(
        vocab_size=masked_model.examination.rows, embedding_size=8, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, max_position_embeddings=64,
    )  # fmt: skip
    albert = dataclasses.replace(masked_model, model=AlbertForMaskedLM(config).eval())
    assert collect(albert, text).statistics.means.shape[1] == 8
    with pytest.raises(InputError, match=r"--feature last-layer: .* states of 16 numbers, .* the 8 of its output"):
        collect(albert, text, feature="last-layer")
