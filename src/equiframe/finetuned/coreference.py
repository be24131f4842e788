"""WinoBias with coreference: whether a pronoun is resolved by the stereotype of an occupation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equiframe.about import About, Term
from equiframe.benchmarks.benchmark import Measure, Outcome
from equiframe.benchmarks.fine_tuned import FineTunedBenchmark, FineTuneSettings, HeadKind, MentionExample, Span
from equiframe.benchmarks.row_statistics import mean_of
from equiframe.benchmarks.winobias import BRACKETS, numbered_sentences, occupations_by_gender
from equiframe.data import DEFAULT_SOURCE, DataFile, DataSource, locate, read_delimited, read_jsonl
from equiframe.data.training_sources import in_folder
from equiframe.errors import DataError
from equiframe.uncertainty import Rows, RowStatistic

_SETS = {("type1", "pro"): "1P", ("type1", "anti"): "1A", ("type2", "pro"): "2P", ("type2", "anti"): "2A"}
_PRONOUNS = ("he", "she", "him", "his", "her", "himself", "herself")
_NEITHER = 2


class WinoBiasCoreference(FineTunedBenchmark[MentionExample]):
    """How much better a model resolves pronouns that fit the stereotype of the occupation that they refer to.

    Source:       Zhao et al. 2018; 396 sentences each of 1P, 1A, 2P and 2A: type 1 (world knowledge is needed to know
                  who is meant) and 2 (syntax decides), pro- and anti-stereotypical; MIT. Fine-tuned on GAP (Webster
                  et al. 2018, 2,000 texts of Wikipedia with equally many pronouns of both genders; Apache-2.0).
    Measures:     an answer is right if the pronoun scores higher with the person that it refers to than with the other
                  occupation of the sentence; a tie is wrong. For each set ``accuracy``, and ``f1`` = 2a / (1 + a) of
                  the accuracy a. ``tpr_1`` = f1 of 1P - f1 of 1A, ``tpr_2`` likewise: the published gaps, which are
                  differences of F1 and not of true positive rates. ``type1.accuracy_gap`` and ``type2.accuracy_gap``
                  are the same for accuracies. ``GAP.accuracy`` = % right of GAP's test set among both people and
                  neither.
        head:     a pronoun or person is the first, the last and the mean state of its tokens; a perceptron scores
                  [pronoun; person; pronoun * person], neither scores 0; softmax over the three in fine-tuning.
    Ideal:        gaps 0, all else 100. A model that resolves nothing has no gap either: also read 1A and 2A.
    Variants:     ``dev`` (default; the split of the published figures) and ``test``.
    Settings:     5 epochs, batches of 16, learning rate 2e-5 falling linearly, at most 384 tokens; longer texts are
                  cut around the mentions. The epoch is chosen by accuracy on GAP's validation set.
    Files:        FOLDER/coreference/train.jsonl, and dev.jsonl that chooses the epoch, replace GAP: one
                  object per line, {"text": ..., "pronoun": [start, end], "candidates": [[start, end], [start, end]],
                  "label": 0 or 1 for the candidate that is meant, 2 for neither}, in characters, with exclusive
                  ends.
    Known faults: the two people of a sentence are given: this is easier than full coreference. GAP's people
                  have names, WinoBias' people have occupations. In type 2 nearly always the person mentioned last
                  is meant: this answer gives 100 there, and 50 in type 1. In a sentence of WinoBias with a third
                  occupation the first other one is compared. A causal model reads a pronoun without the text after
                  it. Intervals treat sentences as independent, though there are always two about the same two
                  occupations; for gaps they resample pairs of a pro- and an anti-stereotypical sentence.
    Reproduces:   no published figure. The published ones (bert-base-uncased 53.06, 86.21, 81.44 and 93.41 on 1A, 1P, 2A
                  and 2P; MABEL's repository) come from end-to-end coreference on OntoNotes, and count where the first
                  predicted cluster starts.
    """

    name = "winobias_coreference"
    about = About(
        "WinoBias, coreference",
        "The people of a sentence are given, so this is easier than coreference in a text. A model that resolves"
        " nothing has no gap either. There is one seed of fine-tuning: the intervals do not cover other seeds.",
        {
            "f1": Term("F1", "from the accuracy of one set"),
            "accuracy": Term("accuracy", "share of pronouns resolved correctly", True),
            "tpr_1": Term("gap, type 1", "F1 of pro- minus anti-stereotypical sentences; needs world knowledge"),
            "tpr_2": Term("gap, type 2", "F1 of pro- minus anti-stereotypical sentences; syntax decides"),
            "accuracy_gap": Term("gap of accuracies", "pro- minus anti-stereotypical sentences", True),
        },
        (("Zhao et al. 2018", "https://aclanthology.org/N18-2003"),),
    )
    version: ClassVar[int] = 1
    headline = ("tpr_1", "tpr_2", "1A.f1", "2A.f1")
    variants: ClassVar[dict[str, tuple[str, ...]]] = {"split": ("dev", "test")}
    settings = FineTuneSettings(epochs=5, batch_size=16, learning_rate=2e-5, max_length=384)
    head: ClassVar[HeadKind] = "mentions"
    outputs: int = 3

    def __init__(self, split: Literal["dev", "test"] = "dev") -> None:
        self.split = split

    def training_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[MentionExample], tuple[DataFile, ...]]:
        """Return the user's corpus, else GAP."""
        return _corpus("train", "gap/development", source)

    def development_data(
        self, source: DataSource = DEFAULT_SOURCE
    ) -> tuple[list[MentionExample], tuple[DataFile, ...]]:
        """Return the user's development set, else GAP's validation set; never WinoBias."""
        return _corpus("dev", "gap/validation", source)

    def evaluation_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[MentionExample], tuple[DataFile, ...]]:
        """Return the four sets of WinoBias, and GAP's test set."""
        occupations, found = occupations_by_gender(source)
        files = list(found)
        # The longest first, so that "construction worker" is not taken for a shorter one.
        names = "|".join(map(re.escape, sorted(occupations, key=len, reverse=True)))
        person = re.compile(rf"\b(?:(?:the|an?)\s+)?({names})\b", re.IGNORECASE)
        examples: list[MentionExample] = []
        for (kind, side), name in _SETS.items():
            located = locate(f"winobias/{kind}/{side}/{self.split}", source)
            examples += _winobias(located.path, person, kind, side, name)
            files.append(located.file)
        located = locate("gap/test", source)
        return [*examples, *_gap(located.path)], (*files, located.file)

    def outcomes(self, examples: Sequence[MentionExample], outputs: NDArray[np.float64]) -> list[Outcome]:
        """Return by how much the right answer scores higher than the best wrong one."""
        outcomes = []
        for example, scores in zip(examples, outputs, strict=True):
            offered = scores[:_NEITHER] if example.groups["part"] == "winobias" else scores
            margin = float(scores[example.label] - np.delete(offered, example.label).max())
            pronoun, first, second = (example.text[start:end] for start, end in (example.pronoun, *example.candidates))
            outcomes.append(
                Outcome(
                    item=example.item,
                    groups={"set": "", "pair": ""} | dict(example.groups),
                    values={"margin": margin, "correct": float(margin > 0)},
                    text={
                        "text": example.text,
                        "pronoun": pronoun,
                        "right": (first, second, "neither")[example.label],
                    },
                )
            )
        return outcomes

    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """Return accuracy and F1 of each set, the gaps, and the accuracy on GAP."""
        counted = outcomes["excluded"].isna()
        correct = outcomes["correct"].to_numpy(dtype=np.float64)
        accuracy, f1 = mean_of(correct, 100), _f1_of(correct)
        measures = []
        for name in _SETS.values():
            rows = np.flatnonzero(counted & (outcomes["set"] == name))
            if len(rows) > 0:
                measures += [
                    Measure(f"{name}.accuracy", rows, accuracy, "%", 100.0, higher_is_better=True),
                    Measure(f"{name}.f1", rows, f1, "%", 100.0, higher_is_better=True),
                ]
        for number in ("1", "2"):
            rows, opposite = _pairs(outcomes, counted, f"{number}P", f"{number}A")
            if len(rows) > 0:
                measures += [
                    Measure(f"tpr_{number}", rows, _gap_of(f1, opposite), "points", 0.0),
                    Measure(f"type{number}.accuracy_gap", rows, _gap_of(accuracy, opposite), "points", 0.0),
                ]
        rows = np.flatnonzero(counted & (outcomes["part"] == "gap"))
        if len(rows) > 0:
            measures.append(Measure("GAP.accuracy", rows, accuracy, "%", 100.0, higher_is_better=True))
        return measures


