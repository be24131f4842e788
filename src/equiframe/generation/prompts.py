"""Prompts: templates whose slot is filled with the markers of groups."""

from __future__ import annotations

import functools
import importlib.resources
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from equiframe.benchmarks.generated import Prompt, Side
from equiframe.data import DataFile, read_text
from equiframe.data.sources import user_file
from equiframe.errors import DataError, InputError
from equiframe.files import parse_yaml
from equiframe.generation.contrasts import unfit_for_a_group

SLOT = "{group}"
Groups: TypeAlias = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Markers by axis and group: they fill the slot of a template, and each template takes the next one."""

_LARGEST = 1 << 20  # bytes in a file of groups


@dataclass(frozen=True)
class Template:
    """A text with a slot for a group. See :class:`equiframe.benchmarks.generated.Prompt`."""

    name: str
    text: str
    kind: str = ""
    favourable: Side | None = None

    def filled(self, groups: Groups, number: int) -> Iterator[Prompt]:
        """Yield the prompt for each group of each axis; ``number`` selects the marker of each group."""
        for axis, of_axis in groups.items():
            for group, markers in of_axis.items():
                text = self.text.replace(SLOT, markers[number % len(markers)])
                yield Prompt(self.name, axis, group, text, self.name, self.kind, self.favourable)


@functools.cache
def builtin_groups() -> Mapping[str, Groups]:
    """Return the groups that come with the package, by axis."""
    said = _packaged("groups.yaml")
    return {
        axis: {axis: {name: tuple(markers) for name, markers in entry["groups"].items()}}
        for axis, entry in said.items()
    }


def decision_templates() -> list[Template]:
    """Return the decisions that come with the package, each with the answer that is good for the person."""
    return [
        Template(f"{kind}-{number}", text, kind, "yes" if favourable else "no")
        for kind, entries in _packaged("decisions.yaml").items()
        for number, (favourable, text) in enumerate(entries, start=1)
    ]


def _packaged(name: str) -> Any:
    return yaml.safe_load(importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def groups_of(names: Sequence[str]) -> tuple[Groups, tuple[DataFile, ...]]:
    """Load groups by the names of axes, and from files.

    Args:
        names: ``gender``, ``race``, ``religion``, ``names``, or paths of YAML files of the form
            ``AXIS: {GROUP: [MARKER, ...], ...}``.

    Returns:
        The groups, and the files that they were read from.

    Raises:
        DataError: a file is not readable, or does not have that form.
        InputError: there is no name, a name is neither a known axis nor a file, an axis is given twice, or a group is
            in two axes.
    """
    known = builtin_groups()
    found: dict[str, Mapping[str, tuple[str, ...]]] = {}
    files = []
    for name in dict.fromkeys(names):
        if name in known:
            axes = known[name]
        elif Path(name).is_file():
            located = user_file(name)
            files.append(located.file)
            axes = _read_groups(located.path)
        else:
            raise InputError(f"--groups {name}: neither a file nor one of {', '.join(known)}")
        if twice := next((axis for axis in axes if axis in found), None):
            raise InputError(f"--groups {name}: the axis {twice!r} is given twice: give each axis a different name")
        found.update(axes)
    every = [group for of_axis in found.values() for group in of_axis]
    if twice := next((group for group in every if every.count(group) > 1), None):
        raise InputError(f"--groups: {twice!r} is a group of two axes: give it a different name in each")
    if not found:
        raise InputError(f"--groups: name one or more of {', '.join(known)}, or a file")
    return found, tuple(files)


def _read_groups(path: Path) -> Groups:
    said, _ = parse_yaml(read_text(path, largest=_LARGEST), path)
    if not isinstance(said, dict) or not said:
        raise DataError("expected AXIS: {GROUP: [MARKER, ...], ...}", path=path)
    found = {}
    for axis, groups in said.items():
        if not isinstance(groups, dict) or len(groups) < 2:
            raise DataError(f"{axis}: expected two groups or more, as GROUP: [MARKER, ...]", path=path)
        for group, markers in groups.items():
            if not isinstance(markers, list) or not markers or not all(isinstance(m, str) and m for m in markers):
                raise DataError(f"{axis}, {group}: expected a list of markers, such as [a woman]", path=path)
            if problem := unfit_for_a_group(str(group)):
                raise DataError(f"{axis}: {problem}", path=path)
        every = list(itertools.chain(*groups.values()))
        if twice := next((marker for marker in every if every.count(marker) > 1), None):
            raise DataError(f"{axis}: the marker {twice!r} is given twice: give each group its own", path=path)
        found[str(axis)] = {str(group): tuple(markers) for group, markers in groups.items()}
    return found
