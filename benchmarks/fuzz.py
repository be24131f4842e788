"""Give damaged input to every reader of files and options: the only allowed exception is an EquiframeError.

    pip install atheris==3.0.0
    python benchmarks/fuzz.py --runs 2500 --data my-data

The fuzzing is coverage-guided (atheris, libFuzzer): an input that reaches a new line of equiframe is kept and changed
further. Each target runs in its own process: one file of each benchmark at a time, with the other files unchanged;
corpora, word sets, pairs, study files, records of runs, stored answers, options, models. Small valid files are the
first inputs. The script prints one line per target: inputs tried, inputs read without an error, and each other
exception with its place. It exits with 1 if an exception was raised that is not an EquiframeError. ``my-data`` holds
data that is not in the data wheel (SEAT, GLUE, SICK, HurtLex); targets without data are listed and left out.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["equiframe"]):
    import pandas as pd
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    from equiframe.benchmarks import BENCHMARKS, load_benchmark
    from equiframe.benchmarks.benchmark import BenchmarkResult
    from equiframe.commands.study import cells
    from equiframe.config import StudyConfig, read_config
    from equiframe.data import KNOWN, locate, stream, swappers
    from equiframe.data.entailment import counterfactual_pairs, inference_pairs
    from equiframe.errors import EquiframeError
    from equiframe.finetuned import FineTunedBenchmark
    from equiframe.methods import load_method
    from equiframe.models import LanguageModel, load, save
    from equiframe.record import (
        ComparedMeasure,
        Comparison,
        Metrics,
        ModelDescription,
        Provenance,
        RunRecord,
        read_comparison,
    )
    from equiframe.scoring.store import AnswerStore
    from equiframe.uncertainty import Difference, Estimate
    from equiframe.words import WordSet

    for lazy in {registered.place.partition(":")[0] for registered in BENCHMARKS.values()}:
        importlib.import_module(lazy)
    importlib.import_module("equiframe.benchmarks.minimal_pairs")

SMALL = 20_000  # characters: a file up to this size is a first input without changes
LINES = 24  # lines of each half of a larger file
STUDY = """
models: [builtin:mini-mlm]
methods: [{method: bec, unc3: 100, term: {memory: ema}}, {method: self-debias}]
seeds: [0, 1]
benchmarks: {lpbs: overall.difference}
fine_tuning: {max_steps: 2}
audit: {sentences: 5}
"""
WORDS = {
    "words.txt": "she\the\nher\this  # a pair\nnurse\n",
    "words.json": '{"groups": {"female": ["she", "her"], "male": ["he"]}, "pairs": [["she", "he"]]}',
}
PAIRS = {
    "pairs.csv": 'id,group,unit,stereotype,anti_stereotype\n1,gender,a,"She cooks.",He cooks.\n',
    "pairs.jsonl": '{"id": "1", "group": "gender", "stereotype": "She cooks.", "anti_stereotype": "He cooks."}\n',
}
ESTIMATE = Estimate(value=55.0, low=50.0, high=60.0, count=2, unit="%", ideal=50.0)
Read = Callable[[Path], Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2500, help="number of inputs of each target")
    parser.add_argument("--data", type=Path, help="folder with data that is not in the data wheel")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="targets whose name contains this")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(EQUIFRAME_CACHE=f"{scratch}/cache", HF_HUB_OFFLINE="1")
        torch.set_num_threads(1)
        base = Path(scratch) / "base"
        found = {**data_targets(base, options.data), **other_targets(base)}
        waiting = [name for name in found if options.only in name]
        running: dict[int, tuple[str, Path]] = {}
        inputs = failed = targets = 0
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                name = waiting.pop(0)
                folder = Path(scratch) / f"target-{len(waiting)}"
                shutil.copytree(base, folder / "data")
                child = os.fork()
                if child == 0:
                    fuzz(*found[name], base, folder, runs=options.runs, seed=options.seed)
                running[child] = name, folder
            name, folder = running.pop(os.wait()[0])
            report = read_report(folder)
            print(f"{name}: {report['inputs']:,} inputs, {report['read']:,} read", flush=True)
            print("".join(f"    {failure}\n" for failure in report["failures"]), end="", flush=True)
            inputs, failed, targets = inputs + report["inputs"], failed + bool(report["failures"]), targets + 1
            shutil.rmtree(folder)
    print(f"{inputs:,} inputs, {targets} targets, {failed} with failures")
    return int(failed > 0)


def fuzz(file: Path, read: Read, base: Path, folder: Path, *, runs: int, seed: int) -> None:
    """Change one file of a copy of the base folder repeatedly; never returns. The report is a file in ``folder``."""
    damaged, corpus = folder / "data" / file.relative_to(base), folder / "corpus"
    corpus.mkdir()
    shutil.copy(file, corpus / "true")
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    true = file.read_bytes()
    report: dict[str, Any] = {"inputs": 0, "read": 0, "failures": []}

    def try_one(content: bytes) -> None:
        damaged.write_bytes(content)
        report["inputs"] += 1
        try:
            read(folder / "data")
            report["read"] += 1
        except EquiframeError as error:
            if content == true:
                report["failures"].append(f"the true file is refused: {error}")
        except Exception as error:
            said = f"{type(error).__name__} at {place_of(error)}"
            if said not in {failure.partition(":")[0] for failure in report["failures"]}:
                report["failures"].append(f"{said}: {error!s:.150} from {content[:200]!r}")
        if report["inputs"] == runs:
            (folder / "report.json").write_text(json.dumps(report))
            os._exit(0)

    limits = [f"-max_len={2 * file.stat().st_size + 4096}", "-timeout=120", "-rss_limit_mb=6000", f"-seed={seed}"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], try_one)
    atheris.Fuzz()


def place_of(error: Exception) -> str:
    """The last line of equiframe in the traceback of an error."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "equiframe" in Path(frame.filename).parts[-4:]] or frames
    return f"{Path(ours[-1].filename).name} line {ours[-1].lineno}"


