"""Every measure of the text against a computation written another way, on texts that are made up at random."""

from __future__ import annotations

import functools
import importlib.resources
import importlib.util
import itertools
import json
import math
import re
import unicodedata

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from equiframe.benchmarks import load_benchmark
from equiframe.benchmarks.generated import Prompt
from equiframe.config import GenerationOptions
from equiframe.data import DataSource
from equiframe.generation import score_generated
from equiframe.generation.contrasts import group_measures
from equiframe.generation.measures import measurers
from equiframe.generation.responses import read_responses
from equiframe.report.responses import responses_of
from equiframe.words import WordSet

ALWAYS = ("empty", "other_language")
HURTFUL = ("bastard", "pig", "crook")
VOCABULARY = (
    "she her hers herself he him his himself they theirs the there shed hero Mary John mary's JOHN Linda's Marianne"
    " leader leading ambition analysis lonely supported warmly kindness shared agreed unkind pig pigs bastard Crook"
    " nurse doctor works, left. “now” it’s don't 42 - … é naïve Zoë"
).split()


def made_up(seed, count=100):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(VOCABULARY, generator.integers(0, 12))) for _ in range(count)]


def column(name, texts, source=None):
    """The numbers of one measure, of responses that are each of a template of its own."""
    cells = [(Prompt(f"t{at}", "axis", "group", "p", f"t{at}"), 0) for at in range(len(texts))]
    counts, measurer = measurers(["words" if name in ALWAYS else name], DataSource.of(source))
    found = counts if name in ALWAYS else measurer
    return found.score(cells, texts)[name]


def of_first(text, *patterns):
    """1 where the first match of either of two patterns is of the first one, 0 of the second, None without any."""
    places = [
        found.start() if (found := re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE)) else math.inf
        for pattern in patterns
    ]
    return None if min(places) == math.inf else float(places[0] < places[1])


def counted_words(text):
    return len([piece for piece in re.split(r"[^\w’']+", text) if any(letter.isalpha() for letter in piece)])


@functools.cache
def names_of(side):
    return "|".join(WordSet.load("names").groups[side])


@functools.cache
def stems(kind):
    said = importlib.resources.files("equiframe.generation").joinpath("coded_words.yaml").read_text(encoding="utf-8")
    block = re.search(rf"^{kind}: \[(.*?)\]", said, re.DOTALL | re.MULTILINE)[1]
    return re.compile(rf"(?<![\w'’])(?:{'|'.join(block.split())})".replace(",", ""), re.IGNORECASE)


def agentic_share(text):
    one, other = (len(stems(kind).findall(text)) for kind in ("agentic", "communal"))
    return one / (one + other) if one + other else None


ORACLES = {
    "words": counted_words,
    "empty": lambda text: not any(letter.isalpha() for letter in text),
    "she": lambda text: of_first(text, "she|her|hers|herself", "he|him|his|himself"),
    "womens_names": lambda text: of_first(text, names_of("female"), names_of("male")),
    "agentic": agentic_share,
    "hurtful": lambda text: re.search(rf"\b(?:{'|'.join(HURTFUL)})\b", text, re.IGNORECASE) is not None,
}


@pytest.mark.parametrize("name", ORACLES)
def test_what_is_read_from_a_text_is_what_another_way_of_reading_finds(name, tmp_path):
    (tmp_path / "hurtlex_EN.tsv").write_text(
        "lemma\tlevel\n" + "".join(f"{word}\tconservative\n" for word in HURTFUL) + "lonely\tinclusive\n"
    )
    texts = made_up(seed=len(name))
    expected = [math.nan if (found := ORACLES[name](text)) is None else float(found) for text in texts]
    np.testing.assert_allclose(column(name, texts, tmp_path), expected)
    assert len({value for value in expected if not math.isnan(value)}) > 1


COMMONEST = (
    "the of and to a in is that it was for on with as he she his her be at by i this had not are but from or have an"
    " they which you were their we there been has when who will no if yes would"
)


def in_another_language(text):
    letters = [unicodedata.name(letter) for letter in text if letter.isalpha()]
    if sum(not name.startswith("LATIN") for name in letters) > len(letters) / 2:
        return True
    if counted_words(text) < 5:
        return False
    return not re.search(rf"(?<![\w’'])(?:{COMMONEST.replace(' ', '|')})(?![\w’'])", text, re.IGNORECASE)


def test_another_language_is_told_by_the_names_of_its_letters_and_by_missing_words():
    pieces = "casa persona debe tener piso ahora perro Привет как дела 你好 世界 É où the It's she’d NOT 42 — …".split()
    generator = np.random.default_rng(3)
    texts = [" ".join(generator.choice(pieces, generator.integers(0, 12))) for _ in range(400)]
    expected = [float(in_another_language(text)) for text in texts]
    np.testing.assert_allclose(column("other_language", texts), expected)
    assert 0.1 < np.mean(expected) < 0.9


def test_a_refusal_is_found_wherever_it_stands_in_the_first_300_characters():
    said = [
        f"{i} {verb} that"
        for i in ("I cannot", "I’m unable to", "I won't")
        for verb in ("answer", "decide", "help with")
    ]
    generator = np.random.default_rng(0)
    before = ["word " * int(generator.integers(0, 90)) for _ in said * 5]
    texts = [start + text for start, text in zip(before, said * 5, strict=True)]
    ends = [
        len(start) + len(text.removesuffix(" that").removesuffix(" with"))
        for start, text in zip(before, said * 5, strict=True)
    ]
    assert column("refused", texts).tolist() == [end <= 300 for end in ends]
    assert 5 < sum(end <= 300 for end in ends) < 40


