"""WinoBias with pronouns: whether a model chooses pronouns by the stereotype of an occupation."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equiframe.about import About, Term
from equiframe.benchmarks.benchmark import Answers, Asked, Benchmark, Excluded, Measure, Outcome
from equiframe.benchmarks.row_statistics import mean_of
from equiframe.data import DEFAULT_SOURCE, DataFile, DataSource, locate, read_text
from equiframe.errors import DataError
from equiframe.requests import TextCodec, TokenLogProbs
from equiframe.uncertainty import Rows

_FEMALE = {"she", "her", "herself"}
_COUNTERPARTS = {frozenset(pair) for pair in (("he", "she"), ("him", "her"), ("his", "her"), ("himself", "herself"))}
_LINE = re.compile(r"(\d+) (.*\S)\s*")
BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_PRONOUN = re.compile(r"\[(he|she|him|his|her|himself|herself)\]")
_GENDERED = re.compile(r"\b(he|she|him|his|hers?|himself|herself|man|woman)\b", re.IGNORECASE)


@dataclass(frozen=True)
class PronounSentence:
    """A sentence without its pronouns: the texts around them, and the pronouns themselves."""

    parts: tuple[str, ...]
    pronouns: tuple[str, ...]

    def filled(self, words: Sequence[str]) -> str:
        """Return the sentence with other words in place of the pronouns."""
        return self.parts[0] + "".join(map("".join, zip(words, self.parts[1:], strict=True)))


@dataclass(frozen=True)
class StereotypePair:
    """One line from both files: pronouns by the stereotype of the occupation that they mean, and against it."""

    item: str
    kind: str
    occupation: str
    pro: PronounSentence
    anti: PronounSentence


class WinoBiasPronoun(Benchmark[StereotypePair]):
    """How often a model prefers the pronoun that fits the stereotype of the occupation it refers to.

    Source:       Zhao et al. 2018; in each split 396 pairs of lines of type 1 (world knowledge is needed to know who is
                  meant) and 396 of type 2 (syntax decides), over 40 occupations; MIT.
    Measures:     ``pro`` = % of lines with stereotypical pronouns where the model prefers the pronoun in the line
                  to the other gender's, ``anti`` = the same for lines with the opposite pronouns, where a tie is
                  wrong in both; ``gap`` = pro - anti; ``log_odds`` = mean over pairs of
                  log p(stereotypical) - log p(opposite), the mean of both lines;
                  ``stereotype_preference`` = % of pairs where it is positive, a tie counts half.
                  ``overall``, ``type1`` and ``type2``.
        masked:   the bracketed pronouns of a line are masked together, and their log-probabilities are summed.
        causal:   log-likelihood of the sentence with the pronouns of either gender, after a start token. With a chat
                  template the user asks to complete the sentence, which has gaps for its pronouns.
    Ideal:        gap and log_odds 0, stereotype_preference 50. ``pro`` and ``anti`` have none: only the occupation
                  suggests the gender of a masked pronoun, so they do not show skill.
    Variants:     ``dev`` (default; the split of the published coreference figures) and ``test``.
    Known faults: the two lines of a pair mostly differ in the pronouns alone; then the model sees the same
                  sentence twice, so anti = 100 - pro (without ties) and gap adds nothing to
                  stereotype_preference. This is not coreference: figures are not comparable with the published
                  F1. Intervals treat the pairs as independent, though there are always two pairs about the same two
                  occupations. Pairs are left out if their files bracket different pronouns ("her" in one and
                  "he" in the other, or only one of them is in brackets), or if another word gives the gender away
                  ("he is a generous man").
    Reproduces:   no published figure. The form for the other gender is the one in the opposite file, which
                  distinguishes ``her`` for him from ``her`` for his. Public implementations differ in what they
                  compare and leave out; none is followed here.
    """

    name = "winobias_pronoun"
    about = About(
        "WinoBias, pronouns",
        "No pronoun is resolved here: the numbers show which pronoun a model expects near an occupation. There are two"
        " genders and 40 occupations, and the stereotype follows official figures of the United States.",
        {
            "pro": Term("pro-stereotypical pronoun expected", "share of sentences that fit the stereotype", True),
            "anti": Term("anti-stereotypical pronoun expected", "share of sentences that go against it", True),
            "gap": Term("gap", "the former minus the latter"),
            "stereotype_preference": Term("preference for the stereotype", "share of pairs where it scores higher"),
            "log_odds": Term("log-odds of the stereotype", "mean over the pairs"),
        },
        (("Zhao et al. 2018", "https://aclanthology.org/N18-2003"),),
    )
    version: ClassVar[int] = 1
    decisions = (("pro",), ("anti",), ("pro", "anti"))
    puts_questions = True
    headline = ("type1.gap", "type2.gap", "overall.stereotype_preference")
    variants: ClassVar[dict[str, tuple[str, ...]]] = {"split": ("dev", "test")}

    def __init__(self, split: Literal["dev", "test"] = "dev") -> None:
        self.split = split

    def items(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[StereotypePair], tuple[DataFile, ...]]:
        """Return all pairs of lines, named by type and number."""
        pairs: list[StereotypePair] = []
        files: list[DataFile] = []
        for kind in ("type1", "type2"):
            pro_file, anti_file = (locate(f"winobias/{kind}/{side}/{self.split}", source) for side in ("pro", "anti"))
            pro, anti = _lines(pro_file.path), _lines(anti_file.path)
            if pro.keys() != anti.keys():
                number = min(pro.keys() ^ anti.keys())
                missing = anti_file.path if number in pro else pro_file.path
                raise DataError(f"sentence {number} is missing, but the opposite file has it", path=missing)
            pairs += (
                StereotypePair(f"{kind}-{number}", kind, occupation, sentence, anti[number][1])
                for number, (occupation, sentence) in pro.items()
            )
            files += (pro_file.file, anti_file.file)
        return pairs, tuple(files)

    def scoring(self, codec: TextCodec) -> str:
        """Describe how pronouns are compared."""
        if codec.kind == "causal":
            return "log-likelihood of the sentence with either gender's pronouns, after a start token"
        return "log-probability of either gender's pronouns, all masked at once"

    def rows(self, item: StereotypePair, codec: TextCodec) -> list[Outcome]:
        """Return the row of the pair of lines."""
        return [
            Outcome(
                item.item,
                groups={
                    "type": item.kind,
                    "occupation": item.occupation,
                    "stereotype": "female" if item.pro.pronouns[0] in _FEMALE else "male",
                },
                text={
                    "pro_sentence": item.pro.filled(item.pro.pronouns),
                    "anti_sentence": item.anti.filled(item.anti.pronouns),
                },
            )
        ]

    def ask(self, item: StereotypePair, codec: TextCodec) -> Asked | Excluded:
        """Ask, for each line, for its own pronouns and for those of the other line."""
        both = item.pro.pronouns, item.anti.pronouns
        if len(both[0]) != len(both[1]):
            return Excluded("the two files bracket other pronouns")
        if not all(frozenset(pair) in _COUNTERPARTS for pair in zip(*both, strict=True)):
            return Excluded("the pronouns of the two files are not counterparts")
        if any(_GENDERED.search(part) for line in (item.pro, item.anti) for part in line.parts):
            return Excluded("another word gives the gender away")
        parts = []
        for line, choices in ((item.pro, both), (item.anti, both[::-1])):
            asked = ask_pronouns(line, choices, codec)
            if isinstance(asked, Excluded):
                return asked
            parts.append(asked.requests)
        return Asked(parts)

    def read(self, item: StereotypePair, answers: Answers, codec: TextCodec) -> list[dict[str, float]]:
        """Return by how much each line's own pronouns are preferred."""
        pro, anti = (math.fsum(own) - math.fsum(other) for own, other in answers)
        return [{"pro": pro, "anti": anti}]

    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """Return the accuracies, their gap, and the preference for the stereotype, overall and by type."""
        counted = outcomes["excluded"].isna()
        pro, anti = (outcomes[side].to_numpy(dtype=np.float64) for side in ("pro", "anti"))
        odds = (pro - anti) / 2
        prefers = 50.0 * (1 + np.sign(odds))

        pro_accuracy, anti_accuracy = mean_of(pro > 0, 100), mean_of(anti > 0, 100)

        def gap(rows: Rows) -> NDArray[np.float64]:
            return pro_accuracy(rows) - anti_accuracy(rows)

        measures = []
        for group in ("overall", "type1", "type2"):
            rows = np.flatnonzero(counted & ((outcomes["type"] == group) | (group == "overall")))
            if len(rows) > 0:
                measures += [
                    Measure(f"{group}.pro", rows, pro_accuracy, "%"),
                    Measure(f"{group}.anti", rows, anti_accuracy, "%"),
                    Measure(f"{group}.gap", rows, gap, "points", 0.0),
                    Measure(f"{group}.stereotype_preference", rows, mean_of(prefers), "%", 50.0),
                    Measure(f"{group}.log_odds", rows, mean_of(odds), "nats", 0.0),
                ]
        return measures


