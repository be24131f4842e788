"""What docs/ shows of the studies: their tables, headline and pictures, and the correlations over several of them.

    python recipes/study_docs.py runs

The argument is the folder in which `equiframe study` wrote study-causal, study-hosts, study-gemma, study-minilm and
study-ablation, or some of them: what docs/ shows of the others stays. Writes docs/study-tables.md, docs/headline.json,
docs/study-models.csv (a row for each trained model), and the two pictures of this table into docs/images.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain, cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from equiframe.analysis.association import rank_correlation
from equiframe.analysis.gain import interval
from equiframe.record import StudyCell, StudyResult
from equiframe.report.study import READING, frontier_points, study_tables, with_ends

DOCS = Path(__file__).parent.parent / "docs"
HEADLINE = ("study-causal", "study-gemma", "study-minilm")
COMPARED = ("study-hosts", "study-gemma", "study-minilm")
ABLATION = "study-ablation"
WEIGHTS = {
    "agreement doubled": "4",
    "CDA + CC": "2",
    "agreement halved": "1",
    "agreement 0.5": "0.5",
    "agreement 0.25": "0.25",
    "no agreement": "0",
}
TITLES = {
    "study-causal": "SmolLM2-135M-Instruct",
    "study-hosts": "SmolLM2-135M-Instruct, published methods",
    "study-gemma": "Gemma 3 270M",
    "study-minilm": "builtin:minilm-mlm",
    ABLATION: "SmolLM2-135M-Instruct, ablation on development data",
}
COLOURS = ("#0072b2", "#d55e00", "#009e73")
MEASURES = ("(U)NC3", "NC3", "CC1 gender", "CC3 gender")
COLUMNS = ("model", "method", "arm", "gain", "gain_low", "gain_high", "agreement", "agreement_low", "agreement_high")
COLUMNS += MEASURES


def short(model: str) -> str:
    """Name of a model in a picture."""
    return Path(model.removeprefix("builtin:")).stem


def tables(studies: Mapping[str, StudyResult], old: str) -> str:
    """Every table of every study, a section each; that of a study that is absent is taken from the old text."""
    text = (
        "# Tables of the study of counterfactual collapse\n\n"
        "These are the complete tables of [the study](study.md), which has the commands, written by "
        f"`python recipes/study_docs.py runs`. {READING}\n"
    )
    for name, title in TITLES.items():
        if name in studies:
            text += "\n" + section(studies[name], title)
        elif kept := re.search(rf"^## {re.escape(title)}, seeds? [\d, ]+\n(?:(?!## ).*\n)+", old, re.MULTILINE):
            text += "\n" + kept[0].rstrip("\n") + "\n"
    return text


def section(study: StudyResult, title: str) -> str:
    """Every table of a study."""
    seeds = study.study["seeds"]
    title += f", seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    text = f"## {title}\n"
    for caption, table in study_tables(study).items():
        cells = table.to_markdown(index=False, disable_numparse=True)
        text += f"\n### {caption}: {title}\n\n" + re.sub(r"(?<=\S) {2,}(?=\S)", " ", cells) + "\n"
    return text


def trained_models(study: StudyResult) -> pd.DataFrame:
    """One row per model, method and arm: pooled gain in percent and change of agreement in points, with intervals, and
    the change in percent of each measure of collapse. Means over seeds; those of the measures are geometric.
    """
    before = {(cell.model, cell.seed): logarithms(cell) for cell in study.cells if cell.arm == "before"}
    logs = defaultdict(list)
    for cell in study.cells:
        if cell.arm != "before":
            logs[cell.model, cell.method, cell.arm].append(logarithms(cell) - before[cell.model, cell.seed])
    rows = []
    for gain, kept in chain.from_iterable(frontier_points(study).values()):
        if kept.name == "agreement":
            changes = 100 * np.expm1(np.mean(logs[gain.model, gain.method, gain.arm], axis=0))
            rows.append([short(gain.model), gain.method, gain.arm, *with_ends(gain), *with_ends(kept), *changes])
    return pd.DataFrame(rows, columns=COLUMNS)


def logarithms(cell: StudyCell) -> np.ndarray:
    """The logarithm of each measure of collapse; NaN where there is none."""
    return np.log([cell.geometry.get(name) or np.nan for name in MEASURES])


def updated(old: pd.DataFrame, studies: Mapping[str, StudyResult]) -> pd.DataFrame:
    """The trained models of all studies; those of a study that is absent are taken from the old table."""
    parts = [
        trained_models(studies[name]).assign(study=name) if name in studies else old[old["study"] == name]
        for name in TITLES
    ]
    return pd.concat([part for part in parts if len(part)], ignore_index=True)[["study", *COLUMNS]]


def frontier(axes: Axes, table: pd.DataFrame, labels: Mapping[str, str] | None = None) -> None:
    """Pooled gain and change of agreement of the methods with a label, or all, with intervals; filled with (U)NC3."""
    named = []
    for colour, (model, rows) in zip(cycle(COLOURS), table.groupby("model", sort=False), strict=False):
        for row in rows.itertuples():
            if labels is not None and row.method not in labels:
                continue
            x, y = row.gain, row.agreement
            axes.errorbar(
                x,
                y,
                xerr=[[x - row.gain_low], [row.gain_high - x]],
                yerr=[[y - row.agreement_low], [row.agreement_high - y]],
                fmt="o",
                color=colour,
                mfc=colour if row.arm == "unc3" else "white",
                elinewidth=0.7,
                label=model,
            )
            if row.arm == "plain":
                named.append((x, y, colour, labels[row.method] if labels is not None else row.method))
    for x, y, colour, name in named:
        crowded = any(abs(other[0] - x) < 2 and 0 < other[1] - y < 1.5 for other in named)  # percent, points
        offset = (5, -9 if crowded else 4)
        axes.annotate(name, (x, y), xytext=offset, textcoords="offset points", fontsize=7, color=colour)
    axes.axhline(0, color="grey", linewidth=0.8, linestyle="--")
    axes.axvline(0, color="grey", linewidth=0.8, linestyle="--")
    handles, models = axes.get_legend_handles_labels()
    unique = dict(zip(models, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def correlation(table: pd.DataFrame, measure: str) -> str:
    """Spearman's correlation with the gain over trained models, with a 95 % bootstrap interval over them."""
    if len(table) < 4:
        return "too few models"
    pairs = table[[measure, "gain"]].to_numpy()
    found = interval(*rank_correlation(pairs, range(len(pairs)), seed=0, resamples=2000))
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def collapse_against_gain(table: pd.DataFrame) -> None:
    """A panel per measure, a mark per trained model."""
    figure, panels = plt.subplots(1, len(MEASURES), figsize=(9.6, 3.0), layout="constrained", sharey=True)
    for axes, measure in zip(panels, MEASURES, strict=True):
        for colour, (model, rows) in zip(cycle(COLOURS), table.groupby("model", sort=False), strict=False):
            for arm, face in (("plain", "white"), ("unc3", colour)):
                shown = rows[rows["arm"] == arm]
                axes.scatter(shown[measure], shown["gain"], facecolors=face, edgecolors=colour, s=28)
            axes.scatter([], [], facecolors="white", edgecolors=colour, label=model)
        axes.axhline(0, color="grey", linewidth=0.8, linestyle="--")
        axes.axvline(0, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xlabel(f"change of {measure}, %")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("pooled fairness gain, %")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=7, frameon=False
    )
    figure.savefig(DOCS / "images/collapse-gain.svg", metadata={"Date": None})


