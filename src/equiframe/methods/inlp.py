"""INLP: linear classifiers find the directions of a bias, which are projected out one after another."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equiframe.data import Bias, DataSource, corpus
from equiframe.errors import InputError
from equiframe.methods.projection import (
    FittedProjection,
    Projection,
    row_space,
    sentence_states,
    sentences_by_group,
)
from equiframe.models.language_model import LanguageModel
from equiframe.progress import tracked

_FEWEST = 10  # minimum number of sentences per class
_HELD_OUT = 0.3
_STEPS, _TOLERANCE = 200, 1e-7  # of the optimiser; at the start the loss is 1 per class
_NOTHING = 1e-8  # scores this small are rounding errors; the margin is 1


@dataclass(frozen=True)
class INLP(Projection):
    """Project out of the last hidden states the directions in which successive linear classifiers find the bias.

    Sentences are labelled by the words that they contain (gender: female, male or neutral; race and religion: a word
    of the bias or none), with equally many per class, and represented by the mean of their last hidden states. A linear
    classifier is fitted, its row space is projected out, the next one is fitted to the result, and so on. P projects
    onto the intersection of all nullspaces: it is I minus the projection onto the row space of the sum of their row
    space projections. No weight is trained.

    The classifier is bias-bench's: one linear support vector machine against the rest for each class (one for
    two classes), squared hinge loss, C = 1, no intercept. With three classes a classifier takes up to three
    dimensions, so that 80 classifiers take up to 240; without an intercept they also take the direction of the mean
    state: choose fewer for a small model. The history shows from which step on accuracy is at chance.

    Requires: nothing special of the model. Data: sentences of ``text``; the published figures come from larger text,
    so give your own file to compare with them.

    Differs from the public code (McGill-NLP/bias-bench, whose option values are our defaults): sentences are
    read whole and with their capitals (there they are in lower case, and for models that generate they are cut at
    random after the word); all classes are reduced to the size of the smallest; 70 % of the sentences are fitted, and
    accuracy is that on the others (there 49 % are fitted); the optimum is found by L-BFGS.

    Args:
        bias: the built-in word set that labels the sentences.
        text: source of the sentences, see :func:`equiframe.data.corpus`.
        classifiers: maximum number of classifiers; fewer are fitted if nothing is left to find.
        sentences: maximum number of sentences per class, drawn at random if the text holds more.

    Reference: Ravfogel et al. 2020, "Null It Out"; Meade, Poole-Dayan and Reddy 2022.
    """

    bias: Bias = "gender"
    text: str = "gap"
    classifiers: int = 80
    sentences: int = 10_000

    name: ClassVar[str] = "inlp"
    seed: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if self.classifiers < 1 or self.sentences < _FEWEST:
            raise InputError(f"set classifiers to 1 or more, and sentences to {_FEWEST} or more")

    def projection(self, language_model: LanguageModel, *, source: DataSource, seed: int) -> FittedProjection:
        """Fit the projection; its history is that of :func:`nullspace`."""
        text = corpus(self.text, source)
        classes = sentences_by_group(text.sentences, self.bias)
        rarest = min(classes, key=lambda name: len(classes[name]))
        count = min(self.sentences, len(classes[rarest]))
        if count < _FEWEST:
            raise InputError(
                f"{text.name} has {count} sentences of the class {rarest!r} of {self.bias}, but at least {_FEWEST} are"
                " needed: give more with the option text"
            )
        draw = random.Random(seed)
        drawn = [sentence for members in classes.values() for sentence in draw.sample(members, count)]
        states = sentence_states(language_model, drawn)
        labels = torch.arange(len(classes)).repeat_interleave(count)
        matrix, history = nullspace(states, labels, self.classifiers, seed=seed)
        removed, before, after = history[-1]["dimensions"], history[0]["accuracy"], history[-1]["accuracy"]
        outcome = (
            f"{removed:.0f} of {len(matrix)} dimensions were removed by {len(history) - 1} classifiers. On held-out"
            f" sentences, of {len(drawn):,} in all, the accuracy of a classifier went from {before:.0%} to {after:.0%};"
            f" chance is {1 / len(classes):.0%}."
        )
        return FittedProjection(matrix, text.files, history, outcome)


def nullspace(
    states: Tensor, labels: Tensor, classifiers: int, *, seed: int
) -> tuple[Tensor, tuple[dict[str, float], ...]]:
    """Compute the projection onto the common nullspace of classifiers, each fitted to what the earlier ones left.

    Args:
        states: [sentences, dim], float64.
        labels: classes from 0, [sentences].
        classifiers: maximum number of classifiers.
        seed: seed of the choice of held-out sentences.

    Returns:
        The projection [dim, dim], and for each classifier ``step``, its ``accuracy`` on held-out sentences (the
        first row's is that before debiasing), and the ``dimensions`` that are projected out when it is fitted; the
        last row is a new classifier on the result, which is not projected out.
    """
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(seed))
    fitted, held_out = order[int(_HELD_OUT * len(order)) :], order[: int(_HELD_OUT * len(order))]
    classes = int(labels.max()) + 1
    gram = states[fitted].T @ states[fitted]
    spaces = torch.zeros_like(gram)
    matrix = torch.eye(len(gram), dtype=gram.dtype)
    history = []
    for step in tracked(range(1, classifiers + 2), "fit classifiers", classifiers + 1):
        weights = support_vector_machine(states[fitted], labels[fitted], classes, matrix, gram)
        right = predicted(states[held_out] @ weights.T) == labels[held_out]
        removed = len(matrix) - round(float(matrix.trace()))
        history.append({"step": float(step), "accuracy": float(right.double().mean()), "dimensions": float(removed)})
        if step > classifiers or (states[fitted] @ weights.T).abs().max() < _NOTHING:
            break
        spaces += row_space(weights)
        matrix = torch.eye(len(gram), dtype=gram.dtype) - row_space(spaces)
    return matrix, tuple(history)


def predicted(scores: Tensor) -> Tensor:
    """The class of each sentence, [sentences], from scores [sentences, rows]; a single row is the score of class 1."""
    return (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(dim=1)


def support_vector_machine(states: Tensor, labels: Tensor, classes: int, projection: Tensor, gram: Tensor) -> Tensor:
    """Fit linear classifiers of each class against the rest, on projected states, without intercept.

    Minimises |w|^2 / 2 + sum_i max(0, 1 - y_i w . P x_i)^2 for each class, y being 1 or -1. The loss is at most
    quadratic with the Hessian I + 2 P X^T X P. In the coordinates that make it the identity, L-BFGS needs few
    steps, whatever the scale of the states.

    Args:
        states: X, [sentences, dim], not projected.
        labels: classes from 0, [sentences].
        classes: number of classes; two have one classifier, of class 1.
        projection: P, [dim, dim].
        gram: X^T X, [dim, dim].

    Returns:
        Weights within the range of P, [classes or 1, dim].
    """
    wanted = torch.arange(classes) if classes > 2 else torch.ones(1, dtype=torch.int64)
    signs = (labels[:, None] == wanted).to(states.dtype) * 2 - 1
    hessian = torch.eye(len(gram), dtype=gram.dtype) + 2 * projection @ gram @ projection
    factor = torch.linalg.cholesky(hessian / len(states))
    scaled = torch.zeros(len(wanted), len(gram), dtype=states.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [scaled], max_iter=_STEPS, tolerance_grad=_TOLERANCE, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def weights() -> Tensor:
        return torch.linalg.solve_triangular(factor, scaled, upper=False, left=False) @ projection

    def closure() -> Tensor:
        optimiser.zero_grad()
        found = weights()
        hinges = (1 - signs * (states @ found.T)).relu()
        loss = (found.square().sum() / 2 + hinges.square().sum()) / len(states)
        loss.backward()
        return loss

    optimiser.step(closure)
    return weights().detach()
