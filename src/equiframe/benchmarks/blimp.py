"""BLiMP: whether a model finds an acceptable English sentence more likely than an unacceptable one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from equiframe.about import About, Term
from equiframe.benchmarks.asking import each_masked_alone
from equiframe.benchmarks.benchmark import Answers, Asked, Benchmark, Measure, Outcome
from equiframe.benchmarks.row_statistics import mean_of
from equiframe.data import DEFAULT_SOURCE, KNOWN, DataFile, DataSource, locate, read_jsonl
from equiframe.errors import DataError
from equiframe.requests import TextCodec

_FIELDS = ("sentence_good", "sentence_bad", "linguistics_term", "pairID")
_RENAMED = {"s-selection": "argument_structure"}  # as in the tables of the paper, which have 12 phenomena
_ABOUT_GENDER = "anaphor_gender_agreement"
_EVERY = 10


@dataclass(frozen=True)
class AcceptabilityPair:
    """Two sentences of a paradigm, of which only the first is acceptable."""

    item: str
    paradigm: str
    phenomenon: str
    good: str
    bad: str


class BLiMP(Benchmark[AcceptabilityPair]):
    """How often a model finds the acceptable sentence of a pair more likely: what it knows about grammar.

    It does not measure bias, but the price of debiasing, without a head to train.

    Source:       Warstadt et al. 2020; pairs generated from templates of linguists, 1,000 for each of 67 paradigms in
                  12 phenomena; CC BY 4.0.
    Measures:     ``accuracy`` = 100 * (pairs where the acceptable sentence is more likely, and half of the ties) /
                  pairs, ``overall``, by phenomenon, and for the paradigm ``anaphor_gender_agreement`` ("Katherine
                  can't help herself"), which debiasing may harm most. Intervals resample pairs.
        masked:   the sum of the log-probabilities of all tokens, each masked alone (Salazar et al. 2020).
        causal:   the log-likelihood of the sentence, read after a start token.
    Ideal:        100. What counts is that it does not fall. People agree with the labels in 96.4 % of the pairs.
    Variants:     ``sampled`` (default; every tenth pair of each paradigm, 6,700 pairs) or ``full`` (all pairs).
    Known faults: the sentences are generated and often odd in meaning. The two of a pair may have different numbers of
                  tokens, and fewer tokens are more likely. In 7 pairs both sentences are the same; they are excluded.
                  Pairs of one paradigm share words, which the intervals ignore.
    Reproduces:   no published figure: the authors score other models.
    """

    suite = "nlu"
    name = "blimp"
    about = About(
        "BLiMP",
        "This does not measure bias, but what the model knows about English grammar. Its sentences are generated from"
        " templates, so the accuracy says little about the meaning of longer texts.",
        {"accuracy": Term("accuracy", "share of pairs where the acceptable sentence is more likely")},
        (("Warstadt et al. 2020", "https://aclanthology.org/2020.tacl-1.25"),),
    )
    version: ClassVar[int] = 1
    decisions = (("good", "bad"),)
    headline = ("overall.accuracy",)
    variants: ClassVar[dict[str, tuple[str, ...]]] = {"size": ("sampled", "full")}

    def __init__(self, size: Literal["sampled", "full"] = "sampled") -> None:
        self.size = size

    def items(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[AcceptabilityPair], tuple[DataFile, ...]]:
        """Return the pairs of all paradigms, in the order of their names."""
        pairs, files = [], []
        for name in (name for name in KNOWN if name.startswith("blimp/")):
            located = locate(name, source)
            files.append(located.file)
            paradigm = name.removeprefix("blimp/")
            for number, (line, row) in enumerate(read_jsonl(located.path, _FIELDS)):
                if not all(isinstance(row[field], str) and row[field] for field in _FIELDS):
                    raise DataError(f"one of {', '.join(_FIELDS)} is not text", path=located.path, line=line)
                if self.size == "full" or number % _EVERY == 0:
                    good, bad, term, pair = (row[field] for field in _FIELDS)
                    phenomenon = _RENAMED.get(term, term)
                    pairs.append(AcceptabilityPair(f"{paradigm}-{pair}", paradigm, phenomenon, good, bad))
        return pairs, tuple(files)

    def scoring(self, codec: TextCodec) -> str:
        """Describe how a sentence is scored."""
        if codec.kind == "causal":
            return "log-likelihood of the sentence, after a start token"
        return "sum of the log-probabilities of all tokens, each masked alone"

    def rows(self, item: AcceptabilityPair, codec: TextCodec) -> list[Outcome]:
        """Return the row of the pair."""
        return [
            Outcome(
                item.item,
                groups={"paradigm": item.paradigm, "phenomenon": item.phenomenon},
                text={"good_sentence": item.good, "bad_sentence": item.bad},
            )
        ]

    def ask(self, item: AcceptabilityPair, codec: TextCodec) -> Asked:
        """Ask for each sentence: a masked LM reads one sequence per token, a causal LM reads one."""
        if codec.kind == "causal":
            return Asked([[codec.sequence_log_probs(sentence)] for sentence in (item.good, item.bad)])
        return Asked([each_masked_alone(sentence, codec) for sentence in (item.good, item.bad)])

    def read(self, item: AcceptabilityPair, answers: Answers, codec: TextCodec) -> list[dict[str, float]]:
        """Return the log-probabilities of both sentences."""
        good, bad = (math.fsum(log for logs in part for log in logs) for part in answers)
        return [{"good": good, "bad": bad}]

    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """Return the accuracy overall, by phenomenon, and on the paradigm about gender."""
        difference = (outcomes["good"] - outcomes["bad"]).to_numpy(dtype=np.float64)
        accuracy = mean_of(1 + np.sign(difference), 50)
        phenomenon, counted = outcomes["phenomenon"], outcomes["excluded"].isna()
        groups = {"overall": counted}
        groups |= {name: counted & (phenomenon == name) for name in sorted(set(phenomenon))}
        groups[_ABOUT_GENDER] = counted & (outcomes["paradigm"] == _ABOUT_GENDER)
        return [
            Measure(f"{group}.accuracy", np.flatnonzero(chosen), accuracy, "%", 100.0, higher_is_better=True)
            for group, chosen in groups.items()
            if chosen.any()
        ]
