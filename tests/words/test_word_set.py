"""Lists of words, their files, and their tokens under three kinds of tokenizer."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiframe.errors import DataError, EquiframeError, InputError
from equiframe.words import WordSet
from equiframe.words.word_set import BUILTIN


def pieces(mapping, unknown=0):
    """A tokenizer from a table; the letters of unlisted words."""

    class Table:
        unk_token_id = unknown

        def encode(self, text, *, add_special_tokens):
            assert add_special_tokens is False
            return mapping.get(text, [unknown])

    return Table()


@pytest.mark.parametrize("name", BUILTIN)
def test_builtin_lists_are_clean(name):
    words = WordSet.builtin(name)
    assert len(words.words) > 50
    assert all(word == word.strip() and word for word in words.words)
    assert {w for pair in words.pairs for w in pair} <= set(words.words)


def test_fairness_is_all_but_the_names():
    parts = [set(WordSet.builtin(n).words) for n in ("gender", "professions", "race", "religion")]
    assert set(WordSet.builtin("fairness").words) == set.union(*parts)


def test_gender_pairs_have_two_sides():
    gender = WordSet.builtin("gender")
    assert ("she", "he") in gender.pairs
    assert len(gender.pairs) >= 150
    both = set(gender.groups["female"]) & set(gender.groups["male"])
    assert both == set()


def test_uncased_tokenizer_folds_the_forms():
    table = {" she": [5], "she": [5], "She": [5], " She": [5], "SHE": [5], " SHE": [5]}
    resolved = WordSet("w", {"g": ("she",)}).resolve(pieces(table))
    assert resolved.token_ids == (5,)
    assert resolved.word_of == {5: "she"}


def test_cased_tokenizer_with_leading_space_gives_each_form_a_class():
    table = {"she": [1], " she": [2], "She": [3], " She": [4], "SHE": [7, 8], " SHE": [7, 8]}
    resolved = WordSet("w", {"g": ("she",)}).resolve(pieces(table))
    assert resolved.token_ids == (1, 2, 3, 4)
    assert resolved.multi_token == ()


def test_words_of_several_tokens_are_reported_and_by_choice_represented():
    table = {" she": [1], " barmaid": [5, 6], " barman": [5, 9]}
    words = WordSet("w", {"f": ("she", "barmaid"), "m": ("barman", "xx")}, (("barmaid", "barman"),))
    skipped = words.resolve(pieces(table))
    assert skipped.token_ids == (1,)
    assert skipped.multi_token == ("barmaid", "barman")
    assert skipped.unknown == ("xx",)
    assert "barmaid" in skipped.summary()
    first = words.resolve(pieces(table), multi_token="first")
    assert first.token_ids == (1, 5)
    assert first.shared == {5: ("barmaid", "barman")}
    assert first.groups_of[5] == ("f", "m")
    assert first.pairs == ()
    last = words.resolve(pieces(table), multi_token="last")
    assert last.token_ids == (1, 6, 9)
    assert last.pairs == ((6, 9),)


def test_no_known_word_is_an_error_with_the_mend():
    with pytest.raises(InputError, match="--multi-token first"):
        WordSet("w", {"g": ("a", "b")}).resolve(pieces({" a": [3, 4]}))


def test_real_tokenizers(language_model):
    resolved = WordSet.builtin("gender").resolve(language_model.tokenizer)
    assert {"she", "he"} <= set(resolved.word_of.values())
    for token, word in resolved.word_of.items():
        assert language_model.tokenizer.decode([token]).strip().lower() == word


def test_text_file(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("# mine\n[f | m]\nshe\the\n[jobs]\nnurse  # stereotyped\n")
    words = WordSet.from_file(file)
    assert words.groups == {"f": ("she",), "m": ("he",), "jobs": ("nurse",)}
    assert words.pairs == (("she", "he"),)


@pytest.mark.parametrize(
    ("value", "groups"),
    [
        (["a", "b"], {"own": ("a", "b")}),
        ({"g": ["a"]}, {"g": ("a",)}),
        ({"groups": {"g": ["a", "b"]}, "pairs": [["a", "b"]]}, {"g": ("a", "b")}),
    ],
)
def test_json_file(tmp_path, value, groups):
    file = tmp_path / "own.json"
    file.write_text(json.dumps(value))
    assert WordSet.from_file(file).groups == groups


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "a\tb\tc\n", "line 1"),
        ("a.txt", "ok\n[g\n", "line 2"),
        ("a.txt", "# nothing\n", "no word"),
        ("a.json", "{", "line 1"),
        ("a.json", '{"g": [1]}', "expected a list"),
        ("a.json", '{"groups": {"g": ["a"]}, "pairs": [["a"]]}', "expected a list"),
        ("a.json", "[]", "no word"),
    ],
)
def test_a_broken_list_names_file_and_place(tmp_path, name, content, said):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        WordSet.from_file(file)
    assert name in str(caught.value)


def test_an_unknown_name_has_a_neighbour():
    with pytest.raises(InputError, match="gender"):
        WordSet.load("gendre")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(content=st.binary(max_size=120), suffix=st.sampled_from([".txt", ".json"]))
def test_any_bytes_give_words_or_our_own_error(tmp_path, content, suffix):
    file = tmp_path / f"fuzz{suffix}"
    file.write_bytes(content)
    try:
        assert WordSet.from_file(file).words
    except EquiframeError as error:
        assert str(error)
