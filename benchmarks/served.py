"""A served model compared with the same model loaded here: log-probabilities, decisions and times, same requests.

    bash recipes/vllm_cpu.sh /tmp/vllm 8000
    OMP_NUM_THREADS=1 python benchmarks/served.py server:http://localhost:8000#smollm2 --model builtin:smollm2-135m

Each benchmark is a name, optionally with a group of its items: ``stereoset:dev@gender``. Nothing is stored.
The script prints one JSON object per line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from equiframe.benchmarks import load_benchmark
from equiframe.benchmarks.benchmark import Outcome, spread
from equiframe.benchmarks.half_precision import half_precision
from equiframe.models import load
from equiframe.requests import Answer, Request, TokenLogProbs
from equiframe.scoring.answering import Answerer
from equiframe.scoring.engine import LocalAnswerer
from equiframe.scoring.served import connect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("served", help="server:URL#MODEL")
    parser.add_argument("--model", default="builtin:smollm2-135m", help="the same model, to load here")
    parser.add_argument("--benchmarks", default="stereoset:dev@gender,crows_pairs@gender,lpbs")
    parser.add_argument(
        "--items", type=int, default=None, help="items of each benchmark, spread evenly; all by default"
    )
    parser.add_argument("--concurrency", type=int, default=8)
    options = parser.parse_args()
    served = connect(options.served, concurrency=options.concurrency)
    local = LocalAnswerer(load(options.model, device="cpu", dtype="float32"))
    for name in options.benchmarks.split(","):
        print(json.dumps(compared(served, local, name, options.items)), flush=True)


def compared(served: Answerer, local: Answerer, name: str, count: int | None) -> dict[str, Any]:
    """Compare the outcomes of one benchmark's items in both ways."""
    spec, _, group = name.partition("@")
    benchmark = load_benchmark(spec)
    items = [
        item
        for item in benchmark.items()[0]
        if not group or group in benchmark.rows(item, local.codec)[0].groups.values()
    ]
    items = spread(items, count)
    answers: dict[str, list[Answer]] = {}
    requests: list[Request] = []
    seconds: dict[str, float] = {}

    def asking(who: str, answerer: Answerer) -> Callable[[Sequence[Request]], list[Answer]]:
        def ask(asked: Sequence[Request]) -> list[Answer]:
            requests[:] = asked
            start = time.perf_counter()
            answers[who] = answerer.answer(asked)
            seconds[who] = time.perf_counter() - start
            return answers[who]

        return ask

    outcomes: dict[str, list[Outcome]] = {}
    for who, answerer in (("served", served), ("local", local)):
        found = benchmark.outcomes(items, answerer.codec, asking(who, answerer))
        outcomes[who] = [outcome for part in found for outcome in part]
    pairs = zip(requests, answers["served"], answers["local"], strict=True)
    differences = [np.subtract(one, other) for asked, one, other in pairs if isinstance(asked, TokenLogProbs)]
    apart = np.abs(np.concatenate(differences))
    change = half_precision(benchmark, "served", outcomes["served"], outcomes["local"])
    return {
        "benchmark": name,
        "items": len(items),
        "excluded": sum(outcome.excluded is not None for outcome in outcomes["served"]),
        "log_probabilities": len(apart),
        "largest_difference": float(apart.max()),
        "mean_difference": float(apart.mean()),
        "decisions_that_differ": change.flips,
        "largest_change_of_a_value": change.largest_change,
        **{f"{who}_seconds": round(value, 1) for who, value in seconds.items()},
    }


if __name__ == "__main__":
    main()
