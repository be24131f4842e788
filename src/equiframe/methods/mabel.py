"""MABEL: a contrastive loss over entailed pairs and their counterfactuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
import torch.distributed as dist
import torch.nn.functional as F
from datasets import Dataset
from pydantic import Field
from torch import Tensor, nn

from equiframe.data import CounterfactualSwapper, DataFile, DataSource
from equiframe.data.entailment import counterfactual_pairs
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.methods.method import Method, Settings
from equiframe.methods.objective import Objective, ObjectiveOutput
from equiframe.models.adapter import Feature, Pairing, forward_at, pair, state_size
from equiframe.models.encoding import PadRight, cut_at_end
from equiframe.models.language_model import LanguageModel

Alignment: TypeAlias = Literal["mean", "sum", "a2"]
_Weight: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_VIEWS = ("input_ids", "hypothesis", "swapped_premise", "swapped_hypothesis")  # the first is the premise
_PUBLISHED_BATCH = 32


@dataclass(frozen=True)
class MABEL(Method):
    """Fine-tune with contrastive learning on entailed sentence pairs and their gender-swapped counterparts.

    The vector of a premise is trained to find its hypothesis, and to be as close to it as in the swapped pair.
    For each pair of premise p and hypothesis h, and for their counterfactuals p' and h', the last layer's state
    of the first token (causal LM: of the last) goes through a dense layer, tanh and a dense layer. Over these
    vectors, L = contrastive_weight * :func:`contrastive_loss` + align_weight * :func:`alignment_loss` +
    language_modelling_weight * the model's own pretraining loss on all four sentences, see
    :class:`equiframe.methods.language_modelling.LanguageModelling`. (U)NC3 is given the states of all four
    sentences, unmasked.

    Requires: nothing special of the model. The layers after its state are initialised, trained, and not saved with it.
    Data: entailed pairs with a gender word on at least one side, swapped by
    :class:`equiframe.data.CounterfactualSwapper` without first names.

    Relations: with align_weight 0 the contrastive loss is that of supervised SimCSE, over pairs and their
    counterfactuals; with contrastive_weight 0 too it is language modelling on sentences and their
    counterfactuals, as in two-sided CDA. Published settings: 2 epochs, AdamW 5e-5, linear decay without
    warm-up, batch 32 on one GPU (with (U)NC3 24 on each of 4), length 128, seed 21, (U)NC3 weight 10.

    Differs from the public code: (1) there the alignment term is summed over columns, so its weight grows with
    the batch, threefold from 32 to 96 pairs; here it is by default the mean, scaled to the size it has at 32.
    (2) Word embeddings and decoder stay tied as in the model; there the decoder is trained untied, and
    then written over the trained word embeddings, so that the evaluated model was never trained. (3)
    On several GPUs a rank's vectors have the same gradient as on one; there it is smaller by the number of
    GPUs, as the others' vectors are constants and gradients are averaged. (4) The four sentences are one forward
    pass, not four, and no batch is padded to 128. (5) Its hard negatives and third alignment loss are left out.

    Args:
        data: ``snli+mnli`` as published, ``snli``, ``mnli``, ``sick``, or a file; see
            :func:`equiframe.data.entailment.counterfactual_pairs`.
        temperature: temperature of the softmax, and of the cosines that are aligned.
        contrastive_weight: weight of the contrastive loss.
        alignment: ``mean``, or ``sum`` as published, over the matrix of cosines, or ``a2``; see
            :func:`alignment_loss`.
        align_weight: weight of the alignment loss.
        language_modelling_weight: weight of the pretraining loss.

    Reference: He, Xia, Fellbaum and Chen 2022, "MABEL: Attenuating Gender Bias using Textual Entailment Data".
    """

    name: ClassVar[str] = "mabel"
    settings: ClassVar[Settings] = Settings(
        epochs=2, learning_rate=5e-5, batch_size=32, max_length=128, unc3_weight=10.0, seed=21
    )

    data: str = "snli+mnli"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    contrastive_weight: _Weight = 1.0
    alignment: Alignment = "mean"
    align_weight: _Weight = 0.05
    language_modelling_weight: _Weight = 0.1

    def training_data(
        self, language_model: LanguageModel, *, source: DataSource, max_length: int, seed: int
    ) -> tuple[Dataset, tuple[DataFile, ...]]:
        """Encode pairs and their counterfactuals. ``input_ids`` is the premise, whose length groups the examples."""
        pairs, files = counterfactual_pairs(self.data, CounterfactualSwapper.gender(names=False), source)
        columns = {
            view: cut_at_end(language_model.tokenizer, list(texts), max_length=max_length)["input_ids"]
            for view, texts in zip(_VIEWS, zip(*pairs, strict=True), strict=True)
        }
        return Dataset.from_dict(columns), files

    def collator(self, language_model: LanguageModel) -> Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]:
        """Collate all premises, then hypotheses, swapped premises and swapped hypotheses, padded together."""
        return partial(_padded_together, PadRight(language_model))

    def objective(
        self, language_model: LanguageModel, data: Dataset, *, pairing: Pairing, feature: Feature
    ) -> Objective:
        """Return the objective with the contrastive, the alignment and the language-modelling loss."""
        return EntailmentObjective(language_model, self, pairing=pairing, feature=feature)


class EntailmentObjective(Objective):
    """The loss of :class:`MABEL`.

    In training on several ranks, which all have equally many pairs (the Trainer fills up the last batch), the vectors
    of all ranks form one batch. The language-modelling loss is computed by each rank alone, as in other methods.

    Args:
        language_model: gives the kind of model, its mask and special tokens; its weights are not kept.
        method: temperature, form and weights.
        pairing: which state is the feature of which token, see :func:`equiframe.models.adapter.pair`.
        feature: where the feature is taken, see :func:`equiframe.models.adapter.forward_at`.

    Batch: ``input_ids`` and ``attention_mask``, [4 * pairs, length]: all p, then h, p', and h'.
    """

    special_ids: Tensor

    def __init__(
        self,
        language_model: LanguageModel,
        method: MABEL,
        *,
        pairing: Pairing = "aligned",
        feature: Feature = "decoder-input",
    ) -> None:
        super().__init__()
        self.kind = language_model.kind
        self.method = method
        self.pairing: Pairing = pairing
        self.feature: Feature = feature
        dim = state_size(language_model.model)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim))
        self.masked_modelling = LanguageModelling(language_model, pairing=pairing, feature=feature)
        self.register_buffer("special_ids", language_model.special_ids, persistent=False)

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ObjectiveOutput:
        """Compute the weighted sum; ``parts`` holds the three losses unweighted."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        inputs = {"input_ids": ids, "attention_mask": mask}
        is_causal = self.kind == "causal"
        predicted = torch.zeros_like(ids, dtype=torch.bool)
        if is_causal:  # the state at t predicts token t + 1
            predicted[:, :-1] = (mask[:, :-1] * mask[:, 1:]).bool()
        states_at, token_ids = pair(self.kind, ids, mask, self.special_ids, pairing=self.pairing)
        read = forward_at(
            model, inputs, predicted, states_at=states_at, logits=is_causal, layers=True, feature=self.feature
        )
        if read.logits is not None:
            targets = ids[:, 1:][predicted[:, :-1]]
            language_modelling = F.cross_entropy(read.logits.float(), targets, reduction="sum") / max(len(targets), 1)
        else:
            language_modelling = self.masked_modelling(model, inputs).loss
        with torch.autocast(ids.device.type, enabled=False):
            sentences = self._vectors(read.layers[-1], mask)
            contrastive = contrastive_loss(*sentences, temperature=self.method.temperature)
            alignment = alignment_loss(*sentences, temperature=self.method.temperature, form=self.method.alignment)
        loss = (
            self.method.contrastive_weight * contrastive
            + self.method.align_weight * alignment
            + self.method.language_modelling_weight * language_modelling
        )
        parts = {"contrastive": contrastive, "alignment": alignment, "language_modelling": language_modelling}
        return ObjectiveOutput(
            loss=loss,
            features=read.states,
            token_ids=token_ids,
            parts={name: part.detach() for name, part in parts.items()},
        )

    def _vectors(self, states: Tensor, mask: Tensor) -> Tensor:
        """Map states [4 * pairs, length, dim] to vectors of p, h, p' and h', [4, pairs of all ranks, dim]."""
        places = mask.long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)
        token = mask.long().argmax(1) if self.kind == "masked" else places.argmax(1)  # the first of several
        vectors: Tensor = self.head(states[torch.arange(len(states), device=states.device), token].float())
        vectors = vectors.unflatten(0, (len(_VIEWS), -1))
        return _of_all_ranks(vectors) if self.training else vectors


