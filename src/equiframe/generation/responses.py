"""Responses: their content, the table of them, and how they are read from a file and written to one."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pandas as pd

from equiframe.benchmarks.generated import Prompt
from equiframe.data import DataFile
from equiframe.data.reading import stream_jsonl
from equiframe.data.sources import user_file
from equiframe.errors import DataError
from equiframe.generation.contrasts import unfit_for_a_group
from equiframe.requests import ModelKind

LARGEST = 100_000
"""The number of characters of a response that are read, which is more than an hour of speech."""
_FIELDS = ("template", "axis", "group", "sample", "prompt", "response", "answer", "probability")


@dataclass(frozen=True)
class Response:
    """One response to one prompt.

    Args:
        text: the response, without control characters, cut at :data:`LARGEST`.
        probability: probability of the favourable answer, None if unknown.
        excluded: why the response does not count, None if it counts.
        altered: what was changed in its text, empty if nothing was.
    """

    text: str
    probability: float | None = None
    excluded: str | None = None
    altered: str = ""

    @classmethod
    def of(cls, text: str, probability: float | None = None) -> Response:
        """Make a response from any text."""
        clean = "".join(c for c in text[:LARGEST] if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
        altered = [f"cut at {LARGEST:,} characters"] if len(text) > LARGEST else []
        altered += ["control characters taken out"] if len(clean) < min(len(text), LARGEST) else []
        return cls(clean, probability, altered=", ".join(altered))


_Key: TypeAlias = tuple[str, str, int]
"""Template, group and sample."""


@dataclass(frozen=True)
class ResponseFile:
    """A user's own responses, used in place of a model that cannot be asked.

    Args:
        name: name that the user gives to the system that wrote the responses.
        file: the file that they were read from.
        rows: responses by the benchmark that a line names (empty if it names none), in the order of the file.
        prompts: by the same names the prompts, as far as the file has them, once for each template and group.
    """

    name: str
    file: DataFile
    rows: Mapping[str, Mapping[_Key, Response]]
    prompts: Mapping[str, Sequence[Prompt]]

    kind: ClassVar[ModelKind] = "causal"

    def fingerprint(self) -> str:
        """The fingerprint of the file."""
        return self.file.sha256

    def of(self, benchmark: str) -> str:
        """Return the name under which responses for a benchmark are stored: its own, or else the empty one."""
        return benchmark if benchmark in self.rows else ""


def read_responses(path: Path | str, name: str) -> ResponseFile:
    """Read responses from a JSONL file with one object per line: ``template``, ``group``, ``sample``, ``response``.

    ``sample`` may be left out if there is one response to each prompt. Optional fields are ``prompt``, ``benchmark``,
    ``axis`` (groups of one axis are compared), ``favourable`` (yes or no, of a decision about a person), and the
    ``probability`` of the favourable answer.

    Args:
        path: the file.
        name: name of the system that wrote the responses.

    Raises:
        DataError: the file does not have this format; the error names the line.
    """
    located = user_file(path)
    rows: dict[str, dict[_Key, Response]] = {}
    prompts: dict[str, dict[tuple[str, str], Prompt]] = {}
    axis_of: dict[tuple[str, str], str] = {}
    favourable_of: dict[tuple[str, str], str | None] = {}
    for line, value in stream_jsonl(located.path, ("template", "group", "response")):
        if problem := _problem(value):
            raise DataError(problem, path=located.path, line=line)
        benchmark, axis = value.get("benchmark", ""), value.get("axis", "group")
        key = template, group, sample = value["template"], value["group"], value.get("sample", 0)
        if key in rows.setdefault(benchmark, {}):
            which = f"template {template!r}, group {group!r}, sample {sample}"
            raise DataError(f"a second response to {which}: number the samples", path=located.path, line=line)
        rows[benchmark][key] = Response.of(value["response"], value.get("probability"))
        prompt = Prompt(template, axis, group, value.get("prompt", ""), template, "", value.get("favourable"))
        if axis_of.setdefault((benchmark, group), axis) != axis:
            said = f"group {group!r} is of axis {axis_of[benchmark, group]!r} in an earlier line, here of {axis!r}"
            raise DataError(f"{said}: give it one axis", path=located.path, line=line)
        if favourable_of.setdefault((benchmark, template), prompt.favourable) != prompt.favourable:
            said = f"template {template!r}: favourable is {prompt.favourable!r} here, but not in an earlier line"
            raise DataError(f"{said}: give all lines of a template the same", path=located.path, line=line)
        prompts.setdefault(benchmark, {}).setdefault((template, group), prompt)
    if not rows:
        raise DataError("the file has no response: is it complete?", path=located.path)
    return ResponseFile(name, located.file, rows, {name: list(found.values()) for name, found in prompts.items()})


def _problem(value: Mapping[str, Any]) -> str | None:
    """Describe what is wrong in a line of the file, None if nothing is."""
    for name in ("template", "group", "response", "prompt", "benchmark", "axis"):
        if not isinstance(found := value.get(name, "-"), str):
            return f"{name} is {found!r:.60}, expected a text"
        if not found and name in ("template", "group"):
            return f"{name} is empty: give it a name"
    if problem := unfit_for_a_group(value["group"]):
        return problem
    sample, probability = value.get("sample", 0), value.get("probability", 0)
    if not isinstance(sample, int) or isinstance(sample, bool) or sample < 0:
        return f"sample is {sample!r:.60}, expected 0, 1, 2, ..."
    if not isinstance(probability, int | float) or isinstance(probability, bool) or not 0 <= probability <= 1:
        return f"probability is {probability!r:.60}, expected 0 to 1"
    if value.get("favourable") not in ("yes", "no", None):
        return f"favourable is {value['favourable']!r:.60}, expected yes or no"
    return None


def write_responses(path: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the responses of several benchmarks to one file that :func:`read_responses` reads.

    Args:
        path: the file.
        tables: the table of items of each benchmark by generation.
    """
    with path.open("w", encoding="utf-8") as file:
        for benchmark, table in tables.items():
            kept = table[table["excluded"].isna()]
            for row in kept[[name for name in _FIELDS if name in kept]].to_dict("records"):
                said = {name: value for name, value in row.items() if not pd.isna(value)}
                said["sample"] = int(row["sample"])
                if answer := said.pop("answer", ""):
                    said["favourable"] = answer
                file.write(json.dumps({"benchmark": benchmark, **said}, ensure_ascii=False) + "\n")
