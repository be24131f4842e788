"""Every Python block of README and docs runs; every command is read by the command line's own parser, and those of the
first steps and of the how-to pages run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from equiframe import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HOW_TO = [ROOT / "docs" / "start.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
_FENCE = re.compile(
    r"^(?P<mark><!-- not run: .+? -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    language: str
    code: str
    runs: bool


def blocks(page, *languages):
    return [
        Block(found["language"], found["code"], found["mark"] is None)
        for found in _FENCE.finditer(page.read_text(encoding="utf-8"))
        if found["language"] in languages
    ]


def named(page):
    return str(page.relative_to(ROOT))


def commands(code):
    """Each line's words from ``equiframe`` on; the path of a script where it starts with python."""
    for line in re.sub(r"\\\n\s*", " ", code).splitlines():
        words = shlex.split(line, comments=True)
        if "equiframe" in words and words[words.index("equiframe") - 1 :][0] not in ("cd",):
            at = words.index("equiframe") + 1
            end = next((i for i in range(at, len(words)) if words[i] in ("&", ";", "|", "&&", "done;")), len(words))
            yield "equiframe", words[at:end]
        yield from (("script", [word]) for word in words if word.endswith(".py"))


def test_pages_have_blocks():
    assert sum(len(blocks(page, "python", "bash", "console", "")) for page in PAGES) > 30


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash", "console", "")], ids=named)
def test_commands_are_those_of_the_command_line(page):
    for block in blocks(page, "bash", "console", ""):
        for kind, words in commands(block.code):
            if kind == "script":
                assert (ROOT / words[0]).exists(), words
                continue
            cli.app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("page", [p for p in HOW_TO if any(b.runs for b in blocks(p, "bash"))], ids=named)
def test_commands_of_the_how_to_pages_run_one_after_the_other(page, tmp_path):
    code = "\n".join(block.code for block in blocks(page, "bash") if block.runs)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], cwd=tmp_path, env=_environment(tmp_path), capture_output=True
    )
    if b"is missing" in done.stderr:
        pytest.skip("the data wheel is not installed")
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=named)
def test_python_blocks_run_one_after_the_other(page, tmp_path):
    code = "\n".join(block.code for block in blocks(page, "python") if block.runs)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=_environment(tmp_path), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def _environment(folder):
    """The package's own command first, a cache of its own, no network."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": programs, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
