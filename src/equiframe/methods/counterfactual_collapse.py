"""Counterfactual collapse: contexts of a text and of its counterfactual become equal, and agreement is kept."""

from __future__ import annotations

import itertools
import random
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from datasets import Dataset
from pydantic import Field
from torch import Tensor, nn

from equiframe.collapse.counterfactual import (
    agreement_target,
    divergence,
    divergence_from_mean,
    jensen_shannon,
    log_odds,
    log_odds_loss,
    neutral_log_probs,
)
from equiframe.data import Bias, DataFile, DataSource, stream, swappers
from equiframe.errors import DataError, InputError, ModelError
from equiframe.methods.method import Method, Settings
from equiframe.methods.objective import Objective, ObjectiveOutput
from equiframe.models.adapter import Feature, Pairing, forward_at, output_embedding, pair
from equiframe.models.encoding import PadRight
from equiframe.models.language_model import LanguageModel
from equiframe.models.pairs import Role, check_offsets, group_ids, pair_batch, read_by, read_pair, sample_swaps, targets
from equiframe.progress import tracked

_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_FEWEST, _MOST = 5, 32  # words in a sentence
_ROWS = 16  # pairs per forward pass of the model before training


@dataclass(frozen=True)
class CounterfactualCollapse(Method):
    """Fine-tune to predict the same in a text and in its counterfactual, except for words of the groups.

    L = cc1 * JS + cc3 * smooth-L1(d) + agreement * smooth-L1(d - target) + constraint * K + language_modelling * CE

    - CC1, JS: Jensen-Shannon divergence of p_N in the text and in its counterfactual, in nats, the mean over aligned
      places: tokens that are the same in both, after the first swapped word (in a masked LM anywhere). p_N leaves the
      groups' words and names out of the softmax.
    - CC3: d = log p(word) - log p(counterpart), trained to 0 if a swapped word is in a neutral context.
    - Agreement: d at swapped words whose group the context gives, trained to the mean of the original model's values in
      the text and in its counterfactual, and to at least ``least_agreement`` nats. Without it the model no longer sees
      gender: it is fair to "the nurse", and no longer knows that "my mother" is a she.
    - K: mean KL(p_0 || p) from the model before training at all places except aligned and neutral ones, plus mean
      (KL(m || p_N) + KL(m || p'_N)) / 2 at aligned ones, with m the mean of the original's two p_N, so that both
      texts move to the middle.
    - CE: the model's own loss on both texts, that of two-sided CDA; off by default. A masked LM predicts the places
      that the terms read.

    :func:`equiframe.models.pairs.read_pair` decides which places are read, and
    :mod:`equiframe.collapse.counterfactual` defines the terms; audits report the same quantities.

    Requires: a fast tokenizer, which gives the positions of tokens; logits that are the output embedding times the last
    state. Data: sentences of 5 to 32 words with a word to exchange, a random sample of ``pairs`` of them, by turns
    from the named texts. With ``constraint`` or ``agreement`` the states of the model before training at all places
    read are computed once, before training, and kept in a temporary file (one vector per place: about 100 kB per pair
    for a model of 576 dimensions). So the masks of a masked LM are drawn once, and not again in every epoch.

    Relations: alone, or added to any other method (``--cc``), with or without (U)NC3. With ``language_modelling``
    alone it is two-sided CDA on these pairs. (U)NC3 asks for equally well aligned words; this asks for equal contexts.
    Related objectives: the gender-equalising loss (Qian et al. 2019) trains \\|d\\| to 0 at every gendered word,
    also if the context gives the gender; counterfactual logit pairing (Garg et al. 2019) pairs the logits of a
    classifier; Auto-Debias (Guo et al. 2022) minimises JS over prompts that it searches for. Ours, as far as we know:
    the split into CC1, CC3 and agreement, leaving the groups' words out of the softmax, and the middle as the target.

    Settings, found by trying on SmolLM2-135M: 100 steps of 8 pairs, AdamW 3e-5, linear decay, clip 1.0. (U)NC3
    weight: BEC's.

    Differs from the first version: each place is read once in each text; nothing else.

    Args:
        text: one or more texts with ``+`` between them, used by turns: ``gap``, ``bug``, ``bold``, or a file of one
            sentence per line. Audits read BUG by default: give them another text after training on it.
        bias: the bias whose words are exchanged. For race and religion one pair of the groups that occur is drawn for
            each text.
        names: for gender, also exchange first names.
        pairs: number of pairs.
        cc1: weight of CC1.
        cc3: weight of CC3.
        agreement: weight of agreement.
        least_agreement: minimum target of agreement, in nats.
        constraint: weight of K.
        language_modelling: weight of CE.

    Reference: Qian et al. 2019; Garg et al. 2019, "Counterfactual Fairness in Text Classification through Robustness";
    Guo, Yang and Abbasi 2022, "Auto-Debias"; Webster et al. 2020 (two-sided CDA); Xu et al. 2025 ((U)NC3).
    """

    name: ClassVar[str] = "counterfactual-collapse"
    settings: ClassVar[Settings] = Settings(
        epochs=1, learning_rate=3e-5, batch_size=8, max_length=46, unc3_weight=100.0, seed=42
    )

    text: str = "gap+bug"
    bias: Bias = "gender"
    names: bool = True
    pairs: Annotated[int, Field(gt=0)] = 2000
    cc1: _Weight = 20.0
    cc3: _Weight = 2.0
    agreement: _Weight = 4.0
    least_agreement: _Weight = 1.0
    constraint: _Weight = 1.0
    language_modelling: _Weight = 0.0

    def __post_init__(self) -> None:
        if not any((self.cc1, self.cc3, self.agreement, self.constraint, self.language_modelling)):
            raise InputError("every weight is 0: give at least one term a weight above 0")

    def training_data(
        self, language_model: LanguageModel, *, source: DataSource, max_length: int, seed: int
    ) -> tuple[Dataset, tuple[DataFile, ...]]:
        """Make pairs: their sequences, and the roles of their places.

        Raises:
            DataError: no sentence of the text makes a pair.
            InputError: the tokenizer does not give the positions of its tokens.
        """
        check_offsets(language_model, self.name)
        specs = [self.text] if Path(self.text).is_file() else self.text.split("+")
        texts = [stream(spec, source) for spec in specs]
        exchanged = swappers(self.bias, names=self.names)
        draw = random.Random(seed)
        rows: list[dict[str, Any]] = []
        short = [(s for s in text if _FEWEST <= len(s.split()) <= _MOST) for text in texts]
        for sentence, swaps in _in_turn([sample_swaps(text, exchanged, 2 * self.pairs, draw) for text in short]):
            readings = read_pair(language_model, sentence, swaps, max_length=max_length, draw=draw)
            if readings:
                rows.append({"row": len(rows), "input_ids": readings[0].ids, "readings": readings})
            if len(rows) == self.pairs:
                break
        if not rows:
            raise DataError(
                f"no sentence of {_FEWEST} to {_MOST} words and at most {max_length} tokens with a word of {self.bias}"
                " to exchange: give text with one sentence per line, or a larger --max-length",
                path=" + ".join(text.name for text in texts),
            )
        return Dataset.from_list(rows), tuple(file for text in texts for file in text.files)

    def collator(self, language_model: LanguageModel) -> Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]:
        """Collate the texts of all pairs, then their counterfactuals, and for a masked LM the third sequences."""

        return partial(_collated, PadRight(language_model))

    def objective(
        self, language_model: LanguageModel, data: Dataset, *, pairing: Pairing, feature: Feature
    ) -> CounterfactualObjective:
        """Return the objective; the outputs of the model before training are computed here."""
        original = None
        if self.constraint or self.agreement:
            original = OriginalModel(language_model, data, self.collator(language_model))
        return CounterfactualObjective(language_model, self, original, pairing=pairing, feature=feature)


