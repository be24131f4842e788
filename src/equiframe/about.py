"""What a reader must know of a benchmark to read its numbers. The class has it, and every result carries it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Term:
    """A number in plain words.

    Args:
        name: what it is called.
        reading: how to read it.
        is_derived: whether it splits or restates another of its benchmark.
        ideal: of a number without an estimate, which holds it otherwise.
        higher_is_better: the same.
    """

    name: str
    reading: str
    is_derived: bool = False
    ideal: float | None = None
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class Pair:
    """Where a per-item table keeps two candidates: columns of their sentences and scores, and the group."""

    more: str
    less: str
    more_score: str
    less_score: str
    score: str
    group: str = "bias_type"


@dataclass(frozen=True)
class About:
    """What a benchmark is called, what its numbers do not show, and where it is from.

    Args:
        title: its name for people.
        does_not_show: what must not be read from its numbers.
        terms: what its measures are called, by the last part of their keys.
        sources: papers, each with its address.
        pair: where its per-item table keeps two candidates, None where it has no two.
    """

    title: str
    does_not_show: str
    terms: Mapping[str, Term] = field(default_factory=dict)
    sources: tuple[tuple[str, str], ...] = ()
    pair: Pair | None = None


BLODGETT = ("Blodgett et al. 2021", "https://aclanthology.org/2021.acl-long.81")
