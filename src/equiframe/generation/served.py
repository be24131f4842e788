"""Responses of a model on a server: by tokens from its completions endpoint, or by messages from its chat endpoint."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from equiframe.choices import ModelKind
from equiframe.config import GenerationOptions
from equiframe.errors import ModelError
from equiframe.generation.local import Ids
from equiframe.generation.writing import Written, cut_at

if TYPE_CHECKING:
    from equiframe.scoring.served import ServedModel

_FILTERED = "content_filter"


@dataclass(frozen=True)
class ServedWriter:
    """Writes with a served model that reads tokens; see :class:`equiframe.generation.writing.Writer`."""

    served: ServedModel

    @property
    def identity(self) -> tuple[str, ...]:
        """What the server reports about the model."""
        return (self.served.fingerprint(),)

    def write(self, prompts: Sequence[Ids], settings: GenerationOptions, length: int, seed: int) -> list[Written]:
        """Request the responses, several prompts at a time."""
        bodies = [
            {"model": self.served.model, "prompt": list(ids), **_options(settings, length, seed)} for ids in prompts
        ]
        return _all(self.served, "/v1/completions", bodies, settings)


@dataclass(frozen=True)
class ChatModel:
    """A model on a server that reads messages, and applies the server's own template.

    Args:
        name: ``server:URL#MODEL``.
        url: URL of the server, without ``/v1``.
        model: the name under which the server offers the model.
        root: what the server loaded, if it says.
        revision: the version of the model, if the server says.
        version: the version of the server's software, if it says.
        concurrency: maximum number of requests at the same time.
        timeout: seconds to wait for a request.
    """

    name: str
    url: str
    model: str
    root: str | None = None
    revision: str | None = None
    version: str | None = None
    concurrency: int = 8
    timeout: float = 120.0

    kind: ClassVar[ModelKind] = "causal"

    def fingerprint(self) -> str:
        """SHA-256 over what the server reports about the model."""
        said = json.dumps(["chat", self.model, self.root, self.revision, self.version])
        return hashlib.sha256(said.encode()).hexdigest()

    @property
    def identity(self) -> tuple[str, ...]:
        """What the server reports about the model, and its address."""
        return self.fingerprint(), self.url

    def write(self, prompts: Sequence[str], settings: GenerationOptions, length: int, seed: int) -> list[Written]:
        """Request the responses, several prompts at a time; see :class:`equiframe.generation.writing.Writer`."""
        bodies = [
            {
                "model": self.model,
                "messages": [{"role": "user", "content": text}],
                **_options(settings, length, seed),
            }
            for text in prompts
        ]
        return _all(self, "/v1/chat/completions", bodies, settings)


def connect_chat(name: str, *, concurrency: int = 8, timeout: float = 120.0) -> ChatModel:
    """Connect to the chat endpoint of a server.

    Args:
        name: ``server:URL#MODEL``.
        concurrency: maximum number of requests at the same time.
        timeout: seconds to wait for a request.

    Raises:
        InputError: the name does not have this form.
        ModelError: there is no such endpoint or model.
    """
    from equiframe.scoring.endpoint import reach

    url, model, card, version = reach(name, timeout)
    return ChatModel(name, url, model, card.get("root"), card.get("revision"), version, concurrency, timeout)


def _options(settings: GenerationOptions, length: int, seed: int) -> dict[str, Any]:
    """Return the options that both endpoints take."""
    options: dict[str, Any] = {"max_tokens": length, "temperature": settings.temperature, "n": settings.samples}
    if settings.temperature:
        options |= {"top_p": settings.top_p, "seed": seed % 2**31}
    return {**options, "stop": list(settings.stop)} if settings.stop else options


def _all(
    server: ServedModel | ChatModel, path: str, bodies: Sequence[Mapping[str, Any]], settings: GenerationOptions
) -> list[Written]:
    """Request the responses for all bodies, in order."""
    from equiframe.scoring.endpoint import open_client
    from equiframe.scoring.served import post

    stop = threading.Event()
    with open_client(server.url, server.timeout) as client, ThreadPoolExecutor(server.concurrency) as pool:

        def ask(body: Mapping[str, Any]) -> Written:
            response = post(client, path, body, server.name, stop)
            return _read(response, server.name, settings)

        try:
            return list(pool.map(ask, bodies))
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _read(response: Any, name: str, settings: GenerationOptions) -> Written:
    """Read the texts of a response; None for those that the server filtered.

    Raises:
        ModelError: the server refuses the request, or answers something else.
    """
    from equiframe.scoring.endpoint import said

    if not response.is_success:
        if response.status_code == 400 and _FILTERED in response.text:
            return [None] * settings.samples
        raise ModelError(f"{name}: the server refuses a request ({said(response)})")
    try:
        choices = response.json()["choices"]
        found = [(choice.get("finish_reason"), choice.get("text", choice.get("message"))) for choice in choices]
        texts = [(reason, text.get("content") if isinstance(text, Mapping) else text) for reason, text in found]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{name}: the server's answer has no text: {response.text:.80}") from None
    if len(texts) != settings.samples:
        raise ModelError(f"{name}: the server gave {len(texts)} responses, expected {settings.samples}")
    return [None if reason == _FILTERED else cut_at(text or "", settings.stop) for reason, text in texts]
