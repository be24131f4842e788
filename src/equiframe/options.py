"""Options given as text or as values, made into the dataclass that holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from equiframe.errors import InputError

Options = TypeVar("Options")


def validated(kind: type[Options], values: Mapping[str, Any], *, of: str) -> Options:
    """A dataclass from its options by name; those not given keep their defaults.

    Args:
        kind: the dataclass.
        values: its options, as values or as text.
        of: whose options they are, for the message.

    Raises:
        InputError: an unknown option, with those there are; or a value that does not fit.
    """
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise InputError(f"{of} has no option {unknown[0]!r}: there are {', '.join(known) or 'none'}")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([of, *map(str, first["loc"])])
        raise InputError(f"{where}: {first['msg']}, found {first['input']!r}") from None
