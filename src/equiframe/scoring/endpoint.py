"""An OpenAI-compatible endpoint: which models it serves, and what it says if it fails."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from equiframe.errors import InputError, ModelError
from equiframe.options import first_line

try:
    import httpx as httpx
except ImportError as error:
    raise InputError("a served model needs httpx: pip install 'equiframe[server]'") from error

KEY = "EQUIFRAME_SERVER_KEY"
"""Environment variable with the key of a server that asks for one."""


def open_client(url: str, timeout: float) -> httpx.Client:
    """A client of the endpoint, with the user's key if there is one."""
    key = os.environ.get(KEY)
    return httpx.Client(
        base_url=url,
        timeout=httpx.Timeout(timeout, connect=10.0),
        headers={"Authorization": f"Bearer {key}"} if key else {},
    )


def model_card(client: httpx.Client, name: str, model: str) -> Mapping[str, Any]:
    """What the server says of the model."""
    response = client.get("/v1/models")
    if response.status_code in (401, 403):
        raise ModelError(f"{name}: the server asks for a key ({said(response)}): set {KEY} to it")
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
    return found


def version_of(client: httpx.Client) -> str | None:
    """The version of vLLM; other servers do not tell theirs there."""
    try:
        return str(client.get("/version").raise_for_status().json()["version"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def said(response: httpx.Response) -> str:
    """A response that is no success, in one line."""
    try:
        body = response.json()
        message = body.get("message") or body["error"].get("message")
    except (ValueError, KeyError, TypeError, AttributeError):
        message = ""
    return f"{response.status_code} {response.reason_phrase}{': ' if message else ''}{message:.200}".splitlines()[0]


def in_words(error: Exception) -> str:
    """Why no response came."""
    if isinstance(error, httpx.TimeoutException):
        return "it takes too long"
    return first_line(error)
