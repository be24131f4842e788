"""Answers on disk: found again to the bit, never for another model, and no harm from a broken file."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace

import pytest
import torch

from equiframe.errors import RunError
from equiframe.models.adapter import forward_at
from equiframe.requests import Embedding, TokenLogProbs, TopTokens
from equiframe.scoring.engine import answer
from equiframe.scoring.store import AnswerStore

REQUESTS = [
    *(TokenLogProbs((2, i, i + 1, 3), (1, 2), (i, 7)) for i in range(5, 25)),
    *(Embedding((2, i, 3), "mean") for i in range(5, 15)),
    *(TopTokens((2, i, 3), 1, 4) for i in range(5, 15)),
    TokenLogProbs((2, 3), (), ()),
]


@pytest.fixture
def bert(masked_model):
    return masked_model


@pytest.fixture
def forwards(monkeypatch):
    """Number of forward passes so far."""
    count, forward = [], forward_at

    def counted(*args, **options):
        count.append(1)
        return forward(*args, **options)

    monkeypatch.setattr("equiframe.scoring.forward.forward_at", counted)
    return count


def test_a_second_run_computes_nothing_and_says_the_same(bert, tmp_path, forwards):
    expected = answer(bert, REQUESTS, token_budget=32)
    needed = len(forwards)
    for store in (AnswerStore(tmp_path / "a" / "store.sqlite", bert.fingerprint()) for _ in range(3)):
        assert answer(bert, REQUESTS, token_budget=32, store=store) == expected
        store.close()
    assert len(forwards) == 2 * needed


def test_a_killed_run_goes_on_at_the_next_batch(bert, tmp_path, forwards, monkeypatch):
    expected = answer(bert, REQUESTS, token_budget=32)
    needed = len(forwards)
    store, put = AnswerStore(tmp_path / "store.sqlite", bert.fingerprint()), AnswerStore.put

    def killed(self, key, answers):
        put(self, key, answers)
        if len(forwards) == needed + 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(AnswerStore, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        answer(bert, REQUESTS, token_budget=32, store=store)
    assert answer(bert, REQUESTS, token_budget=32, store=AnswerStore(store.path, bert.fingerprint())) == expected
    assert len(forwards) == 2 * needed


def test_other_weights_other_answers(bert, tmp_path):
    first = answer(bert, REQUESTS, store=AnswerStore(tmp_path / "store.sqlite", bert.fingerprint()))
    with torch.no_grad():
        bert.model.get_input_embeddings().weight[5:25] += torch.randn(1)
    second = answer(bert, REQUESTS, store=AnswerStore(tmp_path / "store.sqlite", bert.fingerprint()))
    assert second == answer(bert, REQUESTS) != first


def test_another_batch_is_computed_anew(bert, tmp_path, forwards):
    store = AnswerStore(tmp_path / "store.sqlite", bert.fingerprint())
    answer(bert, REQUESTS, token_budget=32, store=store)
    before = len(forwards)
    answer(bert, REQUESTS, token_budget=64, store=store)
    assert len(forwards) > before


def test_each_model_has_its_own_file_in_the_cache(bert, tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIFRAME_CACHE", str(tmp_path))
    with torch.no_grad():
        paths = {
            AnswerStore.of(bert.fingerprint()).path,
            AnswerStore.of(replace(bert, name="renamed").fingerprint()).path,
        }
        bert.model.get_input_embeddings().weight[5] += 1
        paths.add(AnswerStore.of(bert.fingerprint()).path)
    assert len(paths) == 2
    assert all(path.parent == tmp_path / "answers" and path.exists() for path in paths)


def test_a_damaged_file_is_begun_anew(bert, tmp_path):
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.warns(UserWarning, match="damaged"):
        store = AnswerStore(path, bert.fingerprint())
    answer(bert, REQUESTS, store=store)
    assert sqlite3.connect(path).execute("SELECT count(*) FROM batches").fetchone()[0] > 0


@pytest.mark.parametrize("damage", ["page", "cell"])
def test_damage_found_later_is_begun_anew(damage, bert, tmp_path):
    path = tmp_path / "store.sqlite"
    whole = AnswerStore(path, bert.fingerprint())
    expected = answer(bert, REQUESTS, store=whole)
    whole.close()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        if damage == "cell":
            database.execute("UPDATE batches SET numbers = x'00'")
    if damage == "page":
        content = bytearray(path.read_bytes())
        content[4096:4196] = bytes(100)  # the first page holds the schema, the second the answers
        path.write_bytes(content)
    store = AnswerStore(path, bert.fingerprint())
    with pytest.warns(UserWarning, match="damaged"):
        assert answer(bert, REQUESTS, store=store) == expected
    store.close()
    with contextlib.closing(AnswerStore(path, bert.fingerprint())) as again:
        assert answer(bert, REQUESTS, store=again) == expected


def test_a_folder_that_cannot_be_written_is_named(bert, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="EQUIFRAME_CACHE"):
        AnswerStore(tmp_path / "file" / "store.sqlite", bert.fingerprint())
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(RunError, match="EQUIFRAME_CACHE"):
        AnswerStore(tmp_path / "folder.sqlite", bert.fingerprint())
