"""A fine-tuned model is scored as it is saved; a stopped fine-tuning goes on as itself alone."""

from __future__ import annotations

import dataclasses
import gc
import json
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from equiframe import cli
from equiframe.commands.run import run
from equiframe.config import AuditConfig, AuditOptions, DebiasConfig, EvaluateConfig, FineTuning, UNC3Options
from equiframe.errors import DataError, InputError, RunError
from equiframe.methods import load_method
from equiframe.models import load, save
from equiframe.runs.debias import debias
from equiframe.words import WordSet


@pytest.fixture
def model(model_folders, tmp_path):
    """A folder of a masked LM that a test may change."""
    return shutil.copytree(model_folders["masked"], tmp_path / "model")


@pytest.fixture
def sentences(tmp_path, text):
    file = tmp_path / "text.txt"
    file.write_text("\n".join(text * 2) + "\n")
    return file


@pytest.fixture
def pairs(tmp_path):
    """A benchmark of a few pairs, as the name that asks for it."""
    sides = [f"she is a {job},he is a {job}\n" for job in ("nurse", "doctor", "teacher", "cook", "king", "queen")]
    (tmp_path / "pairs.csv").write_text("stereotype,anti_stereotype\n" + "".join(sides))
    return f"pairs:{tmp_path / 'pairs.csv'}"


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_a_model_trained_in_bf16_is_scored_as_the_one_that_is_saved(
    kind, lora, model_folders, sentences, pairs, tmp_path
):
    tuning = FineTuning(max_steps=2, batch_size=4, precision="bf16", learning_rate=0.01, lora_rank=lora)
    config = DebiasConfig(
        audit=None,
        model=str(model_folders[kind]),
        device="cpu",
        benchmarks=(pairs,),
        method="cda",
        method_options={"text": str(sentences)},
        fine_tuning=tuning,
    )
    record = run(config, tmp_path / "run")
    saved = EvaluateConfig(str(tmp_path / "run" / "model"), device="cpu", benchmarks=(pairs,))
    fresh = run(saved, tmp_path / "saved")
    pd.testing.assert_frame_equal(record.items[pairs], fresh.items[pairs], check_exact=True)
    before = run(dataclasses.replace(saved, model=config.model), tmp_path / "before")
    assert not before.items[pairs].equals(fresh.items[pairs])


@pytest.mark.parametrize("use_cache", [True, False, None])
@pytest.mark.parametrize("lora", [0, 2])
def test_training_leaves_states_in_float32_and_the_configuration_as_it_was(
    use_cache, lora, causal_model, sentences, tmp_path
):
    config = causal_model.model.config
    del config.use_cache
    if use_cache is not None:
        config.use_cache = use_cache
    save(causal_model, tmp_path / "before")
    done = debias(
        causal_model,
        load_method("cda", {"text": str(sentences)}),
        UNC3Options(),
        FineTuning(max_steps=1, precision="bf16", lora_rank=lora),
        WordSet.builtin("gender").resolve(causal_model.tokenizer),
        tmp_path / "checkpoints",
    )
    save(done.language_model, tmp_path / "after")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        assert (tmp_path / "after" / name).read_text() == (tmp_path / "before" / name).read_text()
    ids = torch.tensor([causal_model.tokenizer("she is a nurse")["input_ids"]])
    with torch.no_grad():
        found = done.language_model.model(ids).logits
        assert torch.equal(found, load(str(tmp_path / "after"), device="cpu").model(ids).logits)


# ---------------------------------------------------------------------------------------------------- resumption


class Stop(Exception):
    """A kill, after the first checkpoint."""


