"""The interface of answerers: a model in this process, a model on a server, or a stand-in in a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from equiframe.errors import InputError
from equiframe.requests import Answer, ModelKind, Request, TextCodec

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of requests answered so far, and the number of all requests."""


class Answerer(Protocol):
    """A language model as benchmarks see it: it reads tokens by its codec, and answers requests.

    Attributes:
        name: as the user gave it.
        kind: masked or causal.
        codec: how it reads text, and which kinds of request it answers.
        precision: data type of its computations, such as ``bfloat16``.
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
        """A digest of everything known that determines its answers."""
        ...

    def answer(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Answer]:
        """Return one answer per request, in order.

        Args:
            requests: requests of the kinds that the codec names, each within its window.
            progress: called with the number of requests answered so far, and the number of all.

        Raises:
            InputError: a request that it does not answer, or that is longer than its window.
            ModelError: it cannot continue, or an answer is not a number.
        """
        ...


def check_requests(answerer: Answerer, requests: Sequence[Request]) -> None:
    """Refuse requests that an answerer does not answer, before any work is done.

    Raises:
        InputError: a kind of request, or a length, is not supported.
    """
    codec = answerer.codec
    kinds = codec.answers
    for request in requests:
        if type(request) not in kinds:
            raise InputError(f"{answerer.name} does not answer {type(request).__name__}: choose a score without it")
        if not codec.fits(request):
            raise InputError(
                f"a sequence has {len(request.input_ids)} tokens, but {answerer.name} reads 1 to"
                f" {codec.window}: leave it out"
            )
