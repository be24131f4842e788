"""WinoBias as coreference: the mentions, the corpora, accuracies and gaps by hand."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiframe.benchmarks.benchmark import outcome_table
from equiframe.benchmarks.fine_tuned import MentionExample
from equiframe.data import DataSource, locate
from equiframe.errors import DataError, EquiframeError
from equiframe.finetuned import FineTuneSettings, score_finetuned
from equiframe.finetuned.coreference import WinoBiasCoreference
from equiframe.uncertainty import paired_difference

GAP = "ID\tText\tPronoun\tPronoun-offset\tA\tA-offset\tA-coref\tB\tB-offset\tB-coref\tURL\n"
GAP_ROWS = (
    "g-1\tAnn met Bea and she told her .\tshe\t16\tAnn\t0\tTRUE\tBea\t8\tFALSE\thttp\n"
    "g-2\tAnn met Bea and she told her .\tshe\t16\tAnn\t0\tFALSE\tBea\t8\tTRUE\thttp\n"
    "g-3\tAnn met Bea and she told her .\tshe\t16\tAnn\t0\tFALSE\tBea\t8\tFALSE\thttp\n"
)
SENTENCES = {
    "pro_stereotyped_type1": "1 [The doctor] met the nurse since [he] said.\n2 The CEO met [a nurse] as [she] ran.\n",
    "anti_stereotyped_type1": "1 [The doctor] met the nurse since [she] said.\n2 The CEO met [a nurse] as [he] ran.\n",
    "pro_stereotyped_type2": "1 The doctor met [ the nurse] and told [her] [her] job in a nurse dress.\n",
    "anti_stereotyped_type2": "1 The doctor met [the nurse] and told [him] [his] job in a nurse dress.\n",
}


@pytest.fixture
def folder(tmp_path):
    """A user's own small WinoBias and GAP."""
    for split in ("development", "validation", "test"):
        (tmp_path / f"gap-{split}.tsv").write_text(GAP + GAP_ROWS)
    for name, text in SENTENCES.items():
        for split in ("dev", "test"):
            (tmp_path / f"{name}.txt.{split}").write_text(text)
    (tmp_path / "female_occupations.txt").write_text("nurse\nteacher")
    (tmp_path / "male_occupations.txt").write_text("doctor\nCEO\nconstruction worker\nworker\n")
    return tmp_path


def mentions(example):
    return [example.text[start:end] for start, end in (example.pronoun, *example.candidates)]


def test_mentions_of_winobias(folder):
    examples, files = WinoBiasCoreference().evaluation_data(DataSource.of(folder))
    found = {e.item: (mentions(e), e.label) for e in examples}
    assert found == {
        "1P-1": (["he", "The doctor", "the nurse"], 0),
        "1P-2": (["she", "The CEO", "a nurse"], 1),
        "1A-1": (["she", "The doctor", "the nurse"], 0),
        "1A-2": (["he", "The CEO", "a nurse"], 1),
        "2P-1": (["her", "The doctor", "the nurse"], 1),
        "2A-1": (["him", "The doctor", "the nurse"], 1),
        "g-1": (["she", "Ann", "Bea"], 0),
        "g-2": (["she", "Ann", "Bea"], 1),
        "g-3": (["she", "Ann", "Bea"], 2),
    }
    assert all("[" not in e.text for e in examples)
    assert len(files) == 7
    assert len(WinoBiasCoreference().training_data(DataSource.of(folder))[0]) == 3


def test_the_real_data():
    try:
        locate("winobias/type1/pro/dev")
    except DataError:
        pytest.skip("no data wheel")
    occupations = "|".join(
        word
        for g in ("female", "male")
        for word in locate(f"winobias/{g}_occupations").path.read_text().split("\n")
        if word
    )
    for split in ("dev", "test"):
        examples, _ = WinoBiasCoreference(split).evaluation_data()
        winobias = [e for e in examples if e.groups["part"] == "winobias"]
        assert len(winobias) == 4 * 396
        assert len(examples) == 4 * 396 + 2000
        assert len({e.item for e in examples}) == len(examples)
        for e in winobias:
            pronoun, first, second = mentions(e)
            assert pronoun in ("he", "she", "him", "his", "her", "himself", "herself")
            other = (first, second)[1 - e.label]
            assert re.fullmatch(f"(?:(?:the|an?) )?(?:{occupations})", other, re.IGNORECASE)
            assert first.lower() != second.lower()
    assert [len(WinoBiasCoreference().training_data()[0]), len(WinoBiasCoreference().development_data()[0])] == [
        2000,
        454,
    ]


