"""Speed of scoring sentences here, with minicons and with lm-evaluation-harness: same sentences, weights and precision.

    python benchmarks/peers.py --environments /tmp/peers --out docs/performance.md

Each peer has its own environment below that folder, which is created if it is missing (pip, some minutes), with
the same torch, and the same transformers unless the peer needs an older one, as minicons does. The
sentences are those of CrowS-Pairs, both of each pair. A causal model computes the summed log-probability of a
sentence after its start token, a masked one the sum over its tokens, each masked alone; minicons has both,
lm-evaluation-harness the first. Each way runs in its own process, which has read the model before the clock
starts, and takes its turn in every round. Peers get the best of several batch sizes. Times are CPU times, which other
work on the machine affects less than wall times. The script stops if answers differ by more than 1e-3.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PEERS = {"minicons": ("minicons==0.3.39", "transformers<5"), "lm-eval": ("lm-eval[hf]==0.4.13",)}
MODELS = {"builtin:mini-mlm": ("equiframe", "minicons"), "builtin:smollm2-135m": ("equiframe", "minicons", "lm-eval")}
BATCHES = (8, 32)
TOLERANCE = 1e-3  # between sums over a sentence

Score = Callable[[Sequence[str], int], list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, help="folder of the peers' environments")
    parser.add_argument("--pairs", type=int, default=50, help="number of sentence pairs, spread over the data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file to write the table into")
    parser.add_argument("--work", nargs=3, metavar=("WAY", "KIND", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return
    if options.environments is None:
        parser.error("--environments: give a folder, such as /tmp/peers")
    pythons = {name: environment(options.environments, name) for name in PEERS}
    lines = [line for model in MODELS for line in compared(model, {"equiframe": sys.executable, **pythons}, options)]
    report(lines, options)


def environment(folder: Path, name: str) -> str:
    """Return the python of a peer's environment, which is made if necessary."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        versions = [f"{package}=={importlib.metadata.version(package)}" for package in ("torch", "transformers")]
        wanted = [*PEERS[name], *versions[: 3 - len(PEERS[name])]]
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        try:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        except subprocess.CalledProcessError:
            python.unlink()  # so that the next run makes it again
            raise SystemExit(f"{PEERS[name][0]} could not be installed in {folder / name}") from None
    return str(python)


