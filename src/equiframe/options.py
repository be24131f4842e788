"""Options given as text or as values, made into the dataclass that holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

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
        bounded = most < LARGEST or (is_number and value > most)
        high = f", at most {most if isinstance(most, int) else format(most, 'g')}" if bounded else ""
        raise InputError(f"{name} {value}: give {kind} {low}{high}{otherwise}")


def check_choices(options: Any) -> None:
    """Refuse a value of a dataclass that is none of those its ``Literal`` type names.

    Raises:
        InputError: names the option, and what it may be.
    """
    for name, kind in get_type_hints(type(options)).items():
        check_choice(f"--{name.replace('_', '-')}", getattr(options, name), kind)


def check_choice(name: str, value: Any, kind: Any) -> None:
    """Refuse a value that is none of those a ``Literal``, or a union of one with None, names.

    Raises:
        InputError: says what it may be.
    """
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    literals = [part for part in parts if get_origin(part) is Literal]
    if not literals or len(literals) + (type(None) in parts) < len(parts):
        return  # something else is allowed too
    allowed = [value for part in literals for value in get_args(part)]
    if value not in allowed and not (value is None and type(None) in parts):
        raise InputError(f"{name} {value}: choose {', '.join(map(str, allowed))}")


def check_several(name: str, values: Any) -> None:
    """Refuse one string where several are expected: it would be read letter by letter.

    Raises:
        InputError: says to put it in a list.
    """
    if isinstance(values, str):
        raise InputError(f"{name}: expected several strings, found one, {values!r:.60}: put it in a list")


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
