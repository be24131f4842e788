"""SEAT and WEAT: whether names and terms of two groups are closer to one set of attributes than to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from equiframe.about import About, Term
from equiframe.benchmarks.benchmark import Answers, Asked, Benchmark, Excluded, Measure, Outcome
from equiframe.benchmarks.row_statistics import effect_size_of
from equiframe.data import DEFAULT_SOURCE, DataFile, DataSource, locate, read_json
from equiframe.errors import DataError
from equiframe.requests import Answer, Embedding, Pooling, TextCodec
from equiframe.uncertainty import Rows, RowStatistic

_TESTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "sentences": {
        "gender": tuple(f"sent-weat{name}" for name in ("6", "6b", "7", "7b", "8", "8b")),
        "race": (
            "sent-angry_black_woman_stereotype",
            "sent-angry_black_woman_stereotype_b",
            *(f"sent-weat{name}" for name in ("3", "3b", "4", "5", "5b")),
        ),
        "religion": tuple(f"sent-religion{name}" for name in ("1", "1b", "2", "2b")),
    },
    "words": {
        "gender": tuple(f"weat{name}" for name in ("6", "6b", "7", "7b", "8", "8b")),
        "race": (
            "angry_black_woman_stereotype",
            "angry_black_woman_stereotype_b",
            *(f"weat{name}" for name in ("3", "3b", "4", "5", "5b")),
        ),
    },
}
_LISTS = ("targ1", "targ2", "attr1", "attr2")
_PARTITIONS = 100_000


@dataclass(frozen=True)
class AssociationTest:
    """Two lists of targets and two of attributes."""

    name: str
    dimension: str
    targets: tuple[tuple[str, ...], tuple[str, ...]]
    attributes: tuple[tuple[str, ...], tuple[str, ...]]


class SEAT(Benchmark[AssociationTest]):
    """How much closer a model's states of one group are to one set of attributes than those of another group.

    Source:       May et al. 2019, after Caliskan et al. 2017; the tests of gender (6, 6b, 7, 7b, 8, 8b), race
                  (Angry Black Woman, 3, 3b, 4, 5, 5b) and religion (1, 1b, 2, 2b) that bias-bench reports;
                  CC BY-NC 4.0.
    Measures:     s(w) = mean cosine of w and the first attributes - mean cosine of w and the second. By test,
                  ``effect_size`` d = (mean s of the first targets - mean s of the second) / sd of s over both, with
                  n - 1; ``p_value``, one-sided, of the sum of s over the first targets among equal partitions: all of
                  them if there are at most 100,000, else 99,999 drawn with a fixed seed and the observed one.
                  By dimension, ``mean_absolute_effect_size``, the mean of |d| over its tests.
        masked:   the mean of all last states, including those of special tokens, as in bias-bench.
        causal:   the same.
    Ideal:        0.
    Variants:     ``mean`` (default), ``cls`` (the first state, masked LMs only) or ``last`` (the last state);
                  ``sentences`` (default; SEAT) or ``words`` (WEAT's words as they are; none about religion).
    Known faults: templated sentences of one word are treated as independent, so p-values are far too small and
                  intervals far too narrow. A mean of |d| is above 0 for any finite sample. States are anisotropic: the
                  cosines between them are all similar, and d, which divides by their spread, may be large although
                  every difference is tiny. The authors themselves doubt that the tests transfer to contextual
                  encoders.
    Reproduces:   no published figure was rerun. bias-bench keys states by text, so that repeated examples would
                  collapse; no list of the known files repeats an example.
    """

    name = "seat"
    about = About(
        "SEAT",
        "Templated sentences of one word are treated as independent, so p-values and intervals are too small."
        " A mean of absolute effects is above 0 for any sample. Effects may be large although differences are tiny.",
        {
            "mean_absolute_effect_size": Term("mean absolute effect size", "over the tests of a bias"),
            "effect_size": Term("effect size", "of one test", True),
            "p_value": Term("p-value", "of a permutation test, one-sided", True),
        },
        (("May et al. 2019", "https://aclanthology.org/N19-1063"),),
    )
    version: ClassVar[int] = 1
    needs = (Embedding,)
    headline = (
        "gender.mean_absolute_effect_size",
        "race.mean_absolute_effect_size",
        "religion.mean_absolute_effect_size",
    )
    variants: ClassVar[dict[str, tuple[str, ...]]] = {
        "encoding": ("mean", "cls", "last"),
        "tests": ("sentences", "words"),
    }

    def __init__(
        self,
        encoding: Pooling = "mean",
        tests: Literal["sentences", "words"] = "sentences",
    ) -> None:
        self.encoding, self.tests = encoding, tests

    def items(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[AssociationTest], tuple[DataFile, ...]]:
        """Return the tests, each read from its file."""
        tests, files = [], []
        for dimension, names in _TESTS[self.tests].items():
            for name in names:
                located = locate(f"seat/{name}", source)
                lists = _lists(read_json(located.path), located.path)
                tests.append(
                    AssociationTest(name.removeprefix("sent-"), dimension, (lists[0], lists[1]), (lists[2], lists[3]))
                )
                files.append(located.file)
        return tests, tuple(files)

    def scoring(self, codec: TextCodec) -> str:
        """Describe which state represents a text."""
        return {
            "mean": "mean of the last layer's states",
            "cls": "last layer's first state",
            "last": "last layer's last state",
        }[self.encoding]

    def rows(self, item: AssociationTest, codec: TextCodec) -> list[Outcome]:
        """Return one row per target."""
        return [
            Outcome(
                f"{item.name}/{side}/{number}",
                groups={"dimension": item.dimension, "test": item.name, "target": side},
                text={"text": text},
            )
            for side, texts in zip(("first", "second"), item.targets, strict=True)
            for number, text in enumerate(texts)
        ]

    def ask(self, item: AssociationTest, codec: TextCodec) -> Asked | Excluded:
        """Ask for one state per text: both lists of targets, then both lists of attributes."""
        if codec.kind == "causal" and self.encoding == "cls":
            return Excluded("the first state of a causal LM has seen no text: choose seat or seat:last")
        if self.encoding == "cls" and codec.places(codec.encode("a")).start == 0:
            return Excluded("the tokenizer puts no token before a text, so its first state is its first word's")
        texts = (text for part in (*item.targets, *item.attributes) for text in part)
        return Asked([[Embedding(codec.encode(text), self.encoding) for text in texts]])

    def read(self, item: AssociationTest, answers: Answers, codec: TextCodec) -> list[dict[str, float]]:
        """Return the association of each target."""
        (states,) = answers
        associations = _associations(states, sum(map(len, item.targets)), len(item.attributes[0]))
        return [{"association": association} for association in associations.tolist()]

    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """Return effect size and p-value by test, and the mean absolute effect size by dimension."""
        counted = outcomes["excluded"].isna()
        association = outcomes["association"].to_numpy(dtype=np.float64)
        is_first = (outcomes["target"] == "first").to_numpy()
        test = outcomes["test"].to_numpy()
        measures, by_test = [], []
        for dimension in outcomes.loc[counted, "dimension"].unique():
            chosen = counted & (outcomes["dimension"] == dimension)
            effects = {
                name: effect_size_of(association, is_first, test == name)
                for name in outcomes.loc[chosen, "test"].unique()
            }
            size = _mean_absolute([*effects.values()])
            key = f"{dimension}.mean_absolute_effect_size"
            measures.append(Measure(key, np.flatnonzero(chosen), size, "d", 0.0, higher_is_better=False))
            for name, effect in effects.items():
                rows = np.flatnonzero(chosen & (test == name))
                by_test.append(Measure(f"{name}.effect_size", rows, effect, "d", 0.0))
                p_value = _p_value(association, is_first)
                by_test.append(Measure(f"{name}.p_value", rows, p_value, "p", interval=False))
        return [*measures, *by_test]


def _lists(data: Any, path: Path) -> list[tuple[str, ...]]:
    """The four lists of texts of one file."""
    if not isinstance(data, dict):
        raise DataError(f"a {type(data).__name__}, expected an object with {', '.join(_LISTS)}", path=path)
    lists = []
    for name in _LISTS:
        part = data.get(name)
        texts = part.get("examples") if isinstance(part, dict) else None
        if not isinstance(texts, list) or not texts:
            raise DataError(f"{name}.examples is not a list of texts", path=path)
        for number, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{name}.examples[{number}] is {text!r:.40}, expected a text", path=path)
        lists.append(tuple(texts))
    return lists


def _associations(answers: Sequence[Answer], targets: int, first_attributes: int) -> NDArray[np.float64]:
    """Compute s of each target; the answers are those of the targets, then of both lists of attributes."""
    states = np.array(answers, dtype=np.float64)
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    cosines = states[:targets] @ states[targets:].T
    return np.asarray(cosines[:, :first_attributes].mean(axis=1) - cosines[:, first_attributes:].mean(axis=1))


def _mean_absolute(effects: Sequence[RowStatistic]) -> RowStatistic:
    """The mean of the absolute values of several statistics."""

    def mean_absolute(rows: Rows) -> NDArray[np.float64]:
        return np.asarray(np.mean([np.abs(effect(rows)) for effect in effects], axis=0))

    return mean_absolute


def _p_value(association: NDArray[np.float64], is_first: NDArray[np.bool_]) -> RowStatistic:
    """One-sided permutation test over equal partitions of the rows."""

    def p_value(rows: Rows) -> NDArray[np.float64]:
        first, second = association[rows[is_first[rows]]], association[rows[~is_first[rows]]]
        result = stats.permutation_test(
            (first, second),
            lambda x, y, axis: x.sum(axis=axis),
            permutation_type="independent",
            alternative="greater",
            n_resamples=_PARTITIONS - 1,
            vectorized=True,
            batch=2000,
            rng=np.random.default_rng(0),
        )
        return np.asarray(result.pvalue)

    return p_value
