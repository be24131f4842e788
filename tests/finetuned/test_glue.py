"""GLUE: every layout of the files, the metrics against other implementations, the hub, and a whole task."""

from __future__ import annotations

import math
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from equiframe.benchmarks import load_benchmark, outcome_table
from equiframe.data import DataSource
from equiframe.data.training_sources import COMMITS
from equiframe.errors import DataError, EquiframeError, InputError
from equiframe.finetuned import FineTuneSettings, score_finetuned
from equiframe.finetuned.classifier import Predictions
from equiframe.finetuned.glue import GLUE, TASKS
from equiframe.uncertainty import estimate

OWN = {
    "cola": ("CoLA", "gj04\t1\t\tOur friends won't buy it.\ngj04\t0\t*\tOne more it.\n"),
    "sst2": ("SST-2", 'sentence\tlabel\nhide new secretions \t0\na "gem\t1\n'),
    "mrpc": (
        "MRPC",
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe said "so.\tHe said.\n0\t7\t8\ta\tb\n',
    ),
    "stsb": (
        "STS-B",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tmain\tMSR\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t5.000\n1\tm\tM\t2\t1\tn\tn\ta\tb\t0.4\n",
    ),
    "qqp": (
        "QQP",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tHow?\tWhy?\t0\n4\t5\n9\t1\t1\ta\tb\t1\n",
    ),
    "mnli": (
        "MNLI",
        "index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label\n"
        "0\t3\tHe ran.\tHe moved.\tneutral\tentailment\n1\t3\ta\tb\tneutral\tcontradiction\n",
    ),
    "qnli": ("QNLI", "index\tquestion\tsentence\tlabel\n0\tWhen?\tNow.\tentailment\n1\ta\tb\tnot_entailment\n"),
    "rte": ("RTE", "index\tsentence1\tsentence2\tlabel\n0\tHe ran.\tHe moved.\tentailment\n1\ta\tb\tnot_entailment\n"),
    "wnli": ("WNLI", "index\tsentence1\tsentence2\tlabel\n0\tHe ran.\tHe moved.\t1\n1\ta\tb\t0\n"),
}
FIRST = {
    "cola": ("Our friends won't buy it.", None, 1),
    "sst2": ("hide new secretions", None, 0),
    "mrpc": ('He said "so.', "He said.", 1),
    "stsb": ("A plane.", "An air plane.", 5.0),
    "qqp": ("How?", "Why?", 0),
    "mnli": ("He ran.", "He moved.", 0),
    "qnli": ("When?", "Now.", 0),
    "rte": ("He ran.", "He moved.", 0),
    "wnli": ("He ran.", "He moved.", 1),
}
OTHER = {
    "cola": ("CoLA/{}.tsv", "our friends wo n't buy\t1\none more\t0\n", ("our friends wo n't buy", None, 1)),
    "sst2": ("SST-2/{}.tsv", "0\tno movement\n1\ta gem\n", ("no movement", None, 0)),
    "rte": (
        "RTE/{}.tsv",
        "sentence1\tsentence2\tlabel\tidx\nNo Weapons.\tWeapons.\t1\t0\na\tb\t0\t1\n",
        ("No Weapons.", "Weapons.", 1),
    ),
    "stsb": (
        "STS-B/sts-{}.csv",
        "main\tMSR\t2012\t1\t3.800\tA man.\tThe man.\nf\tM\t2\t1\t0\ta\tb\tsource\tsource\n",
        ("A man.", "The man.", 3.8),
    ),
}


def write(folder, place, text):
    path = folder / "glue" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def content(examples):
    return [(e.text, e.second, e.label) for e in examples]


@pytest.mark.parametrize("task", TASKS)
def test_glues_own_layout(task, tmp_path):
    folder, text = OWN[task]
    for file in ("train", "dev", "dev_matched", "dev_mismatched"):
        write(tmp_path, f"{folder}/{file}.tsv", text)
    benchmark = load_benchmark(task)
    training, (file,) = benchmark.training_data(DataSource(tmp_path))
    assert content(training)[0] == FIRST[task]
    assert len(training) == 2
    assert content(training)[1][2] != FIRST[task][2]
    assert (file.name, file.origin, file.is_known_version) == (f"glue/{folder}/train", "user", False)
    evaluation, files = benchmark.evaluation_data(DataSource(tmp_path))
    if task == "mnli":
        assert [e.groups["part"] for e in evaluation] == ["matched"] * 2 + ["mismatched"] * 2
        assert [f.name for f in files] == ["glue/MNLI/dev_matched", "glue/MNLI/dev_mismatched"]
    else:
        assert content(evaluation) == content(training)
    assert len({e.item for e in evaluation}) == len(evaluation)
    assert benchmark.development_data(DataSource(tmp_path)) == ([], ())


