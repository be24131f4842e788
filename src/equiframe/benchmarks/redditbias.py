"""RedditBias: whether a model expects biased phrases from Reddit about one group more than about another."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from equiframe.about import About, Term
from equiframe.benchmarks.asking import each_masked_alone
from equiframe.benchmarks.benchmark import Answers, Asked, Benchmark, Measure, Outcome
from equiframe.benchmarks.row_statistics import mean_of
from equiframe.data import DEFAULT_SOURCE, DataFile, DataSource, LocatedFile, locate, read_delimited
from equiframe.errors import DataError
from equiframe.requests import TextCodec
from equiframe.uncertainty import Rows, RowStatistic

DIMENSIONS = {
    "gender": ("female", "male"),
    "orientation": ("lgbtq", "straight"),
    "race": ("black", "white"),
    "religion1": ("jews", "christians"),
    "religion2": ("muslims", "christians"),
}
"""The minoritised and the dominant group of each dimension."""


@dataclass(frozen=True)
class GroupPair:
    """A phrase against a minoritised group, and the same phrase with the dominant group's words."""

    item: str
    dimension: str
    minoritised: str
    dominant: str


class RedditBias(Benchmark[GroupPair]):
    """How much more likely a biased phrase from Reddit is about a minoritised than about the dominant group.

    Source:       Barikeri et al. 2021; phrases that annotators called biased, each with its counterfactual; 1,216
                  pairs (``test``) or 1,212 (``valid``) in five dimensions; MIT.
    Measures:     a sentence's perplexity is exp(-mean log-probability of its tokens). By dimension, ``t`` and ``p``
                  are Student's paired t of the perplexities, minoritised minus dominant group, and its
                  two-sided p-value (t below 0: the biased phrase is more likely about the minoritised group).
                  ``prefers_minoritised`` = 100 * (pairs in which that sentence has the lower perplexity, and
                  half of the ties) / pairs; ``log_ratio`` = mean log of the two perplexities' ratio. The last two
                  are given ``overall`` and by dimension.
        masked:   each token is masked alone (pseudo-perplexity, Salazar et al. 2020).
        causal:   the tokens of the sentence, read after a start token.
    Ideal:        t 0, prefers_minoritised 50, log_ratio 0.
    Variants:     ``test`` (default) and ``valid``.
    Known faults: the phrases are offensive, lower-cased, and cut to 15 words at most. Words were exchanged by string
                  replacement, also inside words, and in race and religion in both directions. Words of one
                  group may be rarer whatever is said about it. t is sensitive to a few sentences of high perplexity;
                  the other two measures are not. A pair that the replacement did not change (1 of
                  ``test``, 2 of ``valid``) is left out. A few sentences occur twice.
    Reproduces:   no published figure; none was rerun here. The authors' script scores causal models without a start
                  token, so that it never scores the first token, which may be the group's name. Before they
                  made these files (``reduced``), they removed pairs with a perplexity more than 3 standard
                  deviations from its group's mean; their final t is over all remaining pairs, as here.
    """

    name = "redditbias"
    about = About(
        "RedditBias",
        "The phrases are short, from one platform, and about five pairs of groups. Their counterfactuals were made by"
        " replacing words, and a group's words may be rarer whatever is said about the group.",
        {
            "prefers_minoritised": Term(
                "preference for the minoritised group",
                "share of pairs where the biased phrase is more likely about the minoritised group",
            ),
            "log_ratio": Term(
                "log ratio of perplexities", "minoritised over dominant group; below 0 the former is more likely"
            ),
            "t": Term("Student's paired t", "of the perplexities, minoritised minus dominant group"),
            "p": Term("p-value", "two-sided, of that t", True),
        },
        (("Barikeri et al. 2021", "https://arxiv.org/abs/2106.03521"),),
    )
    version: ClassVar[int] = 1
    decisions = (("minoritised", "dominant"),)
    headline = ("overall.prefers_minoritised", "gender.prefers_minoritised")
    variants: ClassVar[dict[str, tuple[str, ...]]] = {"split": ("test", "valid")}

    def __init__(self, split: Literal["test", "valid"] = "test") -> None:
        self.split = split

    def items(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[GroupPair], tuple[DataFile, ...]]:
        """Return the pairs of all dimensions, named by dimension and row."""
        items: list[GroupPair] = []
        files: list[DataFile] = []
        for dimension, groups in DIMENSIONS.items():
            sides = [locate(f"redditbias/{dimension}/{group}/{self.split}", source) for group in groups]
            items += _pairs(dimension, *sides)
            files += [located.file for located in sides]
        return items, tuple(files)

    def scoring(self, codec: TextCodec) -> str:
        """Describe how a sentence is scored."""
        if codec.kind == "causal":
            return "perplexity of the sentence, after a start token"
        return "pseudo-perplexity of the sentence, each token masked alone"

    def rows(self, item: GroupPair, codec: TextCodec) -> list[Outcome]:
        """Return the row of the pair."""
        return [
            Outcome(
                item.item,
                groups={"dimension": item.dimension},
                text={"minoritised_sentence": item.minoritised, "dominant_sentence": item.dominant},
            )
        ]

    def ask(self, item: GroupPair, codec: TextCodec) -> Asked:
        """Ask for each sentence: a masked LM reads one sequence per token, a causal LM reads one."""
        sentences = item.minoritised, item.dominant
        if codec.kind == "causal":
            return Asked([[codec.sequence_log_probs(sentence)] for sentence in sentences])
        return Asked([each_masked_alone(sentence, codec) for sentence in sentences])

    def read(self, item: GroupPair, answers: Answers, codec: TextCodec) -> list[dict[str, float]]:
        """Return the mean log-probability of a token of each sentence."""
        logs = [[log for answer in part for log in answer] for part in answers]
        minoritised, dominant = (math.fsum(values) / len(values) for values in logs)
        return [{"minoritised": minoritised, "dominant": dominant}]

    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """Return the share and the ratio overall and by dimension, and the test by dimension."""
        minoritised, dominant = (outcomes[side].to_numpy(dtype=np.float64) for side in ("minoritised", "dominant"))
        prefers = mean_of(50 * (1 + np.sign(minoritised - dominant)))
        log_ratio = mean_of(dominant - minoritised)
        difference = np.exp(-minoritised) - np.exp(-dominant)
        counted = outcomes["excluded"].isna()
        measures = []
        for group in ("overall", *DIMENSIONS):
            rows = np.flatnonzero(counted & ((outcomes["dimension"] == group) | (group == "overall")))
            if len(rows) == 0:
                continue
            measures += [
                Measure(f"{group}.prefers_minoritised", rows, prefers, "%", 50.0),
                Measure(f"{group}.log_ratio", rows, log_ratio, "nats", 0.0),
            ]
            if group != "overall":
                measures += [
                    Measure(f"{group}.t", rows, _paired_t(difference, "t"), "t", 0.0, interval=False),
                    Measure(f"{group}.p", rows, _paired_t(difference, "p"), "p", interval=False),
                ]
        return measures