class CounterfactualObjective(Objective):
    """The loss of :class:`CounterfactualCollapse`.

    Batch: ``input_ids``, ``attention_mask``, ``roles`` and ``partners`` [sequences, length], and ``row`` [pairs], the
    position of a pair in the data. The sequences are the texts of all pairs, then all counterfactuals, then the third
    ones.

    Args:
        language_model: gives the kind of model, its mask and special tokens; its weights are not kept.
        method: the weights.
        original: the model before training; None if no term needs it.
        pairing: which state is the feature of which token, see :func:`equiframe.models.adapter.pair`.
        feature: where the feature is taken, see :func:`equiframe.models.adapter.forward_at`.
    """

    works_sharded = True
    special_ids: Tensor
    group_ids: Tensor

    def __init__(
        self,
        language_model: LanguageModel,
        method: CounterfactualCollapse,
        original: OriginalModel | None,
        *,
        pairing: Pairing = "aligned",
        feature: Feature = "decoder-input",
    ) -> None:
        super().__init__()
        self.kind = language_model.kind
        self.mask_id = language_model.tokenizer.mask_token_id
        self.method = method
        self.original = original
        self.pairing: Pairing = pairing
        self.feature: Feature = feature
        self.register_buffer("special_ids", language_model.special_ids, persistent=False)
        self.register_buffer("group_ids", group_ids(language_model, method.bias), persistent=False)

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ObjectiveOutput:
        """Compute the weighted sum; ``parts`` holds the unweighted terms, except those of weight 0."""
        true_ids, mask, roles = batch["input_ids"], batch["attention_mask"], batch["roles"]
        inputs = read_by(self.kind, batch, self.mask_id)
        asked = roles > Role.UNREAD
        states_at, token_ids = pair(
            self.kind, inputs["input_ids"], mask, self.special_ids, true_ids=true_ids, pairing=self.pairing
        )
        read = forward_at(model, inputs, asked, states_at=states_at, feature=self.feature)
        assert read.logits is not None
        own = targets(self.kind, batch)[asked]
        sequence = torch.arange(len(roles), device=roles.device)[:, None].expand_as(roles)[asked] // len(batch["row"])
        logits, original = read.logits.float(), None
        if self.original is not None:
            original = self.original(batch["row"])
        terms = self._terms(logits, original, roles[asked], sequence, own, batch["partners"][asked])
        weighted = [getattr(self.method, name) * term for name, term in terms.items()]
        parts = {name: term.detach() for name, term in terms.items()}
        return ObjectiveOutput(loss=torch.stack(weighted).sum(), features=read.states, token_ids=token_ids, parts=parts)

    def weight(self, batch: Mapping[str, Tensor]) -> int:
        """Return the number of pairs: each term is a mean over other places, so no count of places fits them all."""
        return len(batch["row"])

    def _terms(
        self,
        logits: Tensor,
        original: Tensor | None,
        roles: Tensor,
        sequence: Tensor,
        own: Tensor,
        partners: Tensor,
    ) -> dict[str, Tensor]:
        """Compute the terms whose weight is not 0, as scalars.

        Args:
            logits: [places, vocabulary].
            original: logits of the model before training, [places, vocabulary].
            roles: roles of the places, [places].
            sequence: 0 in a text, 1 in its counterfactual, 2 in the third, [places].
            own: the token at each place, [places].
            partners: the counterpart of that token at swapped words, [places].
        """
        method, terms = self.method, {}
        aligned = [(roles == Role.ALIGNED) & (sequence == number) for number in (0, 1)]
        if method.cc1 or method.constraint:
            log_p, log_q = (neutral_log_probs(logits[at], self.group_ids) for at in aligned)
            if method.cc1:
                terms["cc1"] = _mean(jensen_shannon(log_p, log_q))
        if method.cc3:
            at = roles == Role.NEUTRAL
            terms["cc3"] = _mean(log_odds_loss(log_odds(logits[at], own[at], partners[at])))
        if method.agreement:
            assert original is not None
            at = roles == Role.AGREEING
            before, after = (log_odds(scores[at], own[at], partners[at]) for scores in (original, logits))
            in_text, in_other = before.chunk(2)
            goal = agreement_target(in_text, in_other, method.least_agreement).repeat(2)
            terms["agreement"] = _mean(log_odds_loss(after, goal))
        if method.constraint:
            assert original is not None
            original_p, original_q = (neutral_log_probs(original[at], self.group_ids) for at in aligned)
            kept = (roles == Role.KEPT) | (roles == Role.AGREEING)
            terms["constraint"] = _mean(divergence(original[kept].log_softmax(-1), logits[kept].log_softmax(-1)))
            terms["constraint"] += _mean(divergence_from_mean(log_p, log_q, original_p, original_q))
        if method.language_modelling:
            at = sequence < 2
            terms["language_modelling"] = F.cross_entropy(logits[at], own[at])
        return terms


