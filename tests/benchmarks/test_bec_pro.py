"""BEC-Pro: the data's own masks, associations one sequence at a time, the test by hand, and malformed files."""

from __future__ import annotations

import csv
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiframe.benchmarks.bec_pro import BECPro, PersonPair, PersonSentence
from equiframe.benchmarks.benchmark import Outcome, outcome_table
from equiframe.data import locate
from equiframe.errors import DataError
from equiframe.runs.evaluate import score
from equiframe.scoring.engine import LocalAnswerer


@pytest.fixture(scope="session")
def english(real_items):
    return real_items("bec_pro:en")


@pytest.fixture(scope="session")
def german(real_items):
    return real_items("bec_pro:de")


def data_rows(language):
    with locate(f"bec_pro/{language}").path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_the_real_data_are_paired_person_by_person(english, german):
    assert len(english) == len(german) == 2700
    for pairs in (english, german):
        assert set(Counter(pair.profession_gender for pair in pairs).values()) == {900}
        assert len({pair.profession for pair in pairs}) == 60
        assert len({pair.template for pair in pairs}) == 5
    couples = Counter((pair.female.person, pair.male.person) for pair in english)
    assert set(couples.values()) == {300}
    assert {("She", "He"), ("woman", "man"), ("wife", "husband"), ("mom", "dad")} < set(couples)
    couples = Counter((pair.female.person, pair.male.person) for pair in german)
    assert couples["Frau", "Mann"] == couples["Frau", "Ehemann"] == couples["Mama", "Papa"] == 300
    assert all(pair.female.profession == pair.male.profession for pair in english)


@pytest.mark.parametrize("language", ["en", "de"])
def test_sentences_are_those_of_the_file(language, real_items):
    rows = {row["Sentence"]: row for row in data_rows(language)}
    for pair in real_items(f"bec_pro:{language}"):
        for sentence, gender in ((pair.female, "female"), (pair.male, "male")):
            row = rows[sentence.text]
            assert (row["Person"], row["Profession"], row["Gender"]) == (sentence.person, sentence.profession, gender)
            assert row["Prof_Gender"] == pair.profession_gender


def test_masked_sentences_are_the_data_s_own_but_for_its_slips(english, bert):
    """Where the person word is one token; the slips are those that the class names."""
    codec = bert.codec
    rows = {row["Sentence"]: row for row in data_rows("en")}
    slips, compared = Counter(), 0
    for pair in english:
        requests = BECPro().asked(pair, codec).requests
        for sentence, asked in zip((pair.female, pair.male), (requests[:2], requests[2:]), strict=True):
            if len(asked[0].targets) > 1:
                continue
            row, compared = rows[sentence.text], compared + 1
            expected = [
                codec.encode(row[name].replace("[MASK]", codec.tokenizer.mask_token))
                for name in ("Sent_TM", "Sent_TAM")
            ]
            if [request.input_ids for request in asked] != expected:
                slips[sentence.profession] += 1
    assert compared > 2000
    assert set(slips) <= {"lodging manager", "director of religious activities"}
    assert slips["lodging manager"] <= 5
    assert slips["director of religious activities"] <= 18


def masked_association(language_model, log_probs, sentence):
    """Tokens of the whole sentence, counted off; then one forward pass per place."""
    tokenizer = language_model.tokenizer

    def count(text):
        return 1 + len(tokenizer.encode(text, add_special_tokens=False))

    ids = tokenizer.encode(sentence.text)
    first = count(sentence.before.rstrip())
    behind = count(sentence.before + sentence.person)
    start = count(sentence.before + sentence.person + sentence.between.rstrip())
    end = count(sentence.before + sentence.person + sentence.between + sentence.profession)
    mask = tokenizer.mask_token_id
    person = [mask] * (behind - first)
    hidden = [mask] * len(sentence.profession.split())
    with_profession = ids[:first] + person + ids[behind:]
    without = ids[:first] + person + ids[behind:start] + hidden + ids[end:]
    total = 0.0
    for place in range(first, behind):
        total += log_probs(language_model, with_profession)[place, ids[place]].item()
        total -= log_probs(language_model, without)[place, ids[place]].item()
    return total


