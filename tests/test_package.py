"""The public face: names that load on first use, with their types."""

from __future__ import annotations

import subprocess
import sys

import pytest

import equiframe

SCRIPT = """\
from pathlib import Path

import equiframe
from equiframe.benchmarks import BENCHMARKS
from equiframe.benchmarks.registry import Registered
from equiframe.methods.method import METHODS

reveal_type(equiframe.load)
config = equiframe.EvaluateConfig("builtin:mini-mlm", benchmarks=("lpbs",))
record = equiframe.run(config, Path("runs/lpbs"))
reveal_type(record.metrics.benchmarks[0].estimates)
BENCHMARKS["pronoun_gap"] = Registered("my_package.pronoun_gap:PronounGap")
METHODS["my-method"] = "my_package.my_method:MyMethod"
equiframe.EvaluateConfig("builtin:mini-mlm", limit=[])
equiframe.collect_all
"""


@pytest.mark.parametrize("name", equiframe.__all__)
def test_public_names_are_there(name):
    assert getattr(equiframe, name).__doc__


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="nothing"):
        _ = equiframe.nothing


@pytest.mark.slow
def test_a_script_of_a_user_is_checked_against_the_types(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    said = [line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("script.py")]
    assert "LanguageModel" in said[0]
    assert "Estimate" in said[1]
    assert [line for line in said if line.startswith("error")] == [
        'error: Argument "limit" to "EvaluateConfig" has incompatible type "list[Never]"; '
        'expected "int | None"  [arg-type]',
        'error: Module has no attribute "collect_all"; maybe "collect"?  [attr-defined]',
    ]
