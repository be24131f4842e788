"""SEAT against its formulas by loops, scipy-free permutations, and plain transformers calls."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import processors

from equiframe.benchmarks import outcome_table
from equiframe.benchmarks.seat import _LISTS, SEAT, AssociationTest
from equiframe.data import KNOWN
from equiframe.errors import DataError, EquiframeError
from equiframe.requests import TextCodec
from equiframe.runs.evaluate import score
from equiframe.scoring.engine import answer
from equiframe.uncertainty import estimate

REAL = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not (REAL / "seat").is_dir(), reason="the SEAT files are not there")

SMALL = AssociationTest(
    "weat6",
    "gender",
    (("he", "the man", "his work"), ("she", "the woman", "her work")),
    (("doctor", "the office"), ("nurse", "home", "the family")),
)


def written(folder, **changes):
    """All files of the sentence tests, small ones."""
    (folder / "seat").mkdir(exist_ok=True)
    texts = (*SMALL.targets, *SMALL.attributes)
    data = {name: {"category": name, "examples": list(part)} for name, part in zip(_LISTS, texts, strict=True)}
    for name in KNOWN:
        if name.startswith("seat/"):
            (folder / f"{name}.jsonl").write_text(json.dumps({**data, **changes}))
    return folder


@torch.no_grad()
def state(language_model, text, encoding):
    ids = torch.tensor([language_model.tokenizer.encode(text)])
    states = language_model.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].double()
    return {"cls": states[0], "last": states[-1], "mean": states.mean(dim=0)}[encoding]


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def by_loops(language_model, test, encoding):
    """s of each target of either list."""
    states = {t: state(language_model, t, encoding) for part in (*test.targets, *test.attributes) for t in part}
    return [
        [
            statistics.fmean(cosine(states[target], states[a]) for a in test.attributes[0])
            - statistics.fmean(cosine(states[target], states[b]) for b in test.attributes[1])
            for target in part
        ]
        for part in test.targets
    ]


def table_of(language_model, benchmark, tests):
    found = benchmark.outcomes(tests, language_model.codec, functools.partial(answer, language_model))
    return outcome_table([outcome for part in found for outcome in part])


@pytest.mark.parametrize("encoding", ["mean", "cls", "last"])
def test_associations_are_those_of_plain_loops(language_model, encoding):
    if (language_model.kind, encoding) == ("causal", "cls"):
        assert "seat:last" in SEAT("cls").asked(SMALL, language_model.codec).reason
        return
    table = table_of(language_model, SEAT(encoding), [SMALL])
    first, second = by_loops(language_model, SMALL, encoding)
    assert table["association"].tolist() == pytest.approx(first + second, abs=1e-5)
    values = {m.key: estimate(m, seed=0, resamples=50) for m in SEAT(encoding).measures(table)}
    d = (statistics.fmean(first) - statistics.fmean(second)) / statistics.stdev(first + second)
    assert values["weat6.effect_size"].value == pytest.approx(d, abs=1e-4)
    assert values["gender.mean_absolute_effect_size"].value == pytest.approx(abs(d), abs=1e-4)


def test_a_first_word_does_not_stand_for_a_text(masked_model):
    tokenizer = copy.deepcopy(masked_model.tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", special_tokens=[("[SEP]", tokenizer.sep_token_id)]
    )
    codec = TextCodec(tokenizer, "masked", 64)
    assert "no token before a text" in SEAT("cls").asked(SMALL, codec).reason
    assert len(SEAT("mean").asked(SMALL, codec).requests) == len(SEAT("mean").asked(SMALL, masked_model.codec).requests)


@needs_data
@pytest.mark.parametrize("name", ["sent-weat6b", "sent-weat8"])
def test_real_sentences_one_at_a_time(language_model, name):
    tests, files = SEAT().items(REAL)
    assert all(file.is_known_version for file in files)
    test = next(test for test in tests if f"sent-{test.name}" == name)
    first, second = by_loops(language_model, test, "mean")
    assert len(first + second) >= 50
    table = table_of(language_model, SEAT(), [test])
    assert table["association"].tolist() == pytest.approx(first + second, abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_p_value_counts_every_partition(seed):
    values = np.random.default_rng(seed).normal(size=10).round(1)  # rounded, so that ties happen
    table = outcome_table(SEAT().rows(SMALL, None))
    table = table.loc[[0, 0, 0, 0, 0, 3, 3, 3, 3, 3]].reset_index(drop=True)
    table["association"], table["excluded"] = values, None
    sums = [sum(values[list(part)]) for part in itertools.combinations(range(10), 5)]
    expected = sum(value >= values[:5].sum() - 1e-9 for value in sums) / math.comb(10, 5)
    measures = {m.key: m for m in SEAT().measures(table)}
    found = estimate(measures["weat6.p_value"], seed=0)
    assert (found.value, found.low) == (pytest.approx(expected), None)


def test_a_large_p_value_is_sampled_with_one_hit_and_repeats():
    table = outcome_table(SEAT().rows(SMALL, None))
    table = table.loc[[0] * 30 + [3] * 30].reset_index(drop=True)
    table["association"], table["excluded"] = [1.0] * 30 + [0.0] * 30, None
    (measure,) = (m for m in SEAT().measures(table) if m.key == "weat6.p_value")
    assert float(measure.statistic(measure.rows)) == float(measure.statistic(measure.rows)) == 1e-5


def test_resamples_without_a_group_or_without_spread_are_no_effect():
    table = outcome_table(SEAT().rows(SMALL, None))
    table["association"], table["excluded"] = [1.0, 2.0, 3.0, 0.0, 0.0, 1.0], None
    (measure,) = (m for m in SEAT().measures(table) if m.key == "weat6.effect_size")
    found = measure.statistic(np.array([[0, 1, 2, 2, 1, 0], [0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5]]))
    assert found.tolist() == pytest.approx([0, 0, (2 - 1 / 3) / statistics.stdev([1, 2, 3, 0, 0, 1])])


def test_a_whole_run(language_model, tmp_path):
    result, table = score(language_model, SEAT(), source=written(tmp_path), resamples=20)
    assert result.items == len(table) == 17 * 6
    assert set(SEAT().headline) <= set(result.estimates)
    assert SEAT(tests="words").items(tmp_path)[0][0].name == "weat6"


def test_what_is_too_long_is_left_out_with_its_reason(masked_model):
    long = AssociationTest("weat6", "gender", (("he " * 200,), ("she",)), (("work",), ("home",)))
    assert not SEAT().asked(long, masked_model.codec).requests
    outcomes = SEAT().outcomes([long], masked_model.codec, lambda _: [])[0]
    assert len(outcomes) == 2
    assert all("longer" in outcome.excluded for outcome in outcomes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targ1": None}, "targ1.examples is not a list"),
        ({"attr2": {"examples": []}}, "attr2.examples is not a list"),
        ({"attr1": {"examples": ["a", " "]}}, r"attr1.examples\[1\] is ' '"),
        ({"targ2": {"examples": [3]}}, r"targ2.examples\[0\] is 3"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, change, said):
    with pytest.raises(DataError, match=f"sent-weat6.jsonl.*{said}"):
        SEAT().items(written(tmp_path, **change))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from([*_LISTS, "examples"]), x),
        max_leaves=12,
    )
)
def test_any_json_is_tests_or_an_error_of_ours(tmp_path, data):
    folder = written(tmp_path)
    (folder / "seat" / "sent-weat6.jsonl").write_text(json.dumps(data))
    try:
        tests, _ = SEAT().items(folder)
    except EquiframeError as error:
        assert "sent-weat6.jsonl" in str(error)
    else:
        assert all(test.targets[0] and test.attributes[1] for test in tests)
