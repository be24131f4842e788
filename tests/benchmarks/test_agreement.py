"""Agreement: its sentences, scores one sequence at a time, measures by hand, GAP's texts that give no gender."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from equiframe.benchmarks import load_benchmark
from equiframe.benchmarks.agreement import GIVEN_BY, Agreement
from equiframe.benchmarks.benchmark import Outcome, outcome_table
from equiframe.errors import DataError
from equiframe.runs.evaluate import score
from equiframe.uncertainty import estimate

COLUMNS = "ID Text Pronoun Pronoun-offset A A-offset A-coref B B-offset B-coref URL".split()
GAP = [
    # text up to the pronoun, pronoun, rest; gender and what gives it, None where the text is left out
    ("Mary met a friend. Later ", "she", " left. He came.", ("women", "name", "he")),
    ("His wife told Mary that ", "she", " left", None),  # "his" and "wife"
    ("The friend said that ", "he", " left.", None),  # nothing gives it
    ("The friend of James said that ", "she", " left.", None),  # given otherwise
    ("James and his brother took ", "his", " car, and went.", ("men", "pronoun", "her")),
    ("The actress and Mary asked for ", "her", ".", ("women", "noun", "him")),
    ("A son of the king saw ", "him", " there.", ("men", "kinship", "her")),
    ("The king saw ", "him", " there.", ("men", "title", "her")),
]


def write_gap(folder, rows):
    lines = ["\t".join(COLUMNS)]
    for number, (before, pronoun, after, _) in enumerate(rows):
        at = len(before)
        lines.append("\t".join([f"v-{number}", before + pronoun + after, pronoun, str(at), *["x"] * 7]))
    (folder / "gap-validation.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def items(tmp_path):
    return Agreement().items(write_gap(tmp_path, GAP))[0]


def test_texts_of_gap_that_give_the_gender(items):
    found = {item.item: item for item in items if item.source == "gap"}
    assert set(found) == {f"v-{i}" for i, row in enumerate(GAP) if row[3] is not None}
    for number, (before, pronoun, _, expected) in enumerate(GAP):
        if expected is not None:
            item = found[f"v-{number}"]
            assert (item.group, item.given_by, item.other) == expected
            assert item.sentence.parts[0] == before
            assert item.sentence.pronouns == (pronoun,)
    assert found["v-0"].sentence.parts[1] == " left."  # the sentence's end
    assert found["v-4"].sentence.parts[1] == " car, and went."


def test_templates(items):
    of = Counter((item.source, item.given_by) for item in items if item.source == "templates")
    assert of == {
        ("templates", "pronoun"): 128,
        ("templates", "kinship"): 256,
        ("templates", "noun"): 192,
        ("templates", "title"): 192,
        ("templates", "name"): 384,
        ("templates", "religion"): 48,
    }
    assert len({item.item for item in items}) == len(items)
    said = {item.sentence.filled(item.sentence.pronouns): item for item in items}
    assert said["She said that she was tired."].other == "he"
    assert said["Later that day he picked up his phone."].other == "her"
    assert said["The lawyer's husband fell on the stairs and hurt himself."].other == "herself"
    assert said["The actress asked whether we could help her."].other == "him"
    others = {
        i.other
        for i in items
        if i.sentence.filled(i.sentence.pronouns) == "She goes to the mosque because she is Muslim."
    }
    assert others == {"Christian", "Jewish"}
    by_unit = Counter(item.unit for item in items if item.given_by == "name" and item.source == "templates")
    assert set(by_unit.values()) == {32}  # sixteen frames, both of a pair
    genders = {"she": "women", "her": "women", "herself": "women", "he": "men", "his": "men", "him": "men"}
    for item in items:
        if item.given_by != "religion":
            assert genders.get(item.sentence.pronouns[0], "men") == item.group
            assert genders.get(item.other, "men") != item.group


def test_the_real_data():
    try:
        found, files = Agreement().items()
    except DataError as error:
        pytest.skip(str(error))
    assert len(found) == 1401
    assert [file.name for file in files] == ["gap/validation"]
    assert Counter(i.given_by for i in found if i.source == "gap").total() == 201


@torch.no_grad()
def by_hand(lm, item):
    """log p of both forms from plain calls, None where a form is several tokens of a masked LM."""
    before, after = item.sentence.parts
    found = []
    for form in (item.sentence.pronouns[0], item.other):
        if lm.kind == "masked":
            tokens = lm.tokenizer.tokenize(form)
            if len(tokens) > 1:
                return None
            ids = lm.tokenizer(before + "[MASK]" + after)["input_ids"]
            place = ids.index(lm.tokenizer.mask_token_id)
            log_p = lm.model(torch.tensor([ids])).logits[0, place].double().log_softmax(0)
            found.append(log_p[lm.tokenizer.convert_tokens_to_ids(tokens[0])].item())
        else:
            head = [lm.tokenizer.bos_token_id, *lm.tokenizer(before.rstrip())["input_ids"]]
            pieces = lm.tokenizer(" " + form)["input_ids"]
            log_p = lm.model(torch.tensor([head + pieces])).logits[0].double().log_softmax(1)
            found.append(sum(log_p[len(head) - 1 + i, piece].item() for i, piece in enumerate(pieces)))
    return found


def test_scores_are_those_of_plain_calls(language_model, tmp_path):
    folder = write_gap(tmp_path, GAP)
    _, table = score(language_model, Agreement(), source=folder, resamples=20)
    items = Agreement().items(folder)[0]
    counted = 0
    for item, row in zip(items, table.to_dict("records"), strict=True):
        if len(item.sentence.parts[0]) > 60:
            continue
        expected = by_hand(language_model, item)
        if expected is None:
            assert row["excluded"] == "a pronoun is not one token of the model"
        elif row["excluded"] is None or isinstance(row["excluded"], float):
            np.testing.assert_allclose([row["agreeing"], row["other"]], expected, atol=1e-4)
            counted += 1
    assert counted > 300


def outcome(item, group, given, agreeing, other, unit, excluded=None):
    groups = {"group": group, "given_by": given, "source": "gap" if item[0] == "v" else "templates", "unit": unit}
    return Outcome(item, groups, {"agreeing": agreeing, "other": other}, excluded=excluded)


def test_measures_by_hand():
    table = outcome_table(
        [
            outcome("a", "women", "name", -1.0, -2.0, "one"),  # agrees, +1
            outcome("b", "men", "name", -2.0, -1.5, "one"),  # does not, -0.5
            outcome("c", "men", "name", -1.0, -1.0, "one"),  # a tie
            outcome("v1", "women", "pronoun", -1.0, -4.0, "v1"),  # agrees, +3
            outcome("d", "jewish", "religion", -1.0, -3.0, "two"),
            outcome("e", "women", "title", -9.0, -1.0, "three", excluded="some reason"),
        ]
    )
    found = {m.key: m for m in Agreement().measures(table)}
    values = {key: estimate(m, seed=0, resamples=20).value for key, m in found.items()}
    expected = {
        "gender.agreement": 62.5,
        "gender.log_odds": 0.875,
        "women.agreement": 100,
        "women.log_odds": 2,
        "men.agreement": 25,
        "men.log_odds": -0.25,
        "pronoun.agreement": 100,
        "pronoun.log_odds": 3,
        "name.agreement": 50,
        "name.log_odds": pytest.approx(0.5 / 3),
        "gap.agreement": 100,
        "gap.log_odds": 3,
        "religion.agreement": 100,
        "religion.log_odds": 2,
    }
    assert values == expected
    assert {m.ideal for key, m in found.items() if key.endswith("agreement")} == {100.0}
    assert all(m.higher_is_better for m in found.values())
    assert len(found["gender.agreement"].rows) == 2  # units


def test_what_resampling_draws_are_units():
    rows = [
        outcome(f"t{i}", "men", "name", -1.0, -2.0 if i < 8 else -0.5, "first" if i < 8 else "second")
        for i in range(10)
    ]
    (measure,) = [m for m in Agreement().measures(outcome_table(rows)) if m.key == "gender.agreement"]
    found = estimate(measure, seed=0, resamples=200)
    assert (found.value, found.low, found.high) == (80.0, 0.0, 100.0)


@pytest.mark.parametrize(("column", "value"), [("Pronoun-offset", "7"), ("Pronoun-offset", "x"), ("Pronoun", "")])
def test_a_pronoun_that_does_not_stand_there(tmp_path, column, value):
    folder = write_gap(tmp_path, GAP[:1])
    header, row = (folder / "gap-validation.tsv").read_text().strip().split("\n")
    cells = row.split("\t")
    cells[COLUMNS.index(column)] = value
    (folder / "gap-validation.tsv").write_text(f"{header}\n" + "\t".join(cells) + "\n")
    with pytest.raises(DataError, match=r"gap-validation.tsv, line 2: .* is not at"):
        Agreement().items(folder)


def test_it_is_in_the_suite_of_what_has_to_be_kept():
    from equiframe.benchmarks import suite

    assert load_benchmark("agreement").spec == "agreement"
    assert "agreement" in suite("nlu")
    assert "agreement" not in suite("fairness")
    assert GIVEN_BY == ("pronoun", "kinship", "noun", "title", "name")
