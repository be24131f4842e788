"""Every example runs on the built-in model, and says what it found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from equiframe.data import locate
from equiframe.errors import DataError

EXAMPLES = Path(__file__).parents[2] / "examples"
ARGUMENTS = {
    "audit_a_model.py": (("--sentences", "200"), "gender: "),
    "debias_with_trainer.py": (("--max-steps", "2", "--out", "{out}"), "(U)NC3 of the last batch: 0."),
    "own_benchmark.py": ((), "overall.gap: "),
}


NOTEBOOK = "compare_in_a_notebook.ipynb"

CELLS = """
import ast, json, sys

names = {}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            print(value._repr_html_() if hasattr(value, "_repr_html_") else value)
"""
"""Runs the cells of a notebook as Jupyter does, and prints what it would show."""


def test_none_is_forgotten():
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert names == {*ARGUMENTS, NOTEBOOK}


@pytest.mark.slow
def test_the_notebook_shows_tables(tmp_path):
    try:
        locate("gap/development")
    except DataError as error:
        pytest.skip(str(error))
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CELLS, str(EXAMPLES / NOTEBOOK)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("<table") == 3  # two records and their comparison
    assert "debias: bec" in done.stdout
    assert "change from before" in done.stdout
    assert (tmp_path / "runs" / "after" / "report.html").is_file()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_runs(name, tmp_path):
    try:
        locate("bug/balanced")
    except DataError as error:
        pytest.skip(str(error))
    arguments, said = ARGUMENTS[name]
    command = [sys.executable, str(EXAMPLES / name), *(a.format(out=tmp_path / "out") for a in arguments)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    if name == "debias_with_trainer.py":
        assert (tmp_path / "out" / "model.safetensors").exists()
