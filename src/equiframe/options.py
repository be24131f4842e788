"""Options given as text or as values, made into the dataclass that holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from numbers import Integral, Real
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
        if isinstance(raised := first.get("ctx", {}).get("error"), InputError):
            raise raised from None
        *inside, last = [of, *map(str, first["loc"])]
        if first["type"] == "unexpected_keyword_argument":
            raise InputError(f"{'.'.join(inside)} has no option {last!r}") from None
        where = ".".join([*inside, last])
        raise InputError(f"{where}: {first['msg']}, found {first['input']!r}") from None


SEEDS = 2**32 - 1
"""The largest seed that every generator takes."""
LARGEST = 3.4028234663852886e38
"""The largest number of single precision, in which models compute."""


def check_range(
    name: str,
    value: Any,
    *,
    whole: bool = False,
    zero: bool = True,
    most: float = LARGEST,
    otherwise: str = "",
) -> None:
    """Refuse a number that an option cannot have; None stands for one that was not given.

    Args:
        name: of the option, for the message.
        value: what was given.
        whole: whether it has to be an integer.
        zero: whether it may be 0; it is never below.
        most: what it may not be above.
        otherwise: what may be given in its place, for the message.

    Raises:
        InputError: no number, not finite, out of range, or not whole.
    """
    if value is None:
        return
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= most or (value == 0 and not zero):
        kind = "a whole number" if whole else "a number"
        low = "of 0 or more" if zero else "above 0"
        high = f", at most {most:g}" if most < LARGEST or (is_number and value > most) else ""
        raise InputError(f"{name} {value}: give {kind} {low}{high}{otherwise}")
