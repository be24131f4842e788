"""The pictures of the studies, and the correlations between collapse and gain over several studies.

    python recipes/study_pictures.py runs/study-hosts runs/study-mini-cc runs/study-gemma

Each argument is a folder written by `equiframe study`. Writes `frontier.svg` and `collapse-gain.svg` into docs/images.
"""

import sys
from collections import defaultdict
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from equiframe.analysis.association import rank_correlation
from equiframe.analysis.gain import interval
from equiframe.record import StudyResult
from equiframe.report.study import frontier_points, whiskers

IMAGES = Path(__file__).parent.parent / "docs/images"
COLOURS = ("#0072b2", "#d55e00", "#009e73")
MEASURES = ("(U)NC3", "NC3", "CC1 gender", "CC3 gender")


def short(model: str) -> str:
    """Name of a model in a picture."""
    return Path(model.removeprefix("builtin:")).stem


def frontier(studies: list[StudyResult]) -> None:
    """Pooled gain and change of agreement of every arm, with 95 % intervals; filled with the (U)NC3 term."""
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for colour, study in zip(cycle(COLOURS), studies, strict=False):
        points = [pair for key, found in frontier_points(study).items() if key[1] == "agreement" for pair in found]
        for gain, kept in points:
            (x, left, right), (y, below, above) = whiskers(gain), whiskers(kept)
            axes.errorbar(
                x,
                y,
                xerr=[[left], [right]],
                yerr=[[below], [above]],
                fmt="o",
                color=colour,
                mfc=colour if gain.arm == "unc3" else "white",
                elinewidth=0.7,
                label=short(gain.model),
            )
            if gain.arm == "plain":
                axes.annotate(gain.method, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7, color=colour)
    axes.axhline(0, color="grey", linewidth=0.8, linestyle="--")
    axes.axvline(0, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xlabel("pooled fairness gain, % (0: the model before)")
    axes.set_ylabel("change of agreement, points")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(IMAGES / "frontier.svg", metadata={"Date": None})


def changes(study: StudyResult) -> pd.DataFrame:
    """One row per arm: pooled gain in percent and the logarithm of each measure after over before, means over seeds."""
    arms = defaultdict(list)
    before = {}
    for cell in study.cells:
        values = np.array([cell.geometry.get(name) or np.nan for name in MEASURES])
        if cell.arm == "before":
            before[cell.seed] = values
        else:
            arms[cell.method, cell.arm].append([100 * cell.gain, *np.log(values / before[cell.seed])])
    rows = [[short(study.cells[0].model), *key, *np.mean(values, axis=0)] for key, values in arms.items()]
    return pd.DataFrame(rows, columns=["model", "method", "arm", "gain", *MEASURES])


def correlation(table: pd.DataFrame, measure: str) -> str:
    """Spearman's correlation with the gain over arms, with a 95 % bootstrap interval over arms."""
    if len(table) < 4:
        return "too few models"
    pairs = table[[measure, "gain"]].to_numpy()
    found = interval(*rank_correlation(pairs, range(len(pairs)), seed=0, resamples=2000))
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def collapse_against_gain(table: pd.DataFrame) -> None:
    """A panel per measure, a mark per arm."""
    figure, panels = plt.subplots(1, len(MEASURES), figsize=(9.6, 3.0), layout="constrained", sharey=True)
    for axes, measure in zip(panels, MEASURES, strict=True):
        for colour, (model, rows) in zip(cycle(COLOURS), table.groupby("model", sort=False), strict=False):
            for arm, face in (("plain", "white"), ("unc3", colour)):
                shown = rows[rows["arm"] == arm]
                axes.scatter(100 * np.expm1(shown[measure]), shown["gain"], facecolors=face, edgecolors=colour, s=28)
            axes.scatter([], [], facecolors="white", edgecolors=colour, label=model)
        axes.axhline(0, color="grey", linewidth=0.8, linestyle="--")
        axes.axvline(0, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xlabel(f"change of {measure}, %")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("pooled fairness gain, %")
    panels[0].legend(fontsize=7, frameon=False)
    figure.savefig(IMAGES / "collapse-gain.svg", metadata={"Date": None})


def main(folders: list[str]) -> None:
    studies = [StudyResult.model_validate_json((Path(folder) / "study.json").read_text()) for folder in folders]
    frontier(studies)
    table = pd.concat([changes(study) for study in studies], ignore_index=True)
    collapse_against_gain(table)
    groups = dict(list(table.groupby("model", sort=False)))
    groups |= {"all models": table, "all models, without (U)NC3": table[table["arm"] == "plain"]}
    for model, rows in groups.items():
        for measure in MEASURES:
            print(f"{model} ({len(rows)} trained models): {measure} with gain {correlation(rows, measure)}")


if __name__ == "__main__":
    main(sys.argv[1:])
