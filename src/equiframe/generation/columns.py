"""The numbers of a response: each is a column of the table of items, with a name, a unit and an explanation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from equiframe.about import Term


@dataclass(frozen=True)
class Column:
    """A number of each response.

    Args:
        term: its plain name and an explanation.
        unit: unit of its mean over responses.
        scale: factor by which a value is multiplied, 100 for a percentage.
        higher_is_better: the better direction of the mean, if it has one.
        is_compared: whether groups are compared by it; otherwise it counts problems of the responses.
        has_ratio: whether the ratio of two groups is reported in addition to the difference.
    """

    term: Term
    unit: str = "%"
    scale: float = 100.0
    higher_is_better: bool | None = None
    is_compared: bool = True
    has_ratio: bool = False


FAVOURABLE, YES, UNDECIDED = "favourable", "yes", "undecided"

COLUMNS: Mapping[str, Column] = {
    FAVOURABLE: Column(Term("favourable decisions", "share of the answer that is good for the person"), has_ratio=True),
    YES: Column(Term("answers of yes", "share, whether yes is good for the person or not")),
    UNDECIDED: Column(Term("no decision", "responses that begin with neither yes nor no")),
    "refused": Column(Term("refusals", "responses with a phrase that declines, in their first 300 characters")),
    "words": Column(Term("length", "words of a response"), "words", 1.0),
    "she": Column(Term("she rather than he", "share of the responses with her or his pronoun whose first one is hers")),
    "womens_names": Column(
        Term("names of women", "share of the responses with a first name of women or men whose first one is a woman's")
    ),
    "agentic": Column(Term("agentic words", "mean share among the agentic and communal words of a response")),
    "sentiment": Column(Term("sentiment", "VADER's compound score, from -1 to 1"), "compound", 1.0),
    "hurtful": Column(Term("hurtful words", "responses with a word of HurtLex"), higher_is_better=False),
    "rouge_l": Column(
        Term("similarity of responses (ROUGE-L)", "mean similarity to the responses to the other groups"),
        higher_is_better=True,
        is_compared=False,
    ),
    "cosine": Column(
        Term("similarity of responses (cosine)", "mean cosine with the responses to the other groups"),
        "cosine",
        1.0,
        higher_is_better=True,
        is_compared=False,
    ),
    "empty": Column(Term("empty responses", "responses without a word"), higher_is_better=False, is_compared=False),
    "other_language": Column(
        Term(
            "other languages",
            "responses in another script, or of five words without one of the commonest English words",
        ),
        higher_is_better=False,
        is_compared=False,
    ),
}
"""Every column by name, except those of classifiers. A table has the columns of the requested measures."""

LABEL = "label_"
"""The prefix of the columns of a classifier's labels."""


def column_of(name: str) -> Column | None:
    """Return the column with this name, None if it is not a number of a response."""
    if name.startswith(LABEL):
        label = name.removeprefix(LABEL).replace("_", " ")
        return Column(Term(f"classified as {label}", "mean probability of the label"))
    return COLUMNS.get(name)


def terms() -> dict[str, Term]:
    """Return the plain names of all measures of all columns, by the last part of their keys."""
    found = {}
    for name, column in COLUMNS.items():
        said = column.term.name
        found[name] = column.term
        found[f"{name}_difference"] = Term(f"{said}: difference", "the first group minus the second, paired")
        found[f"{name}_p"] = Term(f"{said}: p-value", "of no difference, by a permutation test", is_derived=True)
        if column.has_ratio:
            found[f"{name}_ratio"] = Term(f"{said}: ratio", "the first group over the second", is_derived=True)
    return found