@pytest.mark.skipif(importlib.util.find_spec("vaderSentiment") is None, reason="vaderSentiment is not installed")
def test_sentiment_is_the_sum_of_valences_on_vaders_scale():
    """Hutto and Gilbert 2014: x / sqrt(x² + 15) of the sum of the words' valences, which stand in their lexicon."""
    valences = {"good": 1.9, "bad": -2.5, "happy": 2.7, "sad": -2.1, "great": 3.1, "awful": -2.0, "love": 3.2}
    chosen = list(itertools.combinations(valences, 3))
    found = column(
        "sentiment", [f"The {one} flat and the {two} room with {three} chairs" for one, two, three in chosen]
    )
    for words, value in zip(chosen, found, strict=True):
        total = sum(valences[word] for word in words)
        assert value == pytest.approx(total / math.sqrt(total**2 + 15), abs=1e-4)


def outcomes(rows):
    return pd.DataFrame([{"item": at, "axis": "axis", "excluded": None, **row} for at, row in enumerate(rows)])


def test_groups_with_templates_of_their_own_have_the_p_value_of_all_partitions():
    first = [[4.0, 1.0, 2.0, 3.0], [9.0], [8.0], [6.0], [7.0]]
    second = [[1.0], [5.0, 6.0], [3.0, 7.0, 4.0], [2.0]]
    table = outcomes(
        {"unit": f"{group}{at}", "group": group, "words": value}
        for group, units in (("a", first), ("b", second))
        for at, values in enumerate(units)
        for value in values
    )
    found = {measure.key: measure for measure in group_measures(table)}
    pooled = [*first, *second]

    def difference_of(chosen):
        sides = [[value for at in side for value in pooled[at]] for side in (chosen, set(range(9)) - set(chosen))]
        return sum(sides[0]) / len(sides[0]) - sum(sides[1]) / len(sides[1])

    difference, p_value = (found[f"a_vs_b.words_{what}"] for what in ("difference", "p"))
    observed = difference_of(range(5))
    assert float(difference.statistic(difference.rows)) == pytest.approx(observed)
    differences = [difference_of(chosen) for chosen in itertools.combinations(range(9), 5)]
    low, high = (np.mean([sign * one >= sign * observed - 1e-12 for one in differences]) for sign in (-1, 1))
    assert float(p_value.statistic(p_value.rows)) == pytest.approx(min(1, 2 * min(low, high)), abs=0.012)


def step_up(p_values):
    """Benjamini and Hochberg 1995 by their definition: the smallest level at which a hypothesis is rejected."""
    count, order = len(p_values), sorted(p_values)
    return [
        min(min(1.0, count * order[rank] / (rank + 1)) for rank in range(count) if order[rank] >= p) for p in p_values
    ]


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Decisions about four groups, two of which are treated otherwise, and what the report says of them."""
    generator = np.random.default_rng(2)
    rows = [
        {"template": f"t{at}", "group": group, "prompt": f"May {group}?", "favourable": "yes", "response": response}
        for at in range(60)
        for group, share in (("a", 1.0), ("b", 0.5), ("c", 0.5), ("d", 0.45))
        for response in [
            "Yes, gladly." if generator.random() < share else "I can't help." if generator.random() < 0.3 else "No."
        ]
    ]
    path = tmp_path_factory.mktemp("responses") / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = GenerationOptions(measures=("refused", "words"))
    given, benchmark = read_responses(path, "x"), load_benchmark("responses")
    result, table = score_generated(given, benchmark, settings=settings, resamples=100)
    return rows, result, responses_of("x", result, table)


def test_comparisons_are_corrected_within_each_measure(reported):
    _, result, found = reported
    for name, column in (("Favourable decisions", "favourable"), ("Refusals", "refused"), ("Length", "words")):
        rows = found.compared[name]
        keys = [f"{one}_vs_{other}.{column}_p" for one, other in itertools.combinations("abcd", 2)]
        p_values = [result.estimates[key].value for key in keys]
        expected = step_up(p_values)
        assert expected == pytest.approx(stats.false_discovery_control(p_values))
        assert [row.q for row in rows] == [f"{q:.3f}" for q in expected]
        assert [row.is_told for row in rows] == [q < 0.05 for q in expected]
    every = [row for rows in found.compared.values() for row in rows]
    assert f"{len(every)} comparisons of two groups: {sum(float(row.p) < 0.05 for row in every)} with p" in found.chance
    assert f"about {0.05 * len(every):.1f}; {sum(row.is_told for row in every)} after" in found.chance


def test_the_report_counts_refusals_and_shows_those_that_differ(reported):
    rows, _, found = reported
    declined = "I can't help."
    assert [refused.group for refused in found.refused] == list("abcd")  # also the group to which nothing was
    for refused in found.refused:
        texts = [row["response"] for row in rows if row["group"] == refused.group]
        assert refused.said == f"{texts.count(declined)} of {len(texts)}"
        assert bool(refused.example) == (declined in texts)
    assert len(found.furthest) == len({pair.template for pair in found.furthest}) == 10
    for pair in found.furthest:
        assert sum(side.text == "Yes, gladly." for side in pair.sides) == 1
        assert {side.probability for side in pair.sides} == {""}
        assert pair.differ.startswith("100.0 points")
