"""What a measure of responses is, and how alike the responses to two groups are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from equiframe.benchmarks.generated import Prompt
from equiframe.data import DataFile

Values: TypeAlias = NDArray[np.float64]
Cells: TypeAlias = Sequence[tuple[Prompt, int]]
"""Of each response, its prompt and the number of its sample."""


@dataclass(frozen=True)
class Measurer:
    """A measure that is ready for use.

    Args:
        score: from prompts with samples, and the texts of the responses to them, to columns of numbers, [responses];
            not-a-number where a response has none.
        files: data that it reads.
        said: what a reader must know of it, empty where its documentation says all.
    """

    score: Callable[[Cells, Sequence[str]], Mapping[str, Values]]
    files: tuple[DataFile, ...] = ()
    said: str = ""


def to_the_others(cells: Cells, alike: Callable[[int, int], float]) -> Values:
    """How alike each response is to those to the other groups of its axis, in the same template and sample.

    Args:
        cells: prompt and sample of each response.
        alike: of two responses by their places.

    Returns:
        The mean over the other groups, [responses]; not-a-number where there is none.
    """
    together: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for at, (prompt, sample) in enumerate(cells):
        together[prompt.template, prompt.axis, sample].append(at)
    sums, counts = np.zeros(len(cells)), np.zeros(len(cells))
    for places in together.values():
        for number, one in enumerate(places):
            for other in places[number + 1 :]:
                found = alike(one, other)
                for at in (one, other):
                    sums[at] += found
                    counts[at] += 1
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
