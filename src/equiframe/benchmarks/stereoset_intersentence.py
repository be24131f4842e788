"""StereoSet, intersentence: which of three sentences a model expects after a sentence about a person."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from equiframe.about import BLODGETT, About, Pair, Term
from equiframe.benchmarks.asking import replies
from equiframe.benchmarks.benchmark import Asked, Excluded
from equiframe.benchmarks.stereoset import Cluster, StereoSet
from equiframe.requests import ModelKind, TextCodec


class StereoSetIntersentence(StereoSet):
    """How often a model expects the stereotype to follow rather than its opposite, and sense rather than nonsense.

    Source:       Nadeem, Bethke and Reddy 2021; intersentence; 2,123 clusters (``dev``, 79 target terms, 242
                  clusters about gender) or 6,374 (``test``, 242 terms, 751 about gender); CC BY-SA 4.0.
    Measures:     ``lms``, ``ss`` and ``icat`` as in the intrasentence part, from the scores of three sentences
                  that may follow a context.
        masked:   with a next-sentence head, as BERT's checkpoints have it: the probability that the sentence
                  follows, the two being a pair of segments. Otherwise, and with ``likelihood``, the geometric
                  mean of the probabilities of the sentence's tokens, each masked alone (a pseudo-likelihood).
        causal:   the same mean, each token read after the start token, the context and the sentence so far.
                  Where a likelihood is the score, context and sentence are one text, and the context gets a full
                  stop if it does not end in one of ``.!?``. With a chat template the context is the user's turn,
                  and the sentence begins the assistant's.
    Ideal:        ss 50, lms 100, icat 100.
    Variants:     ``dev`` (default, a third of the work: by likelihood a masked LM reads 63,000 sequences for it) and
                  ``test``; ``next_sentence`` (default; where the model has the head) and ``likelihood`` (of every
                  model: to compare one that has the head with one that has not).
    Known faults: those of the intrasentence part. Here the three sentences also differ in length and in all of
                  their words, so a likelihood depends on how common a sentence is by itself; an unrelated
                  sentence of common words can win by that alone. Pieces of one word predict each other
                  when each is masked alone, so rare words score too high (Kauf and Ivanova 2023). A next-sentence
                  head was trained to tell a neighbour from a text of another document, which is a matter of
                  topic more than of coherence (Lan et al. 2020). No method here trains it, so debiasing moves its
                  answers by the encoder's states alone.
    Reproduces:   no published figure, and none was run here. With the head it does as the public code: the context as
                  it stands, ``[CLS] context [SEP] sentence [SEP]`` with token types, the class "is next"; but
                  in logarithms, so that two scores close to 1 do not tie. For masked LMs other than BERT the public
                  code trains heads of its own. For GPT-2 it scores the first 1,000 clusters by the mean
                  log-probability of the sentence without its context over that of the context; here it is that of
                  the sentence after its context, on all clusters. MABEL leaves the intersentence part out.
    """

    name = "stereoset_intersentence"
    about = About(
        "StereoSet, intersentence",
        "Balance over these items is not equal treatment in use. The three sentences differ in length and in all of"
        " their words: how common each is by itself moves the score, and many state no stereotype.",
        {
            "ss": Term("stereotype score (SS)", "share of items where the stereotype is preferred"),
            "lms": Term("language modelling score (LMS)", "share of comparisons where sense is preferred to nonsense"),
            "icat": Term("ICAT", "LMS, scaled down by the distance of SS from 50"),
        },
        (("Nadeem et al. 2021", "https://aclanthology.org/2021.acl-long.416"), BLODGETT),
        Pair("stereotype_sentence", "anti_sentence", "stereotype", "anti", "log-probability"),
    )
    version: ClassVar[int] = 2
    part: ClassVar[str] = "intersentence"
    puts_questions = True
    variants: ClassVar[dict[str, tuple[str, ...]]] = {
        "split": ("dev", "test"),
        "by": ("next_sentence", "likelihood"),
    }

    def __init__(
        self,
        split: Literal["test", "dev"] = "dev",
        by: Literal["next_sentence", "likelihood"] = "next_sentence",
    ) -> None:
        super().__init__(split)
        self.by = by

    def scoring(self, codec: TextCodec) -> str:
        """How a sentence is scored."""
        if self._asks_head(codec):
            return "probability that the sentence follows its context, by the next-sentence head"
        if codec.kind == "masked":
            return "geometric mean probability of the sentence's tokens after its context, each masked alone"
        return "geometric mean probability of the sentence's tokens after its context"

    def ask(self, item: Cluster, codec: TextCodec) -> Asked | Excluded:
        """For each sentence, the head once; or, masked: one sequence per token, causal: one."""
        if not all(map(str.strip, item.sentences)):
            return Excluded("a text has no token")
        if self._asks_head(codec):
            return Asked([[codec.next_sentence(item.context, sentence)] for sentence in item.sentences])
        context = item.context.rstrip()
        if not context.endswith((".", "!", "?")):
            context += "."
        return Asked(replies(context, item.sentences, codec))

    def _asks_head(self, codec: TextCodec) -> bool:
        return self.by == "next_sentence" and codec.has_next_sentence

    def _score(self, logs: Sequence[float], kind: ModelKind) -> float:
        return math.exp(math.fsum(logs) / len(logs))
