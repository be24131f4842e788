"""Reads a configuration from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias, TypeVar, overload

from equiframe.config.study import StudyConfig
from equiframe.config.verbs import AuditConfig, CompareConfig, DebiasConfig, EvaluateConfig
from equiframe.errors import DataError, InputError
from equiframe.files import parse_yaml
from equiframe.options import validated

FileConfig: TypeAlias = AuditConfig | EvaluateConfig | DebiasConfig | CompareConfig | StudyConfig
Config = TypeVar("Config", AuditConfig, EvaluateConfig, DebiasConfig, CompareConfig, StudyConfig)
_KINDS: dict[str, type[Any]] = {
    kind.verb: kind for kind in (AuditConfig, EvaluateConfig, DebiasConfig, CompareConfig, StudyConfig)
}
_LARGEST = 1 << 20  # bytes


@overload
def read_config(path: Path) -> FileConfig: ...


@overload
def read_config(path: Path, *, kind: type[Config]) -> Config: ...


def read_config(path: Path, *, kind: type[Any] | None = None) -> Any:
    """Read a configuration from a file.

    Args:
        path: a YAML file with options by name, and the verb under ``verb``.
        kind: the configuration class that the file must describe; the file may then omit ``verb``.

    Raises:
        DataError: the file cannot be read, is not YAML, or has a key twice.
        InputError: the file has no verb, or an option is unknown, missing or invalid; the message names it.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"this file is larger than {_LARGEST} bytes, too large for a configuration", path=path)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the file cannot be read ({error})", path=path) from error
    found, _ = parse_yaml(text, path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected one option per line, such as model: builtin:mini-mlm")
    allowed = _KINDS if kind is None else {kind.verb: kind}
    said = found.pop("verb", None if kind is None else kind.verb)
    if not isinstance(said, str) or said not in allowed:
        found_verb = "the verb is missing" if said is None else f"{said!r} is not a verb that fits here"
        raise InputError(f"{path}: {found_verb}. Add a line such as verb: {' or '.join(allowed)}")
    try:
        return validated(allowed[said], found, of=said)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
