"""Fine-tuning with a new head: what is read and scored, repeated, resumed, and kept."""

from __future__ import annotations

import dataclasses
import gc
import shutil

import numpy as np
import pytest
import torch
import transformers

from equiframe.benchmarks.benchmark import Excluded
from equiframe.benchmarks.fine_tuned import FineTuneSettings, MentionExample, TextExample
from equiframe.errors import InputError, ModelError
from equiframe.finetuned import classifier
from equiframe.finetuned.classifier import fine_tuned_outputs
from equiframe.finetuned.encoding import Encoder
from equiframe.finetuned.head import EncoderWithHead
from equiframe.models import LanguageModel, load

SETTINGS = FineTuneSettings(epochs=3, batch_size=4, learning_rate=5e-3, max_length=32)


def examples(texts, seconds=None):
    return [
        TextExample(str(i), text, None if seconds is None else seconds[i], float("she" in text.split()))
        for i, text in enumerate(texts)
    ]


@pytest.fixture
def task(text):
    women = [line.replace("he ", "she ") for line in text]
    return examples([*text, *women, *(line + " and he" for line in text), *(line + " and she" for line in text)])


def fit(language_model, task, cache, **changes):
    arguments = {
        "head": "sequence",
        "outputs": 2,
        "settings": SETTINGS,
        "training": task,
        "development": [],
        "evaluation": task,
        **changes,
    }
    return fine_tuned_outputs(language_model, cache=cache, **arguments)


def test_it_learns_and_leaves_the_model_as_it_was(language_model, task, tmp_path):
    before = language_model.fingerprint()
    settings = dataclasses.replace(SETTINGS, epochs=15)
    found = fit(language_model, task, tmp_path, settings=settings)
    assert language_model.fingerprint() == before
    assert not language_model.model.training
    assert all(parameter.grad is None for parameter in language_model.model.parameters())
    right = found.outputs.argmax(axis=1) == [example.label for example in task]
    assert right.mean() > 0.9
    assert found.steps == 15 * 8
    assert (found.excluded, found.cut, found.accuracies) == ({}, frozenset(), ())
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".lock"] == [".safetensors"]


def test_neither_the_copy_nor_its_optimizer_stays_in_memory(masked_model, task, tmp_path, no_collector):
    fit(masked_model, task, tmp_path, settings=dataclasses.replace(SETTINGS, epochs=1, max_steps=1))
    assert [o for o in gc.get_objects() if issubclass(type(o), (EncoderWithHead, torch.optim.Optimizer))] == []


def test_a_score_is_fitted_by_squared_error(masked_model, text, tmp_path):
    task = [TextExample(str(i), line, text[-1 - i], float(i)) for i, line in enumerate(text)]
    settings = dataclasses.replace(SETTINGS, epochs=100)
    found = fit(masked_model, task, tmp_path, outputs=1, settings=settings).outputs
    assert found.shape == (8, 1)
    assert np.corrcoef(found[:, 0], np.arange(8))[0, 1] > 0.9


def test_precision_is_that_of_the_settings(masked_model, task, tmp_path):
    full, named, half = (
        fit(masked_model, task, tmp_path / name, settings=dataclasses.replace(SETTINGS, precision=name)).outputs
        for name in ("auto", "fp32", "bf16")
    )
    np.testing.assert_array_equal(full, named)
    assert 0 < np.abs(full - half).max() < 0.1
    with pytest.raises(InputError, match="precision fp16 needs a GPU"):
        fit(masked_model, task, tmp_path, settings=dataclasses.replace(SETTINGS, precision="fp16"))
    with pytest.raises(InputError, match="precision half: choose auto, fp32, bf16, fp16"):
        dataclasses.replace(SETTINGS, precision="half")


def test_seeds_decide(language_model, task, tmp_path):
    first, again = (fit(language_model, task, tmp_path / name).outputs for name in ("a", "b"))
    np.testing.assert_array_equal(first, again)
    other = fit(language_model, task, tmp_path / "a", settings=dataclasses.replace(SETTINGS, seed=1)).outputs
    assert not np.allclose(first, other)


