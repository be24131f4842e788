"""Facts about a result: its title, the names of its measures, and what it does not show.

Results carry these facts. Results of older versions do not; for them the facts are those of the current class.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace
from typing import Literal

from equiframe.about import About, Term
from equiframe.benchmarks import BENCHMARKS, BenchmarkResult, load_benchmark, suite
from equiframe.collapse import about_collapse
from equiframe.collapse.counterfactual import ABOUT_CONTEXTS
from equiframe.errors import InputError
from equiframe.plugins import is_place
from equiframe.record.schema import COLLAPSE, CONTEXTS, Result

_ANY = "A number on these items describes these items, not the model in use."


def about(result: Result | str) -> About:
    """What a reader must know of a result; for a name alone, the current facts of its class."""
    name, told = (result, None) if isinstance(result, str) else (result.name, result.about)
    base, _, variant = name.partition(":")
    if base == COLLAPSE:
        known = told or about_collapse()
        return replace(known, title=class_set_name(variant)) if variant else known
    if base not in BENCHMARKS and is_place(name):  # package.module:Class, then the variant
        variant = variant.partition(":")[2]
    known = told or (ABOUT_CONTEXTS if base == CONTEXTS else _of_class(name)) or About(base, _ANY)
    return replace(known, title=f"{known.title} ({variant})") if variant else known


@functools.cache
def _of_class(benchmark: str) -> About | None:
    """The current facts of a benchmark's class, even if it no longer has the variant."""
    for name in (benchmark, benchmark.partition(":")[0]):
        with contextlib.suppress(InputError):
            return load_benchmark(name).about
    return None


def headline(result: BenchmarkResult) -> tuple[str, ...]:
    """Keys of the measures that represent a benchmark."""
    if result.headline:
        return result.headline
    with contextlib.suppress(InputError):
        return load_benchmark(result.benchmark).headline
    return ()


def is_headline(result: BenchmarkResult, key: str) -> bool:
    """Whether a measure represents its benchmark; if the benchmark names no such measure, each does."""
    keys = headline(result)
    return not keys or key in keys


def suite_of(result: Result | str) -> Literal["fairness", "nlu"]:
    """Whether a result is about bias, or about language understanding, which debiasing may reduce."""
    if isinstance(result, BenchmarkResult) and result.suite is not None:
        return result.suite
    name = result if isinstance(result, str) else result.name
    return "nlu" if name.partition(":")[0] in suite("nlu") else "fairness"


def term(result: Result | str, key: str) -> Term:
    """The plain name of a measure, whatever its group; the key itself if it has none."""
    kind = split_key(key)[1]
    return about(result).terms.get(kind, Term(plain(kind), ""))


def split_key(key: str) -> tuple[str, str]:
    """Split a measure's key into group, in words, and kind: ``race-color.ss`` becomes ``("race color", "ss")``."""
    group, _, kind = key.rpartition(".")
    return plain(group), kind


def class_set_name(class_set: str) -> str:
    """A class set in words: ``vocabulary`` becomes "whole vocabulary", a word set becomes "... words"."""
    return "whole vocabulary" if class_set == "vocabulary" else f"{plain(class_set)} words"


def plain(name: str) -> str:
    """An identifier in words: ``physical-appearance`` becomes ``physical appearance``."""
    return name.replace("_", " ").replace("-", " ")
