"""One configuration, said on the command line, in a file or in Python; what cannot be said; and what help shows."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from equiframe import cli
from equiframe.config import (
    AuditConfig,
    AuditOptions,
    BenchmarksConfig,
    CardConfig,
    CompareConfig,
    DebiasConfig,
    EvaluateConfig,
    ExportConfig,
    FineTuning,
    GenerationOptions,
    PushConfig,
    ServeConfig,
    StudyConfig,
    StudyMethod,
    UNC3Options,
    read_config,
)
from equiframe.errors import EquiframeError, InputError
from equiframe.options import validated

AUDIT = AuditConfig(
    "m",
    device="cpu",
    kind="causal",
    revision="main",
    trust_remote_code=True,
    dtype="bfloat16",
    device_map={"cpu": "20GB"},
    model_args={"attn_implementation": "eager", "low": 1},
    data=Path("d"),
    seed=3,
    audit=AuditOptions(
        text="gap",
        sentences=0,
        words="w.txt",
        multi_token="last",
        pairing="paper",
        feature="last-layer",
        visibility="masked",
        min_count=1,
        pairs=0,
    ),
)
EVALUATE = EvaluateConfig(
    "m",
    benchmarks=("lpbs", "crows_pairs:changed"),
    limit=7,
    token_budget=512,
    heads={"max_steps": "200", "seed": "1"},
    check_float32=True,
    self_debias="race",
    generation=GenerationOptions(
        samples=2,
        temperature=0.5,
        top_p=0.9,
        max_new_tokens=9,
        stop=("\n\n", "User:, x"),
        seed=8,
        groups=("gender", "age.yaml"),
        measures=("words",),
    ),
)
DEBIAS = DebiasConfig(
    "m",
    method="cda",
    method_options={"text": "a=b.txt", "sides": "one"},
    cc=0.5,
    cc_options={"text": "c.txt"},
    unc3=UNC3Options(weight=7.0, warmup_steps=5, memory="ema", decay=0.5, through_features=True),
    unc3_words="fairness",
    fine_tuning=FineTuning(
        epochs=0.5,
        max_steps=10,
        learning_rate=1e-4,
        batch_size=4,
        accumulation=2,
        max_length=64,
        seed=1,
        precision="fp32",
        save_steps=9,
        lora_rank=8,
        report_to=("tensorboard", "wandb"),
        audit_steps=3,
    ),
    audit=AuditOptions(multi_token="first", min_count=2, visibility="masked", pairs=7),
    benchmarks=(),
    watch=("lpbs", "crows_pairs:changed"),
    limit=5,
    token_budget=1024,
    chat_template="chat.jinja",
    heads={"epochs": "1"},
)
COMMANDS = [
    (
        AUDIT,
        "audit m --device cpu --kind causal --revision main --trust-remote-code --dtype bfloat16 --data d --seed 3"
        " --text gap --sentences 0 --words w.txt --multi-token last --pairing paper --feature last-layer "
        "--visibility masked --min-count 1 --pairs 0 --device-map '{cpu: 20GB}'"
        " --model-arg attn_implementation=eager --model-arg low=1",
    ),
    (
        EVALUATE,
        "evaluate m --benchmarks lpbs,crows_pairs:changed --limit 7 --token-budget 512 --head max_steps=200"
        " --head seed=1 --check-float32 --self-debias race --samples 2 --temperature 0.5 --top-p 0.9"
        " --max-new-tokens 9 --stop '\n\n' --stop 'User:, x' --sampling-seed 8 --groups gender,age.yaml"
        " --measures words",
    ),
    (EvaluateConfig("m", suite="nlu"), "evaluate m --suite nlu"),
    (EvaluateConfig("m", chat_template="on"), "evaluate m --chat-template on"),
    (EvaluateConfig("m", benchmarks=("responses",), responses=Path("r.jsonl")), "evaluate m --responses r.jsonl"),
    (
        EvaluateConfig("server:http://x#m", tokenizer="t", concurrency=2),
        "evaluate server:http://x#m --tokenizer t --concurrency 2",
    ),
    (
        DEBIAS,
        "debias m --method cda --set text=a=b.txt --set sides=one --unc3 7 --unc3-warmup 5 --unc3-memory ema"
        " --unc3-decay 0.5 --unc3-through-features --unc3-words fairness --epochs 0.5 --max-steps 10"
        " --learning-rate 1e-4 --batch-size 4 --accumulation 2 --max-length 64 --training-seed 1 --precision fp32"
        " --save-steps 9 --lora 8 --report-to tensorboard,wandb --audit-steps 3 --multi-token first --min-count 2"
        " --cc 0.5 --cc-set text=c.txt --pairs 7 --visibility masked --benchmarks= --limit 5"
        " --watch lpbs,crows_pairs:changed"
        " --token-budget 1024 --chat-template chat.jinja --head epochs=1",
    ),
    (DebiasConfig("m", unc3=UNC3Options(weight="auto")), "debias m --unc3 auto"),
    (CompareConfig((Path("a"), Path("b")), seed=4), "compare a b --seed 4"),
    (CardConfig(Path("a"), before=Path("b"), out=Path("c.md")), "card a --before b --out c.md"),
    (ExportConfig(Path("a"), out=Path("c"), layout="model-index"), "export a --out c --layout model-index"),
    (PushConfig(Path("a"), "me/model", public=True), "push a me/model --public"),
    (ServeConfig(Path("a"), host="0.0.0.0", port=80), "serve a --host 0.0.0.0 --port 80"),
    (BenchmarksConfig(data=Path("d")), "benchmarks --data d"),
]


def parsed(command):
    _, bound, _ = cli.app.parse_args(shlex.split(command), exit_on_error=False, print_error=False)
    return bound.arguments["config"]


@pytest.mark.parametrize(("config", "command"), COMMANDS, ids=[command for _, command in COMMANDS])
def test_the_command_line_gives_what_python_gives(config, command):
    assert parsed(command) == config


def test_the_options_above_are_all_that_there_are():
    """So no option of a run is left out of the comparison of command line, file and Python."""
    elsewhere = ("suite", "audit", "tokenizer", "concurrency", "chat_template", "responses")
    differing = {AuditConfig: (), EvaluateConfig: elsewhere, DebiasConfig: ("generation",)}
    for config in (AUDIT, EVALUATE, DEBIAS):
        default = type(config)("other")
        shared = {*vars(AUDIT)} - {"audit", "model"} if not isinstance(config, AuditConfig) else set()
        same = {name for name, value in vars(config).items() if value == vars(default)[name]}
        assert same == {*differing[type(config)], *shared}
    for group in (AUDIT.audit, DEBIAS.fine_tuning, EVALUATE.generation):
        assert not [name for name, value in vars(group).items() if value == vars(type(group)())[name]]


@pytest.mark.parametrize("config", [AUDIT, EVALUATE, DEBIAS, COMMANDS[8][0]], ids=lambda config: config.verb)
def test_a_file_gives_what_python_gives(config, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config.plain()))
    assert read_config(file) == config
    assert read_config(file, kind=type(config)) == config


def test_a_study_file_gives_what_python_gives(tmp_path):
    study = StudyConfig(
        models=("m",),
        methods=(StudyMethod("bec", unc3="auto", term={"memory": "ema"}), StudyMethod("cda", label="x")),
        seeds=(4,),
        benchmarks={"lpbs": "overall.difference"},
        fine_tuning=FineTuning(max_steps=3),
        unc3=UNC3Options(decay=0.5),
        audit=AuditOptions(sentences=5),
        data=Path("d"),
    )
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study.plain()))
    assert read_config(file) == study
    short = {
        "models": ["m"],
        "methods": [{"method": "bec", "unc3": "auto", "term": {"memory": "ema"}}, {"method": "cda", "label": "x"}],
        "seeds": [4],
        "benchmarks": {"lpbs": "overall.difference"},
        "fine_tuning": {"max_steps": 3},
        "unc3": {"decay": 0.5},
        "audit": {"sentences": 5},
        "data": "d",
    }
    file.write_text(yaml.safe_dump(short))
    assert read_config(file, kind=StudyConfig) == study


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "verb: study\nmodels: [m]\nmethods: [{method: bec}]\nbenchmarks:\n  seat: gender\n  seat: race\n",
            ", line 6: 'seat' is repeated: keep only one",
        ),
        ("verb: audit\nmodel: m\nmodel: n\n", ", line 3: 'model' is repeated: keep only one"),
        ("verb: audit\nmodel: 2024-13-45\n", ": not valid YAML (month must be in 1..12)"),
        ("verb: audit\nmodel: [m\n", ", line 3: not valid YAML"),
        ("verb: [audit]\nmodel: m\n", ": ['audit'] is not a verb that fits here"),
    ],
)
def test_a_file_that_does_not_say_one_thing_is_refused(tmp_path, text, said):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(EquiframeError) as error:
        read_config(file)
    assert str(error.value).startswith(f"{file}{said}")
    assert "\n" not in str(error.value)


def test_a_run_from_a_file_is_that_of_the_command(invoke, tmp_path, model_folders):
    (tmp_path / "pairs.csv").write_text("stereotype,anti_stereotype\nshe is a nurse,he is a nurse\n")
    spec = f"pairs:{tmp_path / 'pairs.csv'}"
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"verb": "evaluate", "model": str(model_folders["masked"]), "benchmarks": [spec]}))
    command = ("evaluate", model_folders["masked"], "--benchmarks", spec)
    for name, words in (("file", ("run", file)), ("command", command)):
        done = invoke(*words, "--out", tmp_path / name, "--json")
        assert done.exit_code == 0, done.output
    one, other = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("file", "command"))
    assert {**one, "environment": None} == {**other, "environment": None}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (AuditConfig, {"method": "bec"}),
        (AuditConfig, {"benchmarks": ("lpbs",)}),
        (EvaluateConfig, {"method": "bec"}),
        (EvaluateConfig, {"fine_tuning": FineTuning()}),
        (DebiasConfig, {"self_debias": "race"}),
        (DebiasConfig, {"suite": "all"}),
    ],
)
def test_what_belongs_to_another_verb_cannot_be_built(kind, values):
    with pytest.raises(TypeError, match="unexpected keyword"):
        kind("m", **values)
    with pytest.raises(InputError, match=f"{kind.verb} has no option"):
        validated(kind, {"model": "m", **values}, of=kind.verb)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: EvaluateConfig("m", suite="all", benchmarks=("lpbs",)), "--suite and --benchmarks cannot be combined"),
        (
            lambda: DebiasConfig("m", unc3=UNC3Options(weight="auto"), fine_tuning=FineTuning(lora_rank=2)),
            "--lora freezes the word embeddings",
        ),
        (
            lambda: DebiasConfig(
                "m", unc3=UNC3Options(weight="auto", through_features=True), fine_tuning=FineTuning(lora_rank=2)
            ),
            "--unc3 auto compares gradients of the word embeddings, which --lora freezes. Give a number",
        ),
        (lambda: DebiasConfig("m", cc_options={"pairs": 3}), "--cc-set has no effect without --cc. Add the weight"),
        (
            lambda: DebiasConfig("m", unc3=UNC3Options(memory="ema", warmup_steps=2), unc3_words="race"),
            "--unc3-warmup, --unc3-memory, --unc3-words: no effect without --unc3. Add its weight",
        ),
        (
            lambda: DebiasConfig("m", unc3=UNC3Options(weight=1, decay=0.5)),
            "--unc3-decay has no effect on means over the whole run. Add --unc3-memory ema",
        ),
        (lambda: AuditConfig("server:http://x#m"), "audit needs the states and weights"),
        (lambda: DebiasConfig("server:http://x#m"), "debias needs the states and weights"),
        (
            lambda: EvaluateConfig("server:http://x#m", device="cpu"),
            "--device cpu: this option does not apply",
        ),
        (lambda: EvaluateConfig("server:http://x#m", dtype="float32"), "a served model is causal"),
        (lambda: EvaluateConfig("m", tokenizer="gpt2"), "--tokenizer gpt2: this option applies only to a"),
        (lambda: EvaluateConfig("m", concurrency=2), "--concurrency 2: this option applies only to a served model"),
        (lambda: EvaluateConfig("server:http://x#m", token_budget=64), "a served model is causal and already loaded"),
        (
            lambda: EvaluateConfig("server:http://x#m", tokenizer="t", chat_template="server"),
            "--tokenizer t: with --chat-template server the server reads the text",
        ),
        (lambda: AuditConfig("m", model_args={"dtype": "auto"}), "--model-arg dtype: give --dtype instead"),
        (lambda: EvaluateConfig("m", benchmarks=()), "there is nothing to score"),
        (lambda: GenerationOptions(seed=1), "--sampling-seed 1: the most probable token is always taken. Add a --temp"),
        (lambda: GenerationOptions(top_p=0.5), "--top-p 0.5: the most probable token is always taken. Add a --temp"),
        (
            lambda: EvaluateConfig("m", responses="r", self_debias="race"),
            "--responses r: no model is loaded. Remove --self-debias",
        ),
        (
            lambda: EvaluateConfig("m", responses="r", chat_template="on", dtype="bfloat16"),
            "--responses r: no model is loaded. Remove --dtype, --chat-template",
        ),
        (lambda: EvaluateConfig("m", limit=0), "--limit 0: give a whole number above 0"),
        (lambda: EvaluateConfig("m", dtype="int8"), "--dtype int8: choose auto, float32, bfloat16, float16"),
        (
            lambda: EvaluateConfig("m", benchmarks="lpbs"),
            "--benchmarks: expected several strings, found one, 'lpbs'. Put it in a list",
        ),
        (lambda: AuditOptions(min_count=0), "--min-count 0"),
        (lambda: AuditOptions(sentences=2.5), "--sentences 2.5"),
        (lambda: FineTuning(lora_rank=True), "--lora True: give a whole number of 0 or more; 0 trains all weights"),
        (lambda: FineTuning(seed=2**32), "--training-seed 4294967296"),
        (lambda: FineTuning(learning_rate=float("nan")), "--learning-rate nan"),
        (lambda: UNC3Options(weight=-1), "--unc3 -1"),
        (lambda: UNC3Options(decay=1.0), "--unc3-decay 1.0"),
        (lambda: dataclasses.replace(AUDIT, seed=-1), "--seed -1"),
    ],
)
def test_a_value_that_does_not_fit_names_its_option(made, said):
    with pytest.raises(InputError, match=f"^{re.escape(said)}"):
        made()


def test_values_from_python_become_those_of_their_type():
    config = EvaluateConfig("m", benchmarks=["lpbs"], data="d", limit="3")
    assert (config.benchmarks, config.data, config.limit) == (("lpbs",), "d", 3)


def test_a_suite_names_no_benchmarks_of_its_own():
    suite = EvaluateConfig("m", suite="nlu")
    assert suite.benchmarks == ()
    assert dataclasses.replace(suite, seed=1).suite == "nlu"
    assert EvaluateConfig("m").benchmarks == ("stereoset", "crows_pairs")


def test_help_of_debias_fits_two_screens_with_rare_options_last():
    done = subprocess.run(
        [sys.executable, "-m", "equiframe", "debias", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert len(done.stdout.splitlines()) <= 100
    panels = re.findall(r"^╭─ ([A-Z][\w -]*?) ─", done.stdout, re.MULTILINE)
    assert panels == ["Model", "Method", "Fine-tuning", "Audit", "Scoring", "Input and output", "Rarely needed"]
    common, rare = done.stdout.split("Rarely needed")
    assert all(f"--{option} " in common for option in ("method", "unc3", "max-steps", "text", "benchmarks", "out"))
    assert all(f"--{option} " in rare for option in ("unc3-decay", "accumulation", "pairing", "token-budget", "head"))
    assert {"--multi-token", "--min-count", "--limit"} <= set(re.findall(r"--[a-z0-9-]+", done.stdout))


@pytest.mark.parametrize("kind", [AuditConfig, EvaluateConfig, DebiasConfig, CompareConfig, ServeConfig, ExportConfig])
def test_every_option_has_its_help(kind):
    arguments = cli.app[kind.verb].assemble_argument_collection(parse_docstring=True)
    shown = [argument for argument in arguments if argument.parse and argument.show]
    assert len(shown) >= 3
    assert [argument.name for argument in shown if not argument.parameter.help] == []


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "recipes").glob("study*.yaml")), ids=lambda p: p.stem
)
def test_the_recipes_are_studies(path):
    assert read_config(path, kind=StudyConfig).methods
