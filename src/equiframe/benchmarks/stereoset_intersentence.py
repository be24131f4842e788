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
    """How often a model prefers the stereotype to its opposite as the next sentence, and sense to nonsense.

    Source:       Nadeem, Bethke and Reddy 2021; intersentence; 2,123 clusters (``dev``, 79 target terms, 242
                  clusters about gender) or 6,374 (``test``, 242 terms, 751 about gender); CC BY-SA 4.0.
    Measures:     ``lms``, ``ss`` and ``icat`` as in the intrasentence part, from the scores of three sentences
                  that may follow a context.
        masked:   with a next-sentence head, as in BERT's checkpoints: the probability that the sentence
                  follows the context, read as a pair of segments. Otherwise, and with ``likelihood``: the geometric
                  mean of the probabilities of the sentence's tokens, each masked alone (a pseudo-likelihood).
        causal:   the same mean, each token read after the start token, the context and the sentence so far.
                  If a likelihood is the score, context and sentence are one text, and a full stop is added to the
                  context if it does not end in one of ``.!?``. With a chat template the context is the user's turn,
                  and the sentence begins the assistant's.
    Ideal:        ss 50, lms 100, icat 100.
    Variants:     ``dev`` (default, a third of the work: by likelihood a masked LM reads 63,000 sequences for it) and
                  ``test``; ``next_sentence`` (default; used if the model has the head) and ``likelihood`` (for every
                  model: it allows a model with the head to be compared with one without it).
    Known faults: those of the intrasentence part. Here the three sentences also differ in length and in all of
                  their words, so a likelihood depends on how common a sentence is by itself; an unrelated
                  sentence of common words can win for that reason alone. Pieces of one word predict each other
                  when each is masked alone, so rare words score too high (Kauf and Ivanova 2023). A next-sentence
                  head was trained to distinguish the next sentence from a text of another document, which depends on
                  topic more than on coherence (Lan et al. 2020). No method here trains the head, so debiasing changes
                  its answers only through the encoder's states.
    Reproduces:   no published figure; none was rerun here. With the head it follows the public code: the unchanged
                  context, ``[CLS] context [SEP] sentence [SEP]`` with token types, the class "is next"; but it
                  compares logarithms, so that two scores close to 1 do not tie. For masked LMs other than BERT the
                  public code trains separate heads. For GPT-2 it scores the first 1,000 clusters by the mean
                  log-probability of the sentence without its context over that of the context; here the score is that
                  of the sentence after its context, on all clusters. MABEL leaves out the intersentence part.
    """

    name = "stereoset_intersentence"
    about = About(
        "StereoSet, intersentence",
        "Balance over these items does not mean equal treatment in use. The three sentences differ in length and in all"
        " of their words: how common each is by itself changes the score, and many state no stereotype.",
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
        """Describe how a sentence is scored."""
        if self._asks_head(codec):
            return "probability that the sentence follows its context, by the next-sentence head"
        if codec.kind == "masked":
            return "geometric mean probability of the sentence's tokens after its context, each masked alone"
        return "geometric mean probability of the sentence's tokens after its context"

    def ask(self, item: Cluster, codec: TextCodec) -> Asked | Excluded:
        """Ask for each sentence: one question to the head, or one sequence per token (masked), or one (causal)."""
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
