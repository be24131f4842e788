"""The tables of names fit what the benchmarks and the audit really write."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter

from equiframe.about import About, Term
from equiframe.benchmarks import BENCHMARKS, BenchmarkResult, load_benchmark
from equiframe.collapse import ClassStatistics, collapse_metrics
from equiframe.errors import DataError, InputError
from equiframe.record import facts
from equiframe.runs.evaluate import score


def test_every_benchmark_says_what_it_does_not_show():
    for name in BENCHMARKS:
        known = load_benchmark(name).about
        assert load_benchmark(name).suite == BENCHMARKS[name].suite
        assert known.title != name
        assert known.does_not_show
        assert known.terms
        assert all(address.startswith("https://") for _, address in known.sources)


def test_a_result_explains_itself_and_one_of_an_older_version_is_explained_by_its_class():
    told = About("Told", "Nothing.", {"gap": Term("told gap", "as told")})
    result = BenchmarkResult(
        "crows_pairs:changed", 1, "", (), 0, {}, {}, 0.0, headline=("overall.gap",), about=told, suite="nlu"
    )
    assert facts.about(result).title == "Told (changed)"
    assert facts.term(result, "overall.gap").name == "told gap"
    assert facts.headline(result) == ("overall.gap",)
    assert facts.is_headline(result, "overall.gap")
    assert not facts.is_headline(result, "overall.other")
    assert facts.is_headline(replace(result, benchmark="my_own", headline=()), "overall.other")
    assert facts.suite_of(result) == "nlu"
    older = replace(result, headline=(), about=None, suite=None)
    assert facts.about(older) == facts.about("crows_pairs:changed")
    assert facts.about(older).title == "CrowS-Pairs (changed)"
    assert facts.suite_of(older) == "fairness"
    assert facts.headline(older) == ("overall.metric", "gender.metric")
    assert facts.about("crows_pairs:no_longer").title == "CrowS-Pairs (no_longer)"
    text = TypeAdapter(BenchmarkResult).dump_json(result)
    assert TypeAdapter(BenchmarkResult).validate_json(text) == result
    kept = json.loads(text)
    del kept["about"], kept["headline"], kept["suite"]
    assert TypeAdapter(BenchmarkResult).validate_python(kept) == older


def test_measures_of_fine_tuned_benchmarks_have_names():
    kinds = {"winobias_coreference": "1A.f1", "bias_nli": "t50", "bias_in_bios": "tpr_rms", "cola": "matthews"}
    for name, key in kinds.items():
        assert key in load_benchmark(name).headline or facts.term(name, key).reading
        for headline in load_benchmark(name).headline:
            assert facts.term(name, headline).reading, (name, headline)


@pytest.mark.parametrize(
    "name", sorted(name for name, found in BENCHMARKS.items() if not (found.fine_tunes or found.generates))
)
def test_columns_and_measures_of_a_benchmark(name, masked_model):
    known = facts.about(name)
    try:
        result, table = score(masked_model, load_benchmark(name), limit=12, resamples=20)
    except (DataError, InputError) as error:  # not at hand, or not for so small a model
        pytest.skip(str(error))
    if known.pair is not None:
        columns = {known.pair.more, known.pair.less, known.pair.more_score, known.pair.less_score}
        assert columns | {known.pair.group} <= set(table.columns)
    assert {facts.split_key(key)[1] for key in result.estimates} <= set(known.terms)
    for headline in load_benchmark(name).headline:
        assert facts.split_key(headline)[1] in known.terms


def test_every_collapse_value_shown_is_one_that_is_computed_and_has_a_name():
    torch.manual_seed(0)
    statistics = ClassStatistics(torch.arange(4), dim=3)
    statistics.update(torch.randn(40, 3), torch.arange(40) % 4)
    computed = {*collapse_metrics(statistics, torch.randn(4, 3)), "nc4_agreement"}
    assert set(facts.about(facts.COLLAPSE).terms) <= computed
    assert all(term.higher_is_better is not None for term in facts.about(facts.COLLAPSE).terms.values())


def test_an_unknown_benchmark_keeps_its_own_names():
    known = facts.about("my_bench:variant")
    assert known.title == "my_bench (variant)"
    assert known.does_not_show
    assert facts.term("my_bench", "group-a.some_score").name == "some score"
    assert facts.split_key("group-a.some_score") == ("group a", "some_score")
    assert facts.split_key("alone") == ("", "alone")