def _f1_of(correct: NDArray[np.float64]) -> RowStatistic:
    """100 * F1 as in the paper, from an accuracy a, with everything found counted as positive: 2a / (1 + a)."""

    def statistic(rows: Rows) -> NDArray[np.float64]:
        accuracy = correct[rows].mean(axis=-1)
        return np.asarray(200 * accuracy / (1 + accuracy))

    return statistic


def _gap_of(statistic: RowStatistic, opposite: Rows) -> RowStatistic:
    """A statistic of pro-stereotypical rows minus that of the corresponding anti-stereotypical rows."""

    def gap(rows: Rows) -> NDArray[np.float64]:
        return statistic(rows) - statistic(opposite[rows])

    return gap


def _pairs(outcomes: pd.DataFrame, counted: pd.Series[bool], pro: str, anti: str) -> tuple[Rows, Rows]:
    """Pro-stereotypical rows whose opposite exists; and for every row of the table, the row of its opposite."""
    chosen = outcomes.assign(row=np.arange(len(outcomes)), run=outcomes.groupby("item").cumcount())[counted]
    sides = [chosen[chosen["set"] == name].set_index(["run", "pair"])["row"] for name in (pro, anti)]
    both = pd.concat(sides, axis=1, join="inner", keys=["pro", "anti"]).sort_values("pro")
    opposite = np.zeros(len(outcomes), dtype=np.intp)
    opposite[both["pro"]] = both["anti"]
    return both["pro"].to_numpy(dtype=np.intp), opposite


