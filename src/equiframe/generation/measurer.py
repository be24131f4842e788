"""The interface of measures of responses, and the similarity of the responses to two groups."""

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
"""For each response, its prompt and the number of its sample."""


@dataclass(frozen=True)
class Measurer:
    """A measure that is ready for use.

    Args:
        score: function from prompts with samples, and the texts of their responses, to columns of numbers,
            [responses]; NaN if a response has none.
        files: data files that it reads.
        said: what a reader must know about it, empty if the documentation is enough.
    """

    score: Callable[[Cells, Sequence[str]], Mapping[str, Values]]
    files: tuple[DataFile, ...] = ()
    said: str = ""


def to_the_others(cells: Cells, alike: Callable[[int, int], float]) -> Values:
    """Compute the similarity of each response to those to the other groups of its axis, same template and sample.

    Args:
        cells: prompt and sample of each response.
        alike: similarity of two responses, given by their positions.

    Returns:
        The mean over the other groups, [responses]; NaN if there is none.
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
