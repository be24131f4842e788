"""What docs/ shows of the studies: their tables, headline and pictures, and the correlations over several of them.

    python recipes/study_docs.py runs

The argument is the folder in which `equiframe study` wrote study-causal, study-hosts, study-gemma, study-minilm and
study-ablation. Writes docs/study-tables.md, docs/headline.json, and two pictures into docs/images.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from equiframe.analysis.association import rank_correlation
from equiframe.analysis.gain import interval
from equiframe.record import StudyResult
from equiframe.report.study import READING, frontier_points, study_tables, whiskers

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


def short(model: str) -> str:
    """Name of a model in a picture."""
    return Path(model.removeprefix("builtin:")).stem


def tables(studies: dict[str, StudyResult]) -> str:
    """Every table of every study."""
    lines = [
        "# Tables of the study of counterfactual collapse",
        "",
        "These are the complete tables of [the study](study.md), which has the commands, written by "
        f"`python recipes/study_docs.py runs`. {READING}",
    ]
    for name, title in TITLES.items():
        seeds = studies[name].study["seeds"]
        title += f", seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        lines += ["", f"## {title}"]
        for caption, table in study_tables(studies[name]).items():
            text = table.to_markdown(index=False, disable_numparse=True)
            lines += ["", f"### {caption}: {title}", "", re.sub(r"(?<=\S) {2,}(?=\S)", " ", text)]
    return "\n".join(lines) + "\n"


def frontier(axes: Axes, studies: list[StudyResult], labels: Mapping[str, str] | None = None) -> None:
    """Pooled gain and change of agreement of the methods with a label, or all, with intervals; filled with (U)NC3."""
    named = []
    for colour, study in zip(cycle(COLOURS), studies, strict=False):
        points = [pair for key, found in frontier_points(study).items() if key[1] == "agreement" for pair in found]
        for gain, kept in points:
            if labels is not None and gain.method not in labels:
                continue
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
                named.append((x, y, colour, labels[gain.method] if labels is not None else gain.method))
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
    figure.savefig(DOCS / "images/collapse-gain.svg", metadata={"Date": None})


def correlations(table: pd.DataFrame) -> Iterator[str]:
    """A line for each measure, within each model and over all."""
    groups = dict(list(table.groupby("model", sort=False)))
    groups |= {"all models": table, "all models, without (U)NC3": table[table["arm"] == "plain"]}
    for model, rows in groups.items():
        for measure in MEASURES:
            yield f"{model} ({len(rows)} trained models): {measure} with gain {correlation(rows, measure)}"


def main(runs: Path) -> None:
    studies = {name: StudyResult.model_validate_json((runs / name / "study.json").read_text()) for name in TITLES}
    (DOCS / "study-tables.md").write_text(tables(studies))
    headlines = [line for name in HEADLINE for line in json.loads((runs / name / "headline.json").read_text())]
    (DOCS / "headline.json").write_text(json.dumps(headlines, indent=2, ensure_ascii=False) + "\n")
    plt.rcParams["svg.hashsalt"] = "equiframe"  # the same pictures from the same studies
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.4), layout="constrained")
    frontier(left, [studies[name] for name in COMPARED])
    frontier(right, [studies[ABLATION]], WEIGHTS)
    left.set_title("the methods, on the benchmarks of the study", fontsize=9)
    right.set_title("CDA + CC by weight of agreement, on development data", fontsize=9)
    left.set_ylabel("change of agreement, points")
    figure.supxlabel("pooled fairness gain, % (0: the model before)", fontsize=10)
    figure.savefig(DOCS / "images/frontier.svg", metadata={"Date": None})
    table = pd.concat([changes(studies[name]) for name in COMPARED], ignore_index=True)
    collapse_against_gain(table)
    print(*correlations(table), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