@pytest.mark.parametrize("task", OTHER)
def test_the_other_layout(task, tmp_path):
    place, text, first = OTHER[task]
    for split in ("train", "dev"):
        write(tmp_path, place.format(split), text)
    benchmark = GLUE(task)
    for examples, _ in (
        benchmark.training_data(DataSource(tmp_path)),
        benchmark.evaluation_data(DataSource(tmp_path)),
    ):
        assert content(examples)[0] == first
        assert len(examples) == 2


def test_the_shared_files():
    shared = Path(__file__).parents[3] / "shared" / "data"
    if not (shared / "glue").is_dir():
        pytest.skip("no shared data")
    for task, training, evaluation in (
        ("cola", 8551, 516),
        ("sst2", 6920, 1821),
        ("rte", 2490, 277),
        ("stsb", 5749, 1500),
    ):
        benchmark = GLUE(task)
        assert len(benchmark.training_data(DataSource.of(shared))[0]) == training
        examples, (file,) = benchmark.evaluation_data(DataSource.of(shared))
        assert len(examples) == evaluation
        assert file.is_known_version
        assert len({e.label for e in examples}) == 2 or task == "stsb"


HUB = {
    "cola": {"sentence": ["a b", "c"], "label": [1, 0], "idx": [0, 1]},
    "stsb": {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [4.5, 0.0], "idx": [0, 1]},
    "mnli": {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [2, 0], "idx": [0, 1]},
    "qqp": {"question1": ["a", "b"], "question2": ["c", "d"], "label": [1, 0], "idx": [0, 1]},
}


@pytest.mark.parametrize("task", HUB)
def test_the_hub(task, tmp_path, monkeypatch):
    asked = []

    def load_dataset(repository, configuration, split, revision):
        assert revision == COMMITS[repository]
        asked.append((repository, configuration, split))
        return datasets.Dataset.from_dict(HUB[task])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    benchmark = GLUE(task)
    for folder in (None, tmp_path):  # a folder that lacks the file is no hindrance
        examples, (file,) = benchmark.training_data(DataSource.of(folder))
        assert [e.label for e in examples] == HUB[task]["label"]
        assert examples[0].text == next(iter(HUB[task].values()))[0]
        assert (examples[0].second is None) == (task == "cola")
        assert (file.origin, len(file.sha256)) == ("hub", 64)
    benchmark.evaluation_data()
    splits = ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]
    assert asked == [("nyu-mll/glue", task, split) for split in ["train", "train", *splits]]


def test_the_hub_out_of_reach(monkeypatch, tmp_path):
    def load_dataset(*_, **__):
        raise ConnectionError("no way there\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        DataError, match=r"glue/WNLI/train is missing: .*\(no way there\); unpack https://.*/WNLI\.zip into"
    ):
        GLUE("wnli").training_data(DataSource(tmp_path))
    with pytest.raises(DataError, match="no such folder"):
        GLUE("wnli").training_data(DataSource(tmp_path / "none"))
    for column, said in (("text", "no column 'sentence'"), ("sentence", "label is '2', expected a number below 2")):
        data = datasets.Dataset.from_dict({column: ["a"], "label": [2]})
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, data=data, **__: data)
        with pytest.raises(DataError, match=said):
            GLUE("cola").training_data()


