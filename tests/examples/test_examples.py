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


def test_none_is_forgotten():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGUMENTS)


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
