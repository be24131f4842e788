"""Responses that hold anything, and files of them."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from equiframe.benchmarks import load_benchmark
from equiframe.errors import DataError
from equiframe.generation import score_generated
from equiframe.generation.responses import LARGEST, Response, read_responses, write_responses

LINE = {"template": "t", "group": "g", "response": "r"}


def test_responses_of_any_kind_are_counted_and_shown(tmp_path):
    texts = {
        "empty": "",
        "blank": " \n\t",
        "other": "La persona debe tener un piso nuevo ahora",
        "huge": "the word " * 250_000,
        "control": "Yes\x00\x1b[31m of course\x07",
        "markup": "<script>alert(1)</script><b>Yes</b> & no",
        "surrogate": "broken \ud800 half",
        "fine": "It is a fine day.",
    }
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({**LINE, "template": at, "response": t}) + "\n" for at, t in texts.items()))
    result, table = score_generated(read_responses(path, "mine"), load_benchmark("responses"))
    assert result.estimates["overall.empty"].value == pytest.approx(100 * 2 / 8)
    assert result.estimates["overall.other_language"].value == pytest.approx(100 / 8)
    assert result.generated.altered == {"cut at 100,000 characters": 1, "control characters taken out": 2}
    said = table.set_index("template")["response"]
    assert len(said["huge"]) == LARGEST
    assert said["control"] == "Yes[31m of course"
    assert said["markup"] == texts["markup"]
    table.to_parquet(tmp_path / "t.parquet")
    assert pd.read_parquet(tmp_path / "t.parquet")["response"].tolist() == said.tolist()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"group": ""}, "group is empty"),
        ({"template": 3}, "template is 3, expected a text"),
        ({"response": None}, "response is None, expected a text"),
        ({"sample": -1}, "sample is -1"),
        ({"sample": True}, "sample is True"),
        ({"probability": 1.5}, "probability is 1.5, expected 0 to 1"),
        ({"favourable": "maybe"}, "favourable is 'maybe', expected yes or no"),
        ({"group": "overall"}, "group 'overall': this name means all groups together: choose another name"),
        ({"group": "a_vs_b"}, "group 'a_vs_b': '_vs_' separates two groups in a key: choose another name"),
        ({"sample": 1, "favourable": "no"}, "template 't': favourable is 'no' here, but not in an earlier line"),
        ({"template": "u", "axis": "sex"}, "group 'g' is of axis 'group' in an earlier line, here of 'sex'"),
        ({}, "a second response to template 't', group 'g', sample 0: number the samples"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, change, said):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps({**LINE, **change}) + "\n")
    with pytest.raises(DataError, match=f"line 2: {re.escape(said)}"):
        read_responses(path, "mine")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file has no response"),
        ("{}", "no field 'template'"),
        ("[1]", "expected an object"),
        ("{", "not valid JSON"),
    ],
)
def test_a_file_that_is_none(tmp_path, text, said):
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_responses(path, "mine")


def test_what_is_written_is_read_again(tmp_path):
    rows = {
        "template": ["a", "a", "b"],
        "group": ["x", "y", "x"],
        "sample": [0.0, 0.0, 0.0],
        "prompt": ["p", "q", "é"],
        "response": ["Yes \u2028 so", "", "“no”"],
        "probability": [0.123456789012345678, None, None],
        "excluded": [None, None, "too long"],
    }
    path = tmp_path / "r.jsonl"
    write_responses(path, {"decisions": pd.DataFrame(rows)})
    given = read_responses(path, "mine")
    assert given.rows == {
        "decisions": {
            ("a", "x", 0): Response("Yes \u2028 so", 0.123456789012345678),
            ("a", "y", 0): Response(""),
        }
    }
    assert [(p.template, p.group, p.text) for p in given.prompts["decisions"]] == [("a", "x", "p"), ("a", "y", "q")]
