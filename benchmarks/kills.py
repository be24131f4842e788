"""Kill commands with -9 at random moments, run them again, and compare the results with undisturbed runs.

    python benchmarks/kills.py --kills 5                       # audit, evaluate, debias and study, five kills each
    python benchmarks/kills.py --kills 5 -- debias builtin:mini-mlm --max-steps 40 --save-steps 10

Every file of the run is compared except config.json, which has a date, and report.html: metrics.json and study.json
without times, and tables and weights byte for byte. Moments are drawn evenly over the time of the undisturbed run; a
run that ends before its moment is removed with its cache and started again, and does not count as a kill. Both runs
start with an empty cache of answers. The script exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDY = """
models: [builtin:mini-mlm]
methods: [{method: bec, unc3: 100}]
seeds: [0]
benchmarks: {lpbs: overall.difference, winogender: overall.prefers_male}
understanding: {lm_loss: overall.loss}
fine_tuning: {max_steps: 8, batch_size: 8, save_steps: 4}
audit: {sentences: 500}
"""
COMMANDS = (
    "audit builtin:mini-mlm --sentences 3000",
    "evaluate builtin:mini-mlm --benchmarks stereoset:dev,bec_pro,winogender,lpbs",
    "debias builtin:mini-mlm --unc3 100 --max-steps 30 --batch-size 8 --save-steps 6 --benchmarks lpbs --sentences 500",
    "study {study}",
)
_TIMES = {"seconds"}
_DATED = {"config.json", "report.html"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5, help="number of kills of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "command", nargs="*", help="command of equiframe after --, without --out. Default: four commands"
    )
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        study = Path(scratch) / "study.yaml"
        study.write_text(STUDY)
        named = [options.command] if options.command else []
        commands = named or [line.format(study=study).split() for line in COMMANDS]
        failed = [
            command
            for number, command in enumerate(commands)
            if not survives(command, Path(scratch) / str(number), options.kills, moments)
        ]
    return int(bool(failed))


def survives(command: list[str], scratch: Path, kills: int, moments: random.Random) -> bool:
    """Whether a command that is killed several times has the same result as an undisturbed one."""
    print(f"equiframe {' '.join(command)}", flush=True)
    began = time.perf_counter()
    if start(command, scratch / "alone").wait():
        print("  fails undisturbed")
        return False
    alone = time.perf_counter() - began
    killed = []
    while len(killed) < kills:
        process = start(command, scratch / "killed")
        moment = moments.uniform(0, alone)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moment)
        process.kill()
        process.wait()
        if (scratch / "killed" / "run").exists():  # the run is complete, even if the process has not exited
            shutil.rmtree(scratch / "killed")
        else:
            killed.append(moment)
    began = time.perf_counter()
    status = start(command, scratch / "killed").wait()
    again = time.perf_counter() - began
    if status:
        print((scratch / "killed" / "stderr").read_text())
    wanted, found = outcome(scratch / "alone" / "run"), outcome(scratch / "killed" / "run")
    different = [name for name in wanted | found if wanted.get(name) != found.get(name)]
    said = f"different: {', '.join(different)}" if different else f"the same {len(wanted)} files"
    print(f"  {alone:.0f} s alone; killed after {', '.join(f'{moment:.0f}' for moment in killed)} s")
    print(f"  then {again:.0f} s, exit code {status}, {said}", flush=True)
    return not different and status == 0


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "EQUIFRAME_CACHE": str(cache(folder)), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "equiframe", *command, "--out", str(folder / "run")]
    with (folder / "stderr").open("w") as said:
        return subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=said)


def cache(folder: Path) -> Path:
    """Make a separate cache, with the unpacked built-in models of the user's cache."""
    own = folder / "cache"
    if not own.exists():
        own.mkdir(parents=True)
        for entry in (Path.home() / ".cache" / "equiframe").glob("*"):
            if entry.name not in ("answers", "finetuned"):
                (own / entry.name).symlink_to(entry)
    return own


def outcome(run: Path) -> dict[str, str]:
    """The result of a run: the hash of each file by its name, without times."""
    found = {}
    for file in sorted(path for path in run.rglob("*") if path.is_file() and path.name not in _DATED):
        content = file.read_bytes()
        if file.suffix == ".json" and file.name in ("metrics.json", "study.json"):
            content = json.dumps(without_times(json.loads(content))).encode()
        found[str(file.relative_to(run))] = hashlib.sha256(content).hexdigest()
    return found


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in _TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
