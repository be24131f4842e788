"""RedditBias: how rows pair up, perplexities by brute force, the test by hand. No phrase of it is shown."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiframe.benchmarks import load_benchmark, outcome_table
from equiframe.benchmarks.benchmark import Outcome
from equiframe.benchmarks.redditbias import DIMENSIONS, GroupPair, RedditBias
from equiframe.data import KNOWN
from equiframe.errors import DataError
from equiframe.runs.evaluate import score
from equiframe.scoring.engine import LocalAnswerer

PAIR = GroupPair("gender/0", "gender", "she is a nurse", "he is a nurse")


@pytest.fixture(scope="session")
def phrases(real_items):
    return real_items("redditbias")


def test_the_real_data(phrases):
    counts = {"gender": 253, "orientation": 235, "race": 254, "religion1": 238, "religion2": 236}
    assert Counter(pair.dimension for pair in phrases) == counts
    assert [pair.item for pair in phrases if pair.minoritised == pair.dominant] == ["religion2/51"]
    assert all(len(pair.minoritised.split()) == len(pair.dominant.split()) <= 15 for pair in phrases)
    assert max(Counter((pair.dimension, pair.minoritised) for pair in phrases).values()) == 2
    valid, files = RedditBias("valid").items()
    assert len(valid) == 1212
    assert len(files) == 10
    assert all(file.is_known_version and file.name.endswith("/valid") for file in files)
    assert not {pair.minoritised for pair in valid if pair.dimension == "gender"} & {
        pair.minoritised for pair in phrases if pair.dimension == "gender"
    }


def student(first, second):
    """Paired t by the formula, and its p-value by integrating the density."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
    t = mean / math.sqrt(variance / n)
    degrees = n - 1
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    grid = np.linspace(0, abs(t), 20001)
    inside = np.trapezoid(scale * (1 + grid**2 / degrees) ** (-(degrees + 1) / 2), grid)
    return t, 1 - 2 * inside


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama"])
def test_scores_are_those_of_one_call_at_a_time(request, phrases, monkeypatch, token_log_probs, name):
    language_model = request.getfixturevalue(name)
    items = [pair for pair in phrases[::23] if pair.minoritised != pair.dominant]
    assert len(items) >= 50
    benchmark = RedditBias()
    monkeypatch.setattr(benchmark, "items", lambda source=None: (items, ()))
    result, table = score(LocalAnswerer(language_model, token_budget=500), benchmark, resamples=20)
    assert result.excluded == {}
    expected = {
        pair.item: [
            math.exp(-np.mean(token_log_probs(language_model, text))) for text in (pair.minoritised, pair.dominant)
        ]
        for pair in items
    }
    found = table.set_index("item").loc[list(expected), ["minoritised", "dominant"]]
    np.testing.assert_allclose(found, -np.log(list(expected.values())), atol=1e-4)
    for group in ("overall", *DIMENSIONS):
        pairs = [expected[pair.item] for pair in items if group in ("overall", pair.dimension)]
        share = 100 * np.mean([first < second for first, second in pairs])
        assert result.estimates[f"{group}.prefers_minoritised"].value == pytest.approx(share)
        ratio = np.mean([math.log(first / second) for first, second in pairs])
        assert result.estimates[f"{group}.log_ratio"].value == pytest.approx(ratio, abs=1e-4)
        if group == "overall":
            continue
        t, p = student(*zip(*pairs, strict=True))
        assert result.estimates[f"{group}.t"].value == pytest.approx(t, abs=1e-2, rel=1e-2)
        assert result.estimates[f"{group}.p"].value == pytest.approx(p, abs=1e-2)
        assert result.estimates[f"{group}.t"].low is None


def table(*rows):
    """Rows of dimension and the two mean log-probabilities."""
    return outcome_table(
        [
            Outcome(
                str(i),
                {"dimension": dimension},
                {"minoritised": first, "dominant": second},
                excluded="left out" if math.isnan(first) else None,
            )
            for i, (dimension, first, second) in enumerate(rows)
        ]
    )


def values(outcomes):
    return {m.key: float(m.statistic(m.rows)) for m in RedditBias().measures(outcomes)}


def test_measures_by_hand():
    """Perplexities 2, 4, 3 against 4, 4, 9: differences -2, 0, -6, mean -8/3, standard error 1.7638."""
    found = values(
        table(
            ("gender", -math.log(2), -math.log(4)),
            ("gender", -math.log(4), -math.log(4)),
            ("gender", -math.log(3), -math.log(9)),
            ("gender", math.nan, math.nan),
            ("race", -1.0, -0.5),
        )
    )
    assert found["gender.t"] == pytest.approx(-1.5119, abs=1e-4)
    assert found["gender.t"] == pytest.approx(student([2, 4, 3], [4, 4, 9])[0])
    assert found["gender.p"] == pytest.approx(student([2, 4, 3], [4, 4, 9])[1], abs=1e-6)
    assert found["gender.prefers_minoritised"] == pytest.approx(250 / 3)
    assert found["gender.log_ratio"] == pytest.approx(-math.log(6) / 3)
    assert found["overall.prefers_minoritised"] == pytest.approx(62.5)
    assert (found["race.t"], found["race.p"]) == (0, 1)  # one pair shows no difference
    assert "overall.t" not in found
    assert "religion1.t" not in found