@pytest.mark.parametrize(
    ("task", "text", "said"),
    [
        ("cola", "", "the file has no example"),
        ("cola", "a\tb\tc\n", "line 1: columns a, b, c"),
        ("cola", "a\t1\nb\n", "line 2: found 1 columns, expected 2"),
        ("cola", "a\tyes\n", "line 1: label is 'yes', expected 0 or 1"),
        ("sst2", "text\tlabel\na\t1\n", "line 1: columns text, label"),
        ("sst2", "sentence\tlabel\n", "the file has no example"),
        (
            "rte",
            "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tneutral\n",
            "line 2: label is 'neutral', expected",
        ),
        ("rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\n", "line 2: found 3 columns, expected 4"),
        ("stsb", "a\tb\tc\td\t6\te\tf\n", "line 1: score is '6', expected a number from 0 to 5"),
        ("stsb", "a\tb\tc\td\tnan\te\tf\n", "line 1: score is 'nan'"),
        ("stsb", "a\tb\tc\td\t1\te\tf\ng\n", "line 2: found 1 columns, expected 7 or more"),
        ("qqp", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n4\t5\n", "the file has no example"),
    ],
)
def test_a_malformed_file_is_named_with_the_line(task, text, said, tmp_path):
    write(tmp_path, f"{TASKS[task].folder}/train.tsv", text)
    with pytest.raises(DataError, match=said) as error:
        GLUE(task).training_data(DataSource(tmp_path))
    assert "train.tsv" in str(error.value)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(TASKS)), st.integers(0, 60), st.binary(max_size=4))
def test_whatever_bytes_the_file_holds_it_is_read_or_refused(tmp_path, task, at, noise):
    folder, text = OWN[task]
    raw = text.encode()
    write(tmp_path, f"{folder}/train.tsv", raw[:at] + noise + raw[at + 1 :])
    try:
        examples, _ = GLUE(task).training_data(DataSource(tmp_path))
    except EquiframeError as error:
        assert "train.tsv" in str(error)
    else:
        assert all(0 <= e.label <= 5 for e in examples)
        assert examples


def table(task, labels, outputs, parts=None):
    from equiframe.benchmarks.fine_tuned import TextExample

    parts = parts or ["dev"] * len(labels)
    examples = [
        TextExample(str(i), "a", "b", label, {"part": part})
        for i, (label, part) in enumerate(zip(labels, parts, strict=True))
    ]
    return outcome_table(GLUE(task).outcomes(examples, np.asarray(outputs, dtype=float)))


def values(task, outcomes):
    return {m.key: float(m.statistic(m.rows)) for m in GLUE(task).measures(outcomes)}


def one_hot(predicted, classes=2):
    return np.eye(classes)[predicted]


def test_measures_by_hand():
    labels, predicted = [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]  # 2 true, 1 missed, 1 false, 2 right
    binary = one_hot(predicted)
    assert values("sst2", table("sst2", labels, binary)) == {"accuracy": pytest.approx(400 / 6)}
    assert values("mrpc", table("mrpc", labels, binary)) == {
        "accuracy": pytest.approx(400 / 6),
        "f1": pytest.approx(100 * 4 / 6),
    }
    matthews = (2 * 2 - 1 * 1) / math.sqrt(3 * 3 * 3 * 3)
    assert values("cola", table("cola", labels, binary)) == {"matthews": pytest.approx(100 * matthews)}
    parts = ["matched"] * 4 + ["mismatched"] * 2
    three = one_hot([2, 1, 0, 1, 0, 2], 3)
    assert values("mnli", table("mnli", [2, 1, 1, 1, 0, 0], three, parts)) == {
        "matched.accuracy": 75.0,
        "mismatched.accuracy": 50.0,
    }


def test_where_a_metric_has_no_value_it_is_0():
    for labels, predicted in (([0, 0, 1], [0, 0, 0]), ([0, 0, 0], [0, 1, 0]), ([0, 0], [0, 0])):
        assert values("cola", table("cola", labels, one_hot(predicted))) == {"matthews": 0}
    assert values("mrpc", table("mrpc", [0, 0], one_hot([0, 0])))["f1"] == 0
    assert values("stsb", table("stsb", [1.0, 2.0, 3.0], [[0.3], [0.3], [0.3]])) == {"pearson": 0, "spearman": 0}


def test_statistics_of_resampled_rows_against_other_implementations():
    generator = np.random.default_rng(0)
    scores, given_ = generator.integers(0, 6, 80) / 1.0, generator.normal(size=80).round(1)
    binary, predicted = generator.integers(0, 2, 80), generator.integers(0, 2, 80)
    rows = generator.integers(0, 80, (3, 4, 80))
    (pearson, spearman) = GLUE("stsb").measures(table("stsb", scores, given_[:, None]))
    (accuracy, f1) = GLUE("qqp").measures(table("qqp", binary, one_hot(predicted)))
    (matthews,) = GLUE("cola").measures(table("cola", binary, one_hot(predicted)))
    for index in np.ndindex(3, 4):
        at = rows[index]
        assert pearson.statistic(rows)[index] == pytest.approx(100 * stats.pearsonr(scores[at], given_[at])[0])
        assert spearman.statistic(rows)[index] == pytest.approx(100 * stats.spearmanr(scores[at], given_[at])[0])
        true, found = binary[at].astype(bool), predicted[at].astype(bool)
        tp, fp, fn, tn = (true & found).sum(), (~true & found).sum(), (true & ~found).sum(), (~true & ~found).sum()
        assert accuracy.statistic(rows)[index] == pytest.approx(100 * (tp + tn) / 80)
        precision, recall = tp / (tp + fp), tp / (tp + fn)
        assert f1.statistic(rows)[index] == pytest.approx(200 * precision * recall / (precision + recall))
        expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        assert matthews.statistic(rows)[index] == pytest.approx(100 * expected)


