"""CrowS-Pairs: spans and masks, the scores by hand, and files that are not what they should be."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiframe.benchmarks import load_benchmark, outcome_table
from equiframe.benchmarks.benchmark import Outcome
from equiframe.benchmarks.crows_pairs import CrowSPairs, SentencePair
from equiframe.errors import DataError


def pair(more="she is a nurse", less="he is a nurse", direction="stereo"):
    return SentencePair("0", "gender", direction, more, less)


def asked(benchmark, item, codec):
    convert, requests = codec.tokenizer.convert_ids_to_tokens, benchmark.asked(item, codec).requests
    return [(convert(list(r.input_ids)), r.positions, convert(list(r.targets))) for r in requests]


def test_shared_tokens_are_masked_alone_special_tokens_never(masked_model):
    assert asked(CrowSPairs(), pair(), masked_model.codec) == [
        (["[CLS]", "she", "[MASK]", "a", "nurse", "[SEP]"], (2,), ["is"]),
        (["[CLS]", "she", "is", "[MASK]", "nurse", "[SEP]"], (3,), ["a"]),
        (["[CLS]", "she", "is", "a", "[MASK]", "[SEP]"], (4,), ["nurse"]),
        (["[CLS]", "he", "[MASK]", "a", "nurse", "[SEP]"], (2,), ["is"]),
        (["[CLS]", "he", "is", "[MASK]", "nurse", "[SEP]"], (3,), ["a"]),
        (["[CLS]", "he", "is", "a", "[MASK]", "[SEP]"], (4,), ["nurse"]),
    ]


def test_changed_tokens_are_masked_alone(masked_model):
    item = pair("the woman is go", "the man is a go")  # "woman" for "man", and "a" only in the second
    found = asked(CrowSPairs("changed"), item, masked_model.codec)
    assert [(tokens.index("[MASK]"), targets) for tokens, _, targets in found] == [
        (2, ["woman"]),
        (2, ["man"]),
        (4, ["a"]),
    ]


def test_a_causal_model_reads_both_sentences(causal_model):
    more, less = CrowSPairs().asked(pair(), causal_model.codec).requests
    assert (more, less) == tuple(map(causal_model.codec.sequence_log_probs, ("she is a nurse", "he is a nurse")))


def logs(*probabilities):
    return [(math.log(p),) for p in probabilities]


def test_scores_by_hand(masked_model, causal_model):
    masked, causal = masked_model.codec, causal_model.codec
    both = logs(0.5, 0.5, 0.25, 0.1, 0.2, 0.3)
    assert CrowSPairs().outcomes([pair()], masked, lambda _: both)[0][0].values == {
        "more": round(math.log(0.0625), 3),
        "less": round(math.log(0.006), 3),
    }
    item = pair("the woman is go", "the man is a go")
    assert CrowSPairs("changed").outcomes([item], masked, lambda _: logs(0.5, 0.1, 0.4))[0][0].values == {
        "more": round(math.log(0.5), 3),
        "less": round(math.log(0.04) / 2, 3),
    }
    answers = [(math.log(0.5), math.log(0.125)), (math.log(0.2), math.log(0.2), math.log(0.2))]
    (outcome,) = CrowSPairs().outcomes([pair()], causal, lambda _: answers)[0]
    assert outcome.values == pytest.approx({"more": 0.25, "less": 0.2})
    assert CrowSPairs(causal="summed").outcomes([pair()], causal, lambda _: answers)[0][0].values == pytest.approx(
        {"more": math.log(0.0625), "less": math.log(0.008)}
    )


def test_equal_to_three_decimals_is_neutral(masked_model):
    close = logs(0.5, 0.5, 0.5, 0.5, 0.5, 0.50001)
    values = CrowSPairs().outcomes([pair()], masked_model.codec, lambda _: close)[0][0].values
    assert values["more"] == values["less"]


def test_what_cannot_be_scored_says_why(masked_model, causal_model):
    long = "she " * 70
    for benchmark, item, codec, reason in (
        (CrowSPairs("changed"), pair("she is a nurse", "she is nurse"), masked_model.codec, "no changed token"),
        (CrowSPairs("changed"), pair("she", "she"), masked_model.codec, "no changed token"),
        (CrowSPairs(), pair("she", "he"), masked_model.codec, "no shared token"),
        (CrowSPairs(), pair(long + "she", long + "he"), masked_model.codec, "longer than the model's window"),
        (CrowSPairs(), pair(long + "she", long + "he"), causal_model.codec, "longer than the model's window"),
        (CrowSPairs(), pair("", "he"), causal_model.codec, "a text has no token"),
    ):
        assert not benchmark.asked(item, codec).requests
        (outcome,) = benchmark.outcomes([item], codec, lambda _: [])[0]
        assert reason in outcome.excluded
        assert not outcome.values


def table(*rows):
    """Rows of bias type, direction, and the two scores."""
    return outcome_table(
        [
            Outcome(
                str(i),
                {"bias_type": bias_type, "direction": direction},
                {"more": more, "less": less},
                excluded="left out" if math.isnan(more) else None,
            )
            for i, (bias_type, direction, more, less) in enumerate(rows)
        ]
    )


def values(outcomes):
    return {measure.key: float(measure.statistic(measure.rows)) for measure in CrowSPairs().measures(outcomes)}


def test_measures_by_hand():
    found = values(
        table(
            ("gender", "stereo", -1.0, -2.0),
            ("gender", "stereo", -2.0, -1.0),
            ("gender", "stereo", -1.0, -1.0),  # neutral: in the divisor of the metric only
            ("gender", "antistereo", -1.0, -2.0),
            ("age", "antistereo", -3.0, -2.0),
            ("age", "antistereo", math.nan, math.nan),
        )
    )
    assert found["overall.metric"] == 40
    assert found["overall.stereotype_score"] == 50
    assert found["overall.anti_stereotype_score"] == 50
    assert found["overall.neutral"] == 20
    assert found["gender.metric"] == 50
    assert found["gender.stereotype_score"] == 50
    assert found["gender.anti_stereotype_score"] == 100
    assert found["gender.neutral"] == 25
    assert found["age.metric"] == found["age.anti_stereotype_score"] == 0
    assert "age.stereotype_score" not in found


def test_where_all_are_neutral_the_scores_say_no_preference():
    found = values(table(("age", "stereo", -1.0, -1.0), ("age", "stereo", -2.0, -2.0)))
    assert (found["age.metric"], found["age.stereotype_score"], found["age.neutral"]) == (0, 50, 100)


def test_statistics_of_resampled_rows_are_those_of_the_resampled_table():
    generator = np.random.default_rng(0)
    outcomes = table(
        *(
            (str(generator.choice(["age", "gender"])), str(generator.choice(["stereo", "antistereo"])), *scores)
            for scores in generator.integers(0, 3, (200, 2)).astype(float)
        )
    )
    for measure in CrowSPairs().measures(outcomes):
        rows = generator.choice(measure.rows, (5, 30))
        found = measure.statistic(rows)
        for i in range(5):
            chosen = outcomes.iloc[rows[i]]
            more, neutral = chosen["more"] > chosen["less"], chosen["more"] == chosen["less"]
            expected = {"metric": more.mean(), "neutral": neutral.mean()}.get(
                measure.key.split(".")[1], more.sum() / (~neutral).sum()
            )
            assert found[i] == pytest.approx(100 * expected)


def test_the_real_data(pairs, bert, roberta):
    assert len(pairs) == 1508
    assert Counter(p.direction for p in pairs) == {"stereo": 1290, "antistereo": 218}
    assert sum(p.bias_type == "gender" for p in pairs) == 262
    for codec in (bert.codec, roberta.codec):
        assert all(CrowSPairs().asked(p, codec).requests for p in pairs[::10])


HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
ROW = '0,"She, a nurse",He is,stereo,gender,[],a0,[]\n'


def read(folder, text):
    (folder / "crows_pairs_anonymized.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_benchmark("crows_pairs").items(folder)[0]


def test_a_good_file(tmp_path):
    assert read(tmp_path, HEADER + ROW) == [SentencePair("0", "gender", "stereo", "She, a nurse", "He is")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER.replace("sent_less", "less") + ROW, "line 1: no column 'sent_less'"),
        (HEADER + ROW + ROW.replace("stereo,", "more,"), "line 3: stereo_antistereo is 'more', expected stereo or"),
        (HEADER + ROW.replace("He is", " "), "line 2: sent_less is empty"),
        (HEADER + ROW + "1,a,b\n", "line 3: found 3 columns, expected 8"),
        (HEADER, "the file has no pair"),
        ("", "line 1: no column"),
    ],
)
def test_a_malformed_file_is_named_with_the_line(tmp_path, text, said):
    with pytest.raises(DataError, match=said) as error:
        read(tmp_path, text)
    assert "crows_pairs_anonymized.csv" in str(error.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(HEADER + ROW) - 1), st.binary(max_size=4))
def test_whatever_bytes_the_file_holds_it_is_read_or_refused(tmp_path, at, noise):
    raw = (HEADER + ROW).encode()
    try:
        items = read(tmp_path, raw[:at] + noise + raw[at + 1 :])
    except DataError as error:
        assert "crows_pairs_anonymized.csv" in str(error)
    else:
        assert items