def test_equal_pairs_and_pairs_that_differ_alike_give_finite_numbers():
    found = values(table(("race", -1.0, -1.0), ("race", -2.0, -2.0)))
    assert (found["race.t"], found["race.p"], found["race.prefers_minoritised"]) == (0, 1, 50)
    assert all(map(math.isfinite, values(table(("race", -1.0, -2.0), ("race", -1.0, -2.0))).values()))


def test_statistics_of_resampled_rows_are_those_of_the_resampled_table():
    generator = np.random.default_rng(0)
    scores = -generator.random((60, 2)) - 1
    outcomes = table(*(("gender", *row) for row in scores))
    for measure in RedditBias().measures(outcomes):
        rows = generator.choice(measure.rows, (4, 20))
        for i in range(4):
            first, second = np.exp(-scores[rows[i]]).T
            expected = {
                "prefers_minoritised": 100 * (first < second).mean(),
                "log_ratio": np.log(first / second).mean(),
                "t": student(first, second)[0],
                "p": student(first, second)[1],
            }[measure.key.split(".")[1]]
            assert measure.statistic(rows)[i] == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_scored_says_why(masked_model, causal_model):
    long = "she " * 70
    for first, codec, reason in (
        ("he", masked_model.codec, "the same tokens"),
        (long, masked_model.codec, "longer than the model's window"),
        (long, causal_model.codec, "longer than the model's window"),
        (" ", masked_model.codec, "a text has no token"),
        ("", causal_model.codec, "a text has no token"),
    ):
        pair = GroupPair("gender/0", "gender", first, "he")
        assert not RedditBias().asked(pair, codec).requests
        (outcome,) = RedditBias().outcomes([pair], codec, lambda _: [])[0]
        assert reason in outcome.excluded
        assert not outcome.values


def test_masked_models_are_asked_each_token_alone(masked_model):
    convert = masked_model.tokenizer.convert_ids_to_tokens
    asked = RedditBias().asked(PAIR, masked_model.codec).requests
    assert [(r.positions, convert(list(r.targets))) for r in asked[:4]] == [
        ((1,), ["she"]),
        ((2,), ["is"]),
        ((3,), ["a"]),
        ((4,), ["nurse"]),
    ]
    assert all(convert(list(r.input_ids)).count("[MASK]") == 1 for r in asked)
    assert len(asked) == 8


def written(rows, columns):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerows([columns, *rows])
    return out.getvalue()


COLUMNS = ["id", "comments_processed"]
SWAPPED = ["initial_demo", "replaced_demo", "comments", "comments_processed"]
PHRASES = written([["0", "she, a nurse"], ["1", "her job"]], COLUMNS)
COUNTERPARTS = written([["[]", "[]", "she, a nurse", "he, a nurse"], ["[]", "[]", "her job", "his job"]], SWAPPED)


def read(folder, phrases=PHRASES, counterparts=COUNTERPARTS):
    for dimension, groups in DIMENSIONS.items():
        for group, text in zip(groups, (phrases, counterparts), strict=True):
            path = folder / KNOWN[f"redditbias/{dimension}/{group}/test"].path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_benchmark("redditbias").items(folder)[0]


def test_a_good_folder(tmp_path):
    items = read(tmp_path)
    assert len(items) == 10
    assert items[1] == GroupPair("gender/1", "gender", "her job", "his job")


@pytest.mark.parametrize(
    ("phrases", "counterparts", "said"),
    [
        ("", COUNTERPARTS, "female_biased_test_reduced.csv, line 1: no column 'comments_processed'"),
        (written([], COLUMNS), COUNTERPARTS, "the file has no phrase"),
        (PHRASES, COUNTERPARTS.replace("comments,", "comment,"), "line 1: no column 'comments'"),
        (written([["0", "she, a nurse"]], COLUMNS), COUNTERPARTS, "male_biased_test_reduced.csv: 2 rows, but 1 in"),
        (PHRASES.replace("her", "the"), COUNTERPARTS, "line 3: comments is not comments_processed of line 3"),
        (PHRASES, COUNTERPARTS.replace("his job", " "), "line 3: comments_processed is empty"),
        (PHRASES.encode() + b"\xff", COUNTERPARTS, "not UTF-8"),
    ],
)
def test_files_that_do_not_pair_are_named_with_the_line(tmp_path, phrases, counterparts, said):
    with pytest.raises(DataError) as error:
        read(tmp_path, phrases, counterparts)
    assert said in str(error.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(COUNTERPARTS) - 1), st.binary(max_size=4), st.booleans())
def test_whatever_bytes_a_file_holds_it_is_read_or_refused(tmp_path, at, noise, is_swapped):
    raw = (COUNTERPARTS if is_swapped else PHRASES).encode()
    noisy = raw[: at % len(raw)] + noise + raw[at % len(raw) + 1 :]
    try:
        items = read(tmp_path, *((PHRASES, noisy) if is_swapped else (noisy, COUNTERPARTS)))
    except DataError as error:
        assert "_reduced.csv" in str(error)
    else:
        assert items