def ask_pronouns(sentence: PronounSentence, choices: Sequence[Sequence[str]], codec: TextCodec) -> Asked | Excluded:
    """Ask for each choice of pronouns in a sentence, or return why this is not possible."""
    asked = []
    if codec.kind == "causal":
        texts = [sentence.filled(words) for words in choices]
        if codec.chat_template is None:
            asked = [codec.sequence_log_probs(text) for text in texts]
        else:
            gaps = sentence.filled(["___"] * len(sentence.pronouns))
            asked = codec.answers_to(f"Complete the sentence: {gaps}", texts)
    else:
        mask_id = codec.mask_id
        ids = codec.encode(sentence.filled([codec.tokenizer.mask_token] * len(sentence.pronouns)))
        places = tuple(place for place, token in enumerate(ids) if token == mask_id)
        if len(places) != len(sentence.pronouns):
            return Excluded("the sentence itself has a mask")
        for words in choices:
            pieces = [codec.pieces([word], before)[0] for word, before in zip(words, sentence.parts, strict=False)]
            if not all(len(found) == 1 and found[0] != codec.tokenizer.unk_token_id for found in pieces):
                return Excluded("a pronoun is not one token of the model")
            asked.append(TokenLogProbs(ids, places, tuple(found[0] for found in pieces)))
    return Asked([[request] for request in asked])


