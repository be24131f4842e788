"""Names on a page for everything that is not a measure of a record."""

from __future__ import annotations

from equiframe.about import Term
from equiframe.record import COLLAPSE, CONTEXTS

PRICE = "Cost in language and time"
"""Title of the section on language understanding and time."""

HISTORY: dict[str, Term] = {
    "loss": Term("Loss", "of the whole objective"),
    "language_modelling": Term("Language-modelling loss", "the host method's own loss"),
    "unc3": Term("(U)NC3 over fine-tuning", "of the term's running word means, before its weight"),
    "mean_cosine": Term("NC3 over fine-tuning", "mean cosine of the running word means and word embeddings"),
}
"""Columns of the training history."""


def is_geometry(benchmark: str) -> bool:
    """Whether a compared benchmark is a class set, or contexts."""
    return benchmark.partition(":")[0] in (COLLAPSE, CONTEXTS)


def sentence_case(name: str) -> str:
    """The name with a capital as its first letter."""
    return name[:1].upper() + name[1:]
