"""The cost of the (U)NC3 term in a training step. Prints one JSON object per line.

python benchmarks/regularizer.py [--model builtin:mini-mlm]
"""

import argparse
import json
import time

import torch

from equiframe.collapse import UNC3Regularizer
from equiframe.data import corpus
from equiframe.methods import WithUNC3
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.models import load
from equiframe.models.adapter import classifier
from equiframe.words import WordSet


def step_of(objective, model, optimizer):
    """Make a whole training step: forward, backward, clip, update."""

    def step(batch):
        loss = objective(model, batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main():
    """Print the median of paired steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="builtin:mini-mlm")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    torch.manual_seed(0)
    language_model = load(options.model, device="cpu")
    model = language_model.model.train()
    words = WordSet.builtin("gender").resolve(language_model.tokenizer)
    term = UNC3Regularizer(torch.tensor(words.token_ids), classifier(model).shape[1], weight=100.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    host = LanguageModelling(language_model)
    plain, with_term = step_of(host, model, optimizer), step_of(WithUNC3(host, term), model, optimizer)
    sentences = corpus("bug").sentences
    times = []
    for number in range(options.steps + 3):
        texts = list(sentences[number * options.batch : (number + 1) * options.batch])
        batch = dict(language_model.tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt"))
        pair = {}
        for name in ("plain", "term") if number % 2 else ("term", "plain"):
            began = time.perf_counter()
            {"plain": plain, "term": with_term}[name](batch)
            pair[name] = time.perf_counter() - began
        times.append((pair["term"], pair["plain"]))
    ours, baseline = torch.tensor(times[3:]).T
    ratio = float((ours / baseline).median())
    line = {
        "name": "training step with (U)NC3",
        "ours_s": float(ours.median()),
        "baseline_s": float(baseline.median()),
        "ratio": ratio,
        "batch": options.batch,
        "steps": options.steps,
        "words": len(words.token_ids),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