def correlations(table: pd.DataFrame) -> Iterator[str]:
    """A line for each measure, within each model and over all."""
    groups = dict(list(table.groupby("model", sort=False)))
    groups |= {"all models": table, "all models, without (U)NC3": table[table["arm"] == "plain"]}
    for model, rows in groups.items():
        for measure in MEASURES:
            yield f"{model} ({len(rows)} trained models): {measure} with gain {correlation(rows, measure)}"


def main(runs: Path) -> None:
    files = {name: runs / name / "study.json" for name in TITLES}
    studies = {name: StudyResult.model_validate_json(file.read_text()) for name, file in files.items() if file.exists()}
    if not studies:
        sys.exit(
            f"no study in {runs}: run `equiframe study recipes/NAME.yaml --out {runs}/NAME` for one of {[*TITLES]}"
        )
    text = DOCS / "study-tables.md"
    text.write_text(tables(studies, text.read_text()))
    lines = DOCS / "headline.json"
    headlines = {line["model"]: line for line in json.loads(lines.read_text())}
    for name in HEADLINE:
        if name in studies:
            headlines |= {line["model"]: line for line in json.loads((runs / name / "headline.json").read_text())}
    lines.write_text(json.dumps([*headlines.values()], indent=2, ensure_ascii=False) + "\n")
    models = DOCS / "study-models.csv"
    updated(pd.read_csv(models), studies).to_csv(models, index=False, float_format="%.4f")
    table = pd.read_csv(models)
    compared = table[table["study"].isin(COMPARED)]
    plt.rcParams["svg.hashsalt"] = "equiframe"  # the same pictures from the same table
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.4), layout="constrained")
    frontier(left, compared)
    frontier(right, table[table["study"] == ABLATION], WEIGHTS)
    left.set_title("the methods, on the benchmarks of the study", fontsize=9)
    right.set_title("CDA + CC by weight of agreement, on development data", fontsize=9)
    left.set_ylabel("change of agreement, points")
    figure.supxlabel("pooled fairness gain, % (0: the model before)", fontsize=10)
    figure.savefig(DOCS / "images/frontier.svg", metadata={"Date": None})
    collapse_against_gain(compared)
    print(*correlations(compared), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