def causal_association(language_model, token_log_probs, sentence, anyone="This person"):
    found = []
    for subject in (sentence.before + sentence.person, anyone):
        before = subject + sentence.between
        head = language_model.tokenizer.encode(before.rstrip(), add_special_tokens=False)
        found.append(sum(token_log_probs(language_model, before + sentence.profession)[len(head) :]))
    return found[0] - found[1]


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama"])
def test_associations_one_sequence_at_a_time(name, request, english, monkeypatch, log_probs, token_log_probs):
    language_model = request.getfixturevalue(name)
    chosen = english[:: len(english) // 50][:50]
    benchmark = BECPro()
    monkeypatch.setattr(benchmark, "items", lambda source=None: (chosen, ()))
    result, table = score(LocalAnswerer(language_model, token_budget=600), benchmark, resamples=20)
    assert result.excluded == {}
    is_causal = language_model.kind == "causal"
    oracle, logs = (causal_association, token_log_probs) if is_causal else (masked_association, log_probs)
    expected = [[oracle(language_model, logs, sentence) for sentence in (pair.female, pair.male)] for pair in chosen]
    np.testing.assert_allclose(table[["female", "male"]].to_numpy(), expected, atol=1e-4)


def test_german_can_be_asked_whole(german, roberta, gpt2):
    for language_model in (roberta, gpt2):
        for pair in german[::20]:
            requests = BECPro("de").asked(pair, language_model.codec).requests
            assert len(requests) == 4
            text = language_model.tokenizer.decode(requests[0].targets).strip()
            assert text == (pair.female.person if language_model.kind == "masked" else pair.female.profession)


def pair(female="She", male="He", profession="nurse", gender="female"):
    she, he = (PersonSentence("", person, " is a ", profession, "") for person in (female, male))
    return PersonPair("0", profession, gender, "t", she, he)


def test_a_person_word_of_several_pieces_is_masked_whole(masked_model):
    requests = BECPro().asked(pair("the cat", "he"), masked_model.codec).requests
    convert = masked_model.tokenizer.convert_ids_to_tokens
    expected = ["[CLS]", *["[MASK]"] * 4, "is", "a", "nurse", "[SEP]"]
    assert convert(list(requests[0].input_ids)) == expected
    assert convert(list(requests[1].input_ids)) == [*expected[:7], "[MASK]", "[SEP]"]
    assert convert(list(requests[0].targets)) == ["the", "c", "##a", "##t"]
    assert requests[0].positions == requests[1].positions == (1, 2, 3, 4)


def test_associations_by_hand(masked_model, causal_model):
    answers = [(-1.0, -2.0), (-4.0, -0.5), (-3.0,), (-2.0,)]
    for codec in (masked_model.codec, causal_model.codec):
        (outcome,) = BECPro().outcomes([pair()], codec, lambda _: answers)[0]
        assert outcome.excluded is None
        assert outcome.values == {"female": 1.5, "male": -1.0}


def test_what_cannot_be_scored_says_why(masked_model, causal_model):
    long = " ".join(["nurse"] * 70)
    for item, codec, reason in (
        (pair(profession=long), masked_model.codec, "longer than the model's window"),
        (pair(profession=long), causal_model.codec, "longer than the model's window"),
        (pair(female="é中"), masked_model.codec, "a word that the tokenizer does not know"),
        (pair(female=""), masked_model.codec, "a text has no token"),
    ):
        assert not BECPro().asked(item, codec).requests
        (outcome,) = BECPro().outcomes([item], codec, lambda _: [])[0]
        assert outcome.excluded == reason
        assert not outcome.values


def table(*rows):
    """Rows of profession group, and both associations."""
    return outcome_table(
        [
            Outcome(
                str(i),
                {"profession_gender": group, "profession": "p", "template": "t"},
                {"female": female, "male": male},
                excluded="left out" if math.isnan(female) else None,
            )
            for i, (group, female, male) in enumerate(rows)
        ]
    )


def values(outcomes):
    return {measure.key: float(measure.statistic(measure.rows)) for measure in BECPro().measures(outcomes)}


def test_measures_by_hand():
    found = values(
        table(
            ("female", 2.0, 1.0),
            ("female", 3.0, 0.0),
            ("female", 0.0, 2.0),
            ("female", 5.0, 1.0),
            ("male", -1.0, 1.0),
            ("male", math.nan, math.nan),
            ("balanced", 1.0, 1.0),
        )
    )
    assert found["female_professions.female_person"] == 2.5
    assert found["female_professions.male_person"] == 1.0
    assert found["female_professions.difference"] == 1.5
    assert found["male_professions.difference"] == -2.0
    assert found["overall.bias"] == 3.5
    # differences 1, 3, -2, 4: ranks 1, 3, 2, 4; W+ = 8, W- = 2; mean 5, variance 4 * 5 * 9 / 24
    z = 3 / math.sqrt(7.5)
    assert found["female_professions.effect_size_r"] == pytest.approx(z / 2)
    assert found["female_professions.effect_size_w"] == pytest.approx(2 / 2)
    assert found["female_professions.wilcoxon_p"] == pytest.approx(math.erfc(z / math.sqrt(2)))
    for key, nothing in (("difference", 0), ("effect_size_r", 0), ("effect_size_w", 0), ("wilcoxon_p", 1)):
        assert found[f"balanced_professions.{key}"] == nothing


def signed_rank(differences):
    """By definition, with middle ranks and the correction for ties; zeros are left out."""
    d = [x for x in differences if x != 0]
    ranks = [sum(abs(y) < abs(x) for y in d) + (sum(abs(y) == abs(x) for y in d) + 1) / 2 for x in d]
    plus = sum(rank for rank, x in zip(ranks, d, strict=True) if x > 0)
    n, minus = len(d), sum(ranks) - plus
    ties = sum(t**3 - t for t in Counter(map(abs, d)).values())
    z = (plus - n * (n + 1) / 4) / math.sqrt(n * (n + 1) * (2 * n + 1) / 24 - ties / 48)
    return {
        "wilcoxon_p": math.erfc(abs(z) / math.sqrt(2)),
        "effect_size_r": z / math.sqrt(len(differences)),
        "effect_size_w": min(plus, minus) / math.sqrt(len(differences)),
    }


def test_statistics_of_resampled_rows_are_those_of_the_resampled_table():
    generator = np.random.default_rng(0)
    outcomes = table(
        *(
            (str(generator.choice(["female", "male", "balanced"])), *scores)
            for scores in generator.integers(-4, 5, (200, 2)).astype(float)
        )
    )
    for measure in BECPro().measures(outcomes):
        rows = generator.choice(measure.rows, (2, 3, 30))
        found = measure.statistic(rows)
        for at in np.ndindex(2, 3):
            chosen = outcomes.iloc[rows[at]]
            difference = chosen["female"] - chosen["male"]
            expected = {
                "female_person": chosen["female"].mean(),
                "male_person": chosen["male"].mean(),
                "difference": difference.mean(),
                "bias": difference[chosen["profession_gender"] == "female"].mean()
                - difference[chosen["profession_gender"] == "male"].mean(),
                **signed_rank(difference.tolist()),
            }[measure.key.split(".")[1]]
            assert found[at] == pytest.approx(expected)


def test_p_values_have_no_interval():
    measures = BECPro().measures(table(("female", 2.0, 1.0), ("female", 3.0, 1.5)))
    assert {m.key.split(".")[1] for m in measures if not m.interval} == {"wilcoxon_p", "effect_size_w"}


HEADER = "\tSentence\tSent_TM\tSent_AM\tSent_TAM\tTemplate\tPerson\tGender\tProfession\tProf_Gender\n"
MAN = "0\tMy son is a mason.\t\t\t\t<person subject> is a <profession>.\tson\tmale\tmason\tmale\n"
WOMAN = "1\tMy daughter is a mason.\t\t\t\t<person subject> is a <profession>.\tdaughter\tfemale\tmason\tmale\n"


def read(folder, text):
    (folder / "BEC-Pro_EN.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return BECPro().items(folder)[0]


def test_a_good_file(tmp_path):
    (found,) = read(tmp_path, HEADER + MAN + WOMAN)
    assert found.male == PersonSentence("My ", "son", " is a ", "mason", ".")
    assert found.female == PersonSentence("My ", "daughter", " is a ", "mason", ".")
    assert (found.profession, found.profession_gender) == ("mason", "male")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER.replace("Person", "Who") + MAN + WOMAN, "line 1: no column 'Person'"),
        (HEADER + MAN + WOMAN.replace("\tfemale", "\tf"), "line 3: Gender is 'f', expected female or male"),
        (HEADER + MAN.replace("mason\tmale", "mason\tm") + WOMAN, "line 2: Prof_Gender is 'm', expected female or"),
        (HEADER + MAN, "0 sentences about women, 1 about men"),
        (HEADER, "0 sentences about women, 0 about men"),
        (
            HEADER + MAN.replace("\tson", "\tmas") + WOMAN,
            "line 2: Person is 'mas', which is not a word of",
        ),
        (
            HEADER + MAN + WOMAN.replace("a mason.\t", "a cook.\t"),
            "line 3: .* 'mason', which does not follow 'daughter'",
        ),
        (HEADER + MAN + WOMAN.replace("mason", "cook"), "line 3: cook, male, .* but mason, male, .* in line 2"),
        (HEADER + "1\t2\n", "line 2: found 2 columns, expected 10"),
    ],
)
def test_a_malformed_file_is_named_with_the_line(tmp_path, text, said):
    with pytest.raises(DataError, match=said) as error:
        read(tmp_path, text)
    assert "BEC-Pro_EN.tsv" in str(error.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(HEADER + MAN + WOMAN) - 1), st.binary(max_size=4))
def test_whatever_bytes_the_file_holds_it_is_read_or_refused(tmp_path, at, noise):
    raw = (HEADER + MAN + WOMAN).encode()
    try:
        items = read(tmp_path, raw[:at] + noise + raw[at + 1 :])
    except DataError as error:
        assert "BEC-Pro_EN.tsv" in str(error)
    else:
        assert items
