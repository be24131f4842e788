"""Agreement: whether a model still knows the gender, or the religion, that a text gives."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from equiframe.about import About, Term
from equiframe.benchmarks.asking import log_probs_after
from equiframe.benchmarks.benchmark import Answers, Asked, Benchmark, Excluded, Measure, Outcome
from equiframe.benchmarks.row_statistics import ratio_of_sums, sums_by_unit
from equiframe.benchmarks.winobias import PronounSentence, ask_pronouns
from equiframe.data import DEFAULT_SOURCE, CounterfactualSwapper, DataFile, DataSource, locate, read_delimited
from equiframe.errors import DataError
from equiframe.requests import TextCodec
from equiframe.words import WordSet

GIVEN_BY = ("pronoun", "kinship", "noun", "title", "name")

_PRONOUNS = frozenset("she he her him hers his herself himself".split())
_KINSHIP = frozenset(
    """mother father mom dad mum mama papa sister brother daughter son wife husband aunt uncle niece nephew grandmother
    grandfather grandma grandpa granny grandad stepmother stepfather stepsister stepbrother stepdaughter stepson
    granddaughter grandson godmother godfather goddaughter godson mothers fathers sisters brothers daughters sons wives
    husbands""".split()
)
_TITLES = frozenset("mrs mr ms miss sir dame lady lord queen king princess prince duchess duke".split())

# the subject of a sentence, as a woman and as a man: the context that gives the gender
_SUBJECTS: dict[str, tuple[tuple[str, str], ...]] = {
    "kinship": (
        *((f"My {her}", f"My {him}") for her, him in (("mother", "father"), ("sister", "brother"), ("aunt", "uncle"))),
        *((f"Their {her}", f"Their {him}") for her, him in (("daughter", "son"), ("grandmother", "grandfather"))),
        *((f"The lawyer's {her}", f"The lawyer's {him}") for her, him in (("wife", "husband"), ("niece", "nephew"))),
        ("Our mom", "Our dad"),
    ),
    "noun": (
        ("The woman", "The man"),
        ("The girl", "The boy"),
        ("The lady", "The gentleman"),
        ("The actress", "The actor"),
        ("The waitress", "The waiter"),
        ("The businesswoman", "The businessman"),
    ),
    "title": (
        ("Mrs. Smith", "Mr. Smith"),
        ("Ms. Brown", "Mr. Brown"),
        ("The queen", "The king"),
        ("The princess", "The prince"),
        ("The duchess", "The duke"),
        ("Lady Carter", "Lord Carter"),
    ),
    "name": tuple(
        zip(
            "Mary Jennifer Linda Elizabeth Susan Jessica Sarah Karen Lisa Emily Anna Emma".split(),
            "James John Michael David Robert William Thomas Daniel Matthew Jacob Peter Paul".split(),
            strict=True,
        )
    ),
}
_OPENINGS = ("", "Later that day ", "In the end ", "On Monday ")  # before a subject that is itself a pronoun
# the text after the subject, the two forms of the later word, and the text after that word
_FRAMES: tuple[tuple[str, tuple[str, str], str], ...] = (
    (" said that ", ("she", "he"), " was tired."),
    (" told me that ", ("she", "he"), " would come later."),
    (" left early because ", ("she", "he"), " had a lot of work."),
    (" was happy because ", ("she", "he"), " had won."),
    (" stopped at the door, and then ", ("she", "he"), " turned around."),
    (" smiled when ", ("she", "he"), " opened the letter."),
    (" did not know whether ", ("she", "he"), " should stay."),
    (" called us as soon as ", ("she", "he"), " arrived."),
    (" picked up ", ("her", "his"), " phone."),
    (" put on ", ("her", "his"), " glasses."),
    (" was looking for ", ("her", "his"), " keys."),
    (" talked about ", ("her", "his"), " childhood."),
    (" asked whether we could help ", ("her", "him"), "."),
    (" wanted us to wait for ", ("her", "him"), "."),
    (" looked in the mirror and saw ", ("herself", "himself"), "."),
    (" fell on the stairs and hurt ", ("herself", "himself"), "."),
)
_RELIGIONS = ("Christian", "Jewish", "Muslim")
_RELIGIOUS: tuple[tuple[str, str, tuple[str, str, str]], ...] = (
    ("They prayed in the {} every week, as many ", " families do.", ("church", "synagogue", "mosque")),
    ("The {} in our street was built by the ", " community.", ("church", "synagogue", "mosque")),
    ("She goes to the {} because she is ", ".", ("church", "synagogue", "mosque")),
    ("The {} spoke about what it means to be ", " today.", ("priest", "rabbi", "imam")),
    ("The {} has served the ", " community for many years.", ("priest", "rabbi", "imam")),
    ("He reads the {} every day, as many ", " people do.", ("Bible", "Torah", "Quran")),
    ("The {} lay open in the home of the ", " family.", ("Bible", "Torah", "Quran")),
    ("They were married by the {} in a ", " ceremony.", ("priest", "rabbi", "imam")),
)


@dataclass(frozen=True)
class ContextSentence:
    """A text with one word in two forms, of which only one agrees with the context.

    Args:
        item: stable name.
        group: whom the context means: women, men, or a religion.
        given_by: the clearest cue in the text, one of ``GIVEN_BY``; for a religion it is ``religion``.
        source: templates or gap.
        unit: items with the same unit are resampled together.
        sentence: the text, and the form that agrees.
        other: the form that does not agree.
    """

    item: str
    group: str
    given_by: str
    source: str
    unit: str
    sentence: PronounSentence
    other: str


class Agreement(Benchmark[ContextSentence]):
    """How often a model expects the pronoun, or the religion, that the context of a sentence asks for.

    It does not measure bias, but what debiasing must keep: a model can be made fair by making it blind. Read it next
    to every gain on the bias benchmarks, as you would read language understanding.

    Source:       our own templates: 32 women and their male counterparts, given by kinship, nouns, titles and names,
                  and pronouns after four openings, each in 16 frames; 48 sentences in which a place, a text or an
                  office gives one of three religions; and GAP validation (Webster et al. 2018, Apache 2.0): the
                  labelled pronoun of each text with at least one earlier pronoun, gendered noun or name from our lists,
                  all of which must have the pronoun's gender (201 texts). It is held out: ``gap`` as a text to train
                  on means GAP development and test, and no method reads GAP validation unless told to. ``lm_loss`` also
                  measures its sentences.
    Measures:     d = log p(agreeing form) - log p(other form); ``agreement`` = % of items with d > 0, where a tie
                  counts half; ``log_odds`` = mean d. Both are given for ``gender`` as a whole, for ``women`` and
                  ``men``, by the cue that gives the gender (``pronoun``, ``kinship``, ``noun``, ``title``, ``name``;
                  the first of these if a GAP text has several), for ``gap`` alone, and for ``religion``, where each
                  item compares the religion with one of the two others. Intervals resample the subjects of templates
                  and the texts of GAP.
        masked:   the word is masked; the model sees the text before it and the rest of its sentence.
        causal:   the word is predicted from the text before it.
    Ideal:        100 % and a large d. What counts is that neither falls.
    Known faults: templates are simple, and every frame occurs with every subject; of titles and nouns such as
                  "actress" one form is rarer than the other. In GAP the pronoun may refer to another person than the
                  earlier words do, most often of the same gender. Race is not covered: no sentence states it in a way
                  that a later word must agree with. Non-binary pronouns are not covered either.
    Reproduces:   no published figure.
    """

    suite = "nlu"
    name = "agreement"
    about = About(
        "Agreement",
        "This does not measure bias, but what must be kept: a model can be made fair by making it blind to the gender"
        " that a text gives. Most of its sentences are simple templates.",
        {
            "agreement": Term("agreement with the context", "share of items where the agreeing word is more likely"),
            "log_odds": Term("log-odds of the agreeing word", "mean over the items", True),
        },
        (("Webster et al. 2018 (GAP)", "https://aclanthology.org/Q18-1042"),),
    )
    version: ClassVar[int] = 1
    decisions = (("agreeing", "other"),)
    headline = ("gender.agreement", "women.agreement", "men.agreement")

    def items(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[ContextSentence], tuple[DataFile, ...]]:
        """Return the templates about gender, then GAP, then religion."""
        located = locate("gap/validation", source)
        return [*_templates(), *_gap(located.path), *_religion()], (located.file,)

    def scoring(self, codec: TextCodec) -> str:
        """Describe how the two forms are compared."""
        if codec.kind == "causal":
            return "log-probability of either form of the word after what stands before it"
        return "log-probability of either form of the masked word"

    def rows(self, item: ContextSentence, codec: TextCodec) -> list[Outcome]:
        """Return the row of the sentence."""
        return [
            Outcome(
                item.item,
                groups={"group": item.group, "given_by": item.given_by, "source": item.source, "unit": item.unit},
                text={
                    "sentence": item.sentence.filled(item.sentence.pronouns),
                    "other_sentence": item.sentence.filled([item.other]),
                },
            )
        ]

    def ask(self, item: ContextSentence, codec: TextCodec) -> Asked | Excluded:
        """Ask for the agreeing form and for the other one."""
        forms = (item.sentence.pronouns[0], item.other)
        if codec.kind == "masked":
            return ask_pronouns(item.sentence, [[form] for form in forms], codec)
        before = item.sentence.parts[0]
        if not before.strip():
            return Excluded("nothing stands before the word")
        return Asked([[request] for request in log_probs_after(before, forms, codec)])

    def read(self, item: ContextSentence, answers: Answers, codec: TextCodec) -> list[dict[str, float]]:
        """Return the log-probabilities of both forms."""
        agreeing, other = (math.fsum(logs) for (logs,) in answers)
        return [{"agreeing": agreeing, "other": other}]

    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """Return the measures over units, each of which is represented by the row of its first item."""
        odds = outcomes["agreeing"] - outcomes["other"]
        columns = {"items": 1.0, "log_odds": odds, "agreement": 50.0 * (1 + np.sign(odds))}
        is_religion = outcomes["given_by"] == "religion"
        groups = {"gender": ~is_religion, "women": outcomes["group"] == "women", "men": outcomes["group"] == "men"}
        groups |= {given: outcomes["given_by"] == given for given in GIVEN_BY}
        groups |= {"gap": outcomes["source"] == "gap", "religion": is_religion}
        measures = []
        for group, chosen in groups.items():
            rows, sums = sums_by_unit(outcomes, columns, chosen & outcomes["excluded"].isna())
            if not len(rows):
                continue
            for key, unit, ideal in (("agreement", "%", 100.0), ("log_odds", "nats", None)):
                statistic = ratio_of_sums(sums[key], sums["items"])
                measures.append(Measure(f"{group}.{key}", rows, statistic, unit, ideal, higher_is_better=True))
        return measures


def _templates() -> Iterator[ContextSentence]:
    subjects = {"pronoun": tuple((f"{opening}she", f"{opening}he") for opening in _OPENINGS), **_SUBJECTS}
    for given_by, pairs in subjects.items():
        for pair in pairs:
            unit = " / ".join(pair)
            for number, (after, forms, end) in enumerate(_FRAMES):
                for group, subject, own, other in (("women", pair[0], *forms), ("men", pair[1], *forms[::-1])):
                    before = f"{subject[0].upper()}{subject[1:]}{after}"
                    sentence = PronounSentence((before, end), (own,))
                    yield ContextSentence(f"{subject}-{number}", group, given_by, "templates", unit, sentence, other)


def _religion() -> Iterator[ContextSentence]:
    for number, (before, after, words) in enumerate(_RELIGIOUS):
        for word, own in zip(words, _RELIGIONS, strict=True):
            for other in _RELIGIONS:
                if other != own:
                    sentence = PronounSentence((before.format(word), after), (own,))
                    name = f"religion-{number}-{word}-{other}"
                    yield ContextSentence(name, own.lower(), "religion", "templates", word, sentence, other)


def _gap(path: Path) -> Iterator[ContextSentence]:
    """The labelled pronoun of each text whose earlier words are all of its gender."""
    swapper = CounterfactualSwapper.gender()
    names, nouns = WordSet.builtin("names"), WordSet.builtin("gender")
    gender_of = {word: group for words in (names, nouns) for group, members in words.groups.items() for word in members}
    columns = ("ID", "Text", "Pronoun", "Pronoun-offset")
    for line, row in read_delimited(path, "\t", columns):
        text, pronoun = row["Text"], row["Pronoun"]
        begin = int(row["Pronoun-offset"]) if row["Pronoun-offset"].isdecimal() else -1
        if text[begin : begin + len(pronoun)] != pronoun or not pronoun:
            raise DataError(f"{pronoun!r} is not at {row['Pronoun-offset']!r}", path=path, line=line)
        swaps = swapper.swaps(text)
        partner = next((swap.new for swap in swaps if swap.start == begin), None)
        earlier = {swap.old.lower() for swap in swaps if swap.start < begin}
        gender = gender_of.get(pronoun.lower())
        if partner is None or {gender_of.get(word) for word in earlier} != {gender}:
            continue
        rest = re.match(r"[^.!?]*[.!?]?", text[begin + len(pronoun) :])
        assert rest is not None
        yield ContextSentence(
            item=row["ID"],
            group="women" if gender == "female" else "men",
            given_by=_clearest(earlier, names.words),
            source="gap",
            unit=row["ID"],
            sentence=PronounSentence((text[:begin], rest.group()), (pronoun,)),
            other=partner,
        )


def _clearest(words: Iterable[str], names: Collection[str]) -> str:
    """The kind of word that gives the gender; if there are several, the first one in ``GIVEN_BY``."""
    lists = {"pronoun": _PRONOUNS, "kinship": _KINSHIP, "title": _TITLES, "name": names}
    kinds = {next((kind for kind, members in lists.items() if word in members), "noun") for word in words}
    return next(kind for kind in GIVEN_BY if kind in kinds)
