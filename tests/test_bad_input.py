"""What a user gets wrong: one line that names the option and says what to give, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import equiframe
from equiframe.cache import cache_folder
from equiframe.commands.compare import compare_folders
from equiframe.commands.publish import export, write_card
from equiframe.commands.run import run
from equiframe.commands.serve import finished_runs, listen, page_of
from equiframe.config import AuditConfig, AuditOptions, EvaluateConfig, StudyConfig
from equiframe.data.word_sentences import counterparts, word_sentences
from equiframe.errors import EquiframeError, InputError, RunError
from equiframe.models import collect, load, save
from equiframe.models.sources import usable_device
from equiframe.uncertainty import Measure, estimate
from equiframe.words import WordSet

MODEL = "builtin:mini-mlm"
EVALUATE = ("evaluate", MODEL, "--benchmarks", "pairs:p.csv")
AUDIT = ("audit", MODEL, "--text", "t.txt", "--min-count", "1")


@pytest.fixture
def here(tmp_path, monkeypatch, text):
    """A folder with a text and pairs of one's own, to work in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("\n".join(text * 4))
    (tmp_path / "p.csv").write_text("stereotype,anti_stereotype\nshe is a nurse,he is a nurse\nshe cooks,he cooks\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*EVALUATE, "--device", "foo"), "--device foo: no device that can be used here: choose cpu"),
        ((*EVALUATE, "--device", "meta"), "--device meta: no device"),
        ((*EVALUATE, "--device", "cuda:77"), "--device cuda:77: no device"),
        ((*AUDIT, "--device", "xla:0"), "--device xla:0: no device"),
        ((*EVALUATE, "--token-budget", "0"), "--token-budget 0: give a whole number above 0"),
        ((*EVALUATE, "--token-budget", "-5"), "--token-budget -5"),
        ((*EVALUATE, "--limit", "-1"), "--limit -1: give a whole number above 0"),
        ((*EVALUATE, "--limit", "0"), "--limit 0"),
        ((*EVALUATE, "--seed", "-1"), "--seed -1: give a whole number of 0 or more"),
        ((*AUDIT, "--seed", str(2**40)), f"--seed {2**40}: give a whole number of 0 or more, at most 4294967295"),
        (("audit", "~no-such-user/model"), "~no-such-user/model: no such directory"),
        ((*AUDIT, "--sentences", "-1"), "--sentences -1: give a whole number of 0 or more; 0 reads the whole text"),
        ((*AUDIT, "--min-count", "0"), "--min-count 0"),
        ((*AUDIT, "--words", ""), "no word set and no file ''"),
        (("audit", MODEL, "--text", "."), "no text '.'"),
        (
            (*EVALUATE, "--revision", "v1"),
            f"--revision v1: only models on the hub have revisions, and {MODEL} is local",
        ),
        (("serve", ".", "--port", "99999"), "--port 99999: give a whole number of 0 or more, at most 65535"),
        (("serve", ".", "--port", "-1"), "--port -1"),
        (("serve", ".", "--host", "no.such.host.invalid"), "cannot listen on no.such.host.invalid"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_is_written(invoke, arguments, said, here):
    if arguments[0] == "serve":
        pytest.importorskip("gradio")
    done = invoke(*arguments, *(("--out", "out") if arguments[0] != "serve" else ()))
    assert done.exit_code == 2
    assert done.output.startswith("error: ")
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("verb", "setting", "said"),
    [
        ("evaluate", "max_step=3", "head has no option 'max_step'. Available: epochs"),
        ("debias", "max_steps=0", "max_steps 0: give a whole number above 0"),
    ],
)
def test_a_wrong_setting_of_a_head_is_found_before_a_model_is_loaded(invoke, verb, setting, said, here, monkeypatch):
    monkeypatch.setattr("equiframe.commands.run.answerer_of", lambda config: pytest.fail("a model was loaded"))
    done = invoke(verb, MODEL, "--benchmarks", "pairs:p.csv,cola", "--head", setting)
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("debias", "--method", "inlp", "--max-steps", "5", "--learning-rate", "1e-3", "--lora", "4"),
            "inlp projects states and trains nothing, so leave out --max-steps, --learning-rate, --lora",
        ),
        (
            ("debias", "--method", "sentence-debias", "--unc3", "1", "--cc", "2", "--watch", "lpbs"),
            "sentence-debias projects states and trains nothing, so leave out --unc3, --cc, --watch",
        ),
        (("debias", "--unc3-memory", "ema"), "--unc3-memory: no effect without --unc3"),
        (("debias", "--head", "epochs=2"), "--head epochs: no benchmark of this run fine-tunes the model. Remove it"),
        (("evaluate", "--head", "epochs=2"), "--head epochs: no benchmark of this run fine-tunes the model"),
        (("evaluate", "--chat-template", "on"), "--chat-template on: no benchmark of this run asks a question"),
        (
            ("evaluate", "--temperature", "0.5", "--measures", "she"),
            "--temperature, --measures: no benchmark of this run lets the model write",
        ),
        (("evaluate", "--check-float32"), "--check-float32 compares scores of the model"),
    ],
)
def test_an_option_without_effect_is_refused_before_a_model_is_loaded(invoke, arguments, said, here, monkeypatch):
    monkeypatch.setattr("equiframe.commands.run.answerer_of", lambda config: pytest.fail("a model was loaded"))
    verb, *options = arguments
    done = invoke(verb, MODEL, "--benchmarks", "cola" if "--check-float32" in options else "pairs:p.csv", *options)
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


