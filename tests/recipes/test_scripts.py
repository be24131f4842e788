"""The scripts outside the package, which nobody runs in a test: what they import from the package exists."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for folder in ("recipes", "benchmarks", "examples") for path in (ROOT / folder).glob("**/*.py"))


def imported(script: Path) -> list[tuple[str, str]]:
    """Every module of equiframe that the script imports from, with the name."""
    statements = ast.walk(ast.parse(script.read_text(encoding="utf-8")))
    return [
        (statement.module, alias.name)
        for statement in statements
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").partition(".")[0] == "equiframe"
        for alias in statement.names
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_script_imports_exists(script):
    for module, name in imported(script):
        found = importlib.import_module(module)
        assert hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}"), f"{module} has no {name}"
