"""Speed of class statistics and pairwise metrics, compared with the paper's code. Prints one JSON object per line.

python benchmarks/class_statistics.py
"""

import json
import subprocess
import sys
import time

import torch

from equiframe.collapse import ClassStatistics, cdnv

VOCABULARY, DIM, TOKENS, CLASSES = 30_522, 768, 2_048, 1_500
_WHOLE = f"""
import json, resource, time, torch
from equiframe.collapse import cdnv
means, variances = torch.randn({VOCABULARY}, {DIM}), torch.rand({VOCABULARY})
began = time.perf_counter()
found = cdnv(means, variances)
print(json.dumps([time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def one_hot_means(totals, counts, features, token_ids):
    """Compute class sums as in the paper's code: a [tokens, vocabulary] mask times the features."""
    mask = torch.zeros(len(token_ids), VOCABULARY).scatter_(1, token_ids[:, None], 1.0)
    totals += mask.T @ features
    counts += mask.sum(0)
    return totals / (counts[:, None] + torch.finfo(totals.dtype).eps)


def broadcast_cdnv(means, variances, patch=8):
    """Compute pairs as in the paper's code: differences of a patch of classes and all classes, broadcast."""
    result = torch.empty(len(means), len(means))
    for start in range(0, len(means), patch):
        part = means[start : start + patch]
        squared = (part[:, None] - means[None]).square().sum(-1)
        spread = (variances[start : start + patch, None] + variances[None]) / 2
        result[start : start + patch] = spread / squared
    return result[torch.triu(torch.ones_like(result, dtype=torch.bool), 1)].mean()


def paired(name, ours, baseline, repeats, **sizes):
    """Time both by turns; return the median of the paired ratios."""
    ours(), baseline()
    times = []
    for _ in range(repeats):
        pair = []
        for run in (ours, baseline):
            began = time.perf_counter()
            run()
            pair.append(time.perf_counter() - began)
        times.append(pair)
    mine, theirs = torch.tensor(times).T
    ratio = float((theirs / mine).median())
    line = {"name": name, "ours_s": float(mine.median()), "baseline_s": float(theirs.median()), "ratio": ratio}
    print(json.dumps({**line, **sizes}), flush=True)


def main():
    """Print one line per comparison."""
    torch.manual_seed(0)
    features, token_ids = torch.randn(TOKENS, DIM), torch.randint(0, VOCABULARY, (TOKENS,))
    statistics = ClassStatistics(torch.arange(VOCABULARY), DIM)
    totals, counts = torch.zeros(VOCABULARY, DIM), torch.zeros(VOCABULARY)
    paired(
        "class means, one batch",
        lambda: statistics.update(features, token_ids),
        lambda: one_hot_means(totals, counts, features, token_ids),
        repeats=7,
        tokens=TOKENS,
        classes=VOCABULARY,
        dim=DIM,
    )
    means, variances = torch.randn(CLASSES, DIM), torch.rand(CLASSES)
    paired(
        "pairwise CDNV, mean and spread",
        lambda: cdnv(means, variances),
        lambda: broadcast_cdnv(means, variances),
        repeats=5,
        classes=CLASSES,
        dim=DIM,
    )
    done = subprocess.run([sys.executable, "-c", _WHOLE], capture_output=True, text=True, check=True)
    seconds, peak = json.loads(done.stdout)
    line = {"name": "whole-vocabulary CDNV, mean and spread", "ours_s": seconds, "baseline_s": None, "ratio": None}
    print(json.dumps({**line, "classes": VOCABULARY, "dim": DIM, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
