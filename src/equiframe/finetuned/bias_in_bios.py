"""Bias-in-Bios: whether a classifier finds occupations equally well in biographies of men and of women."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equiframe.about import About, Term
from equiframe.benchmarks.benchmark import Measure, Outcome
from equiframe.benchmarks.fine_tuned import FineTunedBenchmark, FineTuneSettings, TextExample
from equiframe.benchmarks.row_statistics import mean_of
from equiframe.data import DEFAULT_SOURCE, DataFile, DataSource, read_jsonl
from equiframe.data.sources import HUB
from equiframe.data.training_sources import hub_rows, in_folder
from equiframe.errors import DataError
from equiframe.uncertainty import Rows, RowStatistic

PROFESSIONS = (
    "accountant architect attorney chiropractor comedian composer dentist dietitian dj filmmaker interior_designer"
    " journalist model nurse painter paralegal pastor personal_trainer photographer physician poet professor"
    " psychologist rapper software_engineer surgeon teacher yoga_teacher"
).split()
"""The occupations in the order of the hub's numbers."""
_GENDERS = ("M", "F")
_REPOSITORY = "LabHC/bias_in_bios"


class BiasInBios(FineTunedBenchmark[TextExample]):
    """How differently a classifier finds the occupations of men and of women from their biographies.

    Source:       De-Arteaga et al. 2019; English biographies from the web, 28 occupations, two genders; MIT. The
                  hub's version, by Ravfogel et al. 2020, has 257,478 for training, 39,642 for development and 99,069
                  for test, without the first sentence, which names the occupation.
    Measures:     ``accuracy``; ``tpr_gap`` = accuracy on men - accuracy on women over all biographies, as in MABEL's
                  code: it also reflects that men and women have different occupations; ``tpr_gap_macro`` = mean
                  over occupations of the share found of its men - that of its women; ``tpr_rms`` = root of the
                  mean of the squares of these differences, a share. An occupation counts if it has both
                  genders, even if nothing of one of them is found.
        masked:   a linear classifier over the state of the first token, after dropout of 0.1.
        causal:   the same over the state of the last token.
    Ideal:        accuracy 100, all else 0. ``tpr_rms`` of a small test set is above 0 by chance alone, and for the
                  same reason its interval may be above the value.
    Settings:     5 epochs, batches of 128, learning rate 1e-5 falling linearly, at most 128 tokens (MABEL). The epoch
                  is chosen by accuracy on the development set.
    Files:        FOLDER/bias_in_bios/{train,dev,test}.jsonl, one object per line: {"text": ..., "profession": ...,
                  "gender": "M" or "F"}, professions as in ``PROFESSIONS``; else ``LabHC/bias_in_bios`` from the hub.
    Known faults: gender was inferred from pronouns, as one of two. Biographies longer than 128 tokens are cut.
    Reproduces:   no published figure: MABEL's split is of 206,511 other biographies. MABEL's published evaluation drops
                  occupations of which nothing is found, fails if an occupation lacks a gender, and does not
                  run without changes.
    """

    name = "bias_in_bios"
    about = About(
        "Bias in Bios",
        "Gender was inferred from pronouns, as one of two. Biographies come from the web. One seed of fine-tuning.",
        {
            "accuracy": Term("accuracy", "share of occupations found"),
            "tpr_gap": Term("gap", "share found of men minus share found of women, over all biographies"),
            "tpr_gap_macro": Term("gap, mean over occupations", "men minus women", True),
            "tpr_rms": Term("root mean square gap", "over occupations; above 0 by chance if there are few"),
        },
        (("De-Arteaga et al. 2019", "https://arxiv.org/abs/1901.09451"),),
    )
    version: ClassVar[int] = 1
    headline = ("accuracy", "tpr_gap", "tpr_rms")
    settings = FineTuneSettings(epochs=5, batch_size=128, learning_rate=1e-5, max_length=128)
    outputs: int = len(PROFESSIONS)

    def training_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[TextExample], tuple[DataFile, ...]]:
        """Return the biographies to train on."""
        return _biographies("train", source)

    def development_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[TextExample], tuple[DataFile, ...]]:
        """Return the biographies by which the epoch is chosen."""
        return _biographies("dev", source)

    def evaluation_data(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[TextExample], tuple[DataFile, ...]]:
        """Return the biographies to test on."""
        return _biographies("test", source)

    def outcomes(self, examples: Sequence[TextExample], outputs: NDArray[np.float64]) -> list[Outcome]:
        """Return the occupation that was found, and whether it is right."""
        return [
            Outcome(
                item=example.item,
                groups={**example.groups, "predicted": PROFESSIONS[found]},
                values={"correct": float(found == example.label)},
                text={"text": example.text},
            )
            for example, found in zip(examples, outputs.argmax(axis=-1), strict=True)
        ]

    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """Return the accuracy, and the differences between the genders."""
        rows = np.flatnonzero(outcomes["excluded"].isna())
        correct = outcomes["correct"].to_numpy(dtype=np.float64)
        profession, gender = (
            outcomes[column].map({name: number for number, name in enumerate(names)}).to_numpy().astype(np.intp)
            for column, names in (("profession", PROFESSIONS), ("gender", _GENDERS))
        )
        differences = _differences_of(correct, profession, gender)
        measures = [Measure("accuracy", rows, mean_of(correct, 100), "%", 100.0, higher_is_better=True)]
        if len(set(gender[rows])) == len(_GENDERS):
            measures.append(Measure("tpr_gap", rows, _gap_of(correct, gender), "points", 0.0))
        if len(rows) > 0 and np.isfinite(differences(rows)).any():
            measures += [
                Measure("tpr_gap_macro", rows, _macro_of(differences), "points", 0.0),
                Measure("tpr_rms", rows, _rms_of(differences), "share", 0.0, higher_is_better=False),
            ]
        return measures


