"""Forward passes of rows of tokens: logits, states and attention at the places that are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equiframe.errors import ModelError
from equiframe.models.adapter import forward_at
from equiframe.models.language_model import LanguageModel
from equiframe.scoring.planner import Row

_ROUNDED = 0.05  # how far from 1 the sum of a token's attention may be


def forward(language_model: LanguageModel, rows: Sequence[Row], *, logits: bool = True) -> Tensor:
    """Compute logits [places, vocabulary] or last states [places, dim] at the places of rows, row by row."""
    inputs, where = _inputs(language_model, rows)
    read = forward_at(
        language_model.model,
        inputs,
        where,
        logits=logits,
        feature="decoder-input" if logits else "last-layer",
    )
    return read.states if read.logits is None else read.logits


def attention_received(language_model: LanguageModel, rows: Sequence[Row]) -> Tensor:
    """Compute the attention that the places of rows receive, [places], row by row.

    It is the mean over layers, heads, and the tokens of the row. Fused attention keeps no weights, so the model,
    without its head, is run again with plain attention.
    """
    model, (inputs, where) = language_model.model, _inputs(language_model, rows)
    fused = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        layers = model.base_model(**inputs, output_attentions=True, return_dict=True).attentions
    finally:
        model.set_attn_implementation(fused)
    if not layers or any(layer is None for layer in layers):
        raise ModelError(f"{type(model).__name__} does not return its attention: choose a score that does not need it")
    attends = inputs["attention_mask"][:, :, None]
    means = [layer.float().mean(dim=1) for layer in layers]  # [batch, attending, attended]
    length = where.shape[1]
    for mean in means:
        if mean.shape[1:] != (length, length) or (mean.sum(dim=2)[attends[:, :, 0] > 0] - 1).abs().max() > _ROUNDED:
            raise ModelError(
                f"{type(model).__name__} does not return the shares of its attention between all tokens: choose a score"
                " that does not need it"
            )
    total = sum(means)
    received = (total * attends).sum(dim=1) / (len(layers) * attends.sum(dim=1))
    return received[where]


def _inputs(language_model: LanguageModel, rows: Sequence[Row]) -> tuple[dict[str, Any], Tensor]:
    """Prepare the inputs of the model's forward for rows, and the places that are read, bool [batch, length]."""
    model, device = language_model.model, language_model.device
    shape = len(rows), max(len(row.tokens) for row in rows)
    ids = np.full(shape, language_model.examination.pad_id)
    attended, where = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    for number, row in enumerate(rows):
        ids[number, : len(row.tokens)] = row.tokens
        attended[number, : len(row.tokens)] = 1
        where[number, row.places] = True
    inputs: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(device)}
    if language_model.kind == "causal":
        inputs["use_cache"] = False
    if rows[0].types is not None:
        types = np.zeros(shape, dtype=np.int64)
        for number, row in enumerate(rows):
            types[number, : len(row.tokens)] = row.types or 0
        inputs["token_type_ids"] = torch.from_numpy(types).to(device)
    if rows[0].parents is None:
        inputs["attention_mask"] = torch.from_numpy(attended).to(device)
    else:
        ancestors, depths = _ancestry(rows, shape)
        hidden = torch.zeros(ancestors.shape, dtype=model.dtype)
        hidden[torch.from_numpy(~ancestors)] = torch.finfo(model.dtype).min
        inputs["attention_mask"] = hidden[:, None].to(device)  # [batch, heads, length, length]
        inputs["position_ids"] = torch.from_numpy(depths).to(device)
    return inputs, torch.from_numpy(where).to(device)


def _ancestry(rows: Sequence[Row], shape: tuple[int, int]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """For trees, mark each token's ancestors and itself, [batch, length, length]; and return its depth."""
    ancestors = np.repeat(np.eye(shape[1], dtype=bool)[None], shape[0], axis=0)
    depths = np.zeros(shape, dtype=np.int64)
    for number, row in enumerate(rows):
        assert row.parents is not None
        for place, parent in enumerate(row.parents):
            if parent >= 0:
                ancestors[number, place] |= ancestors[number, parent]
                depths[number, place] = depths[number, parent] + 1
    return ancestors, depths
