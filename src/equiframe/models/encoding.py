"""Turns text into batches that keep the positions of the text, whatever side the tokenizer pads or cuts on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding, PreTrainedTokenizerBase

from equiframe.errors import InputError
from equiframe.models.language_model import LanguageModel


def check_length(language_model: LanguageModel, max_length: int, *, option: str) -> None:
    """Refuse a length that leaves nothing of a text, or for a causal LM nothing to predict, or that cannot be read.

    Args:
        language_model: the model, whose tokenizer encodes.
        max_length: length in tokens, including special tokens.
        option: the option's name for the user.

    Raises:
        InputError: the length is too small or above the model's window; the message says which lengths are possible.
    """
    if max_length > language_model.window:
        raise InputError(
            f"{option} {max_length} is too long for {language_model.name}, which reads {language_model.window} tokens"
            f" at once: give {language_model.window} or less, or leave it out"
        )
    specials = language_model.tokenizer.num_special_tokens_to_add()
    least = max(specials + 1, 2 if language_model.kind == "causal" else 1)
    if max_length < least:
        raise InputError(
            f"{option} {max_length} leaves no token to learn from: {language_model.name} needs {specials} of them for"
            f" special tokens; give {least} or more, or leave it out"
        )


def cut_at_end(tokenizer: PreTrainedTokenizerBase, *texts: Any, max_length: int, **options: Any) -> BatchEncoding:
    """Encode text; a text of more than ``max_length`` tokens, special ones included, is cut at its end.

    Args:
        tokenizer: tokenizer of the model; its ``truncation_side`` is ignored and not changed.
        *texts: one text, a pair, or a list of texts.
        max_length: length in tokens.
        **options: options of the tokenizer.
    """
    side, tokenizer.truncation_side = tokenizer.truncation_side, "right"
    try:
        return tokenizer(*texts, truncation=True, max_length=max_length, **options)
    finally:
        tokenizer.truncation_side = side


class PadRight:
    """Makes batches of token ids, padded on the right, so that padding does not move any token.

    Args:
        language_model: the model, whose padding id is used.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self.pad_id = language_model.examination.pad_id

    def __call__(self, sequences: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, int64, [sequences, longest]."""
        ids = pad_sequence([torch.tensor(s) for s in sequences], batch_first=True, padding_value=self.pad_id)
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask}
