"""Cost of a fine-tuning step of counterfactual collapse and of two-sided CDA on the same texts, timed by turns.

    python benchmarks/counterfactual_collapse.py                         # the built-in causal LM, under bf16 autocast
    python benchmarks/counterfactual_collapse.py --model builtin:mini-mlm --precision fp32

Both train the same model on the same pairs: forward, backward and a step of AdamW, by turns one batch of ours and one
of CDA. CDA reads the unchanged text and counterfactual of each pair; only ours reads a masked LM's third sequence.
The states of the model before training are computed in advance, once per pair; this is timed separately. The first
step is a warm-up.
"""

import argparse
import contextlib
import json
import statistics
import time

import torch

from equiframe.data import DEFAULT_SOURCE
from equiframe.methods import load_method
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.models import load


def cda_batch(batch):
    """Keep texts and counterfactuals alone, cut to the longest."""
    texts = 2 * len(batch["row"])
    width = int(batch["attention_mask"][:texts].sum(1).max())
    return {name: batch[name][:texts, :width] for name in ("input_ids", "attention_mask")}


def main():
    """Time both by turns and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:smollm2-135m")
    parser.add_argument("--device")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--batch", type=int, default=8, help="number of pairs in a step")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="option of the method")
    arguments = parser.parse_args()
    language_model = load(arguments.model, device=arguments.device)
    count = arguments.batch * arguments.steps
    options = {"pairs": count, **dict(option.split("=", 1) for option in arguments.set)}
    method = load_method("counterfactual-collapse", options)
    pairs, _ = method.training_data(language_model, source=DEFAULT_SOURCE, max_length=46, seed=0)
    began = time.perf_counter()
    ours = method.objective(language_model, pairs, pairing="aligned", feature="decoder-input")
    before = time.perf_counter() - began
    collate = method.collator(language_model)
    order = sorted(range(len(pairs)), key=[len(ids) for ids in pairs["input_ids"]].__getitem__)  # as in training
    batches = [
        collate(pairs.select(order[i : i + arguments.batch]).to_list()) for i in range(0, count, arguments.batch)
    ]
    objectives = {"ours": ours, "cda": LanguageModelling(language_model)}
    model = language_model.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    seconds = {name: [] for name in objectives}
    device = language_model.device
    for mine, theirs in [(batches[0], cda_batch(batches[0])), *zip(batches, map(cda_batch, batches), strict=True)]:
        for name, batch in (("ours", mine), ("cda", theirs)):
            batch = {key: tensor.to(device) for key, tensor in batch.items()}
            began = time.perf_counter()
            with autocast_forward(model, device, arguments.precision):
                loss = objectives[name](model, batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    ours_s, cda_s = (statistics.mean(times[1:]) for times in (seconds["ours"], seconds["cda"]))
    line = {
        "name": f"counterfactual_collapse {arguments.model} {arguments.precision}",
        "ours_s": round(ours_s, 4),
        "baseline_s": round(cda_s, 4),
        "ratio": round(ours_s / cda_s, 3),
        "before_training_s_a_pair": round(before / len(pairs), 4),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(line))


@contextlib.contextmanager
def autocast_forward(model, device, precision):
    """Put autocast around the model's forward alone, with logits in float32, as the Trainer does."""
    if precision == "fp32":
        yield
        return
    own = model.forward

    def forward(*positional, **named):
        with torch.autocast(device.type, torch.bfloat16):
            out = own(*positional, **named)
        out.logits = out.logits.float()
        return out

    model.forward = forward
    try:
        yield
    finally:
        del model.forward


if __name__ == "__main__":
    main()
