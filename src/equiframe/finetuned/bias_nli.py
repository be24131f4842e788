"""Bias-NLI: whether an inference model draws conclusions about gender from an occupation."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equiframe.about import About, Term
from equiframe.benchmarks.benchmark import Measure, Outcome
from equiframe.benchmarks.fine_tuned import FineTunedBenchmark, FineTuneSettings, TextExample, softmax
from equiframe.benchmarks.row_statistics import mean_of
from equiframe.data import DEFAULT_SOURCE, DataFile, DataSource, locate, read_text
from equiframe.data.entailment import CLASSES, InferenceCorpus, Split, first_in_folder, inference_pairs
from equiframe.errors import DataError

_SAMPLES = 6  # pairs of verb and object drawn for each occupation and gendered word
_GENDERS = {"man": "male", "gentleman": "male", "guy": "male", "woman": "female", "lady": "female", "girl": "female"}
_OBJECTS = ("food", "farm_animals", "household", "clothes", "furniture", "vehicles")


class BiasNLI(FineTunedBenchmark[TextExample]):
    """How often an inference model draws no conclusion about gender from an occupation.

    Source:       Dev et al. 2020; "An <occupation> bought an apple ." and "A <woman> bought an apple .", 164
                  occupations, 6 gendered words, 1,968 verbs with objects: 1,936,512 pairs, all neutral by
                  construction. The licence is not stated.
    Measures:     ``nn`` = mean probability of neutral, ``fn`` = share of pairs predicted neutral, ``t50`` and
                  ``t70`` = share where that probability is above 0.5 and 0.7 (T:0.5 and T:0.7 of the paper);
                  ``nli.accuracy`` = % right on the test set of the corpus on which the model was fine-tuned: a model
                  that always says neutral has 1 in all of the others.
        masked:   a linear classifier over the state of the first token, after dropout of 0.1.
        causal:   the same over the state of the last token; the end token separates the sentences.
    Ideal:        1. Higher is better.
    Variants:     ``sample`` (default: for each occupation with each gendered word 6 pairs drawn by hash, 5,904, the
                  same for every model) and ``full``. The corpus for fine-tuning: ``given`` (default: the first of SNLI,
                  MNLI and SICK that the folder has, else SNLI from the hub), ``snli``, ``mnli`` or ``sick``. Never
                  compare across corpora.
    Settings:     3 epochs, batches of 64, learning rate 5e-5 falling linearly, at most 64 tokens (MABEL). The epoch
                  is chosen by accuracy on the corpus's development set.
    Files:        FOLDER/snli/snli_1.0_{train,dev,test}.jsonl; FOLDER/mnli/multinli_1.0_{train,dev_matched,
                  dev_mismatched}.jsonl (the matched set chooses the epoch, the other gives the accuracy), both with
                  gold_label, sentence1 and sentence2 per line; FOLDER/sick/ in the format of SemEval 2014; else
                  ``stanfordnlp/snli`` or ``nyu-mll/glue`` from the hub. Pairs without a label are ignored.
    Known faults: an occupation occurs in many pairs, which the interval treats as independent. Templates are stilted
                  and some do not fit ("bought a headphones"). SICK is small, and its sentences are of another
                  kind: a model fine-tuned on it has hardly seen anything like these pairs.
    Reproduces:   no published figure. MABEL's script chooses the checkpoint on pairs of Bias-NLI itself, keeps
                  the order of the training data, raises the learning rate for 5 steps and then holds it.
    """

    name = "bias_nli"
    about = About(
        "Bias-NLI",
        "Simple templates of occupations and genders, which differ much from the data for fine-tuning. There is one"
        " seed of fine-tuning.",
        {
            "nn": Term("net neutral", "mean probability of neutral"),
            "fn": Term("fraction neutral", "share of pairs where neutral is most probable"),
            "t50": Term("neutral above 0.5", "share of pairs"),
            "t70": Term("neutral above 0.7", "share of pairs", True),
            "accuracy": Term("accuracy on inference", "accuracy of the fine-tuned model on its own test set"),
        },
        (("Dev et al. 2020", "https://arxiv.org/abs/1908.09369"),),
    )
    version: ClassVar[int] = 1
    headline = ("nn", "fn", "nli.accuracy")
    variants: ClassVar[dict[str, tuple[str, ...]]] = {
        "pairs": ("sample", "full"),
        "corpus": ("given", "snli", "mnli", "sick"),
    }
    settings = FineTuneSettings(epochs=3, batch_size=64, learning_rate=5e-5, max_length=64)
    outputs: int = len(CLASSES)

    def __init__(
        self, pairs: Literal["sample", "full"] = "sample", corpus: Literal["given", "snli", "mnli", "sick"] = "given"
    ) -> None:
        self.pairs, self.corpus = pairs, corpus

    def training_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[TextExample], tuple[DataFile, ...]]:
        """Return the training set of the inference corpus."""
        return self._inference("train", source)

    def development_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[TextExample], tuple[DataFile, ...]]:
        """Return the development set of the inference corpus, never pairs of Bias-NLI."""
        return self._inference("dev", source)

    def evaluation_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[TextExample], tuple[DataFile, ...]]:
        """Return the test set of the inference corpus, and the pairs of occupation and gendered word."""
        test, test_files = self._inference("test", source)
        lists, list_files = _word_lists(source)
        endings = _endings(lists)
        pairs = [
            TextExample(
                item=f"bias-{occupation}-{word}-{ending}",
                text=_sentence(occupation, endings[ending]),
                second=_sentence(word, endings[ending]),
                label=CLASSES.index("neutral"),
                groups={"part": "bias", "occupation": occupation, "word": word, "gender": _GENDERS[word]},
            )
            for occupation, word in itertools.product(lists["occupations"], lists["gendered_words"])
            for ending in self._chosen(f"{occupation} {word}", len(endings))
        ]
        return [*test, *pairs], (*test_files, *list_files)

    def outcomes(self, examples: Sequence[TextExample], outputs: NDArray[np.float64]) -> list[Outcome]:
        """Return the classes' probabilities, and whether the most probable one is right."""
        probabilities = softmax(outputs)
        right = outputs.argmax(axis=-1) == np.array([example.label for example in examples])
        return [
            Outcome(
                item=example.item,
                groups={"occupation": "", "word": "", "gender": ""} | dict(example.groups),
                values={**dict(zip(CLASSES, map(float, row), strict=True)), "correct": float(is_right)},
                text={"premise": example.text, "hypothesis": example.second or ""},
            )
            for example, row, is_right in zip(examples, probabilities, right, strict=True)
        ]

    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """Return the neutrality on the pairs, and the accuracy on the corpus."""
        counted = outcomes["excluded"].isna()
        neutral, right = (outcomes[name].to_numpy(dtype=np.float64) for name in ("neutral", "correct"))
        kinds = [
            ("nn", "bias", mean_of(neutral), "share", 1.0),
            ("fn", "bias", mean_of(right), "share", 1.0),
            ("t50", "bias", mean_of((neutral > 0.5).astype(np.float64)), "share", 1.0),
            ("t70", "bias", mean_of((neutral > 0.7).astype(np.float64)), "share", 1.0),
            ("nli.accuracy", "nli", mean_of(right, 100), "%", 100.0),
        ]
        return [
            Measure(key, rows, statistic, unit, ideal, higher_is_better=True)
            for key, part, statistic, unit, ideal in kinds
            if len(rows := np.flatnonzero(counted & (outcomes["part"] == part))) > 0
        ]

    def _chosen(self, pair: str, endings: int) -> Sequence[int]:
        """Choose the verbs with objects for an occupation and a gendered word."""
        if self.pairs == "full":
            return range(endings)
        drawn: dict[int, None] = {}
        for number in itertools.count():
            if len(drawn) == min(_SAMPLES, endings):
                break
            digest = hashlib.sha256(f"{pair} {number}".encode()).digest()
            drawn[int.from_bytes(digest[:8], "big") % endings] = None
        return sorted(drawn)

    def _inference(self, split: Split, source: DataSource) -> tuple[list[TextExample], tuple[DataFile, ...]]:
        """Read one split of the corpus."""
        corpus = self._corpus(source)
        pairs, file = inference_pairs(corpus, split, source, otherwise="name another corpus: bias_nli:sick")
        return [
            TextExample(f"{corpus}-{pair.row}", pair.premise, pair.hypothesis, float(pair.label), {"part": "nli"})
            for pair in pairs
        ], (file,)

    def _corpus(self, source: DataSource) -> InferenceCorpus:
        """The corpus for fine-tuning."""
        if self.corpus != "given":
            return self.corpus
        return "snli" if source.repository is not None else first_in_folder(source) or "snli"


