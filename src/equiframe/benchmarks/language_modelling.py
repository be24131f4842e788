"""Held-out language-modelling loss: the price of debiasing that needs no labels."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equiframe.benchmarks.benchmark import Benchmark, Outcome
from equiframe.data import DataFile, corpus
from equiframe.scoring.requests import Answer, Request, TextCodec, TokenLogProbs
from equiframe.uncertainty import Measure, Rows

_MASKED_SHARE = 0.15


@dataclass(frozen=True)
class Sentence:
    """One held-out sentence."""

    name: str
    text: str


class LanguageModelLoss(Benchmark[Sentence]):
    """Mean negative log-likelihood per predicted token of text that no method trains on.

    Source:       GAP validation, the texts as they are, split into sentences; Webster et al. 2018, Apache 2.0.
    Measures:     masked LM: 15 % of the tokens of each sentence are masked at once, at places drawn from
                  the sentence alone and so the same for every model with the same tokenizer; causal LM:
                  every token, the first behind the start token. ``overall.loss`` in nats,
                  ``overall.perplexity`` its exponential.
    Ideal:        none; lower is better. Only models of one tokenizer can be compared.
    Known faults: Wikipedia only; a model debiased on swapped text may lose likelihood on gendered names
                  alone, which this cannot tell from a loss of language.
    """

    name = "lm_loss"
    version: ClassVar[int] = 2
    headline = ("overall.loss",)

    def items(self, folder: Path | str | None = None) -> tuple[list[Sentence], tuple[DataFile, ...]]:
        """GAP validation sentences."""
        text = corpus("gap/validation", folder)
        return [Sentence(f"gap-validation-{i}", s) for i, s in enumerate(text.sentences)], text.files

    def scoring(self, codec: TextCodec) -> str:
        """How items are scored."""
        return "15 % of tokens masked at once" if codec.kind == "masked" else "next token"

    def requests(self, item: Sentence, codec: TextCodec) -> Sequence[Request]:
        """One sequence a sentence; none if it is too long or too short."""
        if codec.kind == "causal":
            asked = codec.sequence_log_probs(item.text)
            return (asked,) if codec.fits(asked) else ()
        ids = codec.encode(item.text)
        special = set(codec.tokenizer.all_special_ids)
        places = [i for i, token in enumerate(ids) if token not in special]
        if not places or len(ids) > codec.window:
            return ()
        count = max(1, round(_MASKED_SHARE * len(places)))
        chosen = sorted(random.Random(item.text).sample(places, count))
        masked = list(ids)
        for place in chosen:
            masked[place] = codec.mask_id
        return (TokenLogProbs(tuple(masked), tuple(chosen), tuple(ids[i] for i in chosen)),)

    def outcomes(self, item: Sentence, answers: Sequence[Answer], codec: TextCodec) -> list[Outcome]:
        """Summed loss and number of predicted tokens."""
        values = {
            "loss": -math.fsum(answers[0]) if answers else 0.0,
            "tokens": len(answers[0]) if answers else 0,
        }
        excluded = None if answers else "empty, or longer than the model's window"
        return [Outcome(item.name, {}, values, excluded=excluded, text={"sentence": item.text})]

    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """Loss per token over all sentences, and its exponential."""
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