def contrastive_loss(
    premises: Tensor, hypotheses: Tensor, swapped_premises: Tensor, swapped_hypotheses: Tensor, *, temperature: float
) -> Tensor:
    """Cross-entropy of finding a premise's own hypothesis among all hypotheses, originals and counterfactuals together.

    With x = [p; p'] and y = [h; h'], the mean over i of -log softmax_j(cos(x_i, y_j) / temperature) at j = i, in
    nats. A pair's own counterfactual is among its negatives, even if the two texts are the same.

    Args:
        premises: p, [pairs, dim].
        hypotheses: h, [pairs, dim].
        swapped_premises: p', [pairs, dim].
        swapped_hypotheses: h', [pairs, dim].
        temperature: > 0.

    Reference: He et al. 2022, the contrastive loss.
    """
    queries = torch.cat([premises, swapped_premises])
    scores = _cosines(queries, torch.cat([hypotheses, swapped_hypotheses])) / temperature
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def alignment_loss(
    premises: Tensor,
    hypotheses: Tensor,
    swapped_premises: Tensor,
    swapped_hypotheses: Tensor,
    *,
    temperature: float,
    form: Alignment = "mean",
) -> Tensor:
    """Distance of the pairs' similarities from those of their counterfactuals; 0 if they are equal.

    With A_ij = cos(p_i, h_j) / temperature and B_ij = cos(p'_i, h'_j) / temperature, n pairs:

    - ``sum``: (1 / n) sum_i sum_j (A_ij - B_ij)^2, as published. It grows with n, and so does its weight.
    - ``mean``: (32 / n^2) sum_i sum_j (A_ij - B_ij)^2, the mean over the matrix times the batch of the published
      run on one GPU, so that both agree at n = 32 and the published weight holds at any n.
    - ``a2``: (1 / n) sum_i (||p_i - p'_i||^2 + ||h_i - h'_i||^2), on the vectors themselves.

    Args:
        premises: p, [pairs, dim].
        hypotheses: h, [pairs, dim].
        swapped_premises: p', [pairs, dim].
        swapped_hypotheses: h', [pairs, dim].
        temperature: > 0; without effect on ``a2``.
        form: see above.

    Reference: He et al. 2022, alignment losses 1 and 2; the public code sums, over the pairs of all GPUs.
    """
    if form == "a2":
        squares = (premises - swapped_premises).square() + (hypotheses - swapped_hypotheses).square()
        return squares.sum(1).mean()
    gaps = (_cosines(premises, hypotheses) - _cosines(swapped_premises, swapped_hypotheses)) / temperature
    return gaps.square().mean() * (len(gaps) if form == "sum" else _PUBLISHED_BATCH)


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    return F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T


def _of_all_ranks(own: Tensor) -> Tensor:
    """Gather [views, pairs, dim] of each rank into [views, pairs of all ranks, dim].

    The gradient reaches the rank's own part, times the number of ranks: averaged over ranks, it is that of one process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return own
    ranks, constant = dist.get_world_size(), own.detach().contiguous()
    parts = [torch.empty_like(constant) for _ in range(ranks)]
    dist.all_gather(parts, constant)
    parts[dist.get_rank()] = constant + ranks * (own - constant)
    return torch.cat(parts, dim=1)


def _padded_together(pad: PadRight, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    return pad([example[view] for view in _VIEWS for example in examples])