@pytest.mark.parametrize("method", ["cda", "sentence-debias"])
def test_memory_holds_neither_the_optimizer_nor_two_models(
    method, model, sentences, tmp_path, monkeypatch, no_collector
):
    optimizers, held = [], []

    def noted_audit(*_, **__):
        optimizers.extend(found for found in gc.get_objects() if issubclass(type(found), torch.optim.Optimizer))
        return None

    def noted_save(language_model, folder, **options):
        save(language_model, folder, **options)
        held.append(sum(weight.numel() for weight in language_model.model.parameters()))

    monkeypatch.setattr("equiframe.commands.run.audit_model", noted_audit)
    monkeypatch.setattr("equiframe.commands.run.save", noted_save)
    tuning = FineTuning(max_steps=2, batch_size=4) if method == "cda" else FineTuning()
    options = {"method": method, "method_options": {"text": str(sentences)}, "fine_tuning": tuning, "benchmarks": ()}
    run(DebiasConfig(model=str(model), device="cpu", audit=AuditOptions(), **options), tmp_path / "run")
    assert optimizers == []
    assert held == [0]


def stop(stage, done, total):
    if stage == "fine-tune" and done == 4:
        raise Stop


def config_of(model, sentences, **options):
    given = {"max_steps": 6, "batch_size": 4, "save_steps": 3, "precision": "fp32", **options}
    return DebiasConfig(
        audit=None,
        benchmarks=(),
        model=str(model),
        device="cpu",
        method="cda",
        method_options={"text": str(sentences)},
        fine_tuning=FineTuning(**given),
    )


def test_a_record_says_that_the_weights_were_half_precision(model, sentences, tmp_path):
    config = dataclasses.replace(config_of(model, sentences, max_steps=1), dtype="bfloat16")
    assert run(config, tmp_path / "run").metrics.training.settings["precision"] == "bf16 weights"


def test_the_words_of_the_term_are_found_as_those_of_the_audit(model, sentences, tmp_path, monkeypatch):
    seen = []

    def noted(self, tokenizer, *, multi_token="skip"):
        seen.append(multi_token)
        raise InputError("noted")

    monkeypatch.setattr(WordSet, "resolve", noted)
    options = ("--device=cpu", "--method=cda", f"--set=text={sentences}", "--benchmarks=", "--multi-token=first")
    with pytest.raises(SystemExit):
        cli.main(["debias", str(model), "--unc3=1", *options, f"--out={tmp_path / 'run'}", "--json"])
    assert seen == ["first"]


@pytest.fixture
def stopped(model, sentences, tmp_path):
    """The configuration of a run that was stopped after its first checkpoint."""
    config = config_of(model, sentences)
    with pytest.raises(Stop):
        run(config, tmp_path / "run", stop)
    assert (tmp_path / "run.partial" / "checkpoints" / "checkpoint-3" / "complete").exists()
    return config


def steps_taken(config, out):
    seen = []
    run(config, out, lambda stage, done, total: seen.append(done) if stage == "fine-tune" else None)
    return seen


def test_the_same_run_goes_on(stopped, tmp_path):
    assert steps_taken(stopped, tmp_path / "run") == [4, 5, 6]
    assert not (tmp_path / "run" / ".identity.json").exists()
    assert not (tmp_path / "run.partial").exists()


def other_text(config, model, sentences):
    sentences.write_text("she is a doctor\n" * 9)
    return config, "another data text.txt"


def other_configuration(config, model, sentences):
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_attention_heads": 4}))
    return config, "another model"


def other_weights(config, model, sentences):
    lm = load(str(model), device="cpu")
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[7] += 1
    save(lm, model)
    return config, "another model"


def other_option(config, model, sentences):
    changed = config_of(model, sentences, learning_rate=0.5)
    return changed, "fine_tuning learning_rate 0.5, it was None"


def no_training(config, model, sentences):
    return AuditConfig(str(model), device="cpu", audit=AuditOptions(str(sentences))), "method None"


@pytest.mark.parametrize("change", [other_text, other_configuration, other_weights, other_option, no_training])
def test_another_run_is_refused_and_leaves_the_checkpoints(change, stopped, model, sentences, tmp_path):
    original = sentences.read_text()
    config, said = change(stopped, model, sentences)
    with pytest.raises(RunError, match=rf"run\.partial holds .* other options \(.*{re.escape(said)}.*delete that"):
        run(config, tmp_path / "run")
    if change in (other_option, no_training, other_text):
        sentences.write_text(original)
        assert steps_taken(stopped, tmp_path / "run") == [4, 5, 6]