class OriginalModel(nn.Module):
    """The outputs of the model before training at every place of the data that is read, without the model.

    The states at these places are kept in a temporary file, which is deleted with this module, and the output embedding
    is copied: only the last product of a forward pass remains to be computed. Several processes share the reading.
    Nothing of it is saved, since it follows from the model before training.

    Args:
        language_model: the model before training.
        data: the examples of :meth:`CounterfactualCollapse.training_data`.
        collate: function from examples to a batch.

    Raises:
        ModelError: the model's logits are not its output embedding times its last states.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        language_model: LanguageModel,
        data: Dataset,
        collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
    ) -> None:
        super().__init__()
        head = output_embedding(language_model.model)
        bias = getattr(head, "bias", None)
        self.register_buffer("weight", head.weight.detach().clone(), persistent=False)  # type: ignore[operator]
        self.register_buffer("bias", None if bias is None else bias.detach().clone(), persistent=False)
        counts = torch.tensor([[sum(map(bool, roles)) for _, roles, _ in row] for row in data["readings"]])
        ends = counts.flatten().cumsum(0)
        self._places = [
            [range(end - count, end) for end, count in zip(*of_row, strict=True)]
            for of_row in zip(ends.view_as(counts).tolist(), counts.tolist(), strict=True)
        ]
        folder = tempfile.TemporaryDirectory(prefix="equiframe-", ignore_cleanup_errors=True)
        weakref.finalize(self, folder.cleanup)
        size = (int(ends[-1]), self.weight.shape[1])
        file = str(Path(folder.name) / "states")
        self._states = torch.from_file(file, shared=True, size=size[0] * size[1], dtype=self.weight.dtype).view(size)
        self._read(language_model, data, collate)

    def forward(self, rows: Tensor) -> Tensor:
        """Compute logits at the places of these rows, in the order of a batch, float32 [places, vocabulary]."""
        chosen = [self._places[row] for row in rows.tolist()]
        blocks = [self._states[at.start : at.stop] for places in zip(*chosen, strict=True) for at in places]
        with torch.no_grad():
            return F.linear(torch.cat(blocks).to(self.weight), self.weight, self.bias).float()

    @torch.no_grad()
    def _read(
        self,
        language_model: LanguageModel,
        data: Dataset,
        collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
    ) -> None:
        device, mask_id = language_model.device, language_model.tokenizer.mask_token_id
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        order = sorted(range(len(data)), key=[len(ids) for ids in data["input_ids"]].__getitem__)
        batches = [order[start : start + _ROWS] for start in range(0, len(order), _ROWS)]
        mine = batches[rank::ranks]
        for number, rows in enumerate(tracked(mine, "read the model before training", len(mine))):
            batch = {name: t.to(device) for name, t in collate([data[row] for row in rows]).items()}
            inputs = read_by(language_model.kind, batch, mask_id)
            read = forward_at(language_model.model, inputs, batch["roles"] > Role.UNREAD, logits=number == 0)
            chosen = [self._places[row] for row in rows]
            places = [at for of_sequence in zip(*chosen, strict=True) for at in of_sequence]
            for at, states in zip(places, read.states.split([len(at) for at in places]), strict=True):
                self._states[at.start : at.stop] = states.to(self._states)
            if read.logits is not None and not torch.allclose(self(batch["row"]), read.logits.float(), 1e-2, 1e-2):
                raise ModelError(
                    f"{language_model.name}: its logits are not its output embedding times its last states, which"
                    " counterfactual collapse relies on: set constraint=0 and agreement=0, or choose another model"
                )
        if ranks > 1:
            for block in self._states.split(1 << 14):
                whole = block.to(device)
                dist.all_reduce(whole)
                block.copy_(whole)


def _collated(pad: PadRight, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    rows = torch.tensor([example["row"] for example in examples])
    return {**pair_batch([example["readings"] for example in examples], pad), "row": rows}


def _mean(values: Tensor) -> Tensor:
    """The mean of values, 0 if there are none."""
    return values.sum() / max(len(values), 1)


def _in_turn(samples: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """Yield from each sample by turns; if one is used up, continue with the others."""
    rounds = itertools.zip_longest(*samples)
    return (item for items in rounds for item in items if item is not None)
