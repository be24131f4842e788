"""The gain of other kernels in scoring: fused attention, torch.compile, bfloat16.

    python benchmarks/alternatives.py --model builtin:mini-mlm
    python benchmarks/alternatives.py --model builtin:smollm2-135m

Each is timed by turns with the same forward passes in float32 with plain attention, uncompiled, on full batches of
sequences of 16 and of 48 tokens, read at their last place. The largest difference is that of a log-probability. The
script prints one JSON object per line.
"""

import argparse
import copy
import json
import time

import torch

from equiframe.models import forward_at, load

TOKENS, LENGTHS = 4096, (16, 48)


@torch.inference_mode()
def passes(model, batches):
    """Compute log-probabilities at the last place of each sequence."""
    where = [torch.zeros_like(batch, dtype=torch.bool) for batch in batches]
    for places in where:
        places[:, -1] = True
    logits = (forward_at(model, {"input_ids": b}, w).logits for b, w in zip(batches, where, strict=True))
    return torch.cat([found.float().log_softmax(dim=-1) for found in logits])


def variant(model, name):
    """Make a copy of the model with other kernels."""
    other = copy.deepcopy(model)
    other.set_attn_implementation("eager" if name == "plain" else "sdpa")
    if name == "compiled":
        other.base_model.compile(dynamic=True)
    return other.bfloat16() if name == "bfloat16" else other


def seconds(run):
    """Wall time of a call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main():
    """Time the variants by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:mini-mlm")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = load(options.model).model
    torch.manual_seed(0)
    vocabulary = model.config.vocab_size
    batches = [torch.randint(vocabulary, (TOKENS // length, length), device=model.device) for length in LENGTHS]
    plain = variant(model, "plain")
    expected = passes(plain, batches)
    for name, title in (("sdpa", "fused attention"), ("compiled", "torch.compile"), ("bfloat16", "bfloat16")):
        other = variant(model, name)
        first = seconds(lambda other=other: passes(other, batches))
        error = (passes(other, batches) - expected).abs().max()
        pairs = [[seconds(lambda m=m: passes(m, batches)) for m in (other, plain)] for _ in range(options.rounds)]
        ours, baseline = torch.tensor(pairs).T
        line = {
            "name": f"{title}, {options.model}",
            "ours_s": float(ours.median()),
            "baseline_s": float(baseline.median()),
        }
        line["ratio"] = float((baseline / ours).median())
        print(json.dumps({**line, "first_call_s": first, "largest_difference": float(error)}), flush=True)


if __name__ == "__main__":
    main()
