"""Lists of words, their files, and their tokens under four kinds of tokenizer."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiframe.errors import DataError, EquiframeError, InputError
from equiframe.words import WordSet
from equiframe.words.word_set import BUILTIN

TEXT = [
    "he and she , her and his , the woman and the man",
    "He said that She was here . The man , the woman , a human , a german , a shaman , he , she",
    "the nurse saw the doctor ; the barmaid and the barman , the countryman and the countrywoman",
]


def wrapped(backend, **specials):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, **specials)


def word_piece(lowercase):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = ["she", "he", "woman", "man", "nurse", "doctor", "bar", "country", "polish", "a"]
    pieces = ["[UNK]", *words, "She", "He", "Polish", "##maid", "##man", "##woman"]
    backend = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return wrapped(backend, unk_token="[UNK]")


def byte_level_bpe():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    backend.train_from_iterator(TEXT * 3, trainer)
    return wrapped(backend, unk_token="<|end|>", eos_token="<|end|>")


def sentence_piece(scheme="always"):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["she", "he", "woman", "man", "She", "a", "nurse"]
    whole = [(f"▁{word}", -1.0) for word in words]
    letters = [(letter, -9.0) for letter in "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    pieces = [("<unk>", 0.0), *whole, ("man", -3.0), ("she", -3.0), *letters]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return wrapped(backend, unk_token="<unk>")


def texts(tokenizer, ids):
    return [tokenizer.convert_ids_to_tokens(i) for i in ids]


def test_an_uncased_tokenizer_folds_the_forms():
    tokenizer = word_piece(lowercase=True)
    resolved = WordSet("w", {"f": ("She", "she"), "m": ("he",)}, (("she", "he"),)).resolve(tokenizer)
    assert texts(tokenizer, resolved.token_ids) == ["she", "he"]
    assert resolved.pairs == (resolved.token_ids,)
    assert resolved.shared == {resolved.token_ids[0]: ("She", "she")}


def test_a_cased_tokenizer_gives_each_form_a_class():
    tokenizer = word_piece(lowercase=False)
    resolved = WordSet("w", {"f": ("she",), "m": ("he",)}, (("she", "he"),)).resolve(tokenizer)
    assert set(texts(tokenizer, resolved.token_ids)) == {"she", "She", "he", "He"}
    assert {tuple(texts(tokenizer, pair)) for pair in resolved.pairs} == {("she", "he"), ("She", "He")}
    assert resolved.groups_of[resolved.pairs[0][0]] == ("f",)


def test_a_leading_space_marks_the_word_and_its_absence_a_piece():
    tokenizer = byte_level_bpe()
    resolved = WordSet("w", {"m": ("he", "man")}).resolve(tokenizer)
    assert set(texts(tokenizer, resolved.token_ids)) == {"Ġhe", "ĠHe", "He", "Ġman"} & {
        *texts(tokenizer, range(len(tokenizer)))
    }
    assert "man" in tokenizer.get_vocab()
    assert tokenizer.convert_tokens_to_ids("man") not in resolved.token_ids


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_sentence_piece_words_carry_their_mark(scheme):
    tokenizer = sentence_piece(scheme)
    resolved = WordSet("w", {"g": ("she", "man", "doctor")}).resolve(tokenizer)
    assert set(texts(tokenizer, resolved.token_ids)) == {"▁she", "▁She", "▁man"}
    assert resolved.multi_token == ("doctor",)


def test_words_of_several_tokens_are_reported_and_by_choice_represented():
    tokenizer = word_piece(lowercase=True)
    groups = {"f": ("she", "barmaid", "countrywoman"), "m": ("barman", "countryman", "xx")}
    words = WordSet("w", groups, (("barmaid", "barman"), ("countrywoman", "countryman")))
    skipped = words.resolve(tokenizer)
    assert texts(tokenizer, skipped.token_ids) == ["she"]
    assert skipped.multi_token == ("barmaid", "countrywoman", "barman", "countryman")
    assert skipped.unknown == ("xx",)
    first = words.resolve(tokenizer, multi_token="first")
    bar = tokenizer.convert_tokens_to_ids("bar")
    assert first.shared[bar] == ("barmaid", "barman")
    assert first.groups_of[bar] == ("f", "m")
    assert first.pairs == ()
    last = words.resolve(tokenizer, multi_token="last")
    assert [texts(tokenizer, pair) for pair in last.pairs] == [["##maid", "##man"], ["##woman", "##man"]]


def test_the_summary_is_one_line_that_says_what_is_missing():
    words = WordSet("w", {"g": ("she", "barmaid", "barman", "xx")})
    line = words.resolve(word_piece(lowercase=True)).summary()
    assert line == "1 words as 1 tokens; 2 of several tokens (barmaid, barman); 1 unknown to the tokenizer (xx)"
    assert (
        "1 tokens of more than one word (barmaid = barman)"
        in words.resolve(word_piece(lowercase=True), multi_token="first").summary()
    )


def test_no_known_word_is_an_error_that_names_the_set_and_the_fix():
    with pytest.raises(InputError, match=r"2 words of 'mine'.*--multi-token first"):
        WordSet("mine", {"g": ("barmaid", "xx")}).resolve(word_piece(lowercase=True))


@pytest.mark.parametrize("build", [lambda: word_piece(True), lambda: word_piece(False), byte_level_bpe, sentence_piece])
@pytest.mark.parametrize("multi_token", ["skip", "first", "last"])
def test_a_resolution_agrees_with_itself(build, multi_token):
    tokenizer = build()
    words = WordSet.builtin("fairness")
    resolved = words.resolve(tokenizer, multi_token=multi_token)
    assert list(resolved.token_ids) == sorted(set(resolved.token_ids))
    assert set(resolved.word_of) == set(resolved.groups_of) == set(resolved.token_ids)
    assert {i for pair in resolved.pairs for i in pair} <= set(resolved.token_ids)
    assert tokenizer.unk_token_id not in resolved.token_ids
    assert set(resolved.multi_token) | set(resolved.unknown) <= set(words.words)
    if multi_token == "skip":
        for token, word in resolved.word_of.items():
            piece = tokenizer.convert_ids_to_tokens(token).lstrip("Ġ▁")
            assert piece.lower() == word.lower()
    assert all(len(set(of)) > 1 for of in resolved.shared.values())


@pytest.mark.parametrize("name", BUILTIN)
def test_builtin_lists_are_clean(name):
    words = WordSet.builtin(name)
    assert len(words.words) > 90
    assert all(re.fullmatch(r"[^\W\d_]+(['-][^\W\d_]+)*", word) for word in words.words)
    assert {w for pair in words.pairs for w in pair} <= set(words.words)
    assert words.origin == "built-in"


def test_fairness_is_all_but_the_names():
    parts = [WordSet.builtin(n) for n in ("gender", "professions", "race", "religion")]
    everything = WordSet.builtin("fairness")
    assert set(everything.words) == {word for part in parts for word in part.words}
    assert set(everything.pairs) == {pair for part in parts for pair in part.pairs}
    assert everything.groups["religion/jewish"] == WordSet.builtin("religion").groups["jewish"]


@pytest.mark.parametrize("name", ["gender", "names"])
def test_both_sides_of_gender_are_apart(name):
    words = WordSet.builtin(name)
    assert set(words.groups) == {"female", "male"}
    assert set(words.groups["female"]) & set(words.groups["male"]) == set()
    assert len(words.pairs) >= {"gender": 150, "names": 200}[name]


def test_every_first_name_has_one_partner():
    names = WordSet.builtin("names")
    assert len(names.words) == 2 * len(names.pairs)


def test_professions_are_in_one_group_each():
    groups = WordSet.builtin("professions").groups
    assert sorted(groups) == ["female-stereotyped", "male-stereotyped", "neutral"]
    assert all(len(words) >= 40 for words in groups.values())
    assert sum(map(len, groups.values())) == len(WordSet.builtin("professions").words)


def test_counterparts_between_two_groups():
    religion = WordSet.builtin("religion")
    assert ("mosque", "church") in religion.counterparts("muslim", "christian")
    assert ("church", "mosque") in religion.counterparts("christian", "muslim")
    with pytest.raises(InputError, match="no pairs between 'sikh' and 'none'"):
        religion.counterparts("sikh", "none")
    with pytest.raises(InputError, match="no group 'moslem'"):
        religion.counterparts("moslem", "none")


def test_text_file(tmp_path):
    file = tmp_path / "own.txt"
    file.write_bytes(b"\xef\xbb\xbf# mine\r\n[f | m | n]\r\nshe\the\tthey # all\r\n[jobs]\r\n\r\nnurse\r\na b\r\n")
    words = WordSet.from_file(file)
    assert words.groups == {"f": ("she",), "m": ("he",), "n": ("they",), "jobs": ("nurse", "a b")}
    assert words.pairs == (("she", "he"), ("she", "they"), ("he", "they"))
    assert (words.name, words.origin) == ("own", str(file))


def test_pairs_without_a_heading_share_a_group(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("she\the\n")
    assert WordSet.from_file(str(file)) == WordSet("own", {"own": ("she", "he")}, (("she", "he"),), str(file))


@pytest.mark.parametrize(
    ("value", "groups"),
    [
        (["a", "b"], {"own": ("a", "b")}),
        ({"g": ["a"]}, {"g": ("a",)}),
        ({"groups": {"g": ["a", "b"]}, "pairs": [["a", "b"]]}, {"g": ("a", "b")}),
        ({"groups": ["a", "b"]}, {"own": ("a", "b")}),
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
        ("a.txt", "ok\n\tb\n", "line 2"),
        ("a.txt", "ok\n[g\n", "line 2"),
        ("a.txt", "[g | ]\na\n", "line 1"),
        ("a.txt", "# nothing\n", "no word"),
        ("a.json", "{", "line 1"),
        ("a.json", '{"g": ["ok", 1]}', "group 'g', word 2"),
        ("a.json", '{"g": "a"}', "group 'g'"),
        ("a.json", "3", "expected a list of words, found int"),
        ("a.json", '{"groups": {"g": ["a"]}, "pairs": [["a"]]}', "pair 1"),
        ("a.json", '{"groups": {"g": ["a"]}, "pairs": [["a", "b"]]}', "pair 1"),
        ("a.json", '{"groups": {"g": ["a"]}, "pairs": {"a": "b"}}', '"pairs"'),
        ("a.json", "[]", "no word"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.json", "1" * 10_000, "not valid JSON"),
    ],
)
def test_a_broken_list_names_file_and_place(tmp_path, name, content, said):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        WordSet.from_file(file)
    assert name in str(caught.value)


def test_a_missing_or_wrongly_encoded_list(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        WordSet.from_file(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("fiancée".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8 at byte 5"):
        WordSet.from_file(tmp_path / "latin.txt")


def test_load_takes_a_name_or_a_path(tmp_path):
    (tmp_path / "own.txt").write_text("she\n")
    assert WordSet.load(str(tmp_path / "own.txt")).words == ("she",)
    assert WordSet.load("race") == WordSet.builtin("race")
    with pytest.raises(InputError, match=r"Did you mean 'gender'\?.*fairness, gender, professions"):
        WordSet.load("gendre")
    with pytest.raises(InputError, match="professions"):
        WordSet.builtin("own")


WORDS = st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=4, unique=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(groups=st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), WORDS, min_size=1, max_size=3))
def test_a_list_written_as_text_or_json_is_read_back(tmp_path, groups):
    (tmp_path / "w.txt").write_text("".join(f"[{g}]\n" + "\n".join(ws) + "\n" for g, ws in groups.items()))
    (tmp_path / "w.json").write_text(json.dumps({"groups": groups}))
    wanted = {group: tuple(words) for group, words in groups.items()}
    assert WordSet.from_file(tmp_path / "w.txt").groups == wanted
    assert WordSet.from_file(tmp_path / "w.json").groups == wanted


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["groups", "pairs", "g"]), inner),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=120)
    | st.text(alphabet="ab[]|#\t\n ", max_size=40).map(str.encode)
    | JSON.map(lambda v: json.dumps(v).encode()),
    suffix=st.sampled_from([".txt", ".json"]),
)
def test_any_bytes_give_words_or_our_own_error(tmp_path, content, suffix):
    file = tmp_path / f"fuzz{suffix}"
    file.write_bytes(content)
    with contextlib.suppress(EquiframeError):
        assert WordSet.from_file(file).words
