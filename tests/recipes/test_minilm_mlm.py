"""The recipe of the masked LM of BERT's whole vocabulary: where rare word pieces are moved."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import pytest
import torch


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "recipes")
    monkeypatch.setitem(sys.modules, "wordfreq", types.SimpleNamespace(word_frequency=None))
    return importlib.import_module("minilm_mlm")


def test_a_rare_piece_moves_to_where_the_map_of_the_frequent_ones_predicts_it(recipe):
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(8, 2, generator=generator)
    matrix, shift = torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 1.0]]), torch.tensor([3.0, 0.0, -1.0])
    predicted = known @ matrix + shift
    found = predicted.clone()
    found[5:] += torch.tensor([6.0, -4.0, 2.0])  # three pieces that training has moved away
    counts = torch.tensor([1e9, 1e6, 5e4, 300.0, 300.0, 0.0, 250.0, 500.0 / 3])
    moved = recipe.nearer_to(found, known, counts)
    torch.testing.assert_close(moved[:6], predicted[:6], rtol=1e-5, atol=1e-5)
    for row, weight in ((6, 1 / 3), (7, 1 / 4)):  # n / (n + 500)
        expected = weight * found[row] + (1 - weight) * predicted[row]
        torch.testing.assert_close(moved[row], expected, rtol=1e-5, atol=1e-5)


def test_a_frequent_piece_stays_where_training_found_it(recipe):
    found = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    moved = recipe.nearer_to(found, torch.eye(6)[:, :2], torch.full((6,), 1e12))
    torch.testing.assert_close(moved, found)