def _gap_of(correct: NDArray[np.float64], gender: NDArray[np.intp]) -> RowStatistic:
    """100 * (accuracy on men - accuracy on women); accuracy over no biographies is 0."""

    def statistic(rows: Rows) -> NDArray[np.float64]:
        right, is_woman = correct[rows], gender[rows] == 1
        shares = [
            np.sum(right * group, axis=-1) / np.maximum(np.sum(group, axis=-1), 1) for group in (~is_woman, is_woman)
        ]
        return np.asarray(100 * (shares[0] - shares[1]))

    return statistic


def _differences_of(
    correct: NDArray[np.float64], profession: NDArray[np.intp], gender: NDArray[np.intp]
) -> RowStatistic:
    """Share found of an occupation's men - that of its women, [..., occupations], NaN if one of them is missing."""
    cells = len(PROFESSIONS) * len(_GENDERS)
    cell = profession * len(_GENDERS) + gender

    def statistic(rows: Rows) -> NDArray[np.float64]:
        flat = rows.reshape(-1, rows.shape[-1])
        places = (cell[flat] + cells * np.arange(len(flat))[:, None]).ravel()
        length = cells * len(flat)
        counts = np.bincount(places, minlength=length)
        found = np.bincount(places, weights=correct[flat].ravel(), minlength=length)
        with np.errstate(invalid="ignore"):
            shares = (found / counts).reshape(*rows.shape[:-1], len(PROFESSIONS), len(_GENDERS))
        return np.asarray(shares[..., 0] - shares[..., 1])

    return statistic


def _macro_of(differences: RowStatistic) -> RowStatistic:
    """100 * the mean over occupations."""

    def statistic(rows: Rows) -> NDArray[np.float64]:
        return 100 * _mean(differences(rows))

    return statistic


def _rms_of(differences: RowStatistic) -> RowStatistic:
    """The root of the mean square over occupations."""

    def statistic(rows: Rows) -> NDArray[np.float64]:
        return np.sqrt(_mean(differences(rows) ** 2))

    return statistic


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over values that are not NaN; 0 if there are none."""
    return np.asarray(np.nansum(values, axis=-1) / np.maximum(np.sum(~np.isnan(values), axis=-1), 1))


def _biographies(split: str, source: DataSource) -> tuple[list[TextExample], tuple[DataFile, ...]]:
    """Read one split, from the user's folder if it has it, else from the hub."""
    name = f"bias_in_bios/{split}"
    located = in_folder(name, source, [f"{name}.jsonl"])
    if located is not None:
        file, place = located.file, str(located.path)
        rows = [
            (line, value["text"], value["profession"], value["gender"])
            for line, value in read_jsonl(located.path, ("text", "profession", "gender"))
        ]
    else:
        given, file = hub_rows(
            name,
            _REPOSITORY,
            None,
            split,
            ("hard_text", "profession", "gender"),
            f"check the network, or give --data FOLDER that has {name}.jsonl",
        )
        place = f"{HUB}{_REPOSITORY}"
        rows = [
            (number, text, _name_of(profession, PROFESSIONS), _name_of(gender, _GENDERS))
            for number, (text, profession, gender) in enumerate(given, start=1)
        ]
    examples = []
    for line, text, profession, gender in rows:
        if not isinstance(text, str) or not text.strip():
            raise DataError("the text is empty", path=place, line=line)
        if profession not in PROFESSIONS:
            raise DataError(f"profession is {profession!r}, expected {', '.join(PROFESSIONS)}", path=place, line=line)
        if gender not in _GENDERS:
            raise DataError(f"gender is {gender!r}, expected M or F", path=place, line=line)
        groups = {"profession": profession, "gender": gender}
        examples.append(TextExample(f"{split}-{line}", text, None, PROFESSIONS.index(profession), groups))
    if not examples:
        raise DataError("the file has no biography: is it complete?", path=place)
    return examples, (file,)


def _name_of(number: object, names: Sequence[str]) -> object:
    """The name for a number of the hub; the number itself if it has no name."""
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else number
