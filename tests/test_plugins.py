"""A benchmark and a method of the user's own: by place, by entry point, in studies; and what is said of wrong ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from equiframe.benchmarks import load_benchmark
from equiframe.errors import InputError
from equiframe.methods import load_method

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "fair-extras"
version = "1"

[project.entry-points."equiframe.benchmarks"]
pronoun_gap = "fair_extras.gap:PronounGap"

[project.entry-points."equiframe.methods"]
plain-text = "fair_extras.method:PlainText"
"""
BENCHMARK = '''
from equiframe.benchmarks import Benchmark, Outcome
from equiframe.benchmarks.asking import each_masked_alone
from equiframe.benchmarks.benchmark import Asked, Measure
from equiframe.benchmarks.row_statistics import mean_of


class PronounGap(Benchmark[str]):
    """How many letters an occupation has."""

    name = "pronoun_gap"
    version = 1
    headline = ("overall.letters",)
    variants = {"case": ("lower", "upper")}

    def __init__(self, case="lower"):
        self.case = case

    def items(self, *_, **__):
        return ["nurse", "cook", "doctor", "teacher"], ()

    def scoring(self, codec):
        return "counted"

    def rows(self, item, codec):
        return [Outcome(item)]

    def ask(self, item, codec):
        return Asked([each_masked_alone(item, codec)])

    def read(self, item, answers, codec):
        return [{"letters": float(len(item))}]

    def measures(self, outcomes):
        letters = outcomes["letters"].to_numpy()
        return [Measure("overall.letters", outcomes.index.to_numpy(), mean_of(letters), "letters", ideal=5.0)]
'''
METHOD = '''
from dataclasses import dataclass
from typing import ClassVar

from equiframe.data import stream
from equiframe.methods.text import TextMethod


@dataclass(frozen=True)
class PlainText(TextMethod):
    """Fine-tune on a text as it is."""

    name: ClassVar[str] = "plain-text"
    file: str = "gap"

    def text_to_train_on(self, source, seed):
        return stream(self.file, source)
'''


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package with both, installed into a folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    (source / "pyproject.toml").write_text(PYPROJECT)
    folder = source / "fair_extras"
    folder.mkdir()
    for name, text in (("__init__", ""), ("gap", BENCHMARK), ("method", METHOD)):
        (folder / f"{name}.py").write_text(text)
    arguments = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", target, source)
    subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], check=True, capture_output=True)
    return target


@pytest.fixture
def command(package, tmp_path):
    """Runs the command where the package is installed."""
    paths = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PYTHONPATH": paths, "EQUIFRAME_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}

    def run(*words):
        command = [sys.executable, "-m", "equiframe", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["pronoun_gap", "fair_extras.gap:PronounGap:upper"])
def test_a_benchmark_of_a_package_is_scored_and_compared(spec, command, model_folders, tmp_path):
    for out in ("one", "two"):
        done = command("evaluate", model_folders["masked"], "--benchmarks", spec, "--out", out, "--json")
        assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["benchmarks"]
    assert result["benchmark"] == spec
    assert result["estimates"]["overall.letters"]["value"] == (5 + 4 + 6 + 7) / 4
    done = command("compare", "one", "two", "--json")
    assert done.returncode == 0, done.stderr
    (compared,) = json.loads(done.stdout)["measures"]["two"]
    assert (compared["benchmark"], compared["difference"]["value"]) == (spec, 0)


def test_a_package_is_listed(command):
    rows = {row["name"]: row for row in json.loads(command("benchmarks", "--json").stdout)}
    assert rows["pronoun_gap"]["about"] == "How many letters an occupation has."
    assert "lpbs" in rows


@pytest.mark.slow
def test_both_in_a_study(command, model_folders, text, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(text * 8))
    (tmp_path / "words.txt").write_text("she\the\nher\this\nnurse\n")
    (tmp_path / "study.yaml").write_text(
        f"models: ['{model_folders['masked']}']\n"
        "methods:\n"
        "  - {method: plain-text, label: entry, options: {file: text.txt}, unc3: 0}\n"
        "  - {method: 'fair_extras.method:PlainText', options: {file: text.txt}, unc3: 0}\n"
        "seeds: [0]\n"
        "benchmarks: {'fair_extras.gap:PronounGap': overall.letters}\n"
        "fine_tuning: {max_steps: 1, batch_size: 4, precision: fp32}\n"
        "unc3_words: words.txt\n"
        "audit: {text: text.txt, words: words.txt, sentences: 0}\n"
    )
    done = command("study", "study.yaml", "--out", "study", "--json")
    assert done.returncode == 0, done.stderr
    bias = [figure for figure in json.loads(done.stdout)["figures"] if figure["kind"] == "bias"]
    assert [(figure["method"], figure["value"]) for figure in bias] == [
        ("", 5.5),
        ("entry", 5.5),
        ("fair_extras.method:PlainText", 5.5),
    ]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the user."""
    monkeypatch.syspath_prepend(tmp_path)

    def written(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        return Path(tmp_path / f"{name}.py")

    return written


@pytest.mark.parametrize("load", [load_benchmark, load_method])
def test_what_cannot_be_imported_names_the_module_and_the_line(load, module):
    file = module("breaks_at_import", "import json\n\nvalue = json.loads('{')\n")
    with pytest.raises(InputError, match=rf"breaks_at_import:Mine cannot be imported: {file}, line 3: JSONDecodeError"):
        load("breaks_at_import:Mine")
    file = module("breaks_syntax", "x = 1\ndef mine(:\n")
    with pytest.raises(InputError, match=rf"breaks_syntax:Mine cannot be imported: {file}, line 2: SyntaxError"):
        load("breaks_syntax:Mine")
    file = module("starts_at_import", "import argparse\nargparse.ArgumentParser().parse_args(['--what'])\n")
    with pytest.raises(InputError, match=rf"starts_at_import:Mine cannot be imported: {file}, line 2: SystemExit: 2"):
        load("starts_at_import:Mine")
    file = module("needs_more", "\nimport no_such_package_here\n")
    with pytest.raises(InputError, match=rf"needs_more:Mine cannot be imported: {file}, line 2: ModuleNotFoundError"):
        load("needs_more:Mine")
    with pytest.raises(InputError, match=r"no module 'no_such_package_here'\. Install its package, or add its folder"):
        load("no_such_package_here.part:Mine")


def test_a_class_that_is_not_one(module):
    file = module("has_others", "from equiframe.benchmarks.lpbs import LPBS as Mine\n")
    with pytest.raises(InputError, match=rf"has_others:Mime: {file} has no class 'Mime'\. Did you mean 'Mine'\?"):
        load_benchmark("has_others:Mime")
    with pytest.raises(InputError, match=r"Mine is not a subclass of equiframe\.methods\.method\.Method or "):
        load_method("has_others:Mine")
    with pytest.raises(InputError, match="dumps is not a subclass of"):
        load_benchmark("json:dumps")
    with pytest.raises(InputError, match=r"no benchmark 'stereosett': did you mean 'stereoset'\?"):
        load_benchmark("stereosett:dev")
    assert load_benchmark("has_others:Mine").spec == "has_others:Mine"
