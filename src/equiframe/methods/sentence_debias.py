"""SentenceDebias: the directions in which swapped sentences differ, projected out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equiframe.data import Bias, DataSource, corpus
from equiframe.errors import InputError
from equiframe.methods.projection import FittedProjection, Projection, counterfactual_pairs, sentence_states
from equiframe.models.language_model import LanguageModel


@dataclass(frozen=True)
class SentenceDebias(Projection):
    """Project out of the last hidden states the main directions in which sentences differ from their swapped versions.

    Each sentence that contains a word of the bias is swapped. Both are represented by the mean of their last
    hidden states and scaled to length 1. The mean of each pair is subtracted from its representations; their first
    principal components span the bias subspace V [dim, components], and P = I - V V^T. No weight is trained.

    Requires: nothing special of the model. Data: sentences of ``text``; the published figures come from larger text,
    so give your own file to compare with them.

    Differs from the public codes (pliang279/sent_debias; McGill-NLP/bias-bench, whose option values are our
    defaults): all words of a sentence are swapped at once, with grammar ("her" to "him" or "his"; there
    each word of the list makes a separate pair and the other words stay); text keeps its capitals; for race
    and religion every two groups make pairs (there each word has two counterparts); bias-bench reads 2.5 %
    of the English Wikipedia, cuts at 128 tokens, and leaves out the last incomplete batch.

    Args:
        bias: the built-in word set that is swapped.
        text: source of the sentences, see :func:`equiframe.data.corpus`.
        components: dimension of the bias subspace.
        sentences: maximum number of pairs, drawn at random if the text holds more.

    Reference: Liang et al. 2020, "Towards Debiasing Sentence Representations"; Meade, Poole-Dayan and Reddy 2022.
    """

    bias: Bias = "gender"
    text: str = "gap"
    components: int = 1
    sentences: int = 10_000

    name: ClassVar[str] = "sentence-debias"
    seed: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if self.components < 1 or self.sentences < 1:
            raise InputError("set components and sentences to 1 or more")

    def projection(self, language_model: LanguageModel, *, source: DataSource, seed: int) -> FittedProjection:
        """Fit the projection; its history has the share of the squared differences that each component explains."""
        text = corpus(self.text, source)
        pairs = counterfactual_pairs(text.sentences, self.bias, self.sentences, seed)
        if len(pairs) < self.components:
            raise InputError(
                f"{text.name} has {len(pairs)} sentences with a word of {self.bias} to swap, but at least"
                f" {self.components} are needed: give more with the option text"
            )
        originals, counterparts = (sentence_states(language_model, side) for side in zip(*pairs, strict=True))
        matrix, shares = without_differences(originals, counterparts, self.components)
        history = tuple({"step": float(i), "explained": share} for i, share in enumerate(shares.tolist(), start=1))
        removed = f"{self.components} of {len(matrix)} dimensions {'was' if self.components == 1 else 'were'} removed"
        outcome = f"{removed}, with {float(shares.sum()):.0%} of the squared differences in {len(pairs):,} pairs."
        return FittedProjection(matrix, text.files, history, outcome)


def without_differences(first: Tensor, second: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Compute the projection that removes the main directions of difference between paired states.

    A pair minus its mean is plus and minus half the difference, so the principal components are the right
    singular vectors of the differences, which are not centred again.

    Args:
        first: one state of each pair, [pairs, dim]; scaled to length 1 here.
        second: the other, [pairs, dim].
        components: number of directions.

    Returns:
        The projection [dim, dim], and the share of the squared differences along each direction [components].

    Raises:
        InputError: there are fewer directions of difference than components.
    """
    differences = torch.nn.functional.normalize(first, dim=1) - torch.nn.functional.normalize(second, dim=1)
    _, values, directions = torch.linalg.svd(differences, full_matrices=False)
    rank = int((values > values.max() * max(differences.shape) * torch.finfo(values.dtype).eps).sum())
    if components > rank:
        raise InputError(f"{components} components, but the differences span {rank} dimensions: ask for fewer")
    basis = directions[:components]
    shares = values[:components].square() / values.square().sum()
    return torch.eye(basis.shape[1], dtype=basis.dtype) - basis.T @ basis, shares
