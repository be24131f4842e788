"""Rates, differences and p-values against plain loops; a planted bias is found, and none is invented."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from equiframe.benchmarks import load_benchmark
from equiframe.config import GenerationOptions
from equiframe.errors import CannotScoreError, InputError
from equiframe.generation import score_generated
from equiframe.generation.contrasts import contrasts_of, group_measures
from equiframe.generation.responses import read_responses
from equiframe.uncertainty import estimate


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_responses(path, "mine")


def table_of(answers):
    """``answers[template][group]`` are lists of 1, 0 or None, a sample each."""
    rows = [
        {
            "item": f"{template}/axis/{group}/{sample}",
            "unit": template,
            "axis": "axis",
            "group": group,
            "excluded": None,
            "favourable": np.nan if value is None else float(value),
        }
        for template, groups in answers.items()
        for group, values in groups.items()
        for sample, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def measures_by_key(table):
    return {measure.key: measure for measure in group_measures(table)}


def test_rates_and_differences_are_those_of_a_plain_loop():
    generator = np.random.default_rng(3)
    answers = {
        f"t{at}": {
            group: [None if u < 0.1 else int(u < 0.5) for u in generator.random(generator.integers(1, 4))]
            for group in ("a", "b", "c")
        }
        for at in range(12)
    }
    del answers["t3"]["b"]
    found = measures_by_key(table_of(answers))

    def rate(group, templates):
        values = [v for t in templates for v in answers[t].get(group, []) if v is not None]
        return 100 * sum(values) / len(values)

    every = [v for groups in answers.values() for values in groups.values() for v in values if v is not None]
    value = {key: float(measure.statistic(measure.rows)) for key, measure in found.items()}
    assert value["overall.favourable"] == pytest.approx(100 * np.mean(every))
    for group in "abc":
        assert value[f"{group}.favourable"] == pytest.approx(rate(group, answers))
    for first, second in itertools.combinations("abc", 2):
        both = [t for t in answers if first in answers[t] and second in answers[t]]
        key = f"{first}_vs_{second}.favourable"
        assert len(found[f"{key}_difference"].rows) == len(both) == (11 if "b" in (first, second) else 12)
        assert value[f"{key}_difference"] == pytest.approx(rate(first, both) - rate(second, both))
        assert value[f"{key}_ratio"] == pytest.approx(rate(first, both) / rate(second, both))
    assert [c.key for c in contrasts_of(list(value))] == [f"{k}.favourable" for k in ("a_vs_b", "a_vs_c", "b_vs_c")]


def test_the_p_value_is_that_of_all_exchanges():
    answers = {f"t{at}": {"a": [1], "b": [int(at < 2)]} for at in range(8)}
    key = "a_vs_b.favourable_p"
    found = measures_by_key(table_of(answers))[key]
    differences = [answers[t]["a"][0] - answers[t]["b"][0] for t in answers]
    signs = list(itertools.product((1, -1), repeat=8))
    exact = np.mean([abs(np.dot(s, differences)) >= sum(differences) for s in signs])
    assert float(found.statistic(found.rows)) == pytest.approx(exact, abs=0.015)
    assert not found.interval


def test_samples_of_a_template_are_resampled_together():
    """Ten samples that agree say no more than one: the interval is as wide."""
    one = table_of({f"t{at}": {"a": [at % 3 == 0], "b": [at % 2]} for at in range(40)})
    ten = table_of({f"t{at}": {"a": [at % 3 == 0] * 10, "b": [at % 2] * 10} for at in range(40)})
    key = "a_vs_b.favourable_difference"
    few, many = (estimate(measures_by_key(table)[key], seed=0) for table in (one, ten))
    assert (few.value, few.low, few.high, few.count) == pytest.approx((many.value, many.low, many.high, many.count))


def test_groups_with_templates_of_their_own_are_compared_unpaired():
    answers = {f"{group}{at}": {group: [int(at < share)]} for group, share in (("a", 18), ("b", 6)) for at in range(20)}
    found = measures_by_key(table_of(answers))
    difference = found["a_vs_b.favourable_difference"]
    assert len(difference.rows) == 40
    assert float(difference.statistic(difference.rows)) == pytest.approx(60)
    assert float(found["a_vs_b.favourable_p"].statistic(difference.rows)) < 0.01


def test_names_of_groups_that_differ_in_capitals_have_one_order():
    for groups in ({"a": [1], "A": [0]}, {"A": [0], "a": [1]}):
        found = measures_by_key(table_of({f"t{at}": groups for at in range(3)}))
        difference = found["A_vs_a.favourable_difference"]
        assert float(difference.statistic(difference.rows)) == -100


def test_where_one_group_never_gets_it_there_is_no_ratio_to_it():
    found = measures_by_key(table_of({f"t{at}": {"a": [1], "b": [0]} for at in range(5)}))
    assert "a_vs_b.favourable_difference" in found
    assert "a_vs_b.favourable_ratio" not in found
    found = measures_by_key(table_of({f"t{at}": {"a": [0], "b": [at % 2]} for at in range(5)}))
    ratio = estimate(found["a_vs_b.favourable_ratio"], seed=0)
    assert (ratio.value, ratio.high) == (0, 1)  # 1 where a resample has neither


def planted(generator, templates, points):
    """Both groups get the same decisions, but for so many points of them, which the first group gets more."""
    base = generator.random(templates) < 0.45
    extra = np.zeros(templates, dtype=bool)
    extra[generator.choice(np.flatnonzero(~base), templates * points // 100, replace=False)] = True
    for at in range(templates):
        for group, favoured in (("first", base[at] or extra[at]), ("second", base[at])):
            response = "Yes, gladly." if favoured else "No."
            yield {"template": f"t{at}", "group": group, "response": response, "favourable": "yes"}


def test_a_planted_bias_of_ten_points_is_found(tmp_path):
    given = write(tmp_path / "planted.jsonl", planted(np.random.default_rng(1), 200, 10))
    result, _ = score_generated(given, load_benchmark("responses"))
    found = result.estimates["first_vs_second.favourable_difference"]
    assert found.value == pytest.approx(10)
    assert 0 < found.low < 10 < found.high
    assert found.count == 200
    assert result.estimates["first_vs_second.favourable_p"].value < 0.01


def test_no_bias_is_invented():
    """Of 200 sets without a difference, so many intervals leave out 0 as their level says."""
    generator, misses = np.random.default_rng(1), 0
    table = table_of({f"t{at}": {"a": [0, 0], "b": [0, 0]} for at in range(200)})
    for _ in range(200):
        shares = generator.random((200, 1))
        table["favourable"] = (generator.random((200, 4)) < shares).astype(float).ravel()
        found = estimate(measures_by_key(table)["a_vs_b.favourable_difference"], seed=0, resamples=300)
        misses += not found.low <= 0 <= found.high
    assert 5 <= misses <= 16  # 2.5 to 8 %


def test_what_is_missing_is_counted_out_and_said(tmp_path):
    rows = [{"template": f"t{at}", "group": group, "response": "Hello there"} for at in range(6) for group in "ab"]
    given = write(tmp_path / "r.jsonl", rows[:-1])
    result, table = score_generated(given, load_benchmark("responses"))
    assert result.excluded == {"no response to this template for this group": 1}
    assert result.items == len(table) == 12
    assert result.estimates["a_vs_b.words_difference"].count == 5
    assert "a_vs_b.favourable_difference" not in result.estimates


def test_a_file_for_other_templates_is_one_line(tmp_path):
    given = write(tmp_path / "r.jsonl", [{"template": "x", "group": "y", "response": "z"}])
    with pytest.raises(CannotScoreError, match="no response to its templates, such as template 'hiring-1'"):
        score_generated(given, load_benchmark("decisions"))
    with pytest.raises(CannotScoreError, match="give --responses FILE"):
        load_benchmark("responses").prompts()
    named = write(tmp_path / "n.jsonl", [{"template": "x", "group": "y", "response": "z", "benchmark": "decisions"}])
    with pytest.raises(CannotScoreError, match="names a benchmark: give --benchmarks decisions"):
        score_generated(named, load_benchmark("responses"))
    with pytest.raises(InputError, match="--measures tone: choose refused, words, she"):
        score_generated(given, load_benchmark("responses"), settings=GenerationOptions(measures=("tone",)))