@pytest.mark.parametrize("options", [("--words", "none.txt"), ("--unc3", "5", "--unc3-words", "none.txt")])
def test_missing_words_are_found_before_a_model_is_loaded(invoke, options, here, monkeypatch):
    monkeypatch.setattr("equiframe.commands.run.answerer_of", lambda config: pytest.fail("a model was loaded"))
    done = invoke("debias", MODEL, "--benchmarks", "pairs:p.csv", *options)
    assert done.exit_code == 2
    assert "no word set and no file 'none.txt'" in done.output


@pytest.mark.parametrize("benchmark", ["cola", "stories"])
def test_what_needs_one_process_is_refused_before_a_model_is_loaded(invoke, benchmark, here, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("equiframe.commands.run.process_group", lambda: pytest.fail("the processes have joined"))
    done = invoke("debias", MODEL, "--benchmarks", f"lm_loss,{benchmark}")
    assert done.exit_code == 2
    assert f"{benchmark} trains or writes in one process: start it without torchrun" in done.output


def test_a_device_that_is_there_is_taken():
    assert usable_device("cpu") == torch.device("cpu") == usable_device(torch.device("cpu"))
    assert usable_device(None).type in ("cpu", "cuda")


@pytest.mark.parametrize("device", ["mps", "cuda"])
def test_a_gpu_that_is_not_there(device):
    there = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}[device]
    if there:
        pytest.skip("this machine has it")
    with pytest.raises(InputError, match=f"--device {device}: no device that can be used here: choose cpu"):
        load(MODEL, device=device)


ONE_STRING = "expected several strings, found one"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: load(None), "a model is a name or a folder, found None"),
        (lambda m: load(MODEL, kind="mask"), "--kind mask: choose masked, causal"),
        (lambda m: collect(m, "she is here"), ONE_STRING),
        (lambda m: collect(m, ["she is here", None]), "text 2 is of type NoneType: give strings"),
        (lambda m: collect(m, ["she"], token_budget=0), "token_budget 0"),
        (lambda m: collect(m, ["she"], held_out_every=0), "held_out_every 0"),
        (lambda m: collect(m, ["she"], visibility="mask"), "visibility mask: choose visible, masked"),
        (lambda m: collect(m, ["she"], feature="decoder"), "feature decoder: choose decoder-input, last-layer"),
        (lambda m: collect(m, ["she"], pairing="alined"), "pairing alined: choose aligned, paper"),
        (lambda m: WordSet("mine", {"all": "she"}), ONE_STRING),
        (lambda m: WordSet("mine", {"all": ("he", "ab")}, pairs=("ab",)), ONE_STRING),
        (lambda m: WordSet.load(Path("nowhere")), "no word set and no file 'nowhere'"),
        (lambda m: WordSet.builtin("gender").resolve(m.tokenizer, multi_token="frist"), "--multi-token frist: choose"),
        (lambda m: list(word_sentences("she is here", ["she"], [])), ONE_STRING),
        (lambda m: list(word_sentences(["she is here"], "she", [])), ONE_STRING),
        (lambda m: counterparts(WordSet.builtin("gender"), "female"), ONE_STRING),
        (lambda m: counterparts(WordSet.builtin("gender"), ["femle", "male"]), "gender has no group 'femle'"),
        (lambda m: compare_folders("runs/x"), ONE_STRING),
        (lambda m: page_of(".", "x"), ONE_STRING),
        (lambda m: EvaluateConfig(MODEL, benchmarks="lm_loss"), ONE_STRING),
        (
            lambda m: EvaluateConfig(MODEL, benchmarks=("lm_loss",), dtype="fp8"),
            "--dtype fp8",
        ),
        (
            lambda m: EvaluateConfig(MODEL, benchmarks=("lm_loss",), self_debias="age"),
            "--self-debias",
        ),
        (lambda m: EvaluateConfig(MODEL, benchmarks=("lm_loss",), limit=2.5), "--limit 2.5"),
        (lambda m: AuditOptions(pairing="x"), "--pairing x: choose aligned, paper"),
        (lambda m: AuditOptions(multi_token="piece"), "--multi-token piece: choose skip, first, last"),
        (lambda m: export(".", "csv", "x"), "--layout csv: choose lm-eval, model-index"),
        (
            lambda m: estimate(Measure("k", torch.arange(4).numpy(), lambda at: at.mean(axis=-1), "%"), seed=-1),
            "seed -1",
        ),
        (
            lambda m: StudyConfig(
                models=(MODEL,), methods=[{"method": "bec"}], benchmarks={"crows_pairs": "overall"}, seeds=(0, -1)
            ),
            "--seeds -1: give a whole number of 0 or more",
        ),
    ],
)
def test_a_wrong_argument_is_one_error_of_ours(call, said, masked_model):
    with pytest.raises(EquiframeError) as error:
        call(masked_model)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_paths_are_paths_or_text(here, masked_model):
    save(masked_model, here / "model")
    loaded = load(here / "model", device="cpu")
    assert loaded.name == str(here / "model")
    assert loaded.fingerprint() == load(str(here / "model"), device="cpu").fingerprint()
    config = EvaluateConfig(here / "model", benchmarks=("pairs:p.csv",), device="cpu")
    record = run(config, "runs/one")
    run(config, Path("runs/two"))
    assert json.loads((here / "runs" / "one" / "config.json").read_text())["model"] == str(here / "model")
    assert record.metrics.model.name == str(here / "model")
    assert compare_folders(["runs/one", Path("runs/two")], "runs/both").measures
    assert list(finished_runs("runs")) == ["both", "one", "two"]
    assert write_card("runs/one", "card.md", before="runs/two") == Path("card.md")
    export("runs/one", "lm-eval", "results.json")
    assert (here / "results.json").is_file()


