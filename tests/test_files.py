"""Files that are there whole or not at all."""

from __future__ import annotations

import pytest

from equiframe.files import written_whole


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_replaced_at_the_end_alone(tmp_path, shared):
    path = tmp_path / "a.json"
    path.write_text("old")
    with written_whole(path, shared=shared) as scratch:
        scratch.write_text("new")
        assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), written_whole(path, shared=shared) as scratch:
        scratch.write_text("half")
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "new"


def test_processes_that_write_one_file_do_not_meet(tmp_path, monkeypatch):
    scratches = []
    for process in (1, 2):
        monkeypatch.setattr("os.getpid", lambda process=process: process)
        with written_whole(tmp_path / "a", shared=True) as scratch:
            scratch.write_text("whole")
            scratches.append(scratch)
    assert len(set(scratches)) == 2
