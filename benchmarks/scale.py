"""Memory and time of an audit's arithmetic over large vocabularies, on synthetic features.

    python benchmarks/scale.py
    python benchmarks/scale.py --pair-classes 4000 --tokens 50000    # a few minutes
    python benchmarks/scale.py --out docs/performance.md             # writes the table there

Each vocabulary runs in its own process, so that its peak of memory is its own. Token ids follow Zipf's law, features
are bfloat16. Memory is what the process holds in addition to its imports: after a tenth of the tokens, after all of
them (a pass takes no more memory, however long the text), and at the peak, while pairs and decisions are computed. The
pairs of ``--pair-classes`` classes are measured; those of the whole vocabulary are computed from them, at the same time
per pair. One JSON object per vocabulary goes to standard error.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from markdown_tables import table, write

from equiframe.collapse import ClassStatistics, collapse_metrics, decision_agreement

SIZES = [(30_522, 768), (150_000, 576)]
BATCH, HELD_OUT = 4096, 500


def held():
    """The bytes that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def measure(classes, dim, tokens, pair_classes):
    """Measure one vocabulary."""
    generator = torch.Generator().manual_seed(0)
    share = 1 / torch.arange(1.0, classes + 1)
    features = torch.randn(BATCH, dim, generator=generator).bfloat16()
    imports = held()
    statistics = ClassStatistics(torch.arange(classes), dim)
    batches, spent, early = -(-tokens // BATCH), 0.0, 0
    for number in range(batches):
        ids = torch.multinomial(share, BATCH, replacement=True, generator=generator)
        began = time.perf_counter()
        statistics.update(features, ids)
        spent += time.perf_counter() - began
        if number == batches // 10:
            early = held() - imports
    late = held() - imports
    rows = torch.randn(classes, dim, generator=generator)
    statistics.counts.clamp_(min=1)  # every class is seen, so that all are in pairs
    statistics.means.copy_(rows).add_(torch.randn(classes, dim, generator=generator))
    statistics.scatter += 1
    chosen = statistics.select(torch.arange(min(pair_classes, classes)))
    began = time.perf_counter()
    collapse_metrics(chosen, rows[chosen.class_ids])
    pairs_s = time.perf_counter() - began
    began = time.perf_counter()
    decision_agreement(features[:HELD_OUT], statistics.means, rows)
    decisions_s = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - imports
    return {
        "name": "audit arithmetic",
        "classes": classes,
        "dim": dim,
        "tokens": batches * BATCH,
        "update_s": spent,
        "tokens_a_second": batches * BATCH / spent,
        "bytes_after_a_tenth": early,
        "bytes_after_all": late,
        "peak_bytes": peak,
        "pair_classes": len(chosen.class_ids),
        "pairs_s": pairs_s,
        "all_pairs_s_computed": pairs_s * (classes / len(chosen.class_ids)) ** 2,
        "nc4_s_for_1000_tokens": decisions_s * 1000 / HELD_OUT,
        "threads": torch.get_num_threads(),
    }


def columns(found):
    """Make one vocabulary's column of the table."""
    return [
        f"{found['classes']:,} classes, dim {found['dim']}",
        f"{found['tokens_a_second']:,.0f}",
        f"{found['bytes_after_a_tenth'] / 1e6:,.0f} MB",
        f"{found['bytes_after_all'] / 1e6:,.0f} MB",
        f"{found['peak_bytes'] / 1e6:,.0f} MB",
        f"{found['pairs_s']:.3g} s ({found['pair_classes']:,} classes)",
        f"{found['all_pairs_s_computed']:.3g} s",
        f"{found['nc4_s_for_1000_tokens']:.3g} s",
    ]


LABELS = [
    "",
    "tokens per second, update",
    "memory after a tenth of the tokens",
    "memory after all tokens",
    "peak of memory, pairs and decisions, with the embedding",
    "NC1 to NC3 over pairs, measured",
    "NC1 to NC3 over all pairs, computed",
    "NC4 of 1,000 tokens against all classes",
]


def main():
    """Measure each vocabulary and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--pair-classes", type=int, default=30_522)
    parser.add_argument("--out", type=Path, help="file to write the table into")
    parser.add_argument("--of", type=int, nargs=2, metavar=("CLASSES", "DIM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.of:
        print(json.dumps(measure(*options.of, options.tokens, options.pair_classes)))
        return
    found = []
    for size in SIZES:
        command = [sys.executable, *sys.argv, "--of", *map(str, size)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        sys.stderr.write(done.stdout)
        found.append(columns(json.loads(done.stdout)))
    headers, *rows = map(list, zip(LABELS, *found, strict=True))
    text = f"{table(headers, rows)}\n\n{options.tokens:,} tokens; {torch.get_num_threads()} threads."
    print(text)
    if options.out:
        write(text, options.out, "scale")


if __name__ == "__main__":
    main()
