"""Options, given as text or as values, checked and put into the dataclass that holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from equiframe.errors import InputError

Options = TypeVar("Options")


def validated(kind: type[Options], values: Mapping[str, Any], *, of: str) -> Options:
    """Make a dataclass from options by name; options that are not given keep their defaults.

    Args:
        kind: the dataclass.
        values: its options, as values or as text.
        of: the owner of the options, for the message.

    Raises:
        InputError: an option is unknown, and the message lists the available ones; or a value is not valid.
    """
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise InputError(f"{of} has no option {unknown[0]!r}. Available: {', '.join(known) or 'none'}")
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
"""The largest seed that every generator accepts."""
LARGEST = 3.4028234663852886e38
"""The largest number in single precision, in which models compute."""


def check_range(name: str, value: Any, **limits: Any) -> None:
    """Refuse a number that an option cannot have; None means that the option was not given.

    Args:
        name: name of the option, for the message.
        value: the value that was given.
        limits: see :func:`out_of_range`.

    Raises:
        InputError: the value is not a number, not finite, out of range, or not whole.
    """
    if value is not None and (problem := out_of_range(value, **limits)):
        raise InputError(f"{name} {value}: {problem}")


def out_of_range(
    value: Any,
    *,
    whole: bool = False,
    zero: bool = True,
    below: float | None = None,
    most: float = LARGEST,
    otherwise: str = "",
) -> str | None:
    """What to give instead of a number that does not fit; None if the number fits.

    Args:
        value: the value that was given.
        whole: whether the number must be an integer.
        zero: whether the number may be 0; negative numbers never fit.
        below: exclusive upper limit.
        most: inclusive upper limit.
        otherwise: alternatives to a number, for the message.
    """
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    fits = is_number and 0 <= value <= most and (value != 0 or zero) and (below is None or value < below)
    if fits:
        return None
    kind = "a whole number" if whole else "a number"
    low = "of 0 or more" if zero else "above 0"
    bounded = most < LARGEST or (is_number and value > most)
    high = f", at most {most if isinstance(most, int) else format(most, 'g')}" if bounded else ""
    high += "" if below is None else f" and below {below:g}"
    return f"give {kind} {low}{high}{otherwise}"


def check_choice(name: str, value: Any, kind: Any) -> None:
    """Refuse a value that is not among those of a ``Literal``, or of a union of one with None.

    Raises:
        InputError: the value is not allowed; the message lists the allowed ones.
    """
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    literals = [part for part in parts if get_origin(part) is Literal]
    if not literals or len(literals) + (type(None) in parts) < len(parts):
        return  # something else is allowed too
    allowed = [value for part in literals for value in get_args(part)]
    if value not in allowed and not (value is None and type(None) in parts):
        raise InputError(f"{name} {value}: choose {', '.join(map(str, allowed))}")


def check_several(name: str, values: Any) -> None:
    """Refuse one string where several are expected, because it would be read letter by letter.

    Raises:
        InputError: the value is a string; the message says to put it in a list.
    """
    if isinstance(values, str):
        raise one_string(name, values)


def one_string(name: str, value: str) -> InputError:
    """The error for one string where several are expected."""
    return InputError(f"{name}: expected several strings, found one, {value!r:.60}. Put it in a list")


def first_line(error: Exception) -> str:
    """The message of an error, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
