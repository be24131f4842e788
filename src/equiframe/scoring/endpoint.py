"""An OpenAI-compatible endpoint: the models that it serves, and its error messages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from equiframe.choices import SERVER
from equiframe.errors import InputError, ModelError
from equiframe.options import first_line

try:
    import httpx as httpx
except ImportError as error:
    raise InputError("a served model needs httpx: pip install 'equiframe[server]'") from error

KEY = "EQUIFRAME_SERVER_KEY"
"""Environment variable with the key of a server that asks for one."""


def open_client(url: str, timeout: float) -> httpx.Client:
    """Open a client of the endpoint, with the user's key if there is one."""
    key = os.environ.get(KEY)
    return httpx.Client(
        base_url=url,
        timeout=httpx.Timeout(timeout, connect=10.0),
        headers={"Authorization": f"Bearer {key}"} if key else {},
    )


class Reached(NamedTuple):
    """A model that a server offers: the address, without ``/v1``, and what the server reports about both."""

    url: str
    model: str
    card: Mapping[str, Any]
    version: str | None


def reach(name: str, timeout: float) -> Reached:
    """Find a served model.

    Args:
        name: ``server:URL#MODEL``.
        timeout: seconds to wait for a request.

    Raises:
        InputError: the name does not have this form, or has a password.
        ModelError: there is no such endpoint or model.
    """
    url, _, model = name.removeprefix(SERVER).partition("#")
    if not url.startswith(("http://", "https://")) or not model:
        raise InputError(f"{name}: write a served model as server:URL#MODEL, such as server:http://localhost:8000#gpt2")
    if "@" in url:
        raise InputError(f"an address with a password would appear in every record: set {KEY} to the server's key")
    url = url.rstrip("/").removesuffix("/v1")
    try:
        with open_client(url, timeout) as client:
            return Reached(url, model, model_card(client, name, model), version_of(client))
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ModelError(
            f"{name}: no server answers at {url} ({in_words(error)}): start it, or give its address"
        ) from error


def model_card(client: httpx.Client, name: str, model: str) -> Mapping[str, Any]:
    """Return what the server reports about the model; an adapter has the window of its base model."""
    response = client.get("/v1/models")
    if response.status_code in (401, 403):
        raise ModelError(f"{name}: the server asks for a key ({said(response)}): set {KEY} to the key")
    try:
        cards = {str(card["id"]): card for card in response.raise_for_status().json()["data"]}
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
        raise ModelError(
            f"{name}: {client.base_url} has no OpenAI-compatible endpoint: its /v1/models says {said(response)}; give"
            " the address up to, and without, /v1"
        ) from None
    if model not in cards:
        raise ModelError(
            f"{name}: the server has no model {model!r}: it serves {', '.join(map(repr, cards)) or 'none'}"
        )
    found: Mapping[str, Any] = cards[model]
    base = cards.get(str(found.get("parent")), {})
    return {**found, "max_model_len": found.get("max_model_len") or base.get("max_model_len")}


def version_of(client: httpx.Client) -> str | None:
    """Return the version of vLLM; other servers do not report theirs in this way."""
    try:
        return str(client.get("/version").raise_for_status().json()["version"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def said(response: httpx.Response) -> str:
    """Describe an unsuccessful response in one line."""
    try:
        body = response.json()
        message = body.get("message") or body["error"].get("message")
    except (ValueError, KeyError, TypeError, AttributeError):
        message = ""
    return f"{response.status_code} {response.reason_phrase}{': ' if message else ''}{message:.200}".splitlines()[0]


def in_words(error: Exception) -> str:
    """Describe why there was no response."""
    if isinstance(error, httpx.TimeoutException):
        return "it takes too long"
    return first_line(error)
