"""Reads a tokenizer, so that it splits a text as in the model's training, or says that it may not."""

from __future__ import annotations

import warnings
from typing import Any

import transformers
from packaging.version import Version
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from equiframe.models.explaining import quiet

_GGUF_START = "5.23"
"""The version of transformers that first reads from a GGUF file whether a text begins with a start token."""


def read_tokenizer(where: str, **options: Any) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a model, with a warning if transformers takes its pattern of words for a wrong one.

    Args:
        where: a local folder, or a repository on the hub.
        options: of ``AutoTokenizer.from_pretrained``, such as ``gguf_file``.
    """
    with quiet():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where, **options)
    if getattr(getattr(tokenizer, "backend_tokenizer", None), "fix_mistral_regex", None) is False:
        warnings.warn(
            f"{where}: transformers reports that its tokenizer splits words by another pattern than Mistral's own, so"
            " that some texts have other tokens than in training: in a copy of the model, replace the tokenizer by"
            f" AutoTokenizer.from_pretrained({where!r}, fix_mistral_regex=True)",
            stacklevel=2,
        )
    if "gguf_file" in options and Version(transformers.__version__) < Version(_GGUF_START):
        tokenizer.add_bos_token = _has_start(where, **options)
    return tokenizer


def _has_start(where: str, *, gguf_file: str, **options: Any) -> bool:
    """Whether a text begins with a start token, by a GGUF file; with SentencePiece it does unless the file says no."""
    from gguf import GGUFReader

    options.pop("trust_remote_code", None)
    fields = GGUFReader(cached_file(where, gguf_file, **options)).fields
    said = fields.get("tokenizer.ggml.add_bos_token")
    return bool(fields["tokenizer.ggml.model"].contents() == "llama" if said is None else said.contents())
