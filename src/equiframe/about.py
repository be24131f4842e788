"""Facts that a reader needs to understand a benchmark's numbers. The class has them, and every result carries them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Term:
    """A number in plain words.

    Args:
        name: plain name of the number.
        reading: how to read it.
        is_derived: whether it splits or restates another number of its benchmark.
        ideal: ideal of a number without an estimate, which would otherwise hold it.
        higher_is_better: direction of such a number.
    """

    name: str
    reading: str
    is_derived: bool = False
    ideal: float | None = None
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class Pair:
    """The columns of a per-item table with the sentences and scores of two candidates, and the group."""

    more: str
    less: str
    more_score: str
    less_score: str
    score: str
    group: str = "bias_type"


@dataclass(frozen=True)
class About:
    """The title of a benchmark, the limits of its numbers, and its sources.

    Args:
        title: its name for readers.
        does_not_show: conclusions that its numbers do not support.
        terms: plain names of its measures, by the last part of their keys.
        sources: papers, each with its address.
        pair: columns of the per-item table with two candidates, None if it has no such columns.
    """

    title: str
    does_not_show: str
    terms: Mapping[str, Term] = field(default_factory=dict)
    sources: tuple[tuple[str, str], ...] = ()
    pair: Pair | None = None


BLODGETT = ("Blodgett et al. 2021", "https://aclanthology.org/2021.acl-long.81")
