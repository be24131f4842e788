"""Several processes, and processes that are killed, end in the numbers of one that was left alone."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals")]
_BEGUN = {
    "evaluate": ("cache", "answers/*.sqlite-wal"),
    "debias": ("run.partial", "checkpoints/*/complete"),
}
"""What is there when a command has begun what it can go on with: below which folder, and which files."""


def _kills():
    spec = importlib.util.spec_from_file_location("kills", Path(__file__).parents[2] / "benchmarks" / "kills.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


outcome = _kills().outcome


@pytest.fixture(scope="module")
def commands(model_folders, tmp_path_factory):
    """The arguments of each command, without --out."""
    folder, model = tmp_path_factory.mktemp("input"), str(model_folders["masked"])
    sentences, words = folder / "text.txt", folder / "words.txt"
    sentences.write_text("she is a nurse and he is a doctor\nher brother is a cook , and his sister is a nurse\n" * 20)
    words.write_text("she\the\nher\this\n")
    return {
        "audit": ("audit", model, "--text", str(sentences), "--words", str(words)),
        "evaluate": ("evaluate", model, "--benchmarks", "winogender,lpbs", "--token-budget", "2048"),
        "debias": (
            *("debias", model, "--method", "cda", "--set", f"text={sentences}"),
            *("--unc3", "5", "--unc3-words", str(words)),
            *("--max-steps", "20", "--save-steps", "3", "--batch-size", "4", "--benchmarks", "lpbs"),
            *("--text", str(sentences), "--words", str(words)),
        ),
    }


def start(arguments, folder, launcher=()):
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "EQUIFRAME_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *launcher, "-m", "equiframe", *arguments, "--out", str(folder / "run"), "--json"]
    heeding = functools.partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # also where the tests run in the background
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heeding)


def ended(process):
    """What it printed, when it ended well."""
    out, error = process.communicate(timeout=300)
    if b"is missing" in error:
        pytest.skip("the data wheel is not installed")
    assert process.returncode == 0, error.decode()
    return out


def until_begun(verb, process, folder):
    below, pattern = _BEGUN[verb]
    while not list((folder / below).glob(pattern)) and process.poll() is None:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(commands, tmp_path_factory):
    """The outcome of a command that nothing disturbs, by verb."""
    known = {}

    def of(verb):
        if verb not in known:
            folder = tmp_path_factory.mktemp("alone")
            ended(start(commands[verb], folder))
            known[verb] = outcome(folder / "run")
        return known[verb]

    return of


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_and_four_ranks_audit_as_one_does(commands, tmp_path):
    def audited(ranks):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        metrics = json.loads(ended(start(commands["audit"], tmp_path / str(ranks), launcher)))
        return {result["class_set"]: result for result in metrics["collapse"]}

    alone = audited(1)
    for shared in (audited(2), audited(4)):
        for class_set, expected in alone.items():
            found = shared[class_set]
            assert (found["classes"], found["tokens"]) == (expected["classes"], expected["tokens"])
            defined = {key: value for key, value in expected["values"].items() if value is not None}
            assert "nc4_agreement" in defined
            assert {key: found["values"][key] for key in defined} == pytest.approx(defined, rel=1e-5, abs=1e-5)


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_ranks_give_the_numbers_of_one(commands, alone, tmp_path):
    expected = alone("evaluate")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    printed = ended(start(commands["evaluate"], tmp_path, launcher))
    assert outcome(tmp_path / "run") == expected
    assert len(printed.splitlines()) == 1  # one rank speaks


def weights(folder):
    return load_file(folder / "run" / "model" / "model.safetensors")


def launched(file):
    """accelerate launch with a configuration that ships."""
    recipe = Path(__file__).parents[2] / "recipes" / "accelerate" / file
    return ["-m", "accelerate.commands.launch", "--config_file", str(recipe)]


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_accelerate_launches_what_torchrun_does(commands, tmp_path):
    command = (*commands["debias"], "--precision", "fp32", "--learning-rate", "1e-3")
    ended(start(command, tmp_path / "ddp", launched("ddp.yaml")))
    ended(
        start(command, tmp_path / "torchrun", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])
    )
    torch.testing.assert_close(weights(tmp_path / "ddp"), weights(tmp_path / "torchrun"), rtol=0, atol=0)
    assert len(pd.read_parquet(tmp_path / "ddp" / "run" / "history.parquet")) == 20


@pytest.mark.skipif(torch.accelerator.is_available(), reason="of processors")
@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_sharing_out_weights_on_processors_is_refused(commands, tmp_path):
    process = start(commands["debias"], tmp_path, launched("fsdp.yaml"))
    _, error = process.communicate(timeout=300)
    assert process.returncode != 0
    assert b"FSDP needs GPUs: accelerate does not shard weights on CPUs" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", list(_BEGUN))
def test_a_killed_run_given_again_ends_in_the_same_files(verb, commands, alone, tmp_path):
    expected = alone(verb)
    process = start(commands[verb], tmp_path)
    until_begun(verb, process, tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "run" / "metrics.json").exists() is False
    ended(start(commands[verb], tmp_path))
    assert outcome(tmp_path / "run") == expected
    assert len(expected) >= 3


def test_ctrl_c_ends_with_130_and_the_run_goes_on(commands, alone, tmp_path):
    expected = alone("debias")
    process = start(commands["debias"], tmp_path)
    until_begun("debias", process, tmp_path)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert b"Interrupted. Run the same command again to resume." in error
    assert b"Traceback" not in error
    ended(start(commands["debias"], tmp_path))
    assert outcome(tmp_path / "run") == expected