def compared(name: str, pythons: dict[str, str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare with each peer on one model: times, ratios by round, the largest difference."""
    from equiframe.benchmarks import load_benchmark
    from equiframe.benchmarks.benchmark import spread
    from equiframe.models import load, save

    pairs = spread(load_benchmark("crows_pairs").items()[0], options.pairs)
    sentences = [sentence for pair in pairs for sentence in (pair.sent_more, pair.sent_less)]
    ways = MODELS[name]
    with tempfile.TemporaryDirectory() as scratch:
        language_model = load(name, device="cpu", dtype="float32")
        save(language_model, Path(scratch))
        as_transformers_4_reads_it(Path(scratch))
        workers = {way: Worker(pythons[way], way, language_model.kind, scratch, options.threads) for way in ways}
        try:
            batches = {way: min(BATCHES, key=lambda size: workers[way].ask(sentences, size)[0]) for way in ways[1:]}
            rounds = [
                {way: worker.ask(sentences, batches.get(way, 0)) for way, worker in workers.items()}
                for _ in range(options.rounds)
            ]
        finally:
            for worker in workers.values():
                worker.end()
    lines = []
    for way in ways[1:]:
        ours, theirs = ([found[who] for found in rounds] for who in ("equiframe", way))
        apart = max(
            abs(a - b)
            for (_, one), (_, other) in zip(ours, theirs, strict=True)
            for a, b in zip(one, other, strict=True)
        )
        if apart > TOLERANCE:
            raise SystemExit(f"{name}: equiframe and {way} differ by {apart:.2g} in a sum over a sentence")
        ratios = sorted(other / one for (one, _), (other, _) in zip(ours, theirs, strict=True))
        line = {
            "model": name,
            "peer": PEERS[way][0],
            "sentences": len(sentences),
            "batch": batches[way],
            "ours_s": sorted(seconds for seconds, _ in ours)[len(ours) // 2],
            "peer_s": sorted(seconds for seconds, _ in theirs)[len(theirs) // 2],
            "ratio": {"min": ratios[0], "median": ratios[len(ratios) // 2], "max": ratios[-1]},
            "largest_difference": apart,
        }
        print(json.dumps(line), flush=True)
        lines.append(line)
    return lines


def as_transformers_4_reads_it(folder: Path) -> None:
    """Rename two names in a saved model that version 5 of transformers changed."""
    file, config = folder / "tokenizer_config.json", json.loads((folder / "config.json").read_text())
    file.write_text(file.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    if "rope_parameters" in config:
        config["rope_theta"] = config["rope_parameters"]["rope_theta"]
        (folder / "config.json").write_text(json.dumps(config))


class Worker:
    """One way to score, in its own process that has read the model."""

    def __init__(self, python: str, way: str, kind: str, folder: str, threads: int) -> None:
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [python, __file__, "--work", way, kind, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **quiet, "OMP_NUM_THREADS": str(threads)},
        )

    def ask(self, sentences: Sequence[str], batch: int) -> tuple[float, list[float]]:
        """Return seconds, and the score of each sentence."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([sentences, batch]) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("["):
                seconds, scores = json.loads(line)
                return seconds, scores
        raise SystemExit(f"{' '.join(map(str, self.process.args))} ended with {self.process.wait()}")  # type: ignore[arg-type]

    def end(self) -> None:
        """End the process."""
        self.process.communicate()


def work(way: str, kind: str, folder: str) -> None:
    """Score the lines of standard input until it ends."""
    score = {"equiframe": of_equiframe, "minicons": of_minicons, "lm-eval": of_lm_eval}[way](kind, folder)
    for line in sys.stdin:
        sentences, batch = json.loads(line)
        start = time.process_time()
        scores = score(sentences, batch)
        print(json.dumps([time.process_time() - start, scores]), flush=True)


def of_equiframe(kind: str, folder: str) -> Score:
    """Score with equiframe; nothing is stored."""
    from equiframe.benchmarks.asking import each_masked_alone
    from equiframe.models import load
    from equiframe.scoring.engine import answer

    language_model = load(folder, device="cpu", dtype="float32")
    codec = language_model.codec

    def score(sentences: Sequence[str], batch: int) -> list[float]:
        if kind == "causal":
            return [
                sum(logs) for logs in answer(language_model, [codec.sequence_log_probs(text) for text in sentences])
            ]
        asked = [each_masked_alone(text, codec) for text in sentences]
        found = iter(answer(language_model, [request for part in asked for request in part]))
        return [sum(next(found)[0] for _ in part) for part in asked]

    return score


def of_minicons(kind: str, folder: str) -> Score:
    """Score with minicons, in batches of one size, in the given order."""
    import torch
    from minicons import scorer

    with torch.inference_mode():
        model = (scorer.IncrementalLMScorer if kind == "causal" else scorer.MaskedLMScorer)(folder, "cpu")
    options = {"bos_token": True} if kind == "causal" else {"PLL_metric": "original"}

    @torch.inference_mode()
    def score(sentences: Sequence[str], batch: int) -> list[float]:
        found: list[float] = []
        for start in range(0, len(sentences), batch):
            texts = list(sentences[start : start + batch])
            found += model.sequence_score(texts, reduction=lambda logs: logs.sum().item(), **options)
        return found

    return score


def of_lm_eval(kind: str, folder: str) -> Score:
    """Score with lm-evaluation-harness, which sorts by length itself."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=folder, device="cpu", dtype="float32")

    def score(sentences: Sequence[str], batch: int) -> list[float]:
        model.batch_size_per_gpu = batch
        asked = [
            Instance(request_type="loglikelihood", doc={}, arguments=("", text), idx=number)
            for number, text in enumerate(sentences)
        ]
        return [log for log, _ in model.loglikelihood(asked, disable_tqdm=True)]

    return score


def report(lines: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table."""
    from markdown_tables import table, write

    rows = [
        [
            line["model"],
            line["peer"],
            f"{line['ours_s']:.3g}",
            f"{line['peer_s']:.3g}",
            " / ".join(f"{line['ratio'][which]:.2f}" for which in ("min", "median", "max")),
            f"{line['largest_difference']:.1g}",
        ]
        for line in lines
    ]
    headers = ["model", "peer", "ours, s", "peer, s", "peer / ours: min / median / max", "largest difference"]
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("torch", "transformers"))
    made = f"{lines[0]['sentences']} sentences, {options.rounds} rounds, {options.threads} thread, float32; {versions}."
    text = f"{table(headers, rows)}\n\n{made}"
    print(text)
    if options.out:
        write(text, options.out, "peers")


if __name__ == "__main__":
    main()