def test_an_interval_holds_the_value():
    outcomes = table("stsb", np.arange(50) / 10, (np.arange(50) + np.random.default_rng(0).normal(0, 9, 50))[:, None])
    for measure in GLUE("stsb").measures(outcomes):
        found = estimate(measure, seed=0, resamples=200)
        assert found.low < found.value < found.high
        assert (found.ideal, found.higher_is_better) == (100, True)


def test_a_whole_task(language_model, text, tmp_path):
    """Fine-tuned, measured, and measured again without training."""
    women = [line.replace("he ", "she ") for line in text]
    lines = [f"{line}\t{int('she' in line.split())}" for line in (*text, *women)]
    for split in ("train", "dev"):
        write(tmp_path, f"CoLA/{split}.tsv", "\n".join(lines))
    arguments = {
        "cache": tmp_path / "cache",
        "source": tmp_path,
        "settings": FineTuneSettings(epochs=20, batch_size=4, learning_rate=5e-3, max_length=32),
        "resamples": 100,
    }
    told = []
    result, outcomes = score_finetuned(
        language_model, GLUE("cola"), progress=lambda done, total: told.append((done, total)), **arguments
    )
    assert told[-1] == (80, 80)
    assert (result.benchmark, result.version, result.items, result.excluded) == ("cola", 1, 16, {})
    assert "20 epochs in batches of 4" in result.scoring
    assert [file.name for file in result.files] == ["glue/CoLA/train", "glue/CoLA/dev"]
    assert result.estimates["matthews"].value > 50
    assert outcomes["correct"].mean() > 0.7
    assert set(outcomes["cut"]) <= {0.0, 1.0}
    again, same = score_finetuned(language_model, GLUE("cola"), progress=lambda *_: told.append("again"), **arguments)
    assert told[-1] == (80, 80)
    assert again.estimates == result.estimates
    assert same.equals(outcomes)
    few, rows = score_finetuned(language_model, GLUE("cola"), limit=4, **arguments)
    assert [(int(item.removeprefix("dev-")) - 1) // 4 for item in rows["item"]] == [0, 1, 2, 3]
    assert (few.available, result.available) == (16, 16)
    with pytest.raises(InputError, match="limit 0"):
        score_finetuned(language_model, GLUE("cola"), limit=0, **arguments)


def test_the_published_length_is_at_most_the_window(language_model, tmp_path, monkeypatch):
    def outputs(*_, evaluation, settings, **__):
        assert settings.max_length == 64
        return Predictions(np.zeros((len(evaluation), 2)), {}, frozenset(), 0, ())

    for split in ("train", "dev"):
        write(tmp_path, f"CoLA/{split}.tsv", "she is a nurse\t1\nhe is a nurse\t0\n")
    monkeypatch.setattr("equiframe.finetuned.score.fine_tuned_outputs", outputs)
    result, _ = score_finetuned(language_model, GLUE("cola"), cache=tmp_path, source=tmp_path, resamples=20)
    assert "at most 64 tokens" in result.scoring


def test_registered_by_name():
    for task in TASKS:
        benchmark = load_benchmark(task)
        assert (benchmark.name, benchmark.spec) == (task, task)
        assert benchmark.settings == FineTuneSettings(epochs=3, batch_size=32, learning_rate=2e-5, max_length=128)
        assert benchmark.headline == TASKS[task].metrics
    assert load_benchmark("mnli").outputs == 3
    assert load_benchmark("stsb").outputs == 1
    with pytest.raises(InputError, match="no variant 'dev' of cola"):
        load_benchmark("cola:dev")
    with pytest.raises(InputError, match="no GLUE task 'ax'"):
        GLUE("ax")
