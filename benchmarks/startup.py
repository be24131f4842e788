"""Time until the command answers, compared with a Python that does nothing. Prints one JSON object per line.

python benchmarks/startup.py
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np


def seconds(*arguments):
    """Measure the wall time of a Python with these arguments."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main():
    """Print the medians of paired starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    commands = ("-m", "equiframe", "--help"), ("-c", "pass")
    times = [[seconds(*command) for command in commands] for _ in range(options.rounds + 1)][1:]
    ours, baseline = np.median(times, axis=0)
    line = {"name": "equiframe --help", "ours_s": ours, "baseline_s": baseline, "ratio": baseline / ours}
    print(json.dumps({**line, "rounds": options.rounds}))


if __name__ == "__main__":
    main()