def test_the_same_call_reads_back_what_it_gave(masked_model, task, tmp_path, monkeypatch):
    first = fit(masked_model, task, tmp_path)

    def never(*_):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(classifier, "_fit", never)
        again = fit(masked_model, task, tmp_path)
        np.testing.assert_array_equal(first.outputs, again.outputs)
        assert dataclasses.replace(again, outputs=first.outputs) == first
        for changes in (
            {"settings": dataclasses.replace(SETTINGS, batch_size=8)},
            {"settings": dataclasses.replace(SETTINGS, precision="bf16")},
            {"training": task[1:]},
            {"evaluation": task[1:]},
            {"development": task},
            {"outputs": 3},
            {"training": [dataclasses.replace(task[0], label=0.0), *task[1:]]},
        ):
            with pytest.raises(AssertionError, match="trained again"):
                fit(masked_model, task, tmp_path, **changes)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-7])
    np.testing.assert_array_equal(fit(masked_model, task, tmp_path).outputs, first.outputs)


def test_another_model_is_another_call(masked_model, task, tmp_path):
    fit(masked_model, task, tmp_path)
    with torch.no_grad():
        masked_model.model.base_model.embeddings.word_embeddings.weight += 0.1
    fit(masked_model, task, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_stopped_call_goes_on_and_ends_as_an_unbroken_one(language_model, task, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "_SAVE_STEPS", 5)
    whole = fit(language_model, task, tmp_path / "whole").outputs

    class Stop(Exception):
        pass

    told = []

    def stop(done, total):
        told.append(done)
        if done == 13:
            raise Stop

    with pytest.raises(Stop):
        fit(language_model, task, tmp_path / "broken", progress=stop)
    assert next((tmp_path / "broken").glob("*.partial/checkpoint-10/complete")).exists()
    told.clear()
    again = fit(language_model, task, tmp_path / "broken", progress=lambda done, total: told.append((done, total)))
    assert told == [(step, 24) for step in range(11, 25)]
    np.testing.assert_array_equal(again.outputs, whole)


def test_the_best_epoch_on_development_examples_is_kept(masked_model, task, tmp_path, monkeypatch):
    seen, said = [], [0.1, 0.9, 0.2]

    def accuracy(prediction):
        seen.append(prediction.predictions)
        assert prediction.label_ids.tolist() == [example.label for example in task]
        return {"accuracy": said[len(seen) - 1]}

    monkeypatch.setattr(classifier, "_accuracy", accuracy)
    found = fit(masked_model, task, tmp_path, development=task)
    assert found.accuracies == tuple(said)
    np.testing.assert_allclose(found.outputs, seen[1], atol=1e-5)
    assert not np.allclose(found.outputs, seen[2], atol=1e-3)


def test_accuracy_is_that_of_the_highest_output():
    outputs = np.array([[0.1, 0.2], [0.3, 0.2], [0.0, -1.0], [2.0, 3.0]])
    prediction = transformers.EvalPrediction(outputs, np.array([1, 0, 1, 1]))
    assert classifier._accuracy(prediction) == {"accuracy": 0.75}


def test_one_sentence_at_a_time_by_plain_transformers(language_model, text):
    """The state is that of the first token, or the last; padding and company change nothing."""
    torch.manual_seed(3)
    model = EncoderWithHead(language_model, "sequence", 4).eval()
    task = [
        TextExample(str(i), line, other, 0)
        for i, (line, other) in enumerate(zip(text * 4, [*text[::-1], *[None] * 24], strict=True))
    ]
    encode = Encoder(language_model, 64)
    batch = classifier._Collator(language_model)([found.features for found in encode(task)])
    with torch.no_grad():
        found = model(**batch)["logits"]
    layer = model.head[1]
    tokenizer = language_model.tokenizer
    for row, example in zip(found, task, strict=True):
        if language_model.kind == "masked":
            ids = tokenizer(*(part for part in (example.text, example.second) if part))["input_ids"]
            at = 0
        else:
            start = tokenizer.convert_tokens_to_ids("<|endoftext|>")
            ids = [start, *tokenizer(example.text)["input_ids"]]
            ids += [start, *tokenizer(example.second)["input_ids"]] if example.second else []
            at = -1
        with torch.no_grad():
            out = language_model.model(torch.tensor([ids]), output_hidden_states=True)
            expected = out.hidden_states[-1][0, at] @ layer.weight.T + layer.bias
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


def test_long_texts_are_cut_the_longer_one_first(language_model):
    text, second = "she is a nurse " * 5, "he is a doctor"
    whole, cut = (Encoder(language_model, n)([TextExample("0", text, second, 0)])[0] for n in (64, 14))
    assert (whole.cut, cut.cut) == (False, True)
    assert len(cut.features["input_ids"]) == 14
    assert language_model.tokenizer.decode(cut.features["input_ids"]).count("doctor") == 1
    with pytest.raises(InputError, match="max_length 0"):
        dataclasses.replace(SETTINGS, max_length=0)


def test_window_is_never_passed(language_model):
    (found,) = Encoder(language_model, 64)([TextExample("0", "she is a nurse " * 50, None, 0)])
    assert len(found.features["input_ids"]) == 64
    assert found.cut
    with pytest.raises(InputError, match=r"--head max_length 65 is too long for .*, which reads 64 tokens at once"):
        Encoder(language_model, 65)


def mention(text, *words, label=0):
    spans = [(text.index(word), text.index(word) + len(word)) for word in words]
    return MentionExample("0", text, spans[0], (spans[1], spans[2]), label)


def test_mentions_are_found_in_the_tokens_and_kept_where_the_text_is_cut(language_model):
    tokenizer = language_model.tokenizer
    words = "the doctor met the nurse and she told her father"
    example = mention("a ball in the street and " * 6 + words + " about the job" * 9, "she", "doctor", "nurse")
    for longest in (64, 20):
        (found,) = Encoder(language_model, longest)([example])
        ids, spans = found.features["input_ids"], found.features["spans"]
        assert len(ids) <= longest
        texts = [tokenizer.decode(ids[first : last + 1]).strip().replace(" ", "") for first, last in spans]
        assert texts == ["she", "doctor", "nurse"]
        assert found.cut
    assert ids[0] == (2 if language_model.kind == "masked" else 0)
    (short,) = Encoder(language_model, 64)([mention(words, "she", "doctor", "nurse")])
    assert not short.cut
    apart = mention("she " + "is a nurse " * 40 + "doctor king", "she", "doctor", "king")
    assert "too far apart" in Encoder(language_model, 64)([apart])[0].reason
    nowhere = dataclasses.replace(example, pronoun=(10_000, 10_003))
    assert Encoder(language_model, 64)([nowhere]) == [Excluded("a mention has no token")]


def test_mention_scores_by_hand(language_model):
    torch.manual_seed(3)
    model = EncoderWithHead(language_model, "mentions", 3).eval()
    long = mention("the doctor met the nurse and she told her father", "she", "doctor", "the nurse")
    short = mention("he told the king a son", "he", "the king", "son")
    encoded = [found.features for found in Encoder(language_model, 64)([long, short])]
    batch = classifier._Collator(language_model)(encoded)
    with torch.no_grad():
        found = model(**batch)["logits"]
    assert (found[:, 2] == 0).all()
    for row, features in zip(found, encoded, strict=True):
        ids = torch.tensor([features["input_ids"]])
        with torch.no_grad():
            states = language_model.model(ids, output_hidden_states=True).hidden_states[-1][0]
            p, *candidates = (
                torch.cat([states[first], states[last], states[first : last + 1].mean(0)])
                for first, last in features["spans"]
            )
            for score, c in zip(row, candidates, strict=False):
                expected = model.head(torch.cat([p, c, p * c]))
                torch.testing.assert_close(score, expected[0], atol=1e-5, rtol=1e-4)


def test_the_scorer_of_mentions_learns(masked_model, tmp_path):
    people = ("doctor", "nurse", "teacher", "cook", "engineer", "king")
    task = [
        mention(f"the {a} met the {b} and {p} told her", p, a, b, label=int(p == "she"))
        for a in people
        for b in people
        for p in ("he", "she")
        if a != b
    ]
    found = fit(
        masked_model, task, tmp_path, head="mentions", outputs=3, settings=dataclasses.replace(SETTINGS, epochs=8)
    )
    assert (found.outputs.argmax(1) == [example.label for example in task]).mean() > 0.9


def test_what_cannot_be_read_has_no_outputs_and_a_reason(masked_model, tmp_path):
    good = mention("the doctor met the nurse and she told her father", "she", "doctor", "nurse")
    bad = dataclasses.replace(good, pronoun=(10_000, 10_003))
    found = fit(masked_model, [good, good], tmp_path, evaluation=[bad, good], head="mentions", outputs=3)
    assert found.excluded == {0: "a mention has no token"}
    assert np.isnan(found.outputs[0]).all()
    assert np.isfinite(found.outputs[1]).all()
    with pytest.raises(InputError, match=r"can read none of the examples: \{'a mention has no token': 2\}"):
        fit(masked_model, [good], tmp_path, evaluation=[bad, bad], head="mentions", outputs=3)
    with pytest.raises(InputError, match="can read none of the examples"):
        fit(masked_model, [good], tmp_path, development=[bad], head="mentions", outputs=3)


def test_a_loss_that_is_not_finite_ends_the_run(masked_model, task, tmp_path):
    with torch.no_grad():
        masked_model.model.base_model.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="the loss is nan at step 1"):
        fit(masked_model, task, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_an_architecture_without_an_encoder_of_its_own_says_so(masked_model):
    encoder_only = LanguageModel("bare", masked_model.model.base_model, masked_model.tokenizer, "masked")
    with pytest.raises(ModelError, match="no encoder separate from its head"):
        EncoderWithHead(encoder_only, "sequence", 2)


@pytest.mark.parametrize(
    "architecture",
    [
        "RobertaForMaskedLM",
        "DistilBertForMaskedLM",
        "AlbertForMaskedLM",
        "ElectraForMaskedLM",
        "ModernBertForMaskedLM",
        "LlamaForCausalLM",
    ],
)
def test_other_architectures(architecture, masked_model, causal_model, text, tmp_path):
    base = causal_model if "Causal" in architecture else masked_model
    config = getattr(transformers, architecture.partition("For")[0] + "Config")(
        vocab_size=len(base.tokenizer),
        hidden_size=16,
        embedding_size=16,
        num_hidden_layers=2,  # transformers 5.8 refuses a ModernBERT with one, which cannot be of both its kinds
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        dim=16,
        hidden_dim=32,
        n_heads=2,
        n_layers=1,
        max_position_embeddings=80,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        cls_token_id=0,
        sep_token_id=0,
    )
    model = getattr(transformers, architecture)(config).eval()
    language_model = LanguageModel(architecture, model, base.tokenizer, base.kind)
    task = examples(text, text[::-1])
    settings = dataclasses.replace(SETTINGS, max_steps=2)
    assert np.isfinite(fit(language_model, task, tmp_path, settings=settings).outputs).all()


def test_settings_in_words():
    assert str(SETTINGS) == "3 epochs in batches of 4, learning rate 0.005, at most 32 tokens"
    assert str(dataclasses.replace(SETTINGS, max_steps=60)).startswith("60 steps in batches of 4")


def test_loading_it_again_changes_nothing(model_folders, task, tmp_path):
    first, second = (load(str(model_folders["masked"]), device="cpu") for _ in range(2))
    np.testing.assert_array_equal(fit(first, task, tmp_path / "a").outputs, fit(second, task, tmp_path / "b").outputs)


def test_a_batch_in_parts_of_different_size_is_a_batch_in_one(masked_model, text, tmp_path, monkeypatch):
    for module in masked_model.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    monkeypatch.setattr("equiframe.finetuned.head._DROPOUT", 0.0)
    settings = FineTuneSettings(epochs=2, batch_size=4, learning_rate=0.01, max_length=64)
    task = examples(text[:7])  # the second step of an epoch has three: two of them in one part, one in the other

    def outputs(parts):
        return classifier._fit(
            masked_model, "sequence", 2, settings, (task, [], task), tmp_path / str(parts), None, parts
        ).outputs

    whole = outputs(1)
    np.testing.assert_allclose(outputs(2), whole, atol=1e-5)
    shutil.rmtree(tmp_path / "2")
    monkeypatch.setattr(classifier._HeadTrainer, "share", lambda self, batch: 1.0)
    assert np.abs(outputs(2) - whole).max() > 1e-3  # as a mean of means


@pytest.mark.parametrize("length", [1, 2])
def test_no_room_for_a_token_is_refused(masked_model, text, tmp_path, length):
    settings = FineTuneSettings(epochs=1, batch_size=4, learning_rate=0.01, max_length=length)
    with pytest.raises(InputError, match=f"max_length {length} leaves no token .* give 3 or more"):
        classifier._fit(masked_model, "sequence", 2, settings, (examples(text), [], examples(text)), tmp_path, None, 1)


def test_long_texts_lose_their_end_whatever_the_tokenizer_cuts(language_model, text):
    expected = [found.features["input_ids"] for found in Encoder(language_model, 6)(examples(text))]
    language_model.tokenizer.truncation_side = language_model.tokenizer.padding_side = "left"
    assert [found.features["input_ids"] for found in Encoder(language_model, 6)(examples(text))] == expected


@pytest.mark.parametrize(("wrong", "said"), [({"epochs": float("inf")}, "epochs inf"), ({"seed": -1}, "seed -1")])
def test_settings_out_of_range(wrong, said):
    with pytest.raises(InputError, match=f"^{said}: give a"):
        FineTuneSettings(**{"epochs": 1, "batch_size": 4, "learning_rate": 0.01, "max_length": 64, **wrong})
