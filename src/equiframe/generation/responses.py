"""Responses: what they hold, how a table of them is made, and how they are read from a file and written to one."""

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
"""Characters of a response that are read; what a model says in an hour has fewer."""
_FIELDS = ("template", "axis", "group", "sample", "prompt", "response", "answer", "probability")


@dataclass(frozen=True)
class Response:
    """What was answered to one prompt, one time.

    Args:
        text: the response, without control characters, cut at :data:`LARGEST`.
        probability: that of the favourable answer, where it is known, otherwise None.
        excluded: why it does not count, None where it does.
        altered: what was done to its text, empty where nothing was.
    """

    text: str
    probability: float | None = None
    excluded: str | None = None
    altered: str = ""

    @classmethod
    def of(cls, text: str, probability: float | None = None) -> Response:
        """A response whose text may hold anything."""
        clean = "".join(c for c in text[:LARGEST] if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
        altered = [f"cut at {LARGEST:,} characters"] if len(text) > LARGEST else []
        altered += ["control characters taken out"] if len(clean) < min(len(text), LARGEST) else []
        return cls(clean, probability, altered=", ".join(altered))


_Key: TypeAlias = tuple[str, str, int]
"""Template, group and sample."""


@dataclass(frozen=True)
class ResponseFile:
    """Responses of a user's own. It stands in the place of a model that can be asked nothing.

    Args:
        name: what the user calls the system that wrote them.
        file: which file it was.
        rows: by the benchmark that a line names, empty where it names none: responses in the order of the file.
        prompts: by the same names what was asked, as far as the file says it, once for each template and group.
    """

    name: str
    file: DataFile
    rows: Mapping[str, Mapping[_Key, Response]]
    prompts: Mapping[str, Sequence[Prompt]]

    kind: ClassVar[ModelKind] = "causal"

    def fingerprint(self) -> str:
        """That of the file."""
        return self.file.sha256

    def of(self, benchmark: str) -> str:
        """Under which name responses for a benchmark stand: its own, or else none."""
        return benchmark if benchmark in self.rows else ""


def read_responses(path: Path | str, name: str) -> ResponseFile:
    """Responses of a JSONL file, one object a line: ``template``, ``group``, ``sample``, ``response``.

    ``sample`` may be left out where there is one response to each prompt. There may be also ``prompt``, ``benchmark``,
    ``axis`` (groups of one axis are compared), ``favourable`` (yes or no, of a decision about a person), and the
    ``probability`` of the favourable answer.

    Args:
        path: the file.
        name: of the system that wrote them.

    Raises:
        DataError: not such a file, with the line.
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
            raise DataError(f"a second response of {which}: number the samples", path=located.path, line=line)
        rows[benchmark][key] = Response.of(value["response"], value.get("probability"))
        prompt = Prompt(template, axis, group, value.get("prompt", ""), template, "", value.get("favourable"))
        if axis_of.setdefault((benchmark, group), axis) != axis:
            said = f"group {group!r} is of axis {axis_of[benchmark, group]!r} in an earlier line, here of {axis!r}"
            raise DataError(f"{said}: give it one axis", path=located.path, line=line)
        if favourable_of.setdefault((benchmark, template), prompt.favourable) != prompt.favourable:
            said = f"template {template!r}: favourable is {prompt.favourable!r}, in an earlier line it is not"
            raise DataError(f"{said}: give all lines of a template the same", path=located.path, line=line)
        prompts.setdefault(benchmark, {}).setdefault((template, group), prompt)
    if not rows:
        raise DataError("no response in it: is the file whole?", path=located.path)
    return ResponseFile(name, located.file, rows, {name: list(found.values()) for name, found in prompts.items()})


def _problem(value: Mapping[str, Any]) -> str | None:
    """What does not fit in a line of the file, None where all does."""
    for name in ("template", "group", "response", "prompt", "benchmark", "axis"):
        if not isinstance(found := value.get(name, "-"), str):
            return f"{name} is {found!r:.60}, expected a text"
        if not found and name in ("template", "group"):
            return f"{name} is empty: name it"
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
    """The responses of several benchmarks in one file that :func:`read_responses` reads.

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
