"""All benchmarks of speed, each compared with its baseline in the same run, as one Markdown table.

    python benchmarks/all.py                             # on a machine without other work
    python benchmarks/all.py --quick                     # a few minutes; shows that all run, not how fast
    python benchmarks/all.py --out docs/performance.md   # writes the table there

The lines that the scripts print go to standard error immediately.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch
from markdown_tables import table, write

# script, its arguments, additional arguments with --quick, and the baseline
SCRIPTS = [
    ("class_statistics.py", "", "", "one-hot product, broadcast differences"),
    ("regularizer.py", "", "--steps 5", "the same step without the term"),
    ("counterfactual_collapse.py", "", "--steps 3", "a step of two-sided CDA on the same texts"),
    ("scoring.py", "--model builtin:mini-mlm", "--items 10 --rounds 1", "a sentence with a mask at a time"),
    ("scoring.py", "--model minilm", "--items 3 --rounds 1", "a sentence with a mask at a time"),
    ("scoring.py", "--model builtin:smollm2-135m --rounds 1", "--items 2", "a sentence at a time"),
    ("alternatives.py", "", "--rounds 1", "plain attention, float32, not compiled"),
    ("startup.py", "", "--rounds 3", "`python -c pass`"),
]
HEADERS = ["", "ours, s", "baseline, s", "baseline / ours", "largest possible", "share of the bare limit", "baseline"]


def lines_of(script, arguments):
    """Return the JSON objects that a script prints, and show them at the same time."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            sys.stderr.write(line)
            if line.startswith("{"):
                yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[1:])} ended with {process.returncode}")


def row(line, baseline):
    """Make one line of the table; a model in a temporary folder is shown by its name."""
    ours, theirs = line["ours_s"], line["baseline_s"]
    share, possible = line.get("share_of_bare_limit"), line.get("largest_possible_ratio")
    compared = ["", "", "", "", ""]
    if theirs is not None:
        limits = ["" if possible is None else f"{possible:.3g}", "" if share is None else f"{share:.0%}"]
        compared = [f"{theirs:.3g}", f"{theirs / ours:.3g}", *limits, baseline]
    return [re.sub(r"/\S*/", "", line["name"]), f"{ours:.3g}", *compared]


def main():
    """Run all benchmarks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few items and rounds")
    parser.add_argument("--out", type=Path, help="file to write the table into")
    options = parser.parse_args()
    rows = [
        row(line, baseline)
        for script, arguments, quick, baseline in SCRIPTS
        for line in lines_of(script, [*arguments.split(), *(quick.split() if options.quick else ())])
    ]
    what = "Quick run: few items and rounds" if options.quick else "Medians"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    text = f"{table(HEADERS, rows)}\n\n{what}; {machine}, torch {torch.__version__}."
    print(text)
    if options.out:
        write(text, options.out, "benchmarks")


if __name__ == "__main__":
    main()
