"""Benchmarks write their tables into the documentation, and leave the rest of it alone."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def markdown():
    spec = importlib.util.spec_from_file_location("markdown_tables", ROOT / "benchmarks" / "markdown_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("benchmarks", "performance.md"),
        ("scale", "performance.md"),
        ("cost", "contribute/cost.md"),
        ("peers", "performance.md"),
        ("memory", "models.md"),
    ],
)
def test_a_table_takes_the_place_of_the_last_one(markdown, name, file, tmp_path):
    page = Path(shutil.copy(ROOT / "docs" / file, tmp_path))
    before, _, rest = page.read_text().partition(f"<!-- {name} -->")
    after = rest.partition(f"<!-- /{name} -->")[2]
    for number in ("1", "2"):
        markdown.write(markdown.table(["a", "b"], [["x", number]]), page, name)
    table = "| a | b |\n| --- | --- |\n| x | 2 |"
    assert page.read_text() == f"{before}<!-- {name} -->\n{table}\n<!-- /{name} -->{after}"


def test_a_new_file_is_begun_and_one_without_marks_is_left_alone(markdown, tmp_path):
    page = tmp_path / "new.md"
    markdown.write("x", page, "cost")
    assert page.read_text() == "<!-- cost -->\nx\n<!-- /cost -->\n"
    with pytest.raises(SystemExit, match="no lines <!-- scale -->"):
        markdown.write("y", page, "scale")
    assert page.read_text() == "<!-- cost -->\nx\n<!-- /cost -->\n"
