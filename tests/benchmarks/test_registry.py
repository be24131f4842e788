from __future__ import annotations

import pytest

from equiframe.benchmarks import BENCHMARKS, Benchmark, load_benchmark, suite
from equiframe.benchmarks.generated import GeneratedBenchmark
from equiframe.data import KNOWN
from equiframe.errors import InputError
from equiframe.finetuned import FineTunedBenchmark


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_loads_and_says_what_it_is(name, masked_model, causal_model):
    benchmark = load_benchmark(name)
    assert benchmark.name == benchmark.spec == name
    assert benchmark.version >= 1
    assert benchmark.headline
    assert isinstance(benchmark, FineTunedBenchmark) == BENCHMARKS[name].fine_tunes
    assert isinstance(benchmark, GeneratedBenchmark) == BENCHMARKS[name].generates
    if isinstance(benchmark, Benchmark):
        for language_model in (masked_model, causal_model):
            assert benchmark.scoring(language_model.codec)
    frame = type(benchmark).__doc__
    for part in ("Source:", "Measures:", "Ideal:", "Known faults:"):
        assert part in frame
    choices = [choice for choices in benchmark.variants.values() for choice in choices]
    assert len(set(choices)) == len(choices)
    assert not choices or "Variants:" in frame


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("stereoset:dev", "stereoset:dev"),
        ("stereoset:test", "stereoset"),
        ("crows_pairs:changed", "crows_pairs:changed"),
        ("crows_pairs:summed,changed", "crows_pairs:changed,summed"),
        ("crows_pairs:shared,mean,alone", "crows_pairs"),
        ("crows_pairs:within_word", "crows_pairs:within_word"),
        ("crows_pairs:within_word,changed", "crows_pairs:changed,within_word"),
        ("crows_pairs:", "crows_pairs"),
    ],
)
def test_variants_are_parsed_and_named(spec, canonical):
    benchmark = load_benchmark(spec)
    assert benchmark.spec == canonical
    again = load_benchmark(canonical)
    assert again.spec == canonical
    assert vars(again) == vars(benchmark)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("crows-pairs", "did you mean 'crows_pairs'"),
        ("", "Available: stereoset, "),
        ("stereoset:tset", "no variant 'tset' of stereoset: did you mean 'test'"),
        ("lm_loss:dev", "Available: none"),
        ("stereoset:dev,test", "'dev' and 'test' cannot be combined"),
    ],
)
def test_unknown_names_are_answered_with_near_ones_then_all(spec, said):
    with pytest.raises(InputError, match=said):
        load_benchmark(spec)


def test_suites_are_parts_of_all():
    fairness, nlu, generation = suite("fairness"), suite("nlu"), suite("generation")
    assert sorted(fairness + nlu + generation) == sorted(suite("all")) == sorted(BENCHMARKS)
    assert {"stereoset", "bbq", "winobias_coreference"} <= set(fairness)
    assert {"cola", "lm_loss"} <= set(nlu)
    assert {"decisions", "stories"} <= set(generation)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_named_file_is_known(name):
    entry = BENCHMARKS[name]
    for part in entry.data:
        assert part in KNOWN or any(known.startswith(part) and part.endswith("/") for known in KNOWN)
    assert entry.hub or entry.generates or entry.files()
