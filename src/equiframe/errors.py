"""Every error that equiframe raises on purpose. The command prints one without a traceback and exits with 2."""

from __future__ import annotations

from pathlib import Path


class EquiframeError(Exception):
    """Something the user can mend. The message says what was found, what was expected, and the mend."""


class InputError(EquiframeError, ValueError):
    """An argument, a tensor or an option is not what the function takes."""


class CannotScoreError(InputError):
    """A model cannot be scored on a benchmark. The message says why, as a record that leaves it out repeats it."""


class DataError(EquiframeError):
    """A file is missing, malformed or not the one that was meant.

    Args:
        message: what stands there, what was expected, and the mend.
        path: the file.
        line: its line, counted from 1, where one can be named.
    """

    def __init__(self, message: str, *, path: Path | str | None = None, line: int | None = None) -> None:
        place = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        super().__init__(place + message)
        self.path, self.line = path, line


class MissingDataError(DataError):
    """Data is nowhere to be found. The message names where it was looked for, and every way to get it."""


class ModelError(EquiframeError):
    """A model cannot be found, loaded or used: wrong architecture, no output embedding, not-a-number answers."""


class RunError(EquiframeError):
    """A run cannot be written or read: folder in use, disk full, record of another version."""


class BusyError(RunError):
    """Another process works on the same folder."""
