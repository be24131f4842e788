"""StereoSet, intersentence: which of three sentences a model expects behind a sentence about a person."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from equiframe.benchmarks.asking import continuations
from equiframe.benchmarks.stereoset import Cluster, StereoSet, _scorable
from equiframe.scoring.requests import ModelKind, TextCodec, TokenLogProbs


class StereoSetIntersentence(StereoSet):
    """How often a model expects the stereotype to follow rather than its opposite, and sense rather than nonsense.

    Source:       Nadeem, Bethke and Reddy 2021; intersentence; 2,123 clusters (``dev``, 79 target terms, 242
                  clusters about gender) or 6,374 (``test``, 242 terms, 751 about gender); CC BY-SA 4.0.
    Measures:     ``lms``, ``ss`` and ``icat`` as in the intrasentence part, from the scores of three sentences
                  that may follow a context. A score is the geometric mean of the probabilities of the sentence's
                  tokens, the context in view; the context gets a full stop if it does not end in one of ``.!?``.
        masked:   each token of the sentence is masked alone (a pseudo-likelihood).
        causal:   each token is read behind the start token, the context and the sentence so far.
    Ideal:        ss 50, lms 100, icat 100.
    Variants:     ``dev`` (default, a third of the work: a masked LM reads 63,000 sequences for it) and
                  ``test``.
    Known faults: those of the intrasentence part. Here the three sentences also differ in length and in all of
                  their words, so a score depends on how common a sentence is by itself; an unrelated
                  sentence of common words can win by that alone. Pieces of one word predict each other
                  when each is masked alone, so rare words score too high (Kauf and Ivanova 2023).
    Reproduces:   no published figure. The public code asks the next-sentence head of BERT, and heads that it
                  trains for the other models; a language model's checkpoint has none as it is loaded here. For
                  GPT-2 it scores the first 1,000 clusters by the mean log-probability of the sentence without
                  its context over that of the context; here it is that of the sentence behind its context,
                  on all clusters. MABEL leaves the intersentence part out.
                  Context and sentence are read as one text: a pair of segments would need token types.
    """

    name = "stereoset_intersentence"
    version: ClassVar[int] = 1
    part: ClassVar[str] = "intersentence"
    variants: ClassVar[dict[str, tuple[str, ...]]] = {"split": ("dev", "test")}

    def __init__(self, split: Literal["test", "dev"] = "dev") -> None:
        super().__init__(split)

    def scoring(self, kind: ModelKind) -> str:
        """How a sentence is scored."""
        if kind == "masked":
            return "geometric mean probability of the sentence's tokens behind its context, each masked alone"
        return "geometric mean probability of the sentence's tokens behind its context"

    def _asked(self, item: Cluster, codec: TextCodec) -> list[list[TokenLogProbs]] | str:
        if not all(map(str.strip, item.sentences)):
            return "nothing to score for a candidate"
        context = item.context.rstrip()
        if not context.endswith((".", "!", "?")):
            context += "."
        return _scorable(continuations(context, item.sentences, codec), codec)

    def _score(self, logs: Sequence[float], kind: ModelKind) -> float:
        return math.exp(math.fsum(logs) / len(logs))