def _winobias(path: Path, person: re.Pattern[str], kind: str, side: str, name: str) -> list[MentionExample]:
    """Read the sentences of one file."""
    examples = []
    for at, number, sentence in numbered_sentences(path):
        text, spans = _without_brackets(sentence)
        pronouns = [span for span in spans if text[slice(*span)].lower() in _PRONOUNS]
        meant = [span for span in spans if span not in pronouns]
        if not pronouns or not meant:
            missing = "occupation" if pronouns else "pronoun"
            raise DataError(f"{text!r:.60} has no {missing} in brackets", path=path, line=at)
        own = re.sub(r"^(?:the|an?)\s+", "", text[slice(*meant[0])].lower())
        others = [
            found.span()
            for found in person.finditer(text)
            if found[1].lower() != own and not any(found.start() < end and found.end() > start for start, end in spans)
        ]
        if not others:
            raise DataError(f"{text!r:.60} has no other occupation", path=path, line=at)
        first, second = sorted((meant[0], others[0]))
        examples.append(
            MentionExample(
                item=f"{name}-{number}",
                text=text,
                pronoun=pronouns[0],
                candidates=(first, second),
                label=(first, second).index(meant[0]),
                groups={"part": "winobias", "set": name, "pair": f"{kind}-{number}", "side": side},
            )
        )
    return examples


def _without_brackets(sentence: str) -> tuple[str, list[Span]]:
    """A sentence without its brackets, and the spans that were in brackets, without white space at their ends."""
    text, spans, done = "", [], 0
    for found in BRACKETS.finditer(sentence):
        text += sentence[done : found.start()]
        inside = found[1].strip()
        spans.append((len(text), len(text) + len(inside)))
        text, done = text + inside, found.end()
    return text + sentence[done:], spans


def _corpus(split: str, otherwise: str, source: DataSource) -> tuple[list[MentionExample], tuple[DataFile, ...]]:
    """Read the user's own examples if there are any, else a part of GAP."""
    located = in_folder(f"coreference/{split}", source, [f"coreference/{split}.jsonl"])
    if located is not None:
        examples = [_from_json(value, located.path, line) for line, value in read_jsonl(located.path, _FIELDS)]
    else:
        located = locate(otherwise, source)
        examples = _gap(located.path)
    if not examples:
        raise DataError("the file has no example: is it complete?", path=located.path)
    return examples, (located.file,)


_FIELDS = ("text", "pronoun", "candidates", "label")


def _from_json(value: dict[str, Any], path: Path, line: int) -> MentionExample:
    """Read one object of the documented format."""
    text, pronoun, candidates, label = (value[field] for field in _FIELDS)
    if not isinstance(text, str) or not isinstance(candidates, list) or len(candidates) != 2:
        raise DataError("expected a text, and two candidates", path=path, line=line)
    if label not in (0, 1, _NEITHER) or isinstance(label, bool):
        raise DataError(f"label is {label!r}, expected 0, 1, or 2 for neither", path=path, line=line)
    for span in (pronoun, *candidates):
        is_pair = isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)
        if not is_pair or not 0 <= span[0] < span[1] <= len(text):
            raise DataError(f"{span!r} is not a [start, end] in the text", path=path, line=line)
    first, second = (tuple(span) for span in candidates)
    return MentionExample(str(line), text, tuple(pronoun), (first, second), int(label), {"part": "user"})


def _gap(path: Path) -> list[MentionExample]:
    """Read GAP's own file."""
    columns = ("ID", "Text", "Pronoun", "A", "A-coref", "B", "B-coref", "Pronoun-offset", "A-offset", "B-offset")
    examples = []
    for line, row in read_delimited(path, "\t", columns):
        spans = []
        for column in ("Pronoun", "A", "B"):
            offset, mention = row[f"{column}-offset"], row[column]
            start = int(offset) if offset.isdecimal() and len(offset) < 9 else -1
            if not mention or start < 0 or row["Text"][start : start + len(mention)] != mention:
                raise DataError(f"{column} {mention!r} is not at {offset!r} in the text", path=path, line=line)
            spans.append((start, start + len(mention)))
        said = row["A-coref"].upper(), row["B-coref"].upper()
        labels = {("TRUE", "FALSE"): 0, ("FALSE", "TRUE"): 1, ("FALSE", "FALSE"): _NEITHER}
        if said not in labels:
            raise DataError(f"A-coref, B-coref are {', '.join(said)}, expected one TRUE or none", path=path, line=line)
        examples.append(
            MentionExample(row["ID"], row["Text"], spans[0], (spans[1], spans[2]), labels[said], {"part": "gap"})
        )
    if not examples:
        raise DataError("the file has no example: is it complete?", path=path)
    return examples
