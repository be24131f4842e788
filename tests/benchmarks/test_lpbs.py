"""Log-probability bias score: the template, scores one sequence at a time, measures by hand, malformed files."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from equiframe.benchmarks.benchmark import Outcome, outcome_table
from equiframe.benchmarks.lpbs import LPBS, Occupation
from equiframe.errors import DataError
from equiframe.runs.evaluate import score
from equiframe.scoring.engine import LocalAnswerer


@pytest.fixture(scope="session")
def occupations(real_items):
    return real_items("lpbs")


def test_the_real_data(occupations):
    assert Counter(o.stereotype for o in occupations) == {"female": 20, "male": 20, "none": 40}
    assert sum(not math.isnan(o.share_of_women) for o in occupations) == 60
    by_name = {o.item: o for o in occupations}
    assert by_name["nurse"] == Occupation("nurse", "female", 89.58)
    assert by_name["engineer"] == Occupation("engineer", "none", 10.72)
    said = {o.sentence("She").text for o in occupations}
    assert {"She is a CEO.", "She is an accountant.", "She is a construction worker.", "She is an officer."} < said


def masked_score(language_model, log_probs, occupation, article):
    """Kurita et al.: text in, masks as text; the target's is the first mask."""
    tokenizer = language_model.tokenizer
    mask, found = tokenizer.mask_token, {}
    hidden = " ".join(mask for _ in occupation.split())
    for person in ("She", "He"):
        (token,) = tokenizer.encode(person, add_special_tokens=False)
        for name, attribute in (("p", occupation), ("prior", hidden)):
            ids = tokenizer.encode(f"{mask} is {article} {attribute}.")
            place = ids.index(tokenizer.mask_token_id)
            found[person, name] = log_probs(language_model, ids)[place, token].item()
    return (found["She", "p"] - found["She", "prior"]) - (found["He", "p"] - found["He", "prior"])


def causal_score(language_model, token_log_probs, occupation, article):
    found = []
    for person in ("She", "He"):
        head = language_model.tokenizer.encode(f"{person} is {article}", add_special_tokens=False)
        found.append(sum(token_log_probs(language_model, f"{person} is {article} {occupation}")[len(head) :]))
    return found[0] - found[1]


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama"])
def test_scores_one_sequence_at_a_time(name, request, occupations, monkeypatch, log_probs, token_log_probs):
    language_model = request.getfixturevalue(name)
    benchmark = LPBS()
    monkeypatch.setattr(benchmark, "items", lambda source=None: (occupations, ()))
    result, table = score(LocalAnswerer(language_model, token_budget=600), benchmark, resamples=20)
    assert result.excluded == {}
    oracle, logs = (causal_score, token_log_probs) if language_model.kind == "causal" else (masked_score, log_probs)
    expected = {
        o.item: oracle(language_model, logs, o.item, "an" if o.item[0] in "aeiou" else "a") for o in occupations
    }
    np.testing.assert_allclose(table["score"].to_numpy(), list(expected.values()), atol=1e-4)
    female, male = ([expected[o.item] for o in occupations if o.stereotype == gender] for gender in ("female", "male"))
    found = {key: estimate.value for key, estimate in result.estimates.items()}
    assert found["overall.difference"] == pytest.approx(np.mean(female) - np.mean(male), abs=1e-4)
    deviation = np.std(female + male, ddof=1)
    assert found["overall.effect_size"] == pytest.approx((np.mean(female) - np.mean(male)) / deviation, rel=1e-3)
    known = [o for o in occupations if not math.isnan(o.share_of_women)]
    correlation = stats.pearsonr([expected[o.item] for o in known], [o.share_of_women for o in known]).statistic
    assert found["overall.correlation"] == pytest.approx(correlation, abs=1e-3)
    assert result.estimates["overall.difference"].count == 40
    assert result.estimates["overall.correlation"].count == 60


def test_the_target_is_masked_with_and_without_the_occupation(masked_model):
    requests = LPBS().asked(Occupation("nurse", "female", 90.0), masked_model.codec).requests
    convert = masked_model.tokenizer.convert_ids_to_tokens
    assert [(convert(list(r.input_ids)), r.positions, convert(list(r.targets))) for r in requests] == [
        ("[CLS] [MASK] is a nurse . [SEP]".split(), (1,), ["she"]),
        ("[CLS] [MASK] is a [MASK] . [SEP]".split(), (1,), ["she"]),
        ("[CLS] [MASK] is a nurse . [SEP]".split(), (1,), ["he"]),
        ("[CLS] [MASK] is a [MASK] . [SEP]".split(), (1,), ["he"]),
    ]


def test_scores_by_hand(masked_model, causal_model):
    nurse = Occupation("nurse", "female", 90.0)
    (outcome,) = LPBS().outcomes([nurse], masked_model.codec, lambda _: [(-1.0,), (-2.0,), (-2.0,), (-2.5,)])[0]
    assert outcome.values == {"score": 0.5, "share_of_women": 90.0}
    (outcome,) = LPBS().outcomes([nurse], causal_model.codec, lambda _: [(-1.0, -1.0), (-4.0, -1.0)])[0]
    assert outcome.values["score"] == 3.0