def read_report(folder: Path) -> dict[str, Any]:
    """Read the report of a target's process; a process that hung or crashed is a failure."""
    if (folder / "report.json").exists():
        report: dict[str, Any] = json.loads((folder / "report.json").read_text())
        return report
    said = (folder / "output").read_text(errors="replace").splitlines()[-5:]
    return {"inputs": 0, "read": 0, "failures": [f"ended before its time: {said}"]}


def data_targets(base: Path, data: Path | None) -> dict[str, tuple[Path, Read]]:
    """For each benchmark and corpus, one file of each kind that it reads, and its reader."""
    for name, known in KNOWN.items():
        try:
            path = locate(name, data).path
        except EquiframeError:
            continue
        (base / known.path).parent.mkdir(parents=True, exist_ok=True)
        (base / known.path).write_text(shortened(path), encoding="utf-8")
    readers: dict[str, tuple[list[str], Read]] = {}
    for spec, registered in BENCHMARKS.items():
        benchmark = load_benchmark(spec)
        if isinstance(benchmark, FineTunedBenchmark):
            readers[spec] = registered.files(), lambda folder, read=benchmark: both_splits(read, folder)
        else:
            readers[spec] = registered.files(), lambda folder, read=benchmark: read.items(folder)
    for spec, name in (("gap", "gap/test"), ("bug/balanced", "bug/balanced"), ("bold", "bold/wikipedia/race")):
        readers[f"text {spec}"] = [name], lambda folder, spec=spec: list(stream(spec, folder))
    readers["sick"] = ["sick/train"], lambda folder: inference_pairs("sick", "train", folder, otherwise="")
    targets: dict[str, tuple[Path, Read]] = {}
    for spec, (files, read) in readers.items():
        kinds = {(name.partition("/")[0], Path(KNOWN[name].path).suffix): name for name in reversed(files)}
        for name in kinds.values():
            file = base / KNOWN[name].path
            if not file.exists():
                print(f"{spec}: no {name}, left out")
            elif is_read(file, read, base):
                targets[f"{spec}, {name}"] = file, read
    return targets


def is_read(file: Path, read: Read, base: Path) -> bool:
    """Whether a benchmark's default variant reads a file, so that it does not ignore bytes that are not text."""
    content = file.read_bytes()
    file.write_bytes(b"\xff\x00")
    try:
        read(base)
    except EquiframeError:
        return True
    else:
        return False
    finally:
        file.write_bytes(content)


def both_splits(benchmark: FineTunedBenchmark[Any], folder: Path) -> None:
    benchmark.training_data(folder)
    benchmark.development_data(folder)
    benchmark.evaluation_data(folder)


def shortened(path: Path) -> str:
    """A valid file; for a large one the first items of each half."""
    text = path.read_text(encoding="utf-8-sig")
    if len(text) < SMALL:
        return text
    if path.suffix == ".json" or path.parent.name == "seat":
        return json.dumps(pruned(json.loads(text)), ensure_ascii=False)
    if path.name == "additional_metadata.csv":
        rows = list(csv.reader(io.StringIO(text)))
        kept = [row for row in rows if row[2] == "example_id" or int(row[2]) <= LINES]
        written = io.StringIO()
        csv.writer(written).writerows(kept)
        return written.getvalue()
    head, *lines = text.removesuffix("\n").split("\n")
    if path.name.startswith("BEC-Pro"):
        return "".join(line + "\n" for line in (head, *(line for line in lines if "taper" in line)))
    second = [] if path.parts[-3] == "BBQ" else lines[len(lines) // 2 :][:LINES]  # many files hold two groups
    return "".join(line + "\n" for line in (head, *lines[:LINES], *second))


def pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: pruned(item) for key, item in list(value.items())[:6]}
    return [pruned(item) for item in value[:3]] if isinstance(value, list) else value


