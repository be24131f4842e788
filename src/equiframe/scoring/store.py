"""A store of answers on disk, so that an interrupted run resumes, and no batch is computed twice."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
import warnings
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np

from equiframe.cache import cache_folder
from equiframe.errors import RunError
from equiframe.requests import Answer

_WAIT = 60.0  # seconds for another process to finish writing


class AnswerStore:
    """Answers of whole batches, keyed by what was computed: the model, how it computes, and the batch itself.

    A batch is found only if all its rows and requests are the same. Stored answers are therefore bit for bit equal to
    computed ones, and a run that was killed gives the same numbers when it resumes. Each batch is
    committed when it is done. Several processes may use one store.

    Args:
        path: SQLite file; it is created if it is missing.
        fingerprint: fingerprint of the model that gave the answers, in any precision. It must not change while the
            store is in use.

    Raises:
        RunError: the file cannot be written.
    """

    @classmethod
    def of(cls, fingerprint: str) -> AnswerStore:
        """A model's own store in :func:`equiframe.cache.cache_folder`."""
        return cls(cache_folder() / "answers" / f"{fingerprint}.sqlite", fingerprint)

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._fingerprint = fingerprint
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._open()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the message may quote damaged text
            if isinstance(error, sqlite3.OperationalError):
                raise RunError(f"{path}: {error}; set EQUIFRAME_CACHE to a folder that can be written") from error
            self._start_again(error)
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}; set EQUIFRAME_CACHE to a folder that can be written") from error

    def _start_again(self, error: Exception) -> None:
        warnings.warn(f"{self.path} is damaged ({error}): starting again", stacklevel=3)
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        with contextlib.ExitStack() as undo:
            database = sqlite3.connect(self.path, timeout=_WAIT)
            undo.callback(database.close)
            _write_ahead(database)
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS batches"
                " (key BLOB PRIMARY KEY, lengths BLOB NOT NULL, numbers BLOB NOT NULL) WITHOUT ROWID"
            )
            database.commit()
            undo.pop_all()
        return database

    def key(self, how: tuple[str, ...], batch: Hashable) -> bytes:
        """The key of a batch: a digest of the fingerprint, of how the model computes, and of the batch's repr."""
        computed = (self._fingerprint, *how)
        return hashlib.sha256(f"{computed!r}\n{batch!r}".encode()).digest()

    def get(self, key: bytes) -> list[Answer] | None:
        """Return the answers of a batch in order, None if they are not stored; a damaged file is replaced."""
        try:
            found = self._database.execute("SELECT lengths, numbers FROM batches WHERE key = ?", (key,)).fetchone()
            if found is None:
                return None
            numbers = np.frombuffer(found[1], dtype="<f4")
            ends = np.cumsum(np.frombuffer(found[0], dtype="<i4"))
            if not len(ends) or ends[-1] != len(numbers):
                raise ValueError("an answer is incomplete")
        except (sqlite3.DatabaseError, TypeError, ValueError) as error:
            self.close()
            self._start_again(error)
            return None
        return [tuple(part.tolist()) for part in np.split(numbers, ends[:-1])]

    def put(self, key: bytes, answers: Sequence[Answer]) -> None:
        """Store the answers of a batch, which are float32 numbers.

        Raises:
            RunError: the file cannot be written.
        """
        lengths = np.array([len(answer) for answer in answers], dtype="<i4")
        numbers = np.array([value for answer in answers for value in answer], dtype="<f4")
        try:
            with self._database:
                self._database.execute(
                    "INSERT OR REPLACE INTO batches VALUES (?, ?, ?)", (key, lengths.tobytes(), numbers.tobytes())
                )
        except sqlite3.DatabaseError as error:
            raise RunError(f"{self.path}: {error}; make room, or set EQUIFRAME_CACHE to another folder") from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _write_ahead(database: sqlite3.Connection) -> None:
    """Switch to write-ahead logging; SQLite does not wait for another process that does the same."""
    until = time.monotonic() + _WAIT
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return