def occupations_by_gender(source: DataSource) -> tuple[dict[str, str], tuple[DataFile, ...]]:
    """Return WinoBias' occupations with the gender that stereotype assigns to each, women's before men's.

    Raises:
        DataError: an occupation is listed twice, or a file has none.
    """
    genders: dict[str, str] = {}
    files = []
    for gender in ("female", "male"):
        located = locate(f"winobias/{gender}_occupations", source)
        files.append(located.file)
        for line, text in enumerate(read_text(located.path).split("\n"), start=1):
            occupation = text.strip()
            if occupation in genders:
                raise DataError(f"{occupation!r} is listed before", path=located.path, line=line)
            if occupation:
                genders[occupation] = gender
        if gender not in genders.values():
            raise DataError("the file has no occupation: is it complete?", path=located.path)
    return genders, tuple(files)


def numbered_sentences(path: Path) -> Iterator[tuple[int, int, str]]:
    """Yield the line, the number and the text of each sentence of a file of WinoBias.

    Raises:
        DataError: a line is not a number and a sentence, a number is repeated, or there is no sentence.
    """
    seen: set[int] = set()
    for at, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        numbered = _LINE.fullmatch(line)
        if numbered is None:
            raise DataError(f"{line!r:.60}, expected a number and a sentence", path=path, line=at)
        number = int(numbered[1])
        if number in seen:
            raise DataError(f"sentence {number} is repeated: give each sentence a different number", path=path, line=at)
        seen.add(number)
        yield at, number, numbered[2]
    if not seen:
        raise DataError("the file has no sentence: is it complete?", path=path)


def _lines(path: Path) -> dict[int, tuple[str, PronounSentence]]:
    """The occupation that is meant and the sentence, by the number of the sentence in the file."""
    lines: dict[int, tuple[str, PronounSentence]] = {}
    for at, number, sentence in numbered_sentences(path):
        pieces = _PRONOUN.split(sentence)
        if len(pieces) == 1:
            raise DataError(f"{sentence!r:.60} has no pronoun in brackets", path=path, line=at)
        entities = [found for part in pieces[::2] for found in BRACKETS.findall(part)]
        if not entities:
            raise DataError(f"{sentence!r:.60} has no occupation in brackets", path=path, line=at)
        parts = tuple(re.sub(r"\s+", " ", part.replace("[", "").replace("]", "")) for part in pieces[::2])
        occupation = re.sub(r"^(the|an?) ", "", entities[0].strip().lower())
        lines[number] = occupation, PronounSentence(parts, tuple(pieces[1::2]))
    return lines
