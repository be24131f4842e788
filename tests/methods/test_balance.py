"""The balanced weight of the term: by hand on a model of one matrix, and in a whole run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from equiframe.collapse import UNC3Regularizer
from equiframe.errors import InputError
from equiframe.methods import ObjectiveOutput, balanced_weight
from equiframe.methods.objective import Objective


class Rows(nn.Module):
    """A model that is its output embedding."""

    def __init__(self, rows):
        super().__init__()
        self.head = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
        self.head.weight = nn.Parameter(rows)

    def get_output_embeddings(self):
        return self.head


class Squared(Objective):
    """strength * sum of squares of the whole embedding; features as given."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def forward(self, model, batch):
        loss = self.strength * model.head.weight.square().sum()
        return ObjectiveOutput(loss=loss, features=batch["features"], token_ids=batch["ids"])


class Elsewhere(Objective):
    """A loss that does not read the embedding, as ADEPT's does not if it is not tied."""

    def forward(self, model, batch):
        return ObjectiveOutput(
            loss=torch.ones((), requires_grad=True).square(), features=batch["features"], token_ids=batch["ids"]
        )


def batches(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor([1, 2, 4, 1, 2, 4, 0])
    return [{"features": torch.randn(7, 5, generator=generator), "ids": ids} for _ in range(count)]


@pytest.fixture
def rows():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(9))


def test_host_and_weighted_term_pull_the_rows_of_the_words_equally(rows):
    model, ids = Rows(rows.clone()), torch.tensor([1, 2, 4])
    found = balanced_weight(Squared(2.0), UNC3Regularizer(ids, 5, weight=1.0), model, batches())

    term, of_term = UNC3Regularizer(ids, 5, weight=1.0), []
    for batch in batches():
        weight = rows.clone().requires_grad_()
        term(batch["features"], batch["ids"], weight).backward()
        of_term.append(float(weight.grad.norm()))
    of_host = float((2 * 2.0 * rows[ids]).norm())
    assert found == pytest.approx(of_host / (sum(of_term) / 3), rel=1e-5)
    assert torch.equal(model.head.weight, rows)
    assert model.head.weight.grad is None


class Counting(Squared):
    """Counts its batches, as ADEPT and added pairs do."""

    def __init__(self, strength):
        super().__init__(strength)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, model, batch):
        self.seen.add_(1)
        return super().forward(model, batch)


def test_the_host_begins_training_as_if_nothing_had_been_balanced(rows):
    host, plain = Counting(2.0), Squared(2.0)
    found = [
        balanced_weight(one, UNC3Regularizer(torch.tensor([1, 2, 4]), 5, weight=1.0), Rows(rows.clone()), batches())
        for one in (host, plain)
    ]
    assert found[0] == found[1]
    assert host.seen == 0


def test_it_does_not_depend_on_the_weight_given_and_grows_with_the_host(rows):
    ids = torch.tensor([1, 2, 4])
    one, ten, strong = (
        balanced_weight(Squared(strength), UNC3Regularizer(ids, 5, weight=weight), Rows(rows.clone()), batches())
        for strength, weight in ((1.0, 1.0), (1.0, 10.0), (7.0, 1.0))
    )
    assert ten == pytest.approx(one, rel=1e-5)
    assert strong == pytest.approx(7 * one, rel=1e-5)


def test_what_cannot_be_balanced_is_refused(rows):
    model = Rows(rows)
    with pytest.raises(InputError, match="fewer than two of its words"):
        balanced_weight(Squared(1.0), UNC3Regularizer(torch.tensor([3, 5]), 5, weight=1.0), model, batches())
    with pytest.raises(InputError, match="the method does not change the word embeddings"):
        balanced_weight(Elsewhere(), UNC3Regularizer(torch.tensor([1, 2]), 5, weight=1.0), model, batches())
    model.head.weight.requires_grad_(False)
    with pytest.raises(InputError, match="frozen"):
        balanced_weight(Squared(1.0), UNC3Regularizer(torch.tensor([1, 2]), 5, weight=1.0), model, batches())
