"""ADEPT: neutral words become equally distant from each group, while the model's other states are kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from datasets import Dataset
from pydantic import Field
from torch import Tensor, nn

from equiframe.data import DataFile, DataSource, stream
from equiframe.data.spreading import evenly
from equiframe.data.word_sentences import balanced, counterparts, word_sentences
from equiframe.errors import DataError, ModelError
from equiframe.methods.method import Method, Settings
from equiframe.methods.objective import Objective, ObjectiveOutput
from equiframe.models.adapter import Feature, Pairing, forward_at, own_forward, pair
from equiframe.models.encoding import PadRight, cut_at_end
from equiframe.models.language_model import LanguageModel
from equiframe.models.pairs import check_offsets
from equiframe.models.spans import tokens_of
from equiframe.progress import tracked
from equiframe.words import WordSet

_NEUTRAL = -1
_SAMPLES = 256  # sentences per group from which its prototype is computed
_AT_ONCE = 32  # sentences per forward pass
_GROUPS = {"gender": ("female", "male"), "religion": ("christian", "jewish", "muslim")}  # groups of the built-in words
_WEIGHTS = {"adept": (0.3, 0.7), "dpce": (0.2, 0.8)}  # published weights of bias and of representation
_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class ADEPT(Method):
    """Fine-tune so that professions are equally close to the words of each group, while other states stay as they were.

    L = bias_weight * bias + representation_weight * representation. A word's state is the mean over its tokens of the
    concatenated states of all layers. The prototype a_i of a group is the mean state of its words. Over the
    neutral words n_j of a batch, p_i(j) is proportional to exp(-||a_i - n_j||^2 / (2 rho^2)), and bias is the mean
    over pairs of groups of the Jensen-Shannon divergence of p_i and p_k, in bits. Representation is the distance to
    the states of the original model on sentences with a word of a group.

    Requires: a second copy of the model, to which the states are compared, and a fast tokenizer, which gives the
    positions of tokens. Data: sentences of 2 to 128 words; attribute sentences hold a word of a group, neutral ones a
    profession and no attribute word. A sentence is used once for each such word in it, at the word's first occurrence.
    Both of two counterparts ("she", "he") have equally many sentences, and neutral words have as many as a group; GAP
    has 619 sentences with professions, to which its 6,032 of each gender are thinned. BUG has no neutral sentence for
    gender. Published: News-Commentary v15, which can be given as a file.

    Relations: with ``loss=dpce`` it is DPCE, whose bias is the sum over groups of (mean over neutral words and layers
    of n . a_i)^2. Published settings, of the (U)NC3 run: 10 epochs, AdamW 5e-4, linear decay, batch 32 (times 4
    accumulated), length 128, seed 42, (U)NC3 weight 5; the authors' own script has 5e-5 and batch 8, and the (U)NC3
    code for DPCE 5e-5 and batch 4. The authors' prefix tuning, which trains only a prompt, is not implemented: the
    published (U)NC3 run fine-tunes all weights.

    Differs from the public code: a batch holds sentences of all kinds (there either of one of K groups or neutral ones,
    by turns, so that representation has K times as much weight against bias as here). Prototypes are computed again
    every ``refresh`` batches from up to 256 sentences per group (there at each epoch from all). Word states are read at
    the word's own tokens and divided by their number (there one position too far left if any word of the batch has
    several tokens, and divided by the longest). Padding is masked out everywhere. rho is 15, as the authors' script
    sets it (their code drops it and runs with 10). The class means of (U)NC3 last for the whole run (there for an
    epoch). The last model is kept (there the best on held-out sentences). A causal LM's word is never its first token,
    whose state has a different size (in the upper layers of SmolLM2-135M its norm is 23,000, that of others 150 to
    600), and representation leaves out that position.

    Args:
        text: see :func:`equiframe.data.corpus`: ``gap``, ``bug``, ``bold``, or a file.
        bias: the bias whose groups of words are used: ``gender`` (female, male), or ``religion`` (christian, jewish,
            muslim, as published).
        fewest: minimum number of sentences of each counterpart; other words are left out. At 30, as published, GAP
            keeps 18 pairs for gender; for religion it has too few, and BOLD keeps 2 of 8 triples.
        loss: ``adept`` or ``dpce``.
        rho: width of the kernel, on the scale of the states. If it is too large, all neutral words count equally and
            the divergence vanishes; if it is too small, one word counts alone and the divergence has no gradient. The
            effective number of 32 neutral words of GAP (the exponential of the entropy of p_i) is 31.6 in
            builtin:mini-mlm at rho 15 and 20 at 7, and 1 in SmolLM2-135M at 15 and 12 at 200.
        bias_weight: weight of bias. Default: as published, 0.3 (DPCE 0.2).
        representation_weight: weight of representation. Default: as published, 0.7 (DPCE 0.8).
        representation: ``mse``, the mean squared difference, or ``kl``, the divergence of softmaxed states and of their
            negatives, in bits.
        refresh: number of batches between computations of the prototypes.

    Reference: Yang et al. 2022, "ADEPT: A DEbiasing PrompT Framework"; Kaneko and Bollegala 2021 (DPCE).
    """

    name: ClassVar[str] = "adept"
    settings: ClassVar[Settings] = Settings(
        epochs=10, learning_rate=5e-4, batch_size=32, max_length=128, unc3_weight=5.0, seed=42
    )

    text: str = "gap"
    bias: Literal["gender", "religion"] = "gender"
    fewest: Annotated[int, Field(gt=0)] = 30
    loss: Literal["adept", "dpce"] = "adept"
    rho: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 15.0
    bias_weight: _Weight | None = None
    representation_weight: _Weight | None = None
    representation: Literal["mse", "kl"] = "mse"
    refresh: Annotated[int, Field(gt=0)] = 100

    def __post_init__(self) -> None:
        for name, default in zip(("bias_weight", "representation_weight"), _WEIGHTS[self.loss], strict=True):
            if getattr(self, name) is None:  # so that the record has the weight that was used
                object.__setattr__(self, name, default)

    @property
    def weights(self) -> tuple[float, float]:
        """Weights of the bias and of the representation loss."""
        assert self.bias_weight is not None
        assert self.representation_weight is not None
        return self.bias_weight, self.representation_weight

    def training_data(
        self, language_model: LanguageModel, *, source: DataSource, max_length: int, seed: int
    ) -> tuple[Dataset, tuple[DataFile, ...]]:
        """Encode sentences of every kind, with ``group`` (-1: neutral) and the word's tokens ``start`` to ``end``.

        Raises:
            DataError: there is no sentence of some kind.
            InputError: the tokenizer does not give the positions of its tokens.
        """
        check_offsets(language_model, self.name)
        text = stream(self.text, source)
        words, professions = WordSet.builtin(self.bias), WordSet.builtin("professions").words
        found: dict[str, list[dict[str, Any]]] = {}
        for sentence, spans in word_sentences(text, words.words, professions):
            encoding = cut_at_end(
                language_model.tokenizer, sentence, max_length=max_length, return_offsets_mapping=True
            )
            for word, span in spans.items():
                start, end = _tokens(encoding["offset_mapping"], span)
                if start < end and (start > 0 or language_model.kind == "masked"):
                    row = {"input_ids": encoding["input_ids"], "start": start, "end": end}
                    found.setdefault(word, []).append(row)
        groups = _GROUPS[self.bias]
        attribute = balanced(found, counterparts(words, groups), fewest=self.fewest)
        if not attribute:
            raise DataError(
                f"no counterparts of {' and '.join(groups)} have {self.fewest} sentences each:"
                " give more text, or a smaller fewest",
                path=text.name,
            )
        neutral = [row for word in professions if word not in words.words for row in found.get(word, ())]
        if not neutral:
            raise DataError(f"no sentence with a profession and no word of {self.bias}: give more text", path=text.name)
        size = min(len(neutral), len(attribute))
        rows = [{**neutral[at], "group": _NEUTRAL} for at in evenly(len(neutral), size)]
        for group in range(len(groups)):
            rows += [{**attribute[at][group], "group": group} for at in evenly(len(attribute), size)]
        return Dataset.from_list(rows), text.files

    def collator(self, language_model: LanguageModel) -> Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]:
        """Return a function that pads examples to a batch; ``group``, ``start`` and ``end`` are [batch]."""
        return partial(_padded, PadRight(language_model))

    def objective(
        self, language_model: LanguageModel, data: Dataset, *, pairing: Pairing, feature: Feature
    ) -> Objective:
        """Return the objective with both losses; the original model is copied here."""
        collate = self.collator(language_model)
        samples = []
        for group in range(len(_GROUPS[self.bias])):
            rows = [at for at, of in enumerate(data["group"]) if of == group]
            samples.append(collate([data[rows[at]] for at in evenly(len(rows), min(_SAMPLES, len(rows)))]))
        return PrototypeObjective(language_model, self, samples, pairing=pairing, feature=feature)


class PrototypeObjective(Objective):
    """The loss of :class:`ADEPT`.

    Args:
        language_model: gives the kind of model and its special tokens; a copy of its model is kept, and not saved.
        method: loss, kernel and weights.
        samples: one batch per group, from which its prototype is computed.
        pairing: which state is the feature of which token, see :func:`equiframe.models.adapter.pair`.
        feature: where the feature is taken, see :func:`equiframe.models.adapter.forward_at`.

    Batch: ``input_ids`` and ``attention_mask`` [batch, length]; ``group``, ``start`` and ``end`` [batch].
    """

    special_ids: Tensor
    prototypes: Tensor
    steps: Tensor

    def __init__(
        self,
        language_model: LanguageModel,
        method: ADEPT,
        samples: Sequence[Mapping[str, Tensor]],
        *,
        pairing: Pairing = "aligned",
        feature: Feature = "decoder-input",
    ) -> None:
        super().__init__()
        self.kind = language_model.kind
        self.method = method
        self.samples = samples
        self.pairing: Pairing = pairing
        self.feature: Feature = feature
        # in a tuple, so that it is not part of this module and of its checkpoints
        self._original = (copy.deepcopy(language_model.model).eval().requires_grad_(False),)
        self.register_buffer("special_ids", language_model.special_ids, persistent=False)
        with torch.no_grad():
            first = self._prototypes(language_model.model)
        self.register_buffer("prototypes", first)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ObjectiveOutput:
        """Compute the weighted sum; ``parts`` holds both losses unweighted."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        if self.training:
            if self.steps > 0 and self.steps % self.method.refresh == 0:
                with torch.no_grad(), torch.autocast(ids.device.type, enabled=False), own_forward(model):
                    self.prototypes.copy_(self._prototypes(model))
            self.steps.add_(1)
        states_at, token_ids = pair(self.kind, ids, mask, self.special_ids, pairing=self.pairing)
        inputs = {"input_ids": ids, "attention_mask": mask}
        read = forward_at(model, inputs, states_at, logits=False, layers=True, feature=self.feature)
        is_neutral = batch["group"] == _NEUTRAL
        with torch.autocast(ids.device.type, enabled=False):
            layers = _stacked(read.layers)
            words = word_states(layers, batch["start"], batch["end"])
            bias = (
                divergence_loss(self.prototypes, words[is_neutral], rho=self.method.rho)
                if self.method.loss == "adept"
                else inner_product_loss(self.prototypes, words[is_neutral], layers=len(layers))
            )
            representation = self._representation(layers[:, ~is_neutral], ids[~is_neutral], mask[~is_neutral])
        weight_bias, weight_representation = self.method.weights
        return ObjectiveOutput(
            loss=weight_bias * bias + weight_representation * representation,
            features=read.states,
            token_ids=token_ids,
            parts={"bias": bias.detach(), "representation": representation.detach()},
        )

    def _prototypes(self, model: nn.Module) -> Tensor:
        """Compute the mean word state of each group, [groups, layers * dim]."""
        was_training = model.training
        model.eval()
        states: list[list[Tensor]] = [[] for _ in self.samples]
        batches = [
            (group, {name: tensor[start : start + _AT_ONCE] for name, tensor in sample.items()})
            for group, sample in enumerate(self.samples)
            for start in range(0, len(sample["input_ids"]), _AT_ONCE)
        ]
        for group, batch in tracked(batches, "compute prototypes", len(batches)):
            part = {name: tensor.to(self.special_ids.device) for name, tensor in batch.items()}
            inputs = {name: part[name] for name in ("input_ids", "attention_mask")}
            nowhere = torch.zeros_like(part["input_ids"], dtype=torch.bool)
            layers = _stacked(forward_at(model, inputs, nowhere, logits=False, layers=True).layers)
            states[group].append(word_states(layers, part["start"], part["end"]))
        model.train(was_training)
        return torch.stack([torch.cat(of_group).mean(0) for of_group in states])

    def _representation(self, layers: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Compute the distance of states [layers, batch, length, dim] to those of the original model.

        It is the mean over attended positions, except the first one of a causal LM: its state is a hundred times as
        long as the others and would dominate.
        """
        if not len(ids):
            return layers.new_zeros(())
        inputs, nowhere = {"input_ids": ids, "attention_mask": mask}, torch.zeros_like(mask, dtype=torch.bool)
        original = self._original[0].to(ids.device)
        with torch.no_grad():
            before = _stacked(forward_at(original, inputs, nowhere, logits=False, layers=True).layers)
        attended = mask.bool()
        if self.kind == "causal":
            attended &= mask.cumsum(1) > 1
        return representation_loss(layers[:, attended], before[:, attended], form=self.method.representation)


def _stacked(layers: Sequence[Tensor]) -> Tensor:
    """The states of all layers in float32, [layers, batch, length, dim].

    Raises:
        ModelError: the layers differ in width, as in OPT-350m.
    """
    if len({layer.shape for layer in layers}) > 1:
        raise ModelError("the layers of this model differ in width, so ADEPT cannot compare them: use another --method")
    return torch.stack([layer.float() for layer in layers])


def word_states(layers: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Mean state of the tokens ``start`` to ``end`` of each sequence, with the layers concatenated.

    Args:
        layers: [layers, batch, length, dim].
        start: first token of the word, [batch].
        end: the position after its last token, [batch].

    Returns:
        [batch, layers * dim].
    """
    places = torch.arange(layers.shape[2], device=layers.device)
    inside = ((places >= start[:, None]) & (places < end[:, None])).to(layers.dtype)
    means = torch.einsum("lbtd,bt->bld", layers, inside) / inside.sum(1)[:, None, None]
    return means.flatten(1)


def divergence_loss(prototypes: Tensor, neutral: Tensor, *, rho: float) -> Tensor:
    """Mean Jensen-Shannon divergence over pairs of groups, of the words near each group's prototype, in bits, 0 to 1.

    Args:
        prototypes: [groups, dim].
        neutral: states of neutral words, [words, dim]; with fewer than two words the loss is 0.
        rho: width of the kernel.

    Reference: Yang et al. 2022.
    """
    if len(neutral) < 2:
        return neutral.sum() * 0
    squares = (prototypes[:, None] - neutral[None]).square().sum(-1)
    logs = F.log_softmax(-squares / (2 * rho**2), dim=1)  # [groups, words]
    terms = []
    for first in range(len(logs)):
        for second in range(first + 1, len(logs)):
            p, q = logs[first], logs[second]
            mixed = torch.logaddexp(p, q) - math.log(2)
            terms.append(((p.exp() * (p - mixed)).sum() + (q.exp() * (q - mixed)).sum()) / 2)
    return torch.stack(terms).mean() / math.log(2)


def inner_product_loss(prototypes: Tensor, neutral: Tensor, *, layers: int) -> Tensor:
    """Sum over groups of the squared mean inner product of neutral words with the prototype.

    Args:
        prototypes: [groups, layers * dim].
        neutral: states of neutral words, [words, layers * dim]; 0 if there are none.
        layers: number of layers; the inner product is that of one layer, and the mean is over words and layers.

    Reference: Kaneko and Bollegala 2021, as in ADEPT's code.
    """
    if not len(neutral):
        return neutral.sum() * 0
    return (neutral @ prototypes.T / layers).mean(0).square().sum()


def representation_loss(states: Tensor, before: Tensor, *, form: Literal["mse", "kl"]) -> Tensor:
    """Distance of states from those of the original model, averaged over layers and tokens.

    - ``mse``: mean squared difference.
    - ``kl``: KL(softmax(before) || softmax(states)) + KL(softmax(-before) || softmax(-states)), in bits.

    Args:
        states: [layers, tokens, dim].
        before: the same states of the original model, [layers, tokens, dim].
        form: see above.
    """
    if form == "mse":
        return F.mse_loss(states, before)
    total = states.new_zeros(())
    for sign in (1.0, -1.0):
        p, q = F.log_softmax(sign * before, -1), F.log_softmax(sign * states, -1)
        total = total + (p.exp() * (p - q)).sum(-1).mean()
    return total / math.log(2)


def _tokens(offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> tuple[int, int]:
    """First token of the word at these characters, and the one after its last; (0, 0) if the word is cut off."""
    inside = tokens_of(span, offsets)
    if not inside or offsets[inside[-1]][1] < span[1]:
        return 0, 0
    return inside[0], inside[-1] + 1


def _padded(pad: PadRight, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    batch = pad([example["input_ids"] for example in examples])
    for name in ("group", "start", "end"):
        batch[name] = torch.tensor([example[name] for example in examples])
    return batch
