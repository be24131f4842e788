"""What a benchmark may ask of a model, and what it may know of the model's tokens.

A benchmark turns each item into requests and gets back one answer per request, in order. It never sees
the model, so the engine is free to drop duplicates, pack, and reuse stored answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from transformers import PreTrainedTokenizerBase

ModelKind: TypeAlias = Literal["masked", "causal"]
Pooling: TypeAlias = Literal["cls", "mean", "last"]


@dataclass(frozen=True, slots=True)
class TokenLogProbs:
    """Natural log-probabilities of given tokens at given places of one sequence.

    Args:
        input_ids: the sequence exactly as the model shall read it, special and mask tokens included.
        positions: where logits are read. A masked LM predicts the token at the position itself, a causal
            LM the token after it: for a causal LM the log-probability of ``input_ids[t]`` is read at t - 1.
        targets: the token whose log-probability is wanted, one per position.
    """

    input_ids: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Embedding:
    """One vector for a sequence: the first token's last state, their mean, or the last token's."""

    input_ids: tuple[int, ...]
    pooling: Pooling = "mean"


Request: TypeAlias = TokenLogProbs | Embedding
Answer: TypeAlias = tuple[float, ...]


@dataclass(frozen=True)
class TextCodec:
    """How one model reads text: its tokenizer, its kind, and the longest sequence it takes.

    Args:
        tokenizer: any Hugging Face tokenizer.
        kind: ``masked`` or ``causal``.
        window: the most tokens of one sequence, special tokens included.
    """

    tokenizer: PreTrainedTokenizerBase
    kind: ModelKind
    window: int
