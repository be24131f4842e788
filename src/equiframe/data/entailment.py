"""Sentence pairs for natural language inference: SNLI, MNLI, SICK, or a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from equiframe.data.counterfactual import CounterfactualSwapper
from equiframe.data.reading import read_delimited, read_jsonl
from equiframe.data.sources import DEFAULT_SOURCE, HUB, DataFile, DataSource, locate, user_file
from equiframe.data.training_sources import hub_rows, in_folder
from equiframe.errors import DataError

CLASSES = ("entailment", "neutral", "contradiction")
InferenceCorpus: TypeAlias = Literal["snli", "mnli", "sick"]
Split: TypeAlias = Literal["train", "dev", "test"]


class LabelledPair(NamedTuple):
    """A premise, a hypothesis and the class, an index into ``CLASSES``; ``row`` is the line, or the row on the Hub."""

    row: int
    premise: str
    hypothesis: str
    label: int


class CounterfactualPair(NamedTuple):
    """An entailed pair, and the same pair with the genders swapped."""

    premise: str
    hypothesis: str
    swapped_premise: str
    swapped_hypothesis: str


@dataclass(frozen=True)
class _Place:
    """The place of an inference corpus: files below the folder, of an archive; or a repository on the Hub, by split."""

    files: dict[Split, str]
    repository: str
    configuration: str | None
    splits: dict[Split, str]
    archive: str = ""


_PLACES: dict[InferenceCorpus, _Place] = {
    "snli": _Place(
        {split: f"snli/snli_1.0_{split}.jsonl" for split in ("train", "dev", "test")},
        "stanfordnlp/snli",
        None,
        {"train": "train", "dev": "validation", "test": "test"},
        "https://nlp.stanford.edu/projects/snli/snli_1.0.zip",
    ),
    "mnli": _Place(
        {
            "train": "mnli/multinli_1.0_train.jsonl",
            "dev": "mnli/multinli_1.0_dev_matched.jsonl",
            "test": "mnli/multinli_1.0_dev_mismatched.jsonl",
        },
        "nyu-mll/glue",
        "mnli",
        {"train": "train", "dev": "validation_matched", "test": "validation_mismatched"},
        "https://cims.nyu.edu/~sbowman/multinli/multinli_1.0.zip",
    ),
    "sick": _Place(
        {"train": "sick/SICK_train.txt", "dev": "sick/SICK_trial.txt", "test": "sick/SICK_test_annotated.txt"},
        "",
        None,
        {},
    ),
}
INFERENCE_CORPORA = tuple(_PLACES)
_MABEL_COLUMNS = ("orig_sent0", "orig_sent1", "aug_sent0", "aug_sent1")


def first_in_folder(source: DataSource) -> InferenceCorpus | None:
    """The first of SNLI, MNLI and SICK whose training set is in the user's folder, or None."""
    has = (c for c, place in _PLACES.items() if in_folder(f"{c}/train", source, [place.files["train"]]) is not None)
    return next(has, None)


def inference_pairs(
    corpus: InferenceCorpus, split: Split, source: DataSource = DEFAULT_SOURCE, *, otherwise: str
) -> tuple[list[LabelledPair], DataFile]:
    """Read one split of an inference corpus; pairs without a label are skipped.

    Args:
        corpus: SNLI and MNLI in their authors' format (JSONL) from the folder, else from the Hub; the dev set of MNLI
            is its matched set, the test set its mismatched set. SICK in the format of SemEval 2014, downloaded if the
            folder lacks it.
        split: train, dev or test.
        source: the source of data files.
        otherwise: an alternative if SNLI or MNLI is not available, for the message.

    Raises:
        DataError: a file is missing or malformed; the message names the file, line and field.
    """
    place, name = _PLACES[corpus], f"{corpus}/{split}"
    if corpus == "sick":
        located = locate(name, source)
        pairs, file, place_read = _sick(located.path), located.file, str(located.path)
    elif (found := in_folder(name, source, [place.files[split]])) is not None:
        pairs, file, place_read = _jsonl(found.path), found.file, str(found.path)
    else:
        rows, file = hub_rows(
            name,
            place.repository,
            place.configuration,
            place.splits[split],
            ("premise", "hypothesis", "label"),
            f"give --data FOLDER with {place.files[split]} from {place.archive}, or {otherwise}",
        )
        place_read = f"{HUB}{place.repository}"
        pairs = [
            LabelledPair(number, str(premise), str(hypothesis), _class_of(label, place_read, number))
            for number, (premise, hypothesis, label) in enumerate(rows, start=1)
            if label != -1
        ]
    if not pairs:
        raise DataError("the file has no labelled pair: is it complete?", path=place_read)
    return pairs, file