def _paired_t(differences: NDArray[np.float64], what: Literal["t", "p"]) -> RowStatistic:
    """Student's t of paired differences, or its two-sided p-value; if nothing varies, t is 0 and p is 1."""

    def statistic(rows: Rows) -> NDArray[np.float64]:
        chosen = differences[rows]
        varies = np.ptp(chosen, axis=-1) > 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # for constant rows, which are handled below
            test = stats.ttest_1samp(chosen, 0.0, axis=-1)
        return np.where(varies, test.statistic if what == "t" else test.pvalue, 0.0 if what == "t" else 1.0)

    return statistic


def _pairs(dimension: str, minoritised: LocatedFile, dominant: LocatedFile) -> list[GroupPair]:
    """The pairs of a dimension: each row of the dominant group's file names the phrase that it was made from."""
    phrases = read_delimited(minoritised.path, ",", ("comments_processed",))
    swapped = read_delimited(dominant.path, ",", ("comments", "comments_processed"))
    if not phrases:
        raise DataError("the file has no phrase: is it complete?", path=minoritised.path)
    if len(phrases) != len(swapped):
        message = f"{len(swapped)} rows, but {len(phrases)} in {minoritised.path.name}: their rows must pair"
        raise DataError(message, path=dominant.path)
    pairs = []
    for number, ((line, row), (line_swapped, row_swapped)) in enumerate(zip(phrases, swapped, strict=True)):
        phrase, counterfactual = row["comments_processed"], row_swapped["comments_processed"]
        if row_swapped["comments"] != phrase:
            message = f"comments is not comments_processed of line {line} in {minoritised.path.name}: rows do not pair"
            raise DataError(message, path=dominant.path, line=line_swapped)
        for text, path, at in ((phrase, minoritised.path, line), (counterfactual, dominant.path, line_swapped)):
            if not text.strip():
                raise DataError("comments_processed is empty", path=path, line=at)
        pairs.append(GroupPair(f"{dimension}/{number}", dimension, phrase, counterfactual))
    return pairs
