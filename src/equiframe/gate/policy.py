"""The policy of a gate, and the YAML file that contains it."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from equiframe.benchmarks import load_benchmark
from equiframe.data import Bias, read_text
from equiframe.errors import DataError, InputError
from equiframe.files import parse_yaml
from equiframe.record import COLLAPSE, CONTEXTS

_LARGEST = 1 << 20  # bytes of a file
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def _canonical(name: str) -> str:
    """A benchmark's name, as in records.

    Raises:
        InputError: the name is unknown, or is not written as in records.
    """
    if name.startswith(f"{CONTEXTS}:"):
        known = [f"{CONTEXTS}:{bias}" for bias in get_args(Bias)]
        if name not in known:
            raise InputError(f"no contexts {name!r}. Available: {', '.join(known)}")
    elif not name.startswith(f"{COLLAPSE}:") and (spec := load_benchmark(name).spec) != name:
        raise InputError(f"{name}: write {spec}")
    return name


_Benchmark = Annotated[str, AfterValidator(_canonical)]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Read):
    """One rule: a measure, and the limit for its whole interval, either ``within`` or ``no_worse_by``.

    Args:
        benchmark: name with variant, such as ``crows_pairs:changed``; or ``collapse:WORDS`` or ``contexts:BIAS``, for
            audited words or contexts.
        measure: key of the measure, such as ``gender.metric``.
        within: largest allowed distance of the measure from its ideal, in its own unit, above 0.
        no_worse_by: largest allowed worsening since the earlier run, in the measure's unit, 0 or more.
    """

    benchmark: _Benchmark
    measure: str
    within: Annotated[_Number, Field(gt=0)] | None = None
    no_worse_by: Annotated[_Number, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _has_one_limit(self) -> Rule:
        if (self.within is None) == (self.no_worse_by is None):
            raise InputError("give the rule either within or no_worse_by")
        return self

    def __str__(self) -> str:
        limit = (
            f"within {self.within:g} of its ideal"
            if self.within is not None
            else f"at most {self.no_worse_by:g} worse than before"
        )
        return f"{self.benchmark} {self.measure}: {limit}"


class Policy(_Read):
    """The conditions that a run must meet to pass.

    Args:
        rules: one or more rules; all of them must pass.
        required: benchmarks that the run must have measured.
        fewest_items: minimum number of items of an interval; with fewer, a rule is not judged.
    """

    rules: tuple[Rule, ...] = Field(min_length=1)
    required: tuple[_Benchmark, ...] = ()
    fewest_items: int = Field(30, ge=2, strict=True)

    @classmethod
    def read(cls, path: Path | str) -> Policy:
        """Read a policy from a YAML file.

        Raises:
            DataError: the file is not readable or not YAML, a key is repeated, or a field is unknown, missing or
                invalid; the message names the line and the rule.
        """
        said, root = parse_yaml(read_text(path, largest=_LARGEST), path)
        if root is None or not isinstance(said, dict):
            raise DataError("expected a policy with rules: equiframe gate --example prints one", path=path)
        try:
            return cls.model_validate(said)
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(_misfit(first), path=path, line=_line(root, first["loc"])) from None


def example_policy() -> str:
    """An example policy, in YAML with comments."""
    return importlib.resources.files(__package__).joinpath("example.yaml").read_text(encoding="utf-8")


def _misfit(error: Any) -> str:
    """The problem, and what was expected."""
    place = list(error["loc"])
    known = Policy.model_fields
    rule = ""
    if place[:1] == ["rules"] and len(place) > 1:
        rule, place, known = f"rule {place[1] + 1}", place[2:], Rule.model_fields
    name = ", ".join(filter(None, (rule, *map(str, place[:1]))))
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown. Available: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{name}: missing"
    said = error["msg"].removeprefix("Value error, ").replace("Input", "it", 1)
    return f"{name}: {said}" if error["type"] == "value_error" else f"{name}: {said}, found {error['input']!r}"


def _line(node: yaml.Node, place: Sequence[int | str]) -> int:
    """The line, counted from 1, of the innermost existing part of the path to a place."""
    line = node.start_mark.line + 1
    for step in place:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == step), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            break
    return line