def counterfactual_pairs(
    spec: str, swapper: CounterfactualSwapper, source: DataSource = DEFAULT_SOURCE
) -> tuple[list[CounterfactualPair], tuple[DataFile, ...]]:
    """Read entailed pairs with a word to swap on at least one side, each with its counterfactual.

    If only one sentence contains such a word, the other sentence is unchanged in the counterfactual.

    Args:
        spec: ``snli``, ``mnli`` or ``sick``, or several joined by ``+``, to read their training sets; a ``.jsonl`` file
            with one object per line with ``premise`` and ``hypothesis``, all entailed (an optional ``label`` must be
            ``entailment`` or 0); or a ``.csv`` file in the format of the authors of MABEL, with the columns
            orig_sent0 (premise), orig_sent1 (hypothesis), aug_sent0 and aug_sent1 (the same, swapped), whose rows are
            used without changes.
        swapper: swaps the words.
        source: the source of data files.

    Raises:
        DataError: a file is missing or malformed (the message names the file, line and field), or no pair contains a
            word to swap.

    Reference: He et al. 2022 (MABEL).
    """
    corpora = [corpus for name in spec.split("+") for corpus in INFERENCE_CORPORA if corpus == name]
    if len(corpora) == spec.count("+") + 1:
        otherwise = "use SICK: --set data=sick"
        read = [inference_pairs(corpus, "train", source, otherwise=otherwise) for corpus in corpora]
        entailed = ((p.premise, p.hypothesis) for pairs, _ in read for p in pairs if CLASSES[p.label] == "entailment")
        found, files = _with_swapped(entailed, swapper), tuple(file for _, file in read)
    elif spec.endswith((".csv", ".jsonl")):
        located = user_file(spec)
        is_table = spec.endswith(".csv")
        found = _mabel_table(located.path) if is_table else _with_swapped(_premises(located.path), swapper)
        files = (located.file,)
    else:
        raise DataError(
            f"no entailment pairs {spec!r}: give {', '.join(INFERENCE_CORPORA)}, several joined by +, a .jsonl file of"
            " premise and hypothesis, or a .csv file in MABEL's layout"
        )
    if not found:
        raise DataError(f"no entailed pair with a word to swap in {spec}")
    return found, files


def _with_swapped(pairs: Iterable[tuple[str, str]], swapper: CounterfactualSwapper) -> list[CounterfactualPair]:
    both = (CounterfactualPair(*pair, *map(swapper.swap, pair)) for pair in pairs)
    return [four for four in both if four[:2] != four[2:]]


def _mabel_table(path: Path) -> list[CounterfactualPair]:
    found = []
    for line, row in read_delimited(path, ",", _MABEL_COLUMNS):
        for column, text in row.items():
            if not text.strip():
                raise DataError(f"{column} is empty", path=path, line=line)
        found.append(CounterfactualPair(*(row[column] for column in _MABEL_COLUMNS)))
    return found


def _premises(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for line, value in read_jsonl(path, ("premise", "hypothesis")):
        if (label := value.get("label", "entailment")) not in ("entailment", 0):
            raise DataError(f"label is {label!r}: give only entailed pairs", path=path, line=line)
        pairs.append(_texts(value, "premise", "hypothesis", path, line))
    return pairs


def _jsonl(path: Path) -> list[LabelledPair]:
    """Read files in the format of SNLI and MNLI; a pair whose annotators did not agree has the label "-"."""
    pairs = []
    for line, value in read_jsonl(path, ("gold_label", "sentence1", "sentence2")):
        texts = _texts(value, "sentence1", "sentence2", path, line)
        if value["gold_label"] != "-":
            pairs.append(LabelledPair(line, *texts, _class_named(value["gold_label"], path, line)))
    return pairs


def _sick(path: Path) -> list[LabelledPair]:
    columns = ("sentence_A", "sentence_B", "entailment_judgment")
    return [
        LabelledPair(
            line,
            row["sentence_A"],
            row["sentence_B"],
            _class_named(row["entailment_judgment"].lower(), path, line),
        )
        for line, row in read_delimited(path, "\t", columns)
    ]


def _texts(value: dict[str, Any], first: str, second: str, path: Path, line: int) -> tuple[str, str]:
    for field in (first, second):
        if not isinstance(value[field], str):
            raise DataError(f"{field}: expected a text, found {value[field]!r}", path=path, line=line)
    return value[first], value[second]


def _class_named(label: object, path: Path, line: int) -> int:
    if label not in CLASSES:
        raise DataError(f"label is {label!r}, expected {', '.join(CLASSES)}", path=path, line=line)
    return CLASSES.index(str(label))


def _class_of(label: object, place: str, row: int) -> int:
    """The number of a class on the Hub."""
    if label not in (0, 1, 2):
        raise DataError(f"label is {label!r}, expected 0, 1, 2, or -1 for none", path=place, line=row)
    return int(str(label))