def other_targets(base: Path) -> dict[str, tuple[Path, Read]]:
    """Targets for word sets, pairs, texts, study files, records of runs, stored answers, options, models."""
    own = base / "own"
    record(own / "run")
    comparison(own / "comparison")
    save(tiny_model(), own / "model")
    store(own / "answers.sqlite")
    texts = {
        **WORDS,
        **PAIRS,
        "text.txt": "She is a nurse.\nHe is a doctor .\n",
        "text.jsonl": '{"text": "She is a nurse."}\n',
        "study.yaml": STUDY,
        "method.json": '{"method": "ase", "options": {"fisher_sentences": "8"}}',
        "spec.txt": "crows_pairs:changed",
        "entailed.jsonl": '{"premise": "A man eats.", "hypothesis": "He eats.", "label": "entailment"}\n',
        "entailed.csv": "orig_sent0,orig_sent1,aug_sent0,aug_sent1\na,b,c,d\n",
    }
    for name, text in texts.items():
        (own / name).write_text(text, encoding="utf-8")
    readers: dict[str, Read] = {
        **{name: lambda folder, name=name: WordSet.load(str(folder / name)) for name in WORDS},
        **{name: lambda folder, name=name: load_benchmark(f"pairs:{folder / name}").items() for name in PAIRS},
        **{name: lambda folder, name=name: list(stream(str(folder / name))) for name in ("text.txt", "text.jsonl")},
        **{name: lambda folder, name=name: entailed(folder / name) for name in ("entailed.jsonl", "entailed.csv")},
        "study.yaml": lambda folder: cells(read_config(folder / "study.yaml", kind=StudyConfig)),
        "method.json": lambda folder: method(folder / "method.json"),
        "spec.txt": lambda folder: load_benchmark((folder / "spec.txt").read_bytes().decode(errors="replace")),
        "answers.sqlite": lambda folder: stored(folder / "answers.sqlite"),
        "comparison/metrics.json": lambda folder: read_comparison(folder / "comparison"),
        **{
            f"run/{name}": lambda folder: RunRecord.read(folder / "run")
            for name in ("config.json", "metrics.json", "items/lpbs.parquet")
        },
        **{
            f"model/{name}": lambda folder: load(str(folder / "model"))
            for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        },
    }
    return {f"own {name}": (own / name, lambda base, read=read: read(base / "own")) for name, read in readers.items()}


def entailed(path: Path) -> None:
    counterfactual_pairs(str(path), swappers("gender")[0])


def method(path: Path) -> None:
    try:
        named = json.loads(path.read_bytes())
    except ValueError:
        return
    if isinstance(named, dict) and isinstance(named.get("options"), dict):
        load_method(str(named.get("method")), named["options"])


def stored(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = AnswerStore(path, "fingerprint")
    found.get(found.key((), "batch"))
    found.close()


def tiny_model() -> LanguageModel:
    """A random BERT of one layer."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "she", "he", "nurse"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), words[:5], strict=True))
    torch.manual_seed(0)
    size = BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **special)
    return LanguageModel(name="tiny", model=BertForMaskedLM(size).eval(), tokenizer=fast, kind="masked")


def store(path: Path) -> None:
    answers = AnswerStore(path, "fingerprint")
    answers.put(answers.key((), "batch"), [(0.5, 1.5), (2.5,)])
    answers.close()


def metrics() -> Metrics:
    result = BenchmarkResult(
        benchmark="lpbs",
        version=1,
        scoring="",
        files=(),
        items=2,
        excluded={"why": 1},
        estimates={"overall.score": ESTIMATE},
        seconds=1.0,
    )
    described = ModelDescription(
        name="m", kind="masked", architecture="Bert", parameters=1, vocabulary=8, fingerprint="f"
    )
    return Metrics(verb="evaluate", model=described, benchmarks=[result])


def record(folder: Path) -> None:
    table = pd.DataFrame({"item": ["a", "b"], "score": [1.0, 2.0]})
    folder.mkdir(parents=True)
    RunRecord(Provenance(model="m"), metrics=metrics(), items={"lpbs": table}).write(folder)


def comparison(folder: Path) -> None:
    changed = Difference(value=1.0, low=0.0, high=2.0, p_value=0.5, count=2)
    measure = ComparedMeasure(
        benchmark="lpbs", measure="overall.score", first=ESTIMATE, second=ESTIMATE, difference=changed
    )
    both = Comparison(verb="compare", runs={"a": metrics(), "b": metrics()}, measures={"b": [measure]})
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(both.model_dump_json())


if __name__ == "__main__":
    sys.exit(main())