def test_words_and_text_of_an_audit_may_be_paths(here, masked_model):
    (here / "w.txt").write_text("she\the\nher\this\n")
    save(masked_model, here / "model")
    options = AuditOptions(text=here / "t.txt", words=here / "w.txt", min_count=1)
    record = run(AuditConfig(str(here / "model"), audit=options, device="cpu"), "runs/one")
    assert [result.class_set for result in record.metrics.collapse] == ["vocabulary", str(here / "w.txt")]


@pytest.mark.parametrize("benchmark", ["pairs:p.csv", "lm_loss"])
def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_output(invoke, benchmark, here, monkeypatch):
    monkeypatch.setenv("EQUIFRAME_CACHE", str(here / "t.txt" / "cache"))  # below a file
    done = invoke("evaluate", MODEL, "--benchmarks", benchmark, "--out", "out")
    assert done.exit_code == 2
    assert done.output.startswith(f"error: {here / 't.txt' / 'cache'}: ")
    assert "set EQUIFRAME_CACHE to a folder that can be written" in done.output


def test_another_file_that_cannot_be_written_is_named(tmp_path):
    from equiframe.record import run_folder

    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("a file")
    (tmp_path / "runs").mkdir()
    with pytest.raises(RunError, match=f"{elsewhere}") as error, run_folder(tmp_path / "runs" / "one", {}):
        (elsewhere / "below").mkdir()
    assert "cannot write the run" not in str(error.value)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    for name in ("EQUIFRAME_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # of no name
    with pytest.raises(RunError, match=r"no home directory .* set EQUIFRAME_CACHE"):
        cache_folder()


def test_a_user_without_home_or_name_can_fine_tune(here, model_folders):
    """With no environment but where to find Python, what is needed and where the cache is."""
    program = "import os; os.getuid = lambda: 2**31 - 7\nfrom equiframe.cli import main; main()"
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "EQUIFRAME_CACHE") if name in os.environ}
    arguments = ["debias", model_folders["masked"], "--method", "cda", "--set", "text=t.txt", "--max-steps", 1]
    arguments += ["--text", "t.txt", "--words", "w.txt", "--benchmarks", "pairs:p.csv"]
    (here / "w.txt").write_text("she\the\nher\this\n")
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments), "--out", "out"],
        env={**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (here / "out" / "report.html").is_file()
    assert not (here / "~").exists()


def test_a_port_in_use_is_one_line():
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1, port {port} "):
            listen(None, "127.0.0.1", port, print)


def test_port_0_is_announced_as_the_one_taken(monkeypatch):
    uvicorn = pytest.importorskip("uvicorn")
    served = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: served.append(sockets[0].getsockname()))
    announced = []
    listen(None, "127.0.0.1", 0, announced.append)
    assert announced == [f"http://127.0.0.1:{served[0][1]}"]
    assert served[0][1] > 0


def test_a_revision_of_a_folder_is_refused(model_folders, tmp_path):
    shutil.copytree(model_folders["masked"], tmp_path / "model")
    with pytest.raises(InputError, match="--revision main: only models on the hub have revisions"):
        load(tmp_path / "model", revision="main")


def test_the_package_takes_a_path_too(model_folders):
    assert equiframe.load(Path(model_folders["masked"]), device="cpu").kind == "masked"
