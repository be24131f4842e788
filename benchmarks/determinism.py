"""Run one command again with the same and with another number of threads, and compare the numbers.

    python benchmarks/determinism.py --threads 2
    python benchmarks/determinism.py -- evaluate builtin:mini-mlm --benchmarks stereoset:dev

The script prints for each repetition the largest difference over metrics.json by kind of number (relative to the number
if it is above 1), and of the weights. With the same number of threads the bits must be equal; if not, it exits with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file

COMMAND = "debias builtin:mini-mlm --unc3 100 --max-steps 20 --sentences 1000 --benchmarks stereoset:dev,lpbs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="number of threads to compare with one")
    parser.add_argument(
        "command", nargs="*", default=COMMAND.split(), help="command of equiframe after --, without --out"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        first, again, other = (
            numbers(options.command, Path(scratch) / name, threads)
            for name, threads in (("first", 1), ("again", 1), ("other", options.threads))
        )
    for label, repeated in (("one thread again", again), (f"{options.threads} threads", other)):
        apart = {kind: max(map(difference, first[kind], repeated[kind])) for kind in first}
        print(f"{label}: {', '.join(f'{kind} {value:.1e}' for kind, value in apart.items())}")
    return int(first != again)


def numbers(command: list[str], folder: Path, threads: int) -> dict[str, list[float]]:
    """Return the numbers of a run, by kind, in order."""
    environment = {**os.environ, "EQUIFRAME_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": str(threads)}
    arguments = [sys.executable, "-m", "equiframe", *command, "--out", str(folder / "run")]
    subprocess.run(arguments, env=environment, stdout=subprocess.DEVNULL, check=True)
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    found = {kind: list(leaves(metrics[kind])) for kind in ("collapse", "benchmarks") if metrics[kind]}
    for file in (folder / "run").glob("model/*.safetensors"):
        found["weights"] = [float(v) for weight in load_file(file).values() for v in weight.flatten()]
    return found


def leaves(value: object) -> Iterator[float]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from () if key == "seconds" else leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, (int, float)):
        yield float(value)


def difference(first: float, second: float) -> float:
    return abs(first - second) / max(1.0, abs(first))


if __name__ == "__main__":
    sys.exit(main())