def test_what_only_measures_may_change(stopped, pairs, tmp_path):
    changed = dataclasses.replace(stopped, benchmarks=(pairs,), token_budget=512, seed=3)
    assert steps_taken(changed, tmp_path / "run") == [4, 5, 6]


def test_the_terms_words_are_part_of_the_training(model, sentences, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("she\nhe\n")
    config = config_of(model, sentences)
    config = dataclasses.replace(config, unc3=UNC3Options(weight=1.0), unc3_words=str(words))
    with pytest.raises(Stop):
        run(config, tmp_path / "run", stop)
    words.write_text("her\nhis\n")
    with pytest.raises(RunError, match="unc3_words"):
        run(config, tmp_path / "run")


def test_added_pairs_are_part_of_the_training(model, sentences, tmp_path):
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("the nurse told her father about his job\nthe teacher met his sister in the street\n")
    config = dataclasses.replace(config_of(model, sentences), cc=1.0, cc_options={"text": str(pairs)})
    with pytest.raises(Stop):
        run(config, tmp_path / "run", stop)
    before = pairs.read_text()
    for changed, text, said in (
        (config, before + "the doctor met his brother in the street\n", "another pairs pairs.txt"),
        (dataclasses.replace(config, cc=0.5), before, "cc 0.5, it was 1.0"),
        (dataclasses.replace(config, cc_options={**config.cc_options, "cc1": 3}), before, "cc_options cc1 3"),
    ):
        pairs.write_text(text)
        with pytest.raises(RunError, match=said):
            run(changed, tmp_path / "run")
    pairs.write_text(before)
    assert steps_taken(config, tmp_path / "run") == [4, 5, 6]


def test_without_a_whole_checkpoint_another_run_begins_anew(model, sentences, tmp_path):
    def at_once(stage, done, total):
        if stage == "fine-tune":
            raise Stop

    with pytest.raises(Stop):
        run(config_of(model, sentences), tmp_path / "run", at_once)
    left = tmp_path / "run.partial" / "checkpoints" / "checkpoint-3"
    left.mkdir(parents=True)  # as a kill while it was written leaves it
    assert steps_taken(config_of(model, sentences, learning_rate=0.5), tmp_path / "run") == [1, 2, 3, 4, 5, 6]


# ------------------------------------------------------------------------------------------------------- the log


def test_lambda_rises_over_steps_however_many_batches_each_has(causal_model, sentences, tmp_path):
    done = debias(
        causal_model,
        load_method("cda", {"text": str(sentences)}),
        UNC3Options(weight=8.0, warmup_steps=2),
        FineTuning(max_steps=3, batch_size=2, accumulation=2, precision="fp32"),
        WordSet.builtin("gender").resolve(causal_model.tokenizer),
        tmp_path / "checkpoints",
    )
    first, second, third = done.history["unc3_weight"]
    assert 2 < first < 4 < 6 < second < 8 == third


def test_the_files_for_tensorboard_are_kept(model, sentences, tmp_path, monkeypatch):
    rmtree = shutil.rmtree

    def stop_at_the_end(path, **options):
        if Path(path).name == "checkpoints":
            raise Stop
        rmtree(path, **options)

    def track(stage, done, total):
        if stage == "fine-tune" and done == 1:
            events = tmp_path / "run.partial" / "checkpoints" / "runs" / "today"  # the folder of its writer
            events.mkdir(parents=True)
            (events / "events.out").write_text("loss")

    config = config_of(model, sentences, max_steps=1)
    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(shutil, "rmtree", stop_at_the_end)
        run(config, tmp_path / "run", track)
    later = tmp_path / "run.partial" / "checkpoints" / "runs" / "later"
    later.mkdir(parents=True)
    (later / "events.out").write_text("more")
    run(config, tmp_path / "run")
    found = {file.parent.name: file.read_text() for file in (tmp_path / "run" / "tensorboard").glob("*/events.out")}
    assert found == {"today": "loss", "later": "more"}
    assert not (tmp_path / "run" / "checkpoints").exists()


# -------------------------------------------------------------------------------------------------------- refusals


def test_words_that_the_tokenizer_does_not_know_matter_only_to_what_reads_them(model_folders, sentences, tmp_path):
    alphabet = ["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    letters = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    folder = shutil.copytree(model_folders["causal"], tmp_path / "letters")
    PreTrainedTokenizerFast(tokenizer_object=letters, bos_token="<s>", model_max_length=64).save_pretrained(folder)
    config = config_of(folder, sentences, max_steps=1)
    assert run(config, tmp_path / "run").metrics.training.steps == 1
    for changed in (
        dataclasses.replace(config, unc3=UNC3Options(weight=1.0)),
        dataclasses.replace(config, audit=AuditOptions(str(sentences), words="gender")),
    ):
        with pytest.raises(InputError, match="has no single token for any of the"):
            run(
                changed, tmp_path / "other", lambda stage, done, total: stage != "fine-tune" or pytest.fail("it trains")
            )


def test_lora_without_peft_is_refused_before_any_text_is_read(masked_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    words = WordSet.builtin("gender").resolve(masked_model.tokenizer)
    method, tuning = load_method("cda", {"text": "missing.txt"}), FineTuning(lora_rank=2)
    with pytest.raises(InputError, match="--lora needs peft: pip install"):
        debias(masked_model, method, UNC3Options(), tuning, words, tmp_path)


@pytest.mark.parametrize(("kind", "length", "least"), [("masked", 2, 3), ("masked", 1, 3), ("causal", 1, 2)])
@pytest.mark.parametrize("method", ["bec", "mabel", "ase", "adept", "dropout"])
def test_no_room_for_a_token_is_refused(method, kind, length, least, model_folders, tmp_path):
    config = DebiasConfig(
        audit=None,
        model=str(model_folders[kind]),
        device="cpu",
        benchmarks=(),
        method=method,
        fine_tuning=FineTuning(max_steps=1, max_length=length),
    )
    with pytest.raises(InputError, match=rf"--max-length {length} leaves no token .* give {least} or more"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_length_above_the_window_is_refused(masked_model, tmp_path):
    words = WordSet.builtin("gender").resolve(masked_model.tokenizer)
    with pytest.raises(InputError, match=r"--max-length 65 is too long for .*, which reads 64 tokens at once"):
        debias(masked_model, load_method("bec"), UNC3Options(), FineTuning(max_length=65), words, tmp_path)


def test_texts_of_unknown_words_are_refused(model, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("漢 字 漢 字\n" * 5)
    with pytest.raises(DataError, match=r"text\.txt: the texts hold no token"):
        run(config_of(model, file), tmp_path / "run")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"weight": 1e39}, r"--unc3 1e\+39: give a number of 0 or more, at most 3.40282e\+38, or auto"),
        ({"weight": float("nan")}, "--unc3 nan"),
        ({"weight": float("inf")}, "--unc3 inf"),
        ({"weight": -1.0}, "--unc3 -1.0"),
        ({"warmup_steps": -1}, "--unc3-warmup -1: give a whole number"),
        ({"decay": 1.0}, "--unc3-decay 1.0: give a number of 0 or more and below 1"),
        ({"decay": float("nan")}, "--unc3-decay nan"),
        ({"memory": "all"}, "--unc3-memory all: choose run, ema"),
        ({"pairing": "x"}, "--pairing x: choose aligned, paper"),
        ({"feature": "x"}, "--feature x: choose decoder-input, last-layer"),
    ],
)
def test_options_of_the_term_are_checked(wrong, said):
    with pytest.raises(InputError, match=f"^{said}"):
        UNC3Options(**wrong)
