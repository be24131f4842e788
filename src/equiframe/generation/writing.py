"""Who writes responses: a model in this process or one on a server; and what they wrote before, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import pandas as pd

from equiframe.config import GenerationOptions
from equiframe.files import written_whole
from equiframe.scoring.answering import Progress

Written: TypeAlias = list[str | None]
"""The responses to one prompt; None where a server filtered one."""
_Asked = TypeVar("_Asked", contravariant=True)


class Writer(Protocol[_Asked]):
    """A model that writes responses to what it is asked: tokens, or what a user says.

    Attributes:
        identity: all that decides what it writes, but for the options.
    """

    @property
    def identity(self) -> tuple[str, ...]: ...  # noqa: D102

    def write(self, prompts: Sequence[_Asked], settings: GenerationOptions, length: int, seed: int) -> list[Written]:
        """For each prompt ``settings.samples`` responses of at most ``length`` tokens.

        Raises:
            ModelError: it cannot go on.
        """
        ...


_Prompt = TypeVar("_Prompt")


def responses_of(
    writer: Writer[_Prompt],
    prompts: Sequence[_Prompt],
    batches: Iterable[Sequence[int]],
    settings: GenerationOptions,
    length: int,
    cache: Path,
    progress: Progress | None = None,
) -> list[Written]:
    """What a model writes to each prompt, in order.

    Each batch is kept in a Parquet file of its own, and read back where model, prompts and options are the same.

    Args:
        writer: the model.
        prompts: what it is asked.
        batches: places of prompts that are asked together; every place once.
        settings: how tokens are chosen.
        length: the longest response, in tokens.
        cache: folder of the batches.
        progress: told how many prompts are answered.
    """
    found: dict[int, Written] = {}
    for batch in batches:
        asked = [prompts[at] for at in batch]
        said = (writer.identity, settings.decoding, settings.samples, settings.stop, length, asked)
        digest = hashlib.sha256(repr(said).encode()).hexdigest()
        path = cache / f"{digest}.parquet"
        texts = _kept(path, len(asked), settings.samples)
        if texts is None:
            texts = writer.write(asked, settings, length, int(digest[:12], 16) ^ settings.seed)
            cache.mkdir(parents=True, exist_ok=True)
            with written_whole(path, shared=True) as scratch:
                flat = [text for one in texts for text in one]
                pd.DataFrame({"response": pd.Series(flat, dtype=object)}).to_parquet(scratch, index=False)
        found.update(zip(batch, texts, strict=True))
        if progress is not None:
            progress(len(found), len(prompts))
    return [found[at] for at in range(len(prompts))]


def cut_at(text: str, stop: Sequence[str]) -> str:
    """A text up to the first of several that end it, without space around it."""
    return text[: min((at for end in stop if (at := text.find(end)) >= 0), default=len(text))].strip()


def _kept(path: Path, prompts: int, samples: int) -> list[Written] | None:
    """The responses of a batch that was done before, None where they are not there whole."""
    if not path.is_file():
        return None
    try:
        column = pd.read_parquet(path)["response"]
    except Exception:  # pandas and arrow raise of every kind on a damaged file, which is written anew
        return None
    if len(column) != prompts * samples:
        return None
    texts: Written = [None if pd.isna(text) else text for text in column]
    return [texts[at * samples : (at + 1) * samples] for at in range(prompts)]
