"""What every configuration class shares: checked fields, and how the command line shows and reads them."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_type_hints

import yaml
from cyclopts import Group, Parameter, Token
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError, WrapValidator

from equiframe.errors import InputError
from equiframe.options import SEEDS, one_string, out_of_range


@dataclass(frozen=True)
class Options:
    """A group of options. Python, the command line and files all produce the same checked values.

    Raises:
        InputError: a value does not fit; the message names the option.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, adapter in _adapters(kind).items():
            try:
                object.__setattr__(self, name, adapter.validate_python(getattr(self, name)))
            except ValidationError as error:
                raise InputError(misfit(spelling(kind, name), error)) from None

    def given(self, *, without: Collection[str] = ()) -> list[str]:
        """The options that differ from their defaults, as the command line spells them, except some fields."""
        options = (option for option in dataclasses.fields(self) if option.name not in without)
        return [spelling(type(self), o.name) for o in options if getattr(self, o.name) != default_of(o)]

    def plain(self) -> dict[str, Any]:
        """All options and the verb, in the form a record stores: paths as text, tuples as lists."""
        verb = {"verb": self.verb} if hasattr(self, "verb") else {}
        found: dict[str, Any] = json.loads(json.dumps({**verb, **dataclasses.asdict(self)}, default=str))
        return found


def default_of(option: dataclasses.Field[Any]) -> Any:
    """The default of a field; ``dataclasses.MISSING`` if there is none."""
    return option.default if option.default_factory is dataclasses.MISSING else option.default_factory()


def misfit(option: str, error: ValidationError) -> str:
    """The message for a value that does not fit: what was found, and what is allowed."""
    first = error.errors()[0]
    found, kind = first["input"], first["type"]
    if kind == "tuple_type" and isinstance(found, str):
        return str(one_string(option, found))
    if kind == "literal_error":
        said = "choose " + first["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
    else:
        said = first["msg"].removeprefix("Value error, ").replace("Input", "it", 1)
    return f"{option} {found}: {said}"


def spelling(kind: type[Any], name: str) -> str:
    """The name of a field's option on the command line."""
    annotated = getattr(get_type_hints(kind, include_extras=True)[name], "__metadata__", ())
    named = [name for entry in annotated if isinstance(entry, Parameter) for name in entry.name or ()]
    return named[-1] if named else f"--{name.replace('_', '-')}"


@functools.cache
def _adapters(kind: type[Any]) -> Mapping[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: TypeAdapter(hints[field.name]) for field in dataclasses.fields(kind)}


def number(**limits: Any) -> WrapValidator:
    """A number within limits, given as a number or as text; see :func:`equiframe.options.out_of_range`."""

    def checked(value: Any, parse: Callable[[Any], Any]) -> Any:
        try:
            number = value if isinstance(value, bool) else parse(value)
        except ValidationError:
            number = value
        if problem := out_of_range(number, **limits):
            raise ValueError(problem)
        return number

    return WrapValidator(checked)


_AS_WRITTEN = Parameter(converter=lambda _, tokens: tokens[0].value)  # cyclopts would round 1.5 to a whole number

Text: TypeAlias = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
Count: TypeAlias = Annotated[int, number(whole=True), _AS_WRITTEN]
Positive: TypeAlias = Annotated[int, number(whole=True, zero=False), _AS_WRITTEN]
PositiveReal: TypeAlias = Annotated[float, number(zero=False), _AS_WRITTEN]
NonNegative: TypeAlias = Annotated[float, number(), _AS_WRITTEN]
Weight: TypeAlias = Annotated[Annotated[float, number(otherwise=", or auto")] | Literal["auto"], _AS_WRITTEN]
Share: TypeAlias = Annotated[float, number(zero=False, most=1), _AS_WRITTEN]
Decay: TypeAlias = Annotated[float, number(below=1), _AS_WRITTEN]
Seed: TypeAlias = Annotated[int, number(whole=True, most=SEEDS), _AS_WRITTEN]
Port: TypeAlias = Annotated[int, number(whole=True, most=65535), _AS_WRITTEN]


def _panel(title: str, position: int) -> Parameter:
    return Parameter(group=Group(title, sort_key=position))


MODEL = _panel("Model", 1)
METHOD = _panel("Method", 2)
TRAINING = _panel("Fine-tuning", 3)
AUDIT = _panel("Audit", 4)
SCORING = _panel("Scoring", 5)
GENERATION = _panel("Generation", 6)
OUTPUT = _panel("Input and output", 7)
RARE = _panel("Rarely needed", 8)


def _names(_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    parts = (part.strip() for token in tokens for part in token.value.split(","))
    return tuple(part for part in parts if part)


def _settings(_: Any, tokens: Sequence[Token]) -> dict[str, str]:
    pairs = [token.value.partition("=") for token in tokens]
    for token, (name, sign, _value) in zip(tokens, pairs, strict=True):
        if not name or not sign:
            raise InputError(f"{token.keyword} {token.value}: write it as NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _joined(names: tuple[str, ...]) -> str:
    return ",".join(names)


def _yaml(option: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(
            f"{option} {text}: this is not valid YAML. Give a value such as auto, 0 or '{{cpu: 20GB}}'"
        ) from None


def _yaml_settings(_: Any, tokens: Sequence[Token]) -> dict[str, Any]:
    keyword = tokens[0].keyword
    return {name: _yaml(f"{keyword} {name}", value) for name, value in _settings(_, tokens).items()}


NAMES = Parameter(converter=_names, n_tokens=1, show_default=_joined)
"""Several names in one word, separated by commas."""
SETTINGS = Parameter(converter=_settings, n_tokens=-1, accepts_keys=False, show_default=False)
"""NAME=VALUE; can be repeated."""
YAML = Parameter(converter=lambda _, tokens: _yaml(tokens[0].keyword, tokens[0].value), n_tokens=1, accepts_keys=False)
"""A value in YAML."""
YAML_SETTINGS = Parameter(converter=_yaml_settings, n_tokens=-1, accepts_keys=False, show_default=False)
"""NAME=VALUE with the value in YAML; can be repeated."""
FLAT = Parameter(name="*")
"""A group whose options appear next to those of the verb."""
READ = Parameter(negative=(), allow_repeating=True)
"""How every option is read: there is no --no-OPTION, and the last value wins if an option is repeated."""
SILENT = Parameter(show_default=False)
"""An option whose default is not shown."""


def named(name: str) -> Parameter:
    """An option whose name on the command line differs from the name of its field."""
    return Parameter(name=name)


UNSEEN = Parameter(parse=False)
"""A field that exists in files and in Python, but not on the command line."""
