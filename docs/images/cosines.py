"""Makes the pictures of the pages from the built-in model: python docs/images/cosines.py (two minutes)."""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import equiframe
from equiframe.commands.run import run
from equiframe.config import DebiasConfig, FineTuning, UNC3Options
from equiframe.data import stream

HERE = Path(__file__).parent
PAIRS = (("she", "he"), ("woman", "man"), ("mother", "father"), ("sister", "brother"), ("girl", "boy"), ("her", "his"))


def gathered(name: str) -> tuple[equiframe.ClassStatistics, torch.Tensor, list[str]]:
    """Return statistics of the gender words seen ten times or more, their embeddings, and the words."""
    model = equiframe.load(name)
    words = equiframe.WordSet.builtin("gender").resolve(model.tokenizer)
    sentences = [text for text, _ in zip(stream("bug/balanced"), range(8000), strict=False)]
    found = equiframe.collect(model, sentences).statistics.select(torch.tensor(words.token_ids), min_count=10)
    rows = model.model.get_output_embeddings().weight.detach()[found.class_ids]
    return found, rows, [words.word_of[i] for i in found.class_ids.tolist()]


def directions(statistics: equiframe.ClassStatistics, rows: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return centred means, and embeddings, scaled to length 1."""
    means = torch.nn.functional.normalize(statistics.means - statistics.means.mean(0), dim=1)
    return means.double().numpy(), torch.nn.functional.normalize(rows, dim=1).double().numpy()


def cosine_strip(runs: dict[str, tuple[equiframe.ClassStatistics, torch.Tensor, list[str]]]) -> None:
    """Draw a row per model, and a dot per word."""
    figure, axes = plt.subplots(figsize=(7.2, 2.2), layout="constrained")
    for at, (statistics, rows, words) in enumerate(runs.values()):
        means, embeddings = directions(statistics, rows)
        cosines = (means * embeddings).sum(1)
        jitter = np.random.default_rng(0).uniform(-0.18, 0.18, len(words))
        axes.scatter(cosines, jitter - at, s=22, alpha=0.75)
        spread = f"(U)NC3 {cosines.std(ddof=1):.4f}, mean {cosines.mean():.3f}"
        axes.annotate(spread, (1.01, -at), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set_yticks([-at for at in range(len(runs))], list(runs))
    axes.set_xlabel("cosine of a word's mean state and its embedding")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(HERE / "cosines.svg", metadata={"Date": None})


def apart(places: list[float], least: float) -> list[float]:
    """Heights of labels, at least this far apart, in the order of their places and as close to them as possible."""
    order = np.argsort(places, kind="stable")
    blocks: list[list[int]] = []  # labels that touch; each block is centred on the mean of its places

    def bottom(block: list[int]) -> float:
        return float(np.mean([places[at] for at in block])) - least * (len(block) - 1) / 2

    for at in order:
        blocks.append([int(at)])
        while len(blocks) > 1 and bottom(blocks[-1]) - bottom(blocks[-2]) < least * len(blocks[-2]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    heights = {at: bottom(block) + least * number for block in blocks for number, at in enumerate(block)}
    return [heights[at] for at in range(len(places))]


def plane(statistics: equiframe.ClassStatistics, rows: torch.Tensor, words: list[str]) -> None:
    """Draw means and embeddings of six pairs of words in one plane."""
    means, embeddings = directions(statistics, rows)
    at = {word: i for i, word in enumerate(words)}
    pairs = [(first, second) for first, second in PAIRS if first in at and second in at]
    across = embeddings[at["he"]] - embeddings[at["she"]]
    across /= np.linalg.norm(across)
    chosen = [at[word] for pair in pairs for word in pair]
    rest = np.concatenate([means[chosen], embeddings[chosen]])
    rest = rest - np.outer(rest @ across, across)
    along = np.linalg.svd(rest - rest.mean(0), full_matrices=False)[2][0]
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    second = tuple(word for _, word in pairs)
    for side in zip(*pairs, strict=True):
        heights = apart([float(embeddings[at[word]] @ along) for word in side], least=0.06 * np.ptp(rest @ along))
        for word, height in zip(side, heights, strict=True):
            mean, embedding = means[at[word]], embeddings[at[word]]
            x, u, y, v = mean @ across, embedding @ across, mean @ along, embedding @ along
            axes.plot([x, u], [y, v], color="#999999", linewidth=0.8, zorder=1)
            axes.scatter(x, y, color="#0f766e", s=36)
            axes.scatter(u, v, color="#b45309", marker="D", s=30)
            shift = {"xytext": (7, 0), "ha": "left"} if side == second else {"xytext": (-7, 0), "ha": "right"}
            axes.annotate(word, (u, height), textcoords="offset points", va="center", fontsize=9, **shift)
    axes.scatter([], [], color="#0f766e", s=36, label="mean of the word's states")
    axes.scatter([], [], color="#b45309", marker="D", s=30, label="the word's embedding")
    axes.margins(x=0.12)  # room for the labels
    axes.set_xlabel("direction from she to he, between their embeddings")
    axes.set_ylabel("first principal direction of the rest")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "plane.svg", metadata={"Date": None})


if __name__ == "__main__":
    plt.rcParams.update({"svg.hashsalt": "equiframe", "font.size": 10})
    with tempfile.TemporaryDirectory() as scratch:
        config = DebiasConfig(
            "builtin:mini-mlm",
            audit=None,
            benchmarks=(),
            method="bec",
            unc3=UNC3Options(weight=100.0),
            fine_tuning=FineTuning(max_steps=120, learning_rate=1e-4, seed=42),
        )
        run(config, Path(scratch) / "run")
        after = gathered(f"{scratch}/run/model")
    before = gathered("builtin:mini-mlm")
    cosine_strip({"before": before, "BEC + (U)NC3": after})
    plane(*before)
