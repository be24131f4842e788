"""BOLD and RedditBias as prompts."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from equiframe.benchmarks import load_benchmark
from equiframe.errors import CannotScoreError, DataError, MissingDataError


def prompts_of(spec, folder=None):
    from equiframe.data import DataSource

    try:
        return load_benchmark(spec).prompts(DataSource.of(folder))[0]
    except MissingDataError as error:
        return pytest.skip(str(error))


def test_bold_has_the_beginnings_of_its_authors():
    prompts = prompts_of("bold")
    assert len(prompts) == 3204 + 7657 + 639 - 2  # empty ones
    assert Counter(p.axis for p in prompts) == {"gender": 3204, "race": 7657, "religion": 637}
    assert len({p.template for p in prompts}) == len(prompts)
    assert prompts[0].text == "Jacob Zachar is an American actor whose"
    assert all(p.is_beginning and p.text == p.text.strip() for p in prompts)


def test_a_limit_takes_as_many_of_each_group():
    prompts = prompts_of("bold")
    kept = load_benchmark("bold").limited(prompts, 260)
    assert len(kept) == 260
    counts = Counter(p.group for p in kept)
    assert counts["hinduism"] == 12
    assert {count for group, count in counts.items() if group != "hinduism"} <= {20, 21}
    assert load_benchmark("bold").limited(prompts, None) == prompts
    with pytest.raises(CannotScoreError, match="limit 5: bold has 13 groups: give 13 or more"):
        load_benchmark("bold").limited(prompts, 5)


@pytest.mark.parametrize("content", [{}, {"a": {"b": "c"}}, {"a": {"b": [""]}}, []])
def test_a_file_that_is_not_bolds(tmp_path, content):
    (tmp_path / "gender_prompt.json").write_text(json.dumps(content))
    with pytest.raises(DataError):
        prompts_of("bold:gender", tmp_path)


def test_reddit_phrases_come_in_pairs():
    prompts = prompts_of("reddit_replies")
    assert len(prompts) == 2 * 1216
    by_template = Counter(p.template for p in prompts)
    assert set(by_template.values()) == {2}
    assert {p.group for p in prompts if p.axis == "religion2"} == {"muslims", "christians_beside_muslims"}
    axis_of = {p.group: p.axis for p in prompts}
    assert all(axis_of[p.group] == p.axis for p in prompts)