def test_the_users_own_corpus(folder):
    (folder / "coreference").mkdir()
    row = {"text": "Ann met Bea and she told", "pronoun": [16, 19], "candidates": [[0, 3], [8, 11]], "label": 1}
    (folder / "coreference/train.jsonl").write_text(json.dumps(row) + "\n")
    (example,), (file,) = WinoBiasCoreference().training_data(DataSource.of(folder))
    assert example == MentionExample("1", row["text"], (16, 19), ((0, 3), (8, 11)), 1, {"part": "user"})
    assert file.name == "coreference/train"
    assert WinoBiasCoreference().development_data(DataSource.of(folder))[1][0].name == "gap/validation"
    for change, said in (
        ({"label": 3}, "label is 3"),
        ({"label": True}, "label is True"),
        ({"label": [0]}, "label is"),
        ({"pronoun": [16, 99]}, r"\[16, 99\] is not a \[start, end\]"),
        ({"pronoun": [3, 3]}, "is not a"),
        ({"pronoun": 3}, "is not a"),
        ({"candidates": [[0, 3]]}, "two candidates"),
        ({"text": None}, "expected a text"),
    ):
        (folder / "coreference/train.jsonl").write_text(json.dumps({**row, **change}))
        with pytest.raises(DataError, match=said):
            WinoBiasCoreference().training_data(DataSource.of(folder))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("gap-test.tsv", GAP + GAP_ROWS.replace("she\t16", "she\t17"), "line 2: Pronoun 'she' is not at '17'"),
        ("gap-test.tsv", GAP + GAP_ROWS.replace("she\t16", "she\tx"), "is not at 'x'"),
        ("gap-test.tsv", GAP + GAP_ROWS.replace("FALSE", "TRUE"), "TRUE, TRUE, expected one TRUE or none"),
        ("gap-test.tsv", GAP, "the file has no example"),
        ("pro_stereotyped_type1.txt.dev", "", "the file has no sentence"),
        ("pro_stereotyped_type1.txt.dev", "The doctor", "line 1: .*expected a number and a sentence"),
        ("pro_stereotyped_type1.txt.dev", "1 The doctor met [the nurse]", "no pronoun in brackets"),
        ("pro_stereotyped_type1.txt.dev", "1 The doctor met the nurse, [he] said", "no occupation in brackets"),
        ("pro_stereotyped_type1.txt.dev", "1 [The nurse] said [she] is a nurse", "no other occupation"),
        (
            "pro_stereotyped_type1.txt.dev",
            "1 [A nurse] met the CEO [she] likes\n" * 2,
            "line 2: sentence 1 is repeated",
        ),
        ("female_occupations.txt", "", "the file has no occupation"),
    ],
)
def test_a_malformed_file_is_named_with_the_line(folder, name, text, said):
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=said) as error:
        WinoBiasCoreference().evaluation_data(DataSource.of(folder))
    assert name in str(error.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["gap-test.tsv", "pro_stereotyped_type1.txt.dev"]), st.integers(0, 300), st.binary(max_size=4))
def test_whatever_bytes_the_file_holds_it_is_read_or_refused(folder, name, at, noise):
    path = folder / name
    whole = (GAP + GAP_ROWS if "gap" in name else SENTENCES["pro_stereotyped_type1"]).encode()
    for other in ("gap-test.tsv", "pro_stereotyped_type1.txt.dev"):
        (folder / other).write_text(GAP + GAP_ROWS if "gap" in other else SENTENCES["pro_stereotyped_type1"])
    path.write_bytes(whole[:at] + noise + whole[at + 1 :])
    try:
        examples, _ = WinoBiasCoreference().evaluation_data(DataSource.of(folder))
    except EquiframeError as error:
        assert name in str(error)
    else:
        assert all(start < end <= len(e.text) for e in examples for start, end in (e.pronoun, *e.candidates))


def outcomes_of(rows):
    """Rows of set, number, label and scores."""
    examples = [
        MentionExample(
            f"{name}-{number}",
            "she a b",
            (0, 3),
            ((4, 5), (6, 7)),
            label,
            {"part": "winobias", "set": name, "pair": f"type{name[0]}-{number}"} if name != "gap" else {"part": "gap"},
        )
        for name, number, label, _ in rows
    ]
    return outcome_table(WinoBiasCoreference().outcomes(examples, np.array([scores for *_, scores in rows])))


def values(outcomes):
    return {m.key: float(m.statistic(m.rows)) for m in WinoBiasCoreference().measures(outcomes)}


def test_measures_by_hand():
    right, wrong, tie = (2.0, 1.0, 5.0), (1.0, 2.0, -5.0), (1.0, 1.0, 0.0)
    outcomes = outcomes_of(
        [
            ("1P", 1, 0, right),
            ("1P", 2, 1, wrong),
            ("1P", 3, 0, tie),
            ("1P", 4, 0, right),
            ("1A", 4, 0, wrong),
            ("1A", 3, 0, right),
            ("1A", 2, 0, wrong),
            ("1A", 1, 1, right),
            ("2P", 1, 0, right),
            ("gap", 1, 2, right),
            ("gap", 2, 0, right),  # neither scores higher
            ("gap", 3, 1, wrong),
            ("gap", 4, 2, wrong),
        ]
    )
    assert outcomes["margin"].tolist() == [1, 1, 0, 1, -1, 1, -1, -1, 1, 3, -3, 1, -7]
    found = values(outcomes)
    assert found == {
        "1P.accuracy": 75,
        "1P.f1": pytest.approx(100 * 1.5 / 1.75),
        "1A.accuracy": 25,
        "1A.f1": pytest.approx(100 * 0.5 / 1.25),
        "2P.accuracy": 100,
        "2P.f1": 100,
        "tpr_1": pytest.approx(100 * (1.5 / 1.75 - 0.5 / 1.25)),
        "type1.accuracy_gap": 50,
        "GAP.accuracy": 50,
    }