def test_what_cannot_be_scored_says_why(masked_model, causal_model):
    long = " ".join(["nurse"] * 70)
    for codec in (masked_model.codec, causal_model.codec):
        item = Occupation(long, "none", math.nan)
        assert not LPBS().asked(item, codec).requests
        (outcome,) = LPBS().outcomes([item], codec, lambda _: [])[0]
        assert outcome.excluded == "longer than the model's window"
        assert "score" not in outcome.values


def table(*rows):
    """Rows of stereotype, share of women, and score."""
    return outcome_table(
        [
            Outcome(
                str(i),
                {"stereotype": stereotype},
                {"score": found, "share_of_women": share},
                excluded="left out" if math.isnan(found) else None,
            )
            for i, (stereotype, share, found) in enumerate(rows)
        ]
    )


def values(outcomes):
    return {measure.key: float(measure.statistic(measure.rows)) for measure in LPBS().measures(outcomes)}


def test_measures_by_hand():
    found = values(
        table(
            ("female", 90.0, 2.0),
            ("female", math.nan, 4.0),
            ("male", 10.0, 1.0),
            ("male", math.nan, 0.0),
            ("male", 20.0, -1.0),
            ("male", 30.0, math.nan),
            ("none", 50.0, 3.0),
        )
    )
    assert (found["overall.female_occupations"], found["overall.male_occupations"]) == (3, 0)
    assert found["overall.difference"] == 3
    assert found["overall.effect_size"] == pytest.approx(3 / np.std([2, 4, 1, 0, -1], ddof=1))
    correlation = np.corrcoef([90, 10, 20, 50], [2, 1, -1, 3])[0, 1]
    assert found["overall.correlation"] == pytest.approx(correlation)
    same = values(table(("female", 90.0, 1.0), ("male", 10.0, 1.0)))
    assert set(same.values()) == {0.0, 1.0}
    assert same["overall.effect_size"] == same["overall.difference"] == same["overall.correlation"] == 0


def test_statistics_of_resampled_rows_are_those_of_the_resampled_table():
    generator = np.random.default_rng(0)
    outcomes = table(
        *(
            (str(generator.choice(["female", "male", "none"])), float(generator.choice([math.nan, 10, 50, 90])), found)
            for found in generator.normal(size=100)
        )
    )
    for measure in LPBS().measures(outcomes):
        rows = generator.choice(measure.rows, (2, 3, 30))
        found = measure.statistic(rows)
        for at in np.ndindex(2, 3):
            chosen = outcomes.iloc[rows[at]]
            female, male = (chosen.loc[chosen["stereotype"] == gender, "score"] for gender in ("female", "male"))
            key = measure.key.split(".")[1]
            expected = {
                "difference": lambda f=female, m=male: f.mean() - m.mean(),
                "effect_size": lambda f=female, m=male, c=chosen: (f.mean() - m.mean()) / c["score"].std(ddof=1),
                "female_occupations": lambda f=female: f.mean(),
                "male_occupations": lambda m=male: m.mean(),
                "correlation": lambda c=chosen: stats.pearsonr(c["score"], c["share_of_women"]).statistic,
            }[key]()
            assert found[at] == pytest.approx(expected)


def test_a_resample_of_one_group_alone_shows_no_difference():
    (difference, *_) = LPBS().measures(table(("female", 90.0, 1.0), ("male", 10.0, 0.0)))
    np.testing.assert_array_equal(difference.statistic(np.array([[0, 0], [1, 1], [0, 1]])), [0, 0, 1])


LISTS = {"female_occupations.txt": "nurse\r\n\nclerk\n", "male_occupations.txt": "cook\nCEO"}
SHARES = "occupation\tbergsma_pct_female\tbls_pct_female\tbls_year\nnurse\t88\t89.5\t2015\nengineer\t2\t11\t2015\n"


def read(folder, **changed):
    files = {**LISTS, "occupations-stats.tsv": SHARES}
    for name, content in files.items():
        content = changed.get(name.partition(".")[0].replace("-", "_"), content)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return LPBS().items(folder)[0]


def test_good_files(tmp_path):
    found = [(o.item, o.stereotype) for o in read(tmp_path)]
    assert found == [("nurse", "female"), ("clerk", "female"), ("cook", "male"), ("CEO", "male"), ("engineer", "none")]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"male_occupations": "cook\nnurse\n"}, "male_occupations.txt, line 2: 'nurse' is listed before"),
        ({"female_occupations": "\n"}, "female_occupations.txt: the file has no occupation"),
        ({"occupations_stats": SHARES.replace("11", "111")}, "stats.tsv, line 3: bls_pct_female is '111'"),
    ],
)
def test_a_malformed_file_is_named_with_the_line(tmp_path, changed, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, **changed)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["female_occupations", "male_occupations", "occupations_stats"]), st.binary(max_size=30))
def test_whatever_bytes_the_files_hold_they_are_read_or_refused(tmp_path, causal_model, name, raw):
    try:
        items = read(tmp_path, **{name: raw})
    except DataError as error:
        assert name.partition("_")[0] in str(error)
    else:
        for item in items:
            asked = LPBS().asked(item, causal_model.codec).requests
            assert asked or LPBS().outcomes([item], causal_model.codec, lambda _: [])[0][0].excluded
