"""Whoever answers requests: a model in this process, one that a server runs, or one that a test made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from equiframe.errors import InputError
from equiframe.requests import Answer, ModelKind, Request, TextCodec

Progress: TypeAlias = Callable[[int, int], None]
"""Told how much is answered, and of how much."""


class Answerer(Protocol):
    """A language model as benchmarks know it: it reads tokens by its codec, and answers requests.

    Attributes:
        name: as the user gave it.
        kind: masked or causal.
        codec: how it reads text, and which kinds of request it answers.
        precision: in what its numbers are computed, such as ``bfloat16``.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def kind(self) -> ModelKind: ...  # noqa: D102

    @property
    def codec(self) -> TextCodec: ...  # noqa: D102

    @property
    def precision(self) -> str: ...  # noqa: D102

    def fingerprint(self) -> str:
        """A digest of all that decides its answers, as far as that can be known."""
        ...

    def answer(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Answer]:
        """One answer per request, in order.

        Args:
            requests: of the kinds that the codec names, each within its window.
            progress: told how far it is.

        Raises:
            InputError: a request that it does not answer, or that is longer than its window.
            ModelError: it cannot go on, or an answer is no number.
        """
        ...


def check_requests(answerer: Answerer, requests: Sequence[Request]) -> None:
    """Refuse what an answerer does not answer before any work is done.

    Raises:
        InputError: a kind of request, or a length.
    """
    codec = answerer.codec
    kinds = codec.answers
    for request in requests:
        if type(request) not in kinds:
            raise InputError(f"{answerer.name} does not answer {type(request).__name__}: choose a score without it")
        if not codec.fits(request):
            raise InputError(
                f"a sequence of {len(request.input_ids)} tokens for {answerer.name}, which reads 1 to"
                f" {codec.window}: leave it out"
            )
