"""Writers of responses: a model in this process or on a server; and the cache of what they wrote before, on disk."""

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
"""The responses to one prompt; None for a response that a server filtered."""
_Asked = TypeVar("_Asked", contravariant=True)


class Writer(Protocol[_Asked]):
    """A model that writes responses to prompts, which are tokens or messages.

    Attributes:
        identity: everything that decides what it writes, except the options.
    """

    @property
    def identity(self) -> tuple[str, ...]: ...  # noqa: D102

    def write(self, prompts: Sequence[_Asked], settings: GenerationOptions, length: int, seed: int) -> list[Written]:
        """Write for each prompt ``settings.samples`` responses of at most ``length`` tokens.

        Raises:
            ModelError: it cannot continue.
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
    """Return what a model writes to each prompt, in order.

    Each batch is kept in a separate Parquet file, and read again if model, prompts and options are the same.

    Args:
        writer: the model.
        prompts: the prompts.
        batches: positions of prompts that are given together; every position once.
        settings: how tokens are chosen.
        length: maximum length of a response, in tokens.
        cache: folder of the batches.
        progress: called with the number of prompts answered so far.
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
    """Cut a text at the first of several stop texts, and remove white space around it."""
    return text[: min((at for end in stop if (at := text.find(end)) >= 0), default=len(text))].strip()


def _kept(path: Path, prompts: int, samples: int) -> list[Written] | None:
    """The responses of a batch that was done before, None if they are not there or not complete."""
    if not path.is_file():
        return None
    try:
        column = pd.read_parquet(path)["response"]
    except Exception:  # pandas and arrow raise any error on a damaged file, which is then written again
        return None
    if len(column) != prompts * samples:
        return None
    texts: Written = [None if pd.isna(text) else text for text in column]
    return [texts[at * samples : (at + 1) * samples] for at in range(prompts)]
