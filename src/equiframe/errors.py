"""Every error that equiframe raises on purpose. The command prints it without a traceback and exits with code 2."""

from __future__ import annotations

from pathlib import Path


class EquiframeError(Exception):
    """A problem that the user can fix. The message says what was found, what was expected and what to do."""


class InputError(EquiframeError, ValueError):
    """An argument, a tensor or an option is not valid."""


class CannotScoreError(InputError):
    """A model cannot be scored on a benchmark. The message gives the reason, which a record without it repeats."""


class DataError(EquiframeError):
    """A file is missing, malformed or not the expected one.

    Args:
        message: what was found, what was expected, and what to do.
        path: the file.
        line: the line, counted from 1, if the problem is in one line.
    """

    def __init__(self, message: str, *, path: Path | str | None = None, line: int | None = None) -> None:
        place = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        super().__init__(place + message)
        self.path, self.line = path, line


class MissingDataError(DataError):
    """Data was not found. The message names the places that were searched and every way to get it."""


class ModelError(EquiframeError):
    """A model cannot be found, loaded or used: wrong architecture, no output embedding, or invalid output."""


class RunError(EquiframeError):
    """A run cannot be written or read: the folder is in use, the disk is full, or the record has another version."""


class BusyError(RunError):
    """Another process is using the same folder."""
