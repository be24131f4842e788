"""Where the memory does not suffice, batches are halved, this is said, and the numbers are those of the whole."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from equiframe.benchmarks.fine_tuned import TextExample
from equiframe.commands.run import run
from equiframe.config import DebiasConfig, FineTuning
from equiframe.errors import ModelError
from equiframe.finetuned import FineTuneSettings
from equiframe.finetuned.classifier import fine_tuned_outputs
from equiframe.models import collect
from equiframe.runs.answerers import answerer_of, load_of


@pytest.fixture
def small_memory(monkeypatch):
    """Makes word embeddings of more than so many texts at once raise what a GPU raises; from the call-th call on.

    ``training`` leaves calls without gradients alone."""
    embed = torch.nn.Embedding.forward

    def limit(rows, call=0, training=False):
        calls = []

        def limited(self, ids):
            calls.append(len(ids))
            if len(ids) > rows and len(calls) > call and (torch.is_grad_enabled() or not training):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return embed(self, ids)

        monkeypatch.setattr(torch.nn.Embedding, "forward", limited)
        return calls

    return limit


def test_collapse_is_that_of_the_whole_batch(language_model, text, small_memory):
    whole = collect(language_model, text, held_out_every=4)
    small_memory(1)
    with pytest.warns(UserWarning, match="out of memory: a batch of"):
        parts = collect(language_model, text, held_out_every=4)
    torch.testing.assert_close(parts.statistics.means, whole.statistics.means)
    assert torch.equal(parts.statistics.counts, whole.statistics.counts)
    assert torch.equal(parts.held_out_ids, whole.held_out_ids)
    small_memory(0)
    with pytest.raises(ModelError, match="too little free memory"), pytest.warns(UserWarning, match="in parts"):
        collect(language_model, text)


@pytest.mark.parametrize("call", [0, 7])  # at the first step, and at the third, after checkpoints
def test_fine_tuning_goes_on_with_half_the_batch(call, model_folders, gap_folder, tmp_path, small_memory, monkeypatch):
    config = DebiasConfig(
        audit=None,
        benchmarks=(),
        model=str(model_folders["masked"]),
        method="bec",
        data=gap_folder,
        fine_tuning=FineTuning(max_steps=4, batch_size=4, save_steps=1, precision="fp32"),
    )
    fewer = dataclasses.replace(config.fine_tuning, batch_size=2, accumulation=2)
    by_hand = run(dataclasses.replace(config, fine_tuning=fewer), tmp_path / "by-hand")
    calls = small_memory(2, call=call)
    held = []

    def answerer_noted(config):
        held.append(answerer_of(config))
        return held[0]

    def load_noted(config):
        assert not any(weight.numel() for weight in held[0].language_model.model.parameters())
        return load_of(config)

    monkeypatch.setattr("equiframe.commands.run.answerer_of", answerer_noted)
    monkeypatch.setattr("equiframe.commands.run.load_of", load_noted)
    with pytest.warns(UserWarning, match="out of memory: continuing with batches of 2, 2 per step"):
        record = run(config, tmp_path / "run")
    assert max(calls) == 4
    assert record.metrics.training.steps == 4
    found, expected = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "by-hand"))
    if call == 0:
        assert record.metrics.model.fingerprint == by_hand.metrics.model.fingerprint
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-4)


def test_one_example_too_large_is_an_error(model_folders, gap_folder, tmp_path, small_memory):
    small_memory(0, training=True)
    settings = FineTuning(max_steps=1, batch_size=3, max_length=8)
    config = DebiasConfig(
        audit=None,
        benchmarks=(),
        model=str(model_folders["masked"]),
        method="bec",
        data=gap_folder,
        fine_tuning=settings,
    )
    with pytest.raises(ModelError, match="one example"), pytest.warns(UserWarning, match="batches of 1, 3 per step"):
        run(config, tmp_path / "run")


def test_a_projection_without_memory_names_no_option_of_training(model_folders, gap_folder, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("equiframe.methods.sentence_debias.sentence_states", full)
    config = DebiasConfig(
        str(model_folders["masked"]), method="sentence-debias", data=gap_folder, audit=None, benchmarks=()
    )
    with pytest.raises(ModelError, match="memory: choose another device, or load the model with --dtype"):
        run(config, tmp_path / "run")


def test_a_head_is_fitted_as_with_the_whole_batch(masked_model, text, tmp_path, small_memory, monkeypatch):
    monkeypatch.setattr("equiframe.finetuned.head._DROPOUT", 0.0)  # it is drawn otherwise in parts
    sure = copy.deepcopy(masked_model.model)
    for module in sure.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    examples = [TextExample(str(i), line, None, float(i % 2)) for i, line in enumerate(text)]

    def outputs(cache):
        return fine_tuned_outputs(
            dataclasses.replace(masked_model, model=sure),
            head="sequence",
            outputs=2,
            settings=FineTuneSettings(epochs=1, learning_rate=1e-2, batch_size=4, max_length=32),
            training=examples,
            development=[],
            evaluation=examples,
            cache=tmp_path / cache,
        ).outputs

    whole = outputs("whole")
    small_memory(2)
    with pytest.warns(UserWarning, match="each batch of 4 is read in 2 parts"):
        parts = outputs("parts")
    assert parts.shape == whole.shape
    np.testing.assert_allclose(parts, whole, atol=1e-5)
