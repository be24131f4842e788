"""BLiMP: which pairs are read, scores one sequence at a time, the accuracy by hand. The pairs are our own."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from equiframe.benchmarks import load_benchmark
from equiframe.benchmarks.benchmark import Outcome, outcome_table
from equiframe.benchmarks.blimp import AcceptabilityPair, BLiMP
from equiframe.data import KNOWN
from equiframe.errors import DataError
from equiframe.runs.evaluate import score
from equiframe.scoring.engine import LocalAnswerer

GENDER, SELECTION = "anaphor_gender_agreement", "animate_subject_trans"
PHENOMENON = {GENDER: "anaphor_agreement", SELECTION: "s-selection"}
NAMES = {"herself": ("Mary", "Anna", "Susan", "Linda"), "himself": ("James", "John", "Peter", "Paul")}
VERBS = ("helps", "sees", "likes", "knows", "asks", "hurts", "loves")


def pairs(paradigm):
    """56 pairs: whom a person helps."""
    forms = ("herself", "himself")
    for good, bad in (forms, forms[::-1]):
        for name, verb in itertools.product(NAMES[good], VERBS):
            yield {
                "sentence_good": f"{name} {verb} {good}.",
                "sentence_bad": f"{name} {verb} {bad}.",
                "linguistics_term": PHENOMENON.get(paradigm, "binding"),
            }


@pytest.fixture
def folder(tmp_path):
    for name in KNOWN:
        if name.startswith("blimp/"):
            paradigm = name.removeprefix("blimp/")
            chosen = list(pairs(paradigm)) if paradigm in PHENOMENON else list(pairs(paradigm))[:1]
            lines = [json.dumps({**pair, "pairID": str(i)}) for i, pair in enumerate(chosen)]
            (tmp_path / f"{paradigm}.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_every_tenth_pair_or_all(folder):
    items, files = load_benchmark("blimp").items(folder)
    assert len(files) == 67
    assert [item.item for item in items if item.paradigm == GENDER] == [f"{GENDER}-{i}" for i in range(0, 56, 10)]
    full, _ = load_benchmark("blimp:full").items(folder)
    assert len(full) == 65 + 2 * 56
    assert len({item.item for item in full}) == len(full)
    first = next(item for item in full if item.paradigm == SELECTION)
    assert first == AcceptabilityPair(
        f"{SELECTION}-0", SELECTION, "argument_structure", "Mary helps herself.", "Mary helps himself."
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{}", "binding.jsonl, line 1"),
        ('{"sentence_good": "a", "sentence_bad": 1, "linguistics_term": "x", "pairID": "0"}', "line 1: one of"),
        ("half", "line 1"),
    ],
)
def test_a_wrong_line_is_named(folder, line, said):
    wrong = folder / "principle_A_c_command.jsonl"
    wrong.write_text(line)
    with pytest.raises(DataError, match=said.replace("binding", wrong.stem)):
        load_benchmark("blimp").items(folder)


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama"])
def test_scores_are_those_of_one_call_at_a_time(request, folder, monkeypatch, token_log_probs, name):
    language_model = request.getfixturevalue(name)
    items = [item for item in load_benchmark("blimp:full").items(folder)[0] if item.paradigm == GENDER]
    benchmark = BLiMP()
    monkeypatch.setattr(benchmark, "items", lambda source=None: (items, ()))
    result, table = score(LocalAnswerer(language_model, token_budget=500), benchmark, resamples=20)
    expected = np.array([[sum(token_log_probs(language_model, text)) for text in (i.good, i.bad)] for i in items])
    assert len(items) >= 50
    assert result.excluded == {}
    np.testing.assert_allclose(table[["good", "bad"]], expected, atol=1e-4)
    share = 100 * np.mean(expected[:, 0] > expected[:, 1])
    assert result.estimates[f"{GENDER}.accuracy"].value == pytest.approx(share)


def test_accuracy_by_hand():
    rows = [
        (GENDER, "anaphor_agreement", -1.0, -2.0),
        ("anaphor_number_agreement", "anaphor_agreement", -3.0, -2.0),
        ("anaphor_number_agreement", "anaphor_agreement", -2.0, -2.0),
        ("passive_1", "argument_structure", math.nan, math.nan),
        ("passive_2", "argument_structure", -1.0, -1.5),
    ]
    outcomes = outcome_table(
        [
            Outcome(str(i), {"paradigm": p, "phenomenon": f}, {"good": good, "bad": bad}, excluded=None)
            if good == good
            else Outcome(str(i), {"paradigm": p, "phenomenon": f}, excluded="left out")
            for i, (p, f, good, bad) in enumerate(rows)
        ]
    )
    found = {m.key: float(m.statistic(m.rows)) for m in BLiMP().measures(outcomes)}
    assert found == {
        "overall.accuracy": 62.5,
        "anaphor_agreement.accuracy": 50.0,
        "argument_structure.accuracy": 100.0,
        f"{GENDER}.accuracy": 100.0,
    }