def test_the_published_f1():
    """143 and 300 of 396 right give 53.06 and 86.21, as in MABEL's repository."""
    rows = [("1A", i, 0, (float(i < 143), 0.5, 0)) for i in range(396)]
    rows += [("1P", i, 0, (float(i < 300), 0.5, 0)) for i in range(396)]
    found = values(outcomes_of(rows))
    assert found["1A.f1"] == pytest.approx(53.06, abs=0.005)
    assert found["1P.f1"] == pytest.approx(86.21, abs=0.005)
    assert found["tpr_1"] == pytest.approx(33.15, abs=0.005)
    assert found["type1.accuracy_gap"] == pytest.approx(39.65, abs=0.005)


def test_resampled_gaps_are_of_pairs_and_stacked_runs_stay_apart():
    generator = np.random.default_rng(0)

    def run():
        order = generator.permutation(20)
        return outcomes_of(
            [("1P", i, 0, (generator.normal(), 0, 0)) for i in range(20)]
            + [("1A", i, 0, (generator.normal(), 0, 0)) for i in order]
        )

    first, second = run(), run()
    (gap,) = (m for m in WinoBiasCoreference().measures(first) if m.key == "type1.accuracy_gap")
    drawn = generator.choice(gap.rows, (3, 20))
    right = first.set_index("item")["correct"]
    for i in range(3):
        numbers = [first["item"][row].partition("-")[2] for row in drawn[i]]
        expected = np.mean([right[f"1P-{n}"] - right[f"1A-{n}"] for n in numbers])
        assert gap.statistic(drawn)[i] == pytest.approx(100 * expected)

    second = second.set_index("item").loc[first["item"]].reset_index()
    stacked = pd.concat([first, second], ignore_index=True)
    measures = {m.key: m for m in WinoBiasCoreference().measures(stacked)}
    for key, measure in measures.items():
        rows = measure.rows[measure.rows < 40]
        np.testing.assert_array_equal(rows + 40, measure.rows[measure.rows >= 40])
        found = paired_difference(rows, rows + 40, measure.statistic, seed=0, resamples=50)
        assert found.value == pytest.approx(values(second)[key] - values(first)[key])


def test_what_the_model_could_not_read_is_in_no_measure():
    outcomes = outcomes_of([("1P", 1, 0, (1, 0, 0)), ("1A", 1, 0, (1, 0, 0)), ("1P", 2, 0, (0, 1, 0))])
    outcomes.loc[1, "excluded"] = "too long"
    assert values(outcomes) == {"1P.accuracy": 50, "1P.f1": pytest.approx(200 / 3)}


def test_a_whole_run(language_model, folder, tmp_path):
    with (folder / "pro_stereotyped_type1.txt.dev").open("a") as file:
        file.write(f"3 [The doctor] met {'the king and ' * 40} the nurse since [he] said.\n")
    quick = FineTuneSettings(epochs=2, batch_size=3, learning_rate=1e-3, max_length=60)
    result, outcomes = score_finetuned(
        language_model, WinoBiasCoreference(), cache=tmp_path / "cache", source=folder, settings=quick, resamples=50
    )
    assert {"1P.f1", "1A.f1", "2P.f1", "2A.f1", "tpr_1", "tpr_2", "GAP.accuracy"} <= set(result.estimates)
    why = "the mentions are too far apart for 60 tokens"
    assert (result.items, result.excluded) == (10, {why: 1})
    assert outcomes.loc[outcomes["excluded"].notna(), "item"].tolist() == ["1P-3"]
    assert outcomes.loc[outcomes["item"] == "1P-3", ["margin", "correct", "cut"]].isna().all(axis=None)
    assert result.estimates["1P.accuracy"].count == 2


def test_a_repeated_id_is_refused_before_training(language_model, folder, tmp_path):
    (folder / "gap-test.tsv").write_text(GAP + GAP_ROWS[: GAP_ROWS.index("g-2")] * 2)
    with pytest.raises(DataError, match="winobias_coreference: two items are called 'g-1'"):
        score_finetuned(language_model, WinoBiasCoreference(), cache=tmp_path / "cache", source=folder)


def test_named_by_its_variant():
    assert WinoBiasCoreference().spec == "winobias_coreference"
    assert WinoBiasCoreference("test").spec == "winobias_coreference:test"
