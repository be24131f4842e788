"""Entailed pairs and their counterfactuals: which pairs, from where, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiframe.data import CounterfactualSwapper, DataSource
from equiframe.data.entailment import CLASSES, counterfactual_pairs, first_in_folder, inference_pairs
from equiframe.data.training_sources import COMMITS
from equiframe.errors import DataError, EquiframeError, MissingDataError

SHARED = Path(__file__).parents[3] / "shared" / "data"
SWAPPER = CounterfactualSwapper.gender(names=False)
SICK = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
ROWS = (
    "6\tA man sings\tA person sings\t4\tENTAILMENT\n"
    "7\tA boy is out\tA girl is in\t3\tNEUTRAL\n"
    "8\tA dog runs\tAn animal runs\t4\tENTAILMENT\n"
    "9\tA king\tNo king\t1\tCONTRADICTION\n"
    "10\tSomeone met her\tShe was met\t4\tENTAILMENT\n"
)
PAIRS = [
    ("A man sings", "A person sings", "A woman sings", "A person sings"),
    ("Someone met her", "She was met", "Someone met him", "He was met"),
]
COLUMNS = "orig_sent0,orig_sent1,aug_sent0,aug_sent1\n"


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(*values):
    return "\n".join(map(json.dumps, values)) + "\n"


def nli(label, first, second):
    return {"gold_label": label, "sentence1": first, "sentence2": second}


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "sick/SICK_train.txt", SICK + ROWS)
    return tmp_path


def test_entailed_pairs_with_a_gender_word_on_either_side(folder):
    pairs, (file,) = counterfactual_pairs("sick", SWAPPER, DataSource(folder))
    assert pairs == PAIRS
    assert (file.name, file.origin) == ("sick/train", "user")
    rows, _ = inference_pairs("sick", "train", DataSource(folder), otherwise="")
    assert [(r.row, CLASSES[r.label]) for r in rows] == [
        (2, "entailment"),
        (3, "neutral"),
        (4, "entailment"),
        (5, "contradiction"),
        (6, "entailment"),
    ]


def test_several_corpora_in_the_order_given(folder):
    put(folder / "snli/snli_1.0_train.jsonl", lines(nli("-", "he", "he"), nli("entailment", "he ran", "he moved")))
    put(folder / "mnli/multinli_1.0_train.jsonl", lines(nli("entailment", "a queen", "b"), nli("neutral", "he", "c")))
    pairs, files = counterfactual_pairs("mnli+snli", SWAPPER, DataSource(folder))
    assert pairs == [("a queen", "b", "a king", "b"), ("he ran", "he moved", "she ran", "she moved")]
    assert [file.name for file in files] == ["mnli/train", "snli/train"]
    assert len(counterfactual_pairs("snli+mnli+sick", SWAPPER, DataSource(folder))[0]) == 4
    assert first_in_folder(DataSource(folder)) == "snli"
    assert first_in_folder(DataSource()) is None


def test_from_the_hub_where_the_folder_has_none(folder, monkeypatch):
    asked = []

    def load_dataset(repository, configuration, split, revision):
        assert revision == COMMITS[repository]
        asked.append((repository, configuration, split))
        columns = {"premise": ["he ran", "he", "she"], "hypothesis": ["he moved", "b", "c"], "label": [0, -1, 2]}
        return datasets.Dataset.from_dict(columns)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    pairs, files = counterfactual_pairs("snli+mnli", SWAPPER, DataSource(folder))
    assert pairs == 2 * [("he ran", "he moved", "she ran", "she moved")]
    assert [file.origin for file in files] == ["hub", "hub"]
    assert asked == [("stanfordnlp/snli", None, "train"), ("nyu-mll/glue", "mnli", "train")]


def test_who_is_offline_is_told_what_to_do(folder, monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        MissingDataError, match=r"snli/train is missing.*snli_1\.0_train.*snli_1\.0\.zip.*--set data=sick"
    ):
        counterfactual_pairs("snli+mnli", SWAPPER)
    with pytest.raises(MissingDataError, match=r"sick/train is missing.*SICK_train\.txt"):
        counterfactual_pairs("sick", SWAPPER)


def test_files_of_ones_own(tmp_path):
    table = COLUMNS.replace("\n", ",both\n") + '"He, once",went,"She, once",went,1\nsame,x,same,x,0\n'
    pairs, (file,) = counterfactual_pairs(str(put(tmp_path / "mine.csv", table)), SWAPPER)
    assert pairs == [("He, once", "went", "She, once", "went"), ("same", "x", "same", "x")]
    assert (file.name, file.origin) == ("mine.csv", "user")
    values = [
        {"premise": "his son", "hypothesis": "a child", "label": 0},
        {"premise": "rain", "hypothesis": "water", "label": "entailment"},
        {"premise": "no one", "hypothesis": "not him"},
    ]
    pairs, _ = counterfactual_pairs(str(put(tmp_path / "mine.jsonl", lines(*values))), SWAPPER)
    assert pairs == [("his son", "a child", "her daughter", "a child"), ("no one", "not him", "no one", "not her")]


def test_first_names_are_no_gender_words(folder):
    put(folder / "sick/SICK_train.txt", SICK + "1\tMary sings\tMary makes music\t4\tENTAILMENT\n")
    with pytest.raises(DataError, match="no entailed pair with a word to swap in sick"):
        counterfactual_pairs("sick", SWAPPER, DataSource(folder))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "orig_sent0,orig_sent1\na,b\n", "line 1: no column 'aug_sent0'"),
        ("a.csv", COLUMNS + "a,b,c,d\na,b,c\n", "line 3: found 3 columns, expected 4"),
        ("a.csv", COLUMNS + "he, ,she,d\n", "line 2: orig_sent1 is empty"),
        ("a.csv", COLUMNS, "no entailed pair"),
        ("a.csv", b"\xff", "not UTF-8"),
        ("a.jsonl", lines({"premise": "he"}), "line 1: no field 'hypothesis'"),
        ("a.jsonl", lines({"premise": "he", "hypothesis": 3}), "line 1: hypothesis: expected a text, found 3"),
        (
            "a.jsonl",
            lines({"premise": "he", "hypothesis": "b", "label": 1}),
            "line 1: label is 1: give only entailed pairs",
        ),
        ("a.jsonl", "[]\n", "line 1: expected an object"),
        ("a.jsonl", lines({"premise": "a", "hypothesis": "b"}), "no entailed pair with a word to swap"),
    ],
)
def test_malformed_files_are_named(tmp_path, name, text, said):
    with pytest.raises(DataError, match=said) as error:
        counterfactual_pairs(str(put(tmp_path / name, text)), SWAPPER)
    assert name in str(error.value)


@pytest.mark.parametrize("spec", ["", "snlimnli", "snli+", "sick+gap", "pairs.txt", "+"])
def test_an_unknown_corpus_names_those_there_are(spec):
    with pytest.raises(DataError, match="give snli, mnli, sick, several joined by"):
        counterfactual_pairs(spec, SWAPPER)
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        counterfactual_pairs("none.csv", SWAPPER)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 90), noise=st.binary(max_size=5), suffix=st.sampled_from([".csv", ".jsonl"]))
def test_whatever_bytes_a_file_holds_it_is_read_or_refused(tmp_path, at, noise, suffix):
    text = COLUMNS + '"he, too",ran,she,ran\n' if suffix == ".csv" else lines({"premise": "he", "hypothesis": "ran"})
    raw = text.encode()
    path = put(tmp_path / f"noise{suffix}", raw[: at % len(raw)] + noise + raw[at % len(raw) + 1 :])
    try:
        pairs, _ = counterfactual_pairs(str(path), SWAPPER)
    except EquiframeError as error:
        assert "noise" in str(error)
    else:
        assert all(isinstance(text, str) for four in pairs for text in four)


def test_the_real_sick():
    if not (SHARED / "sick").is_dir():
        pytest.skip("no shared data")
    pairs, (file,) = counterfactual_pairs("sick", SWAPPER, DataSource(SHARED))
    assert file.is_known_version
    assert len(pairs) == 805
    assert sum(p.premise != p.swapped_premise and p.hypothesis != p.swapped_hypothesis for p in pairs) == 654
    rows, _ = inference_pairs("sick", "train", DataSource(SHARED), otherwise="")
    assert (len(rows), sum(CLASSES[r.label] == "entailment" for r in rows)) == (4500, 1299)
    texts = {(r.premise, r.hypothesis) for r in rows if CLASSES[r.label] == "entailment"}
    assert {p[:2] for p in pairs} == {pair for pair in texts if any(map(SWAPPER.has_swap, pair))}
