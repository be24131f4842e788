"""Classes that users provide, named as ``package.module:Class`` or announced by a package as entry points."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import traceback
from pathlib import Path
from typing import Any

from equiframe.errors import InputError


def entry_points(group: str) -> dict[str, str]:
    """The classes that installed packages announce: ``package.module:Class`` by name.

    Args:
        group: ``equiframe.benchmarks`` or ``equiframe.methods``.
    """
    return {entry.name: entry.value for entry in importlib.metadata.entry_points(group=group)}


def is_place(text: str) -> bool:
    """Whether a text names a class as ``package.module:Class``, and not a benchmark with a variant."""
    module, sign, _ = text.partition(":")
    parts = module.split(".")
    if not sign or not all(part.isidentifier() for part in parts):
        return False
    return len(parts) > 1 or importlib.util.find_spec(module) is not None


def load_class(place: str, kinds: tuple[type, ...]) -> Any:
    """The class at ``package.module:Class``.

    Args:
        place: the place of the class.
        kinds: the class must be a subclass of one of these.

    Raises:
        InputError: the module or class does not exist, the module has an error (the message names its file and line),
            or the class is of another kind.
    """
    name, _, attribute = place.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise InputError(_failure(place, error)) from error
        raise InputError(
            f"{place}: there is no module {error.name!r}. Install its package, or add its folder to PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise InputError(_failure(place, error)) from error
    found = getattr(module, attribute, None)
    names = " or ".join(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    if found is None:
        there = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, kinds)]
        near = difflib.get_close_matches(attribute, there, n=1)
        meant = f"Did you mean {near[0]!r}?" if near else f"Give the name of a subclass of {names}"
        raise InputError(f"{place}: {module.__file__} has no class {attribute!r}. {meant}")
    if not (isinstance(found, type) and issubclass(found, kinds)):
        raise InputError(f"{place}: {attribute} is not a subclass of {names}. Derive it from one of these")
    return found


def _failure(place: str, error: BaseException) -> str:
    """The problem, with the file and the line."""
    if isinstance(error, SyntaxError):
        file, line = error.filename, error.lineno
    else:
        _, *frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        folder = Path(frames[0].filename).parent  # of the user's code; it may have called that of others
        mine = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
        file, line = mine[-1].filename, mine[-1].lineno
    reason = str(error.msg if isinstance(error, SyntaxError) else error).strip().splitlines()
    said = ": ".join([type(error).__name__, *reason[:1]])
    return f"{place} cannot be imported: {file}, line {line}: {said}"
