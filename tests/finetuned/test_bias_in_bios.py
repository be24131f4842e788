"""Bias-in-Bios: the files, the hub, and the gaps against a loop over occupations."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiframe.benchmarks.benchmark import outcome_table
from equiframe.benchmarks.fine_tuned import TextExample
from equiframe.data import DataSource
from equiframe.data.training_sources import COMMITS
from equiframe.errors import DataError, EquiframeError
from equiframe.finetuned import FineTuneSettings, score_finetuned
from equiframe.finetuned.bias_in_bios import PROFESSIONS, BiasInBios

ROWS = [
    {"text": "she is a nurse and he is a doctor", "profession": "nurse", "gender": "F"},
    {"text": "he said that his mother was a teacher", "profession": "teacher", "gender": "M"},
    {"text": "she told her father about the job", "profession": "teacher", "gender": "F"},
    {"text": "his sister works", "profession": "nurse", "gender": "M"},
]


def write(folder, rows=ROWS, splits=("train", "dev", "test")):
    (folder / "bias_in_bios").mkdir(exist_ok=True)
    for split in splits:
        text = rows if isinstance(rows, bytes) else "\n".join(map(json.dumps, rows)).encode()
        (folder / f"bias_in_bios/{split}.jsonl").write_bytes(text)


def test_the_documented_format(tmp_path):
    write(tmp_path)
    benchmark = BiasInBios()
    examples, (file,) = benchmark.training_data(DataSource.of(tmp_path))
    assert examples[0] == TextExample("train-1", ROWS[0]["text"], None, 13, {"profession": "nurse", "gender": "F"})
    assert [e.label for e in examples] == [13, 26, 26, 13]
    assert file.name == "bias_in_bios/train"
    assert benchmark.development_data(DataSource.of(tmp_path))[1][0].name == "bias_in_bios/dev"
    assert benchmark.evaluation_data(DataSource.of(tmp_path))[0][1].item == "test-2"
    assert benchmark.spec == "bias_in_bios"
    assert (len(PROFESSIONS), benchmark.outputs) == (28, 28)


def test_the_hub(monkeypatch):
    asked = []

    def load_dataset(repository, configuration, split, revision):
        assert revision == COMMITS[repository]
        asked.append((repository, configuration, split))
        return datasets.Dataset.from_dict({"hard_text": ["a", "b"], "profession": [0, 27], "gender": [0, 1]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    examples, (file,) = BiasInBios().evaluation_data()
    assert [(e.text, e.label, e.groups["profession"], e.groups["gender"]) for e in examples] == [
        ("a", 0, "accountant", "M"),
        ("b", 27, "yoga_teacher", "F"),
    ]
    assert file.origin == "hub"
    assert asked == [("LabHC/bias_in_bios", None, "test")]
    wrong = datasets.Dataset.from_dict({"hard_text": ["a"], "profession": [28], "gender": [0]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: wrong)
    with pytest.raises(DataError, match="profession is 28"):
        BiasInBios().evaluation_data()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"profession": "cook"}, "line 2: profession is 'cook', expected accountant"),
        ({"gender": "x"}, "line 2: gender is 'x', expected M or F"),
        ({"text": " "}, "line 2: the text is empty"),
        ({"text": 3}, "line 2: the text is empty"),
        ({"profession": ["nurse"]}, "line 2: profession is"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, change, said):
    write(tmp_path, [ROWS[0], {**ROWS[1], **change}])
    with pytest.raises(DataError, match=said) as error:
        BiasInBios().training_data(DataSource.of(tmp_path))
    assert "train.jsonl" in str(error.value)


def test_an_empty_file(tmp_path):
    write(tmp_path, [])
    with pytest.raises(DataError, match="the file has no biography"):
        BiasInBios().training_data(DataSource.of(tmp_path))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 150), st.binary(max_size=4))
def test_whatever_bytes_the_file_holds_it_is_read_or_refused(tmp_path, at, noise):
    raw = "\n".join(map(json.dumps, ROWS)).encode()
    write(tmp_path, raw[:at] + noise + raw[at + 1 :], ["train"])
    try:
        examples, _ = BiasInBios().training_data(DataSource.of(tmp_path))
    except EquiframeError as error:
        assert "train.jsonl" in str(error)
    else:
        assert examples


def table(rows):
    """Rows of profession, gender, and profession found."""
    examples = [
        TextExample(str(i), "a", None, PROFESSIONS.index(p), {"profession": p, "gender": g})
        for i, (p, g, _) in enumerate(rows)
    ]
    outputs = np.eye(28)[[PROFESSIONS.index(found) for *_, found in rows]]
    return outcome_table(BiasInBios().outcomes(examples, outputs))


def values(outcomes):
    return {m.key: float(m.statistic(m.rows)) for m in BiasInBios().measures(outcomes)}


def test_measures_by_hand():
    found = values(
        table(
            [
                ("nurse", "F", "nurse"),
                ("nurse", "F", "nurse"),
                ("nurse", "M", "nurse"),
                ("nurse", "M", "poet"),  # nurse: men 1/2, women 1
                ("surgeon", "M", "surgeon"),
                ("surgeon", "M", "surgeon"),
                ("surgeon", "F", "nurse"),  # surgeon: men 1, women 0
                ("poet", "M", "nurse"),
                ("poet", "F", "nurse"),  # nothing found of poets, which counts
                ("pastor", "M", "pastor"),  # no women, which does not
            ]
        )
    )
    assert found == {
        "accuracy": 60,
        "tpr_gap": pytest.approx(100 * (4 / 6 - 2 / 4)),
        "tpr_gap_macro": pytest.approx(100 * (-0.5 + 1 + 0) / 3),
        "tpr_rms": pytest.approx(np.sqrt((0.25 + 1 + 0) / 3)),
    }


def test_where_a_gender_is_missing_there_is_no_gap():
    assert values(table([("nurse", "F", "nurse"), ("poet", "F", "nurse")])) == {"accuracy": 50}
    assert set(values(table([("nurse", "F", "nurse"), ("poet", "M", "nurse")]))) == {"accuracy", "tpr_gap"}


def test_resampled_rows_against_a_loop():
    generator = np.random.default_rng(0)
    some = PROFESSIONS[:5]
    rows = [(generator.choice(some), generator.choice(["M", "F"]), generator.choice(some)) for _ in range(120)]
    outcomes = table(rows)
    measures = {m.key: m for m in BiasInBios().measures(outcomes)}
    drawn = generator.integers(0, 120, (2, 3, 40))
    for index in np.ndindex(2, 3):
        chosen = outcomes.iloc[drawn[index]]
        gaps = []
        for _, mine in chosen.groupby("profession"):
            men, women = (mine.loc[mine["gender"] == g, "correct"] for g in "MF")
            if len(men) and len(women):
                gaps.append(men.mean() - women.mean())
        by_gender = chosen.groupby("gender")["correct"].mean()
        expected = {
            "accuracy": 100 * chosen["correct"].mean(),
            "tpr_gap": 100 * (by_gender["M"] - by_gender["F"]),
            "tpr_gap_macro": 100 * np.mean(gaps),
            "tpr_rms": np.sqrt(np.mean(np.square(gaps))),
        }
        for key, value in expected.items():
            assert measures[key].statistic(drawn)[index] == pytest.approx(value), key


def test_a_whole_run(language_model, tmp_path):
    write(tmp_path)
    quick = FineTuneSettings(epochs=1, batch_size=2, learning_rate=1e-3, max_length=8)
    result, outcomes = score_finetuned(
        language_model, BiasInBios(), cache=tmp_path / "cache", source=tmp_path, settings=quick, resamples=50
    )
    assert set(result.estimates) == {"accuracy", "tpr_gap", "tpr_gap_macro", "tpr_rms"}
    assert result.items == 4
    assert outcomes["cut"].tolist() == [1, 1, 1, 0] or language_model.kind == "causal"
