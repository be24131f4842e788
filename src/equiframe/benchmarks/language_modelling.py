"""Held-out language-modelling loss: the cost of debiasing, measured without labels."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equiframe.about import About, Term
from equiframe.benchmarks.benchmark import Answers, Asked, Benchmark, Excluded, Outcome
from equiframe.data import DEFAULT_SOURCE, DataFile, DataSource, corpus
from equiframe.requests import TextCodec, TokenLogProbs
from equiframe.uncertainty import Measure, Rows

_MASKED_SHARE = 0.15


@dataclass(frozen=True)
class Sentence:
    """One held-out sentence."""

    name: str
    text: str


class LanguageModelLoss(Benchmark[Sentence]):
    """Mean negative log-likelihood per predicted token of text on which no method trains.

    Source:       the unchanged texts of GAP validation, split into sentences; Webster et al. 2018, Apache 2.0.
    Measures:     masked LM: 15 % of the tokens of each sentence are masked at once, at places that depend only on
                  the sentence, so they are the same for every model with the same tokenizer; causal LM:
                  every token, the first after the start token. ``overall.loss`` in nats,
                  ``overall.perplexity`` its exponential.
    Ideal:        none; lower is better. Only models with the same tokenizer can be compared.
    Known faults: Wikipedia only; a model debiased on swapped text may lose likelihood only on gendered names,
                  which this benchmark cannot distinguish from a general loss.
    """

    suite = "nlu"
    name = "lm_loss"
    about = About(
        "Held-out text",
        "The text is from Wikipedia only, and only models with the same tokenizer can be compared. A model fine-tuned"
        " on gender-swapped text may lose likelihood only on gendered names, which cannot be distinguished here from"
        " a general loss.",
        {
            "loss": Term("language-modelling loss", "mean negative log-likelihood of a held-out token"),
            "perplexity": Term("perplexity", "exponential of the language-modelling loss", True),
        },
        (("Webster et al. 2018", "https://aclanthology.org/Q18-1042"),),
    )
    version: ClassVar[int] = 2
    counts = ("tokens",)
    headline = ("overall.loss",)

    def items(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[Sentence], tuple[DataFile, ...]]:
        """Return the sentences of GAP validation."""
        text = corpus("gap/validation", source)
        return [Sentence(f"gap-validation-{i}", s) for i, s in enumerate(text.sentences)], text.files

    def scoring(self, codec: TextCodec) -> str:
        """Describe how items are scored."""
        return "15 % of tokens masked at once" if codec.kind == "masked" else "next token"

    def rows(self, item: Sentence, codec: TextCodec) -> list[Outcome]:
        """Return the row of the sentence."""
        return [Outcome(item.name, text={"sentence": item.text})]

    def ask(self, item: Sentence, codec: TextCodec) -> Asked | Excluded:
        """Ask for one sequence per sentence."""
        if codec.kind == "causal":
            return Asked([[codec.sequence_log_probs(item.text)]])
        ids = codec.encode(item.text)
        special = set(codec.tokenizer.all_special_ids)
        places = [i for i, token in enumerate(ids) if token not in special]
        if not places:
            return Excluded("a text has no token")
        count = max(1, round(_MASKED_SHARE * len(places)))
        chosen = sorted(random.Random(item.text).sample(places, count))
        masked = list(ids)
        for place in chosen:
            masked[place] = codec.mask_id
        return Asked([[TokenLogProbs(tuple(masked), tuple(chosen), tuple(ids[i] for i in chosen))]])

    def read(self, item: Sentence, answers: Answers, codec: TextCodec) -> list[dict[str, float]]:
        """Return the summed loss and the number of predicted tokens."""
        ((logs,),) = answers
        return [{"loss": -math.fsum(logs), "tokens": len(logs)}]

    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """Return the loss per token over all sentences, and its exponential."""
        loss = outcomes["loss"].to_numpy(dtype=np.float64)
        tokens = outcomes["tokens"].to_numpy(dtype=np.float64)
        rows = np.flatnonzero(outcomes["excluded"].isna())

        def per_token(at: Rows) -> NDArray[np.float64]:
            return loss[at].sum(axis=-1) / tokens[at].sum(axis=-1)

        def perplexity(at: Rows) -> NDArray[np.float64]:
            return np.exp(per_token(at))

        return [
            Measure("overall.loss", rows, per_token, unit="nats", higher_is_better=False),
            Measure("overall.perplexity", rows, perplexity, unit="perplexity", higher_is_better=False),
        ]
