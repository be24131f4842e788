"""From text to batches whose positions are those of the text, whatever side the tokenizer pads or cuts on."""

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
    """Refuse a length at which nothing is left of a text, or for a causal LM nothing that could be predicted.

    Args:
        language_model: whose tokenizer encodes.
        max_length: in tokens, special ones included.
        option: what the user calls it.

    Raises:
        InputError: says how long examples must be at the least.
    """
    specials = language_model.tokenizer.num_special_tokens_to_add()
    least = max(specials + 1, 2 if language_model.kind == "causal" else 1)
    if max_length < least:
        raise InputError(
            f"{option} {max_length} leaves no token to learn from: {language_model.name} needs {specials} of them for"
            f" special tokens; give {least} or more, or leave it out"
        )


def cut_at_end(tokenizer: PreTrainedTokenizerBase, *texts: Any, max_length: int, **options: Any) -> BatchEncoding:
    """Encode text; what is longer than ``max_length`` tokens, special ones included, loses its end.

    Args:
        tokenizer: its own ``truncation_side`` does not count, and is left as it was.
        *texts: one text, a pair, or a list of texts.
        max_length: in tokens.
        **options: of the tokenizer.
    """
    side, tokenizer.truncation_side = tokenizer.truncation_side, "right"
    try:
        return tokenizer(*texts, truncation=True, max_length=max_length, **options)
    finally:
        tokenizer.truncation_side = side


class PadRight:
    """From token ids to a batch padded on the right, where padding moves no token's position.

    Args:
        language_model: whose padding id is used.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self.pad_id = language_model.examination.pad_id

    def __call__(self, sequences: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, int64, [sequences, longest]."""
        ids = pad_sequence([torch.tensor(s) for s in sequences], batch_first=True, padding_value=self.pad_id)
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask}
