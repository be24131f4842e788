"""Measure counterfactual collapse of one model on one text: it compares contexts with those of the counterfactual."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor

from equiframe.collapse.counterfactual import (
    cosine_gap,
    half_square_distance,
    jensen_shannon,
    log_odds,
    neutral_log_probs,
)
from equiframe.data import Bias, swappers
from equiframe.models import LanguageModel, forward_at
from equiframe.models.adapter import Feature, classifier_on
from equiframe.models.encoding import PadRight
from equiframe.models.pairs import Reading, Role, group_ids, pair_batch, read_by, read_pair, sample_swaps, targets

_LONGEST = 256  # maximum number of tokens of a text
_PAIRS, _ROWS = 4, 2**18  # per forward pass: pairs, and pairs times vocabulary
_PLACES = 64  # places whose distributions are compared at once


def read_contexts(
    language_model: LanguageModel,
    texts: Callable[[], Iterable[str]],
    *,
    pairs: int,
    feature: Feature = "decoder-input",
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Compare each text with its counterfactual, for every bias whose words occur in two or more texts.

    :func:`equiframe.models.pairs.read_pair` decides which places are read; the numbers of one place are those of
    :mod:`equiframe.collapse.counterfactual`, which the method of that name trains. The ranks share the pairs, and each
    returns the result of a single process.

    Args:
        language_model: the model; its tokenizer must be fast.
        texts: function that yields the texts again at each call; texts longer than 256 tokens are left out.
        pairs: maximum number of pairs per bias, a random sample that is the same for all models with one tokenizer.
        feature: the state of which distances and cosines are computed.
        progress: called with the pairs done so far, and the number of all pairs.

    Returns:
        A row per pair: ``item`` (bias and text), ``bias``; the number of places ``aligned``, ``neutral`` and
        ``agreeing``; and sums over them: ``js`` (nats), ``half_square`` and ``square`` of aligned states, from each
        other and from the mean of all; ``absolute_log_odds`` (nats) and ``cosine_gap`` of neutral ones; ``agreement``
        (100 if the word of the text is preferred, 50 for a tie) and ``log_odds`` (nats) of agreeing ones.
    """
    chosen = {bias: _pairs(language_model, texts, bias, pairs) for bias in get_args(Bias)}
    chosen = {bias: found for bias, found in chosen.items() if len(found) > 1}
    total, done, tables = sum(map(len, chosen.values())), 0, []
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for bias, found in chosen.items():
        order = sorted(found, key=lambda text: len(found[text][0].ids))
        size = max(1, min(_PAIRS, _ROWS // language_model.examination.rows))
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        groups = group_ids(language_model, bias)
        read: dict[str, dict[str, Any]] = {}
        for batch in batches[rank::ranks]:
            rows = _read(language_model, [found[text] for text in batch], groups, feature)
            read |= dict(zip(batch, rows, strict=True))
            if progress is not None:
                progress(min(total, done + len(read) * ranks), total)
        if ranks > 1:
            shares: list[dict[str, dict[str, Any]]] = [{}] * ranks
            dist.all_gather_object(shares, read)
            read = {text: row for share in shares for text, row in share.items()}
        done += len(found)
        table = pd.DataFrame([{"item": f"{bias}: {text}", "bias": bias, **read[text]} for text in found])
        tables.append(_about_the_mean(table))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"item": [], "bias": []})


def _pairs(
    language_model: LanguageModel, texts: Callable[[], Iterable[str]], bias: Bias, count: int
) -> dict[str, tuple[Reading, ...]]:
    """Make pairs by their text. The masks of a masked LM depend on the text alone."""
    found: dict[str, tuple[Reading, ...]] = {}
    length = min(language_model.window, _LONGEST)
    for text, swaps in sample_swaps(texts(), swappers(bias, names=True), count, random.Random(0)):
        readings = read_pair(language_model, text, swaps, max_length=length, draw=random.Random(text))
        if readings:
            found[text] = readings
    return found


