"""Kill a command with -9 at random moments, give it again, and compare what it ends in with an undisturbed run.

    python benchmarks/kills.py --kills 5 -- evaluate builtin:mini-mlm --benchmarks crows_pairs:changed,bec_pro,seat
    python benchmarks/kills.py --kills 5 -- audit builtin:mini-mlm --sentences 2000
    python benchmarks/kills.py --kills 5 -- debias builtin:mini-mlm --max-steps 40 --save-steps 10

Compared are metrics.json without times, byte for byte, and for debias the weights. Moments are drawn evenly over the
time that the undisturbed run took. Both runs begin with an empty cache of answers. Exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_TIMES = {"seconds"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("command", nargs="+", help="of equiframe, behind --, without --out")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        process = start(options.command, Path(scratch) / "alone")
        if process.wait():
            print(f"{' '.join(options.command)} fails undisturbed")
            return 1
        alone = time.perf_counter() - began
        print(f"undisturbed: {alone:.0f} s", flush=True)
        folder = Path(scratch) / "killed"
        kills = 0
        while kills < options.kills:
            process = start(options.command, folder)
            moment = moments.uniform(0, alone)
            try:
                process.wait(timeout=moment)
                print(f"done before {moment:.1f} s; removed with its cache and begun anew", flush=True)
                shutil.rmtree(folder)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                print(f"kill {kills}: after {moment:.1f} s", flush=True)
        began = time.perf_counter()
        status = start(options.command, folder).wait()
        print(f"given again: {time.perf_counter() - began:.0f} s, exit code {status}")
        wanted, found = (outcome(Path(scratch) / name / "run") for name in ("alone", "killed"))
    different = [name for name in wanted | found if wanted.get(name) != found.get(name)]
    print(f"compared {', '.join(wanted)}: {'different: ' + ', '.join(different) if different else 'the same'}")
    return int(bool(different) or status != 0)


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "EQUIFRAME_CACHE": str(cache(folder)), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "equiframe", *command, "--out", str(folder / "run"), "--json"]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL)


def cache(folder: Path) -> Path:
    """A cache of its own, in which the unpacked built-in models are those of the user's cache."""
    own = folder / "cache"
    if not own.exists():
        own.mkdir(parents=True)
        for entry in (Path.home() / ".cache" / "equiframe").glob("*"):
            if entry.name not in ("answers", "finetuned"):
                (own / entry.name).symlink_to(entry)
    return own


def outcome(run: Path) -> dict[str, str]:
    """What a run came to, by name, without times."""
    found = {"metrics.json": json.dumps(without_times(json.loads((run / "metrics.json").read_text())))}
    for file in sorted(run.glob("model/*.safetensors")):
        found[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in _TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
