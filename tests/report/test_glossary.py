"""The tables of names fit what the benchmarks and the audit really write."""

from __future__ import annotations

import pytest
import torch

from equiframe.benchmarks import BENCHMARKS, load_benchmark
from equiframe.collapse import ClassStatistics, collapse_metrics
from equiframe.errors import DataError, InputError
from equiframe.report import glossary
from equiframe.runs.evaluate import score


def test_every_benchmark_says_what_it_does_not_show():
    assert set(BENCHMARKS) <= set(glossary.BENCHMARKS)


def test_measures_of_fine_tuned_benchmarks_have_names():
    kinds = {"winobias_coreference": "1A.f1", "bias_nli": "t50", "bias_in_bios": "tpr_rms", "cola": "matthews"}
    for name, key in kinds.items():
        assert key in load_benchmark(name).headline or glossary.term(name, key).reading
        for headline in load_benchmark(name).headline:
            assert glossary.term(name, headline).reading, (name, headline)


@pytest.mark.parametrize("name", sorted(name for name, found in BENCHMARKS.items() if not found.fine_tunes))
def test_columns_and_measures_of_a_benchmark(name, masked_model):
    known = glossary.about(name)
    try:
        result, table = score(masked_model, load_benchmark(name), limit=12, resamples=20)
    except (DataError, InputError) as error:  # not at hand, or not for so small a model
        pytest.skip(str(error))
    if known.pair is not None:
        columns = {known.pair.more, known.pair.less, known.pair.more_score, known.pair.less_score}
        assert columns | {known.pair.group} <= set(table.columns)
    assert {glossary.split_key(key)[1] for key in result.estimates} <= set(known.terms)
    for headline in load_benchmark(name).headline:
        assert glossary.split_key(headline)[1] in known.terms


def test_every_collapse_value_shown_is_one_that_is_computed_and_has_a_name():
    torch.manual_seed(0)
    statistics = ClassStatistics(torch.arange(4), dim=3)
    statistics.update(torch.randn(40, 3), torch.arange(40) % 4)
    computed = {*collapse_metrics(statistics, torch.randn(4, 3)), "nc4_agreement"}
    assert set(glossary.COLLAPSE_VALUES) <= computed
    assert set(glossary.COLLAPSE_VALUES) == set(glossary.about(glossary.COLLAPSE).terms)


def test_an_unknown_benchmark_keeps_its_own_names():
    known = glossary.about("my_bench:variant")
    assert known.title == "my_bench (variant)"
    assert known.does_not_show
    assert glossary.term("my_bench", "group-a.some_score").name == "some score"
    assert glossary.split_key("group-a.some_score") == ("group a", "some_score")
    assert glossary.split_key("alone") == ("", "alone")
