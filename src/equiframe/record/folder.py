"""The folder of a run, which is written completely or not at all.

A run works in ``OUT.partial`` and renames it to ``OUT`` when it ends, so that a folder without that suffix is complete.
The files in ``OUT.partial`` let a stopped fine-tuning continue.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from equiframe.errors import BusyError, RunError
from equiframe.files import written_whole

_MARK = ".identity.json"  # identifies the run that works in the folder
_WORTH_KEEPING = ("checkpoints/*/complete", "*/metrics.json")  # of fine-tuning; for a demo its finished runs


def file_name(name: str) -> str:
    """A benchmark's name as a file name: ``crows_pairs:changed`` becomes ``crows_pairs-changed``."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-")


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and machines: indented, keys in the given order, without NaN or infinity.

    Raises:
        RunError: a number is not finite.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise RunError(f"{path.name}: a number is not finite ({error}); please report this as a fault") from error
    path.write_text(text + "\n", encoding="utf-8")


def partial_folder(out: Path | str) -> Path:
    """The folder in which a run works until it is finished."""
    out = Path(out).resolve()
    return out.with_name(out.name + ".partial")


@contextlib.contextmanager
def run_folder(out: Path | str, identity: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Open a working folder next to ``out`` that becomes ``out`` if the block ends without an error.

    Args:
        out: the folder of the run; it must not exist.
        identity: see :func:`claim`; None if the block calls it later, when everything that decides the run is known.

    Raises:
        BusyError: another process works on ``out``.
        RunError: ``out`` exists, another run left something in the working folder, or writing fails.
    """
    out = Path(out).resolve()
    work = partial_folder(out)
    lock = FileLock(out.with_name(out.name + ".lock"), blocking=False)
    try:
        _refuse_existing(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with lock:
            _refuse_existing(out)  # the process that had the lock may have created it
            work.mkdir(exist_ok=True)
            try:
                if identity is not None:
                    claim(work, identity)
                yield work
                (work / _MARK).unlink(missing_ok=True)
                work.replace(out)
            finally:
                if work.exists() and {path.name for path in work.iterdir()} <= {_MARK}:
                    shutil.rmtree(work)  # nothing to continue from
                with contextlib.suppress(PermissionError):  # Windows keeps a file that is open
                    Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        raise BusyError(f"another process is writing {out}: wait for it, or choose another --out") from None
    except OSError as error:
        if error.errno is None:
            raise
        place = Path(error.filename or out)
        if place.is_relative_to(out.parent) or out.is_relative_to(place):
            raise RunError(f"cannot write the run to {out}: {error.strerror}") from error
        raise RunError(f"{place}: {error.strerror}") from error


def claim(work: Path, identity: Mapping[str, Any]) -> None:
    """Claim a working folder for this run, before anything in it is read.

    If an interrupted run with the same identity left files there, they are kept. Files of another run are removed
    if nothing could continue from them.

    Args:
        work: the folder from :func:`run_folder`.
        identity: everything that the content depends on: options, and hashes of the model and of the files read.

    Raises:
        RunError: another run left complete checkpoints or finished parts there; the error says how it differs.
    """
    mark = work / _MARK
    wanted = json.loads(json.dumps(identity, default=str))
    before = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else None
    if before == wanted:
        return
    if next((path for pattern in _WORTH_KEEPING for path in work.glob(pattern)), None) is not None:
        raise RunError(
            f"{work} holds the work of a stopped run with other options ({_difference(before or {}, wanted)}):"
            " give the same options to continue, give another --out, or delete that folder to start again"
        )
    shutil.rmtree(work)
    work.mkdir()
    with written_whole(mark) as scratch:
        write_json(scratch, wanted)


def _difference(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The differences of two identities, in words; hashes are not shown."""
    said = []
    for name in dict.fromkeys([*before, *wanted]):
        old, new = before.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            said += [_changed(f"{name} {key}", old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new])]
        else:
            said.append(_changed(name, old, new))
    return ", ".join(filter(None, said))


def _changed(name: str, old: Any, new: Any) -> str:
    if old == new:
        return ""
    is_hash = any(isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) for value in (old, new))
    return f"another {name}" if is_hash else f"{name} {new!r:.60}, it was {old!r:.60}"


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise RunError(f"{out} exists: choose another --out, or remove it first")
