"""The cost of an audit and of a fine-tuning step: measured here, fitted to a model, and computed for a large model.

    python benchmarks/cost.py                              # some minutes
    python benchmarks/cost.py --quick --out cost.md
    python benchmarks/cost.py --out docs/contribute/cost.md    # writes the tables there

Each part is timed over a grid of sizes; the minimum of several rounds counts. The seconds are fitted to terms that
follow from the algorithm, and the fit is tested on larger sizes than those that it was fitted to. For the large model,
each coefficient is expressed as a number of memory copies or matrix-product operations on this machine, which are then
taken at the speed of other hardware. This is an assumption, as are that hardware's figures, which are options.
Attention other than the products with weights is left out. One JSON object per measurement goes to standard error.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from markdown_tables import table, write
from scipy.optimize import nnls

from equiframe.collapse import ClassStatistics, UNC3Regularizer, collapse_metrics
from equiframe.models import load

# part: sizes for the fit (larger than the caches), larger sizes for the test, and its terms
GRIDS = {
    "update": (
        [(tokens, dim, classes) for tokens in (4096, 16_384) for dim in (512, 1024) for classes in (30_000, 100_000)],
        [(32_768, 2048, 60_000)],
        {"tokens x dim": lambda tokens, dim, classes: tokens * dim, "tokens": lambda tokens, dim, classes: tokens},
    ),
    "pairs": (
        [(classes, dim) for classes in (512, 1024, 2048) for dim in (256, 768)],
        [(4096, 1024)],
        {"classes^2 x dim": lambda classes, dim: classes**2 * dim, "classes^2": lambda classes, dim: classes**2},
    ),
    "term": (
        [(classes, dim, tokens) for classes in (32_000, 64_000) for dim in (512, 1024) for tokens in (512, 4096)],
        [(128_000, 1024, 8192)],
        {
            "vocabulary x dim": lambda classes, dim, tokens: classes * dim,
            "tokens x dim": lambda classes, dim, tokens: tokens * dim,
        },
    ),
    "all_reduce": (
        [(classes, dim) for classes in (8_000, 16_000) for dim in (512, 1024)],
        [(32_000, 1024)],
        {"bytes": lambda classes, dim: classes * dim * 4},
    ),
}
WORDS = 400


def seconds(run, rounds):
    """The minimum wall time of a call, after one call that is not counted."""
    run()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def update(tokens, dim, classes):
    """The update of statistics by a batch."""
    statistics = ClassStatistics(torch.arange(classes), dim)
    features, ids = torch.randn(tokens, dim), torch.randint(classes, (tokens,))
    return lambda: statistics.update(features, ids)


def pairs(classes, dim):
    """All metrics over all pairs, without a second pass over the samples."""
    statistics = ClassStatistics(torch.arange(classes), dim)
    statistics.update(torch.randn(2 * classes, dim), torch.arange(classes).repeat(2))
    rows = torch.randn(classes, dim)
    return lambda: collapse_metrics(statistics, rows)


def term(classes, dim, tokens):
    """The (U)NC3 term of one step, forward and backward."""
    rows = torch.randn(classes, dim, requires_grad=True)
    regularizer = UNC3Regularizer(torch.randperm(classes)[:WORDS], dim, weight=1.0)
    features, ids = torch.randn(tokens, dim), torch.randint(classes, (tokens,))
    return lambda: torch.autograd.grad(regularizer(features, ids, rows), rows)


def all_reduce(rank, ranks, rounds, folder):
    """Reduce statistics over all ranks, each in its own process; the first rank writes the times."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{ranks}", rank=rank, world_size=ranks)
    found = []
    for classes, dim in [*GRIDS["all_reduce"][0], *GRIDS["all_reduce"][1]]:
        statistics = ClassStatistics(torch.arange(classes), dim)
        found.append(seconds(statistics.all_reduce, rounds))
    if rank == 0:
        Path(folder, f"{ranks}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def measured(part, make, rounds):
    """Measure seconds over a grid and at the sizes that are left out of the fit."""
    grid, larger, _ = GRIDS[part]
    return [seconds(make(*sizes), rounds) for sizes in [*grid, *larger]]


def fitted(part, times):
    """Fit seconds per unit of each term, which are never negative, and the error at sizes outside the fit."""
    grid, larger, terms = GRIDS[part]
    design = np.array([[1.0, *(term(*sizes) for term in terms.values())] for sizes in [*grid, *larger]])
    times = np.array(times)
    weighted = design / times[:, None]  # relative errors, since the largest size would dominate otherwise
    scale = weighted.max(axis=0)
    found = nnls(weighted[: len(grid)] / scale, np.ones(len(grid)))[0] / scale
    off = float(abs(design[len(grid) :] @ found / times[len(grid) :] - 1).max())
    return dict(zip(("call", *terms), found.tolist(), strict=True)), off


def tell(name, **line):
    """Print a line of JSON."""
    sys.stderr.write(json.dumps({"name": name, **line}) + "\n")


def machine(rounds):
    """Measure this machine's best rates: bytes copied (read and written) and product operations, per second."""
    source = torch.randn(32 << 20)
    target = torch.empty_like(source)
    found = {"copy": 2 * source.nbytes / seconds(lambda: target.copy_(source), rounds)}
    for dtype, name in ((torch.float32, "float32"), (torch.float64, "float64")):
        square = torch.randn(1536, 1536, dtype=dtype)
        found[name] = 2 * 1536**3 / seconds(lambda square=square: square @ square, rounds)
    return found


@torch.inference_mode()
def forward(rounds):
    """Measure seconds per token of the built-in model without its vocabulary head, and its operations per token."""
    stack = load("builtin:mini-mlm", device="cpu").model.base_model
    weights = sum(p.numel() for p in stack.parameters()) - sum(
        p.numel() for module in stack.modules() if isinstance(module, torch.nn.Embedding) for p in module.parameters()
    )
    ids = torch.randint(5, 1000, (32, 64))
    return seconds(lambda: stack(input_ids=ids), rounds) / ids.numel(), 2 * weights


def main():
    """Measure, fit, extrapolate, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round per size, 1 and 2 ranks")
    parser.add_argument("--out", type=Path, help="file to write the tables into")
    parser.add_argument("--parameters", type=float, default=7e9)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--tokens", type=float, default=1e8, help="number of tokens of the audited text")
    parser.add_argument("--batch", type=float, default=32_768, help="number of tokens of a training step on one device")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--flops", type=float, default=989e12, help="peak of a device in bf16, dense (default: H100)")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of the peak that a forward pass reaches")
    parser.add_argument("--flops64", type=float, default=67e12, help="peak of a device in float64 (default: H100)")
    parser.add_argument("--bandwidth", type=float, default=3.35e12, help="bytes per second of a device's memory")
    parser.add_argument("--link", type=float, default=450e9, help="bytes per second and direction between devices")
    options = parser.parse_args()
    torch.manual_seed(0)
    rounds = 1 if options.quick else 5
    best = machine(rounds)
    tell("machine", **best)
    rows, cost = [], {}
    for part, make in (("update", update), ("pairs", pairs), ("term", term)):
        times = measured(part, make, rounds)
        cost[part], off = fitted(part, times)
        rows += fit_rows(part, times, cost[part], off)
    with tempfile.TemporaryDirectory() as folder:
        for ranks in (1, 2) if options.quick else (1, 2, 4):
            mp.start_processes(all_reduce, (ranks, rounds, folder), nprocs=ranks, start_method="spawn")
            times = json.loads(Path(folder, f"{ranks}.json").read_text(encoding="utf-8"))
            found, off = fitted("all_reduce", times)
            cost.setdefault("all_reduce", found)  # one rank sends nothing: only its own passes over memory
            rows += fit_rows("all_reduce", times, found, off, ranks=ranks)
    token_s, operations = forward(rounds)
    reached = operations / token_s
    tell(
        "forward",
        seconds_a_token=token_s,
        operations_a_token=operations,
        flops=reached,
        share=reached / best["float32"],
    )
    rows.append(
        [
            "forward pass, mini-mlm",
            "2 x weights x tokens",
            f"{1 / reached:.2e}",
            f"{reached / best['float32']:.0%} of peak",
        ]
    )
    what = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    text = "\n\n".join(
        (
            table(["measured", "grows with", "seconds a unit", "off at a larger size"], rows),
            f"{'Quick run' if options.quick else 'Least of 5 rounds'} on {what}, torch {torch.__version__}.",
            table(["computed", "formula", "seconds"], extrapolated(options, cost, best)),
            assumptions(options),
        )
    )
    print(text)
    if options.out:
        write(text, options.out, "cost")


def fit_rows(part, times, found, off, **sizes):
    """Make one line per term with a cost."""
    grid, larger, _ = GRIDS[part]
    for at, taken in zip([*grid, *larger], times, strict=True):
        tell(part, sizes=at, seconds=taken, **sizes)
    tell(f"{part}, fitted", **found, off_at_larger=off, **sizes)
    name = part.replace("_", "-") + "".join(f", {value} {key}" for key, value in sizes.items())
    return [[name, key, f"{value:.2e}", f"{off:.0%}"] for key, value in found.items() if value]


def extrapolated(options, cost, best):
    """Compute the large model's seconds, from costs here expressed as numbers of copies or products."""
    n, d, v, t = options.devices, options.dim, options.vocabulary, options.tokens
    flops = options.flops * options.utilisation

    def bytes_of(part, key):
        return cost[part][key] * best["copy"]

    updates = bytes_of("update", "tokens x dim") * t / n * d + bytes_of("update", "tokens") * t / n
    products = cost["pairs"]["classes^2 x dim"] * best["float64"] * v**2 * d
    of_pairs = products / options.flops64 + bytes_of("pairs", "classes^2") * v**2 / options.bandwidth
    of_term = bytes_of("term", "vocabulary x dim") * v * d + bytes_of("term", "tokens x dim") * options.batch * d
    shared = 2 * (n - 1) / n / options.link
    reduced = v * d * 4 * (shared + bytes_of("all_reduce", "bytes") / options.bandwidth)
    lines = [
        ("audit: forward passes", "2 x parameters x tokens / devices / flops", 2 * options.parameters * t / n / flops),
        ("audit: updates", "copies x tokens x dim / devices / bandwidth", updates / options.bandwidth),
        ("audit: all-reduce, once", "classes x dim x 4 x (2 (n - 1) / n / link + copies / bandwidth)", reduced),
        ("audit: all pairs, on one device", "classes^2 x (dim x products / flops64 + copies / bandwidth)", of_pairs),
        ("step: both passes", "6 x parameters x batch / flops", 6 * options.parameters * options.batch / flops),
        ("step: the term", "copies x (vocabulary and batch) x dim / bandwidth", of_term / options.bandwidth),
        ("step: all-reduce of the term", f"{WORDS} words x dim x 4 x 2 (n - 1) / n / link", WORDS * d * 4 * shared),
    ]
    for name, formula, value in lines:
        tell(name, computed=True, formula=formula, seconds=value)
    return [[name, formula, f"{value:.3g}"] for name, formula, value in lines]


def assumptions(options):
    """Describe the assumptions of the computed figures."""
    gigabytes = options.vocabulary * (options.dim * 4 + 40) / 1e9
    return (
        f"Computed, not measured: {options.parameters:.3g} parameters, {options.vocabulary:,} classes of dim"
        f" {options.dim:,}, {options.tokens:.3g} tokens audited, {options.batch:,.0f} a device and step,"
        f" {options.devices} devices. Assumed of a device: {options.flops:.3g} bf16 FLOP/s at"
        f" {options.utilisation:.0%}, {options.flops64:.3g} in float64, {options.bandwidth:.3g} bytes/s of memory,"
        f" {options.link:.3g} bytes/s between devices. Copies and products are those measured above. The statistics"
        f" take {gigabytes:.2g} GB on each device."
    )


if __name__ == "__main__":
    main()