@torch.inference_mode()
def _read(
    language_model: LanguageModel, pairs: list[tuple[Reading, ...]], groups: Tensor, feature: Feature
) -> list[dict[str, Any]]:
    """Sum over the places of each pair; ``total`` [dim] is the sum of states, ``squares`` that of squared lengths."""
    model, kind = language_model.model, language_model.kind
    batch = pair_batch(pairs, PadRight(language_model))
    batch = {name: tensor.to(language_model.device) for name, tensor in batch.items()}
    asked = batch["roles"] > Role.KEPT
    inputs = read_by(kind, batch, language_model.tokenizer.mask_token_id)
    parts = [forward_at(model, *part, feature=feature) for part in _unpadded(language_model, inputs, asked)]
    home = language_model.statistics_device
    batch, asked = {name: tensor.to(home) for name, tensor in batch.items()}, asked.to(home)
    logits = torch.cat([part.logits for part in parts if part.logits is not None]).to(home).float()
    states = torch.cat([part.states for part in parts]).to(home).double()
    sequences = torch.arange(len(asked), device=asked.device)[:, None].expand_as(asked)[asked]
    pair, sequence = sequences % len(pairs), sequences // len(pairs)
    roles, own, partner = (values[asked] for values in (batch["roles"], targets(kind, batch), batch["partners"]))
    first, second = ((roles == Role.ALIGNED) & (sequence == number) for number in (0, 1))
    neutral, agreeing = roles == Role.NEUTRAL, roles == Role.AGREEING
    rows = classifier_on(model, home).weight

    def summed(values: Tensor, at: Tensor) -> list[Any]:
        sums = torch.zeros(len(pairs), *values.shape[1:], dtype=torch.float64, device=values.device)
        found: list[Any] = sums.index_add(0, pair[at], values.double()).tolist()
        return found

    ids = groups.to(home)
    sides = zip(*(logits[at].split(_PLACES) for at in (first, second)), strict=True)
    js = torch.cat([jensen_shannon(*(neutral_log_probs(side, ids) for side in both)) for both in sides])
    d = log_odds(logits, own, partner)
    gap = cosine_gap(states[neutral], rows[own[neutral]].double(), rows[partner[neutral]].double())
    aligned = first | second
    columns = {
        "aligned": summed(torch.ones_like(js), first),
        "js": summed(js, first),
        "half_square": summed(half_square_distance(states[first], states[second]), first),
        "total": [np.asarray(vector) for vector in summed(states[aligned], aligned)],
        "squares": summed(states[aligned].square().sum(-1), aligned),
        "neutral": summed(torch.ones_like(d[neutral]), neutral),
        "absolute_log_odds": summed(d[neutral].abs(), neutral),
        "cosine_gap": summed(gap, neutral),
        "agreeing": summed(torch.ones_like(d[agreeing]), agreeing),
        "agreement": summed(50 * (1 + d[agreeing].sign()), agreeing),
        "log_odds": summed(d[agreeing], agreeing),
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _unpadded(
    language_model: LanguageModel, inputs: dict[str, Tensor], asked: Tensor
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yield the whole batch, or single sequences without padding if the model would read the padding."""
    if not language_model.examination.reads_padding:
        yield inputs, asked
        return
    for row, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        yield {name: tensor[row : row + 1, :length] for name, tensor in inputs.items()}, asked[row : row + 1, :length]


def _about_the_mean(table: pd.DataFrame) -> pd.DataFrame:
    """Replace the sums of each pair's states by their squared distances from the mean of all."""
    count = 2 * table["aligned"].to_numpy()
    total = np.stack(list(table.pop("total")))
    mean = total.sum(axis=0) / max(count.sum(), 1)
    table["square"] = table.pop("squares") - 2 * total @ mean + count * (mean @ mean)
    return table
