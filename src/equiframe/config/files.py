"""A configuration from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias, TypeVar, overload

import yaml

from equiframe.config.study import StudyConfig
from equiframe.config.verbs import AuditConfig, CompareConfig, DebiasConfig, EvaluateConfig
from equiframe.errors import DataError, InputError
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
    """The configuration that a file says.

    Args:
        path: a YAML file: options by name, and the verb under ``verb``.
        kind: the configuration that it has to be; such a file need not say its verb.

    Raises:
        DataError: not readable.
        InputError: not YAML, no verb, or an option is unknown, missing or does not fit; it is named.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"larger than {_LARGEST} bytes, which no configuration is", path=path)
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", path=path) from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: give options by name, one in each line, such as model: builtin:mini-mlm")
    allowed = _KINDS if kind is None else {kind.verb: kind}
    said = found.pop("verb", None if kind is None else kind.verb)
    if said not in allowed:
        found_verb = "it names no verb" if said is None else f"it names the verb {said!r}"
        raise InputError(f"{path}: {found_verb}: give verb: {' or '.join(allowed)}")
    try:
        return validated(allowed[said], found, of=said)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
