"""Does (U)NC3 have its intended effect? BEC with and without the term on the built-in masked LM, over seeds.

For each seed, the same BEC run with lambda 0 and with lambda; then (U)NC3, self-duality and held-out
masked-LM loss of both, and the paired difference over seeds with its t interval.

    python recipes/unc3_over_seeds.py --out runs/unc3-seeds
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from equiframe.commands.run import run
from equiframe.commands.study import check_same
from equiframe.config import AuditOptions, DebiasConfig, FineTuning, UNC3Options
from equiframe.record import RunRecord


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="builtin:mini-mlm")
    parser.add_argument("--weight", type=float, default=100.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        for name, weight in (("BEC", 0.0), ("BEC + (U)NC3", options.weight)):
            out = options.out / f"seed{seed}-{'unc3' if weight else 'bec'}"
            config = DebiasConfig(
                options.model,
                audit=AuditOptions(sentences=2000),
                benchmarks=("lm_loss",),
                method="bec",
                unc3=UNC3Options(weight=weight),
                unc3_words="fairness" if weight else "gender",
                fine_tuning=FineTuning(
                    max_steps=options.steps, max_length=64, learning_rate=options.learning_rate, seed=seed
                ),
            )
            record = RunRecord.read(out) if out.exists() else run(config, out)
            check_same(record, config, out)  # it may be a run of an earlier command with other options
            values = record.metrics.collapse[1].values
            loss = record.metrics.benchmarks[0].estimates["overall.loss"].value
            rows.append((seed, name, values["unc3"], values["nc3_self_duality"], loss))
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows, columns=["seed", "run", "unc3", "nc3_self_duality", "lm_loss"])
    for key in ("unc3", "nc3_self_duality", "lm_loss"):
        wide = table.pivot_table(index="seed", columns="run", values=key)
        change = (wide["BEC + (U)NC3"] - wide["BEC"]).to_numpy()
        mean, error = change.mean(), stats.sem(change)
        low, high = stats.t.interval(0.95, len(change) - 1, loc=mean, scale=error)
        levels = ", ".join(f"{name} {np.mean(wide[name]):.4f}" for name in wide)
        print(f"{key}: {levels}; change {mean:+.4f} [{low:+.4f}, {high:+.4f}] over {len(change)} seeds")


if __name__ == "__main__":
    main()
