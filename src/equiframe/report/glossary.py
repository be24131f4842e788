"""Names on a page for everything that is not a measure of a record."""

from __future__ import annotations

from equiframe.about import Term
from equiframe.record import COLLAPSE, CONTEXTS, plain

PRICE = "Cost in language and time"
"""Title of the section on language understanding and time."""

HISTORY: dict[str, Term] = {
    "loss": Term("Loss", "of the whole objective"),
    "language_modelling": Term("Language-modelling loss", "cross-entropy of the predicted tokens, in nats"),
    "cc1": Term("CC1", "divergence of the predictions in a text and in its counterfactual, in nats"),
    "cc3": Term("CC3, loss", "of the log-odds of two counterparts in a neutral context"),
    "agreement": Term("Agreement, loss", "of the log-odds of the agreeing word and their target"),
    "constraint": Term("Constraint", "divergence from the predictions before training, in nats"),
    "unc3": Term("(U)NC3 over fine-tuning", "of the term's running word means, before its weight"),
    "mean_cosine": Term("NC3 over fine-tuning", "mean cosine of the running word means and word embeddings"),
}
"""Columns of the training history."""


def part_of_loss(column: str) -> Term:
    """The name of a logged part of the loss; ``pairs/NAME`` is that of terms on added pairs."""
    name = column.removeprefix("pairs/")
    known = HISTORY.get(name, Term(plain(name), "part of the loss"))
    return known if name == column else Term(f"{known.name}, added pairs", known.reading)


def is_geometry(benchmark: str) -> bool:
    """Whether a compared benchmark is a class set, or contexts."""
    return benchmark.partition(":")[0] in (COLLAPSE, CONTEXTS)


def sentence_case(name: str) -> str:
    """The name with a capital as its first letter."""
    return name[:1].upper() + name[1:]
