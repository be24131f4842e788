"""Speed of responses in batches and one prompt at a time: same model, prompts and tokens, in one process.

    OMP_NUM_THREADS=1 python benchmarks/generation.py builtin:smollm2-135m --prompts 64

Prompts are spread evenly over a set. Both ways use ``generate`` of transformers with a KV cache and always take the
most probable token. They write equally many tokens, so that the times are for the same work. They take turns, and each
is timed ``--rounds`` times. Nothing is stored. The script prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import torch

from equiframe.benchmarks import load_benchmark
from equiframe.benchmarks.generated import GeneratedBenchmark
from equiframe.chat import user_turn
from equiframe.config import GenerationOptions
from equiframe.data.spreading import evenly
from equiframe.generation.local import Ids, LocalWriter, batches
from equiframe.models import LanguageModel, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="builtin:smollm2-135m")
    parser.add_argument("--benchmark", default="stories")
    parser.add_argument("--prompts", type=int, default=64, help="number of prompts, spread evenly over the set")
    parser.add_argument("--tokens", type=int, default=32, help="number of tokens of each response")
    parser.add_argument("--token-budget", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    language_model = load(options.model, device="cpu", dtype="float32")
    language_model.model.generation_config.eos_token_id = -1  # no response ends early
    prompts = prompts_of(options.benchmark, language_model, options.prompts)
    batched = list(batches(prompts, 1, options.tokens, options.token_budget))
    ways = {"one at a time": [[at] for at in range(len(prompts))], "in batches": batched}
    texts: dict[str, list[str]] = {}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    written(language_model, prompts[:2], [[0, 1]], 2)  # the first call is slower
    for _ in range(options.rounds):
        for way, parts in ways.items():
            wall, used = time.perf_counter(), time.process_time()
            texts[way] = written(language_model, prompts, parts, options.tokens)
            seconds[way].append(time.perf_counter() - wall)
            processor[way].append(time.process_time() - used)
    alone, together = (min(processor[way]) for way in ways)
    said = {
        "model": options.model,
        "threads": torch.get_num_threads(),
        "prompts": len(prompts),
        "tokens of a prompt": [min(map(len, prompts)), max(map(len, prompts))],
        "tokens of a response": options.tokens,
        "batches": len(batched),
        "seconds": seconds,
        "processor seconds": processor,
        "times as fast, by processor": alone / together,
        "times as fast, by wall": min(seconds["one at a time"]) / min(seconds["in batches"]),
        "same responses": sum(one == other for one, other in zip(*texts.values(), strict=True)),
    }
    print(json.dumps(said))


def prompts_of(name: str, language_model: LanguageModel, count: int) -> list[Ids]:
    """Return prompts of a set, in the model's chat template if it has one."""
    benchmark = load_benchmark(name)
    assert isinstance(benchmark, GeneratedBenchmark)
    prompts, _ = benchmark.prompts(groups=GenerationOptions().groups)
    texts = [prompts[at].text for at in evenly(len(prompts), min(count, len(prompts)))]
    tokenizer = language_model.tokenizer
    if tokenizer.chat_template is None:
        return [tuple(tokenizer.encode(text)) for text in texts]
    return [user_turn(tokenizer, text) for text in texts]


def written(
    language_model: LanguageModel, prompts: Sequence[Ids], parts: Sequence[Sequence[int]], length: int
) -> list[str]:
    """Generate the responses, part by part."""
    writer, found = LocalWriter(language_model), {}
    for part in parts:
        responses = writer.write([prompts[at] for at in part], GenerationOptions(), length, seed=0)
        found.update(zip(part, responses, strict=True))
    return [found[at][0] or "" for at in range(len(prompts))]


if __name__ == "__main__":
    main()