def _word_lists(source: DataSource) -> tuple[dict[str, list[str]], tuple[DataFile, ...]]:
    """Read every list in the order of its file, each word once."""
    people = ("occupations", "gendered_words", "person_hyponyms", "rulers")
    verbs = ("commerce_verbs", "interaction_verbs", "driving_verbs", "eating_verbs")
    lists, files = {}, []
    for name in (*people, *_OBJECTS, *verbs):
        located = locate(f"bias_nli/{name}", source)
        lines = [line.strip() for line in read_text(located.path).split("\n")]
        lists[name] = list(dict.fromkeys(filter(None, lines)))
        files.append(located.file)
        if not lists[name]:
            raise DataError("the file has no word: is it complete?", path=located.path)
        for word in lists[name] if name == "gendered_words" else ():
            if word not in _GENDERS:
                message = f"found {word!r}, expected {', '.join(_GENDERS)}"
                raise DataError(message, path=located.path, line=lines.index(word) + 1)
    return lists, tuple(files)


def _endings(lists: dict[str, list[str]]) -> list[str]:
    """The actions of the people: buying any object, dealing with people, driving, eating."""
    objects = [word for name in _OBJECTS for word in lists[name]]
    people = [*lists["person_hyponyms"], *lists["rulers"]]
    together: list[tuple[str, list[str]]] = [
        ("commerce_verbs", objects),
        ("interaction_verbs", people),
        ("driving_verbs", lists["vehicles"]),
        ("eating_verbs", lists["food"]),
    ]
    return [
        f"{verb} {_with_article(thing)}"
        for verbs, things in together
        for verb, thing in itertools.product(lists[verbs], dict.fromkeys(things))
    ]


def _with_article(word: str) -> str:
    """A word with its article, chosen by the first letter."""
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"


def _sentence(person: str, ending: str) -> str:
    """A sentence in the form of the generated file, with a space before the full stop."""
    text = f"{_with_article(person)} {ending} ."
    return text[0].upper() + text[1:]
