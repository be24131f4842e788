"""Asks a causal model on an OpenAI-compatible completions endpoint, such as that of vLLM, for log-probabilities."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from transformers import PreTrainedTokenizerBase

from equiframe.errors import ModelError
from equiframe.models.language_model import tokenizer_identity
from equiframe.models.tokenizers import read_tokenizer
from equiframe.options import check_range, first_line
from equiframe.requests import Answer, ModelKind, Request, TextCodec, TokenLogProbs, TopTokens
from equiframe.scoring.answering import Progress, check_requests
from equiframe.scoring.endpoint import KEY as KEY
from equiframe.scoring.endpoint import httpx, in_words, open_client, reach, said
from equiframe.scoring.store import AnswerStore

_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before a request is sent again
_PASSING = (408, 429, 500, 502, 503, 504)  # statuses of a server that is busy or restarting
_PROBE = "The nurse went home early because the doctor had told her that the patient was well."
_SAME = 0.1  # nats by which the same model may differ from itself
_RIGHT = 0.5  # nats by which two ways to ask for one number may differ, in any precision
_BEYOND = 2  # tokens in the window for a target after the sequence, and for the generated token

Ids: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class _Prompt:
    """The request of one completion: the log-probabilities of its tokens, or the most probable tokens after it."""

    ids: Ids
    top: int = 0


@dataclass(frozen=True)
class ServedModel:
    """A causal model that a server runs. See :class:`equiframe.scoring.answering.Answerer`.

    A target is a token of the prompt, because servers return the log-probabilities of prompt tokens. If it is not the
    next token of the sequence, it is sent after the tokens before it, as a separate prompt. Each prompt is one request.

    Args:
        name: ``server:URL#MODEL``.
        url: URL of the server, without ``/v1``.
        model: the name under which the server offers the model.
        root: what the server loaded.
        revision: the version of the model, if the server says.
        version: the version of the server's software, if the server says.
        codec: how the model reads text.
        probed: the tokens of a short text, and the server's log-probabilities when it was examined.
        concurrency: maximum number of requests at the same time.
        timeout: seconds to wait for a request.
        store: stored answers, which are not requested again.
    """

    name: str
    url: str
    model: str
    root: str | None
    revision: str | None
    version: str | None
    codec: TextCodec
    probed: tuple[Ids, Answer] = field(default=((), ()), repr=False)
    concurrency: int = 8
    timeout: float = 120.0
    store: AnswerStore | None = None

    @property
    def kind(self) -> ModelKind:
        """Causal: no server returns the log-probabilities of masked tokens."""
        return self.codec.kind

    @property
    def precision(self) -> str:
        """A general text, since no server reports its precision."""
        return "the precision of its server"

    def fingerprint(self) -> str:
        """SHA-256 over the model's name, root and revision, the server's version, and the tokenizer."""
        said = json.dumps([self.model, self.root, self.revision, self.version])
        return hashlib.sha256(f"{said} {tokenizer_identity(self.codec.tokenizer)}".encode()).hexdigest()

    def answer(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Answer]:
        """Return one answer per request, in order.

        Args:
            requests: requests of :class:`TokenLogProbs` and :class:`TopTokens`.
            progress: called with the number of prompts answered so far, and the number of all.

        Raises:
            InputError: a request is of another kind, or a sequence is longer than the window.
            ModelError: the server no longer answers, refuses a request, returns impossible numbers, or serves
                another model than the one whose answers are stored.
        """
        check_requests(self, requests)
        self._check_store()
        reads = [_reads(request) for request in requests]
        found = self._ask_all(list(dict.fromkeys(prompt for read in reads for prompt, _ in read)), progress)
        return [tuple(value for prompt, places in read for value in found[prompt][places]) for read in reads]

    def probe(self) -> tuple[Ids, Answer]:
        """Check on a short text that the server returns the numbers that are read from it.

        Returns:
            The tokens of the text, and the server's log-probabilities.

        Raises:
            ModelError: the server does not return log-probabilities of the prompt, or returns those of other tokens
                or places; or its tokenizer is another one.
        """
        ids = self.codec.sequence_log_probs(_PROBE).input_ids[: self.codec.window]
        stop = threading.Event()
        with open_client(self.url, self.timeout) as client:
            ((best, expected), *_) = self._top(client, _Prompt(ids, 1), stop)
            told = self._log_probs(client, _Prompt((*ids, best)), stop)
        if abs(told[-1][0] - expected) > _RIGHT:
            raise self._wrong(
                f"{told[-1][0]:.4g} in the prompt for a token that has {expected:.4g} as the most probable next"
            )
        decode = self.codec.tokenizer.decode
        pairs = [(token, decode([token]), text) for token, (_, text) in zip(ids[1:], told, strict=False) if text]
        if other := [pair for pair in pairs if pair[1].strip() != pair[2].strip()]:
            token, here, there = other[0]
            if 2 * len(other) > len(pairs):
                raise ModelError(
                    f"{self.name}: token {token} is {there!r} to the server and {here!r} to the tokenizer used here:"
                    " give the model's own as --tokenizer"
                )
        return ids, tuple(np.array([value for value, _ in told[:-1]], dtype=np.float32).tolist())

    def _check_store(self) -> None:
        """Refuse stored answers of another model with the same name."""
        if self.store is None:
            return
        key, (_, now) = self._key(_Prompt(self.probed[0])), self.probed
        if (stored := self.store.get(key)) is None:
            self.store.put(key, [now])
        elif (
            change := max((abs(one - other) for one, other in zip(stored[0], now, strict=True)), default=0.0)
        ) > _SAME:
            raise ModelError(
                f"{self.name}: its log-probabilities of a text differ by {change:.2g} nats from those of an earlier"
                f" model with this name: serve it under another name, or delete {self.store.path}"
            )

    def _key(self, prompt: _Prompt) -> bytes:
        assert self.store is not None
        return self.store.key((), prompt)

    def _ask_all(self, prompts: Sequence[_Prompt], progress: Progress | None) -> dict[_Prompt, Answer]:
        """Return stored answers, and request the others, several at a time; each answer is stored at once."""
        found: dict[_Prompt, Answer] = {}
        if self.store is not None:
            stored = {prompt: self.store.get(self._key(prompt)) for prompt in prompts}
            found = {prompt: answers[0] for prompt, answers in stored.items() if answers is not None}
        missing = [prompt for prompt in prompts if prompt not in found]
        stop = threading.Event()
        with open_client(self.url, self.timeout) as client, ThreadPoolExecutor(self.concurrency) as pool:
            asked = {pool.submit(self._ask, client, prompt, stop): prompt for prompt in missing}
            try:
                for future in as_completed(asked):
                    prompt = asked[future]
                    found[prompt] = future.result()
                    if self.store is not None:
                        self.store.put(self._key(prompt), [found[prompt]])
                    if progress is not None:
                        progress(len(found), len(prompts))
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
        return found

    def _ask(self, client: httpx.Client, prompt: _Prompt, stop: threading.Event) -> Answer:
        """Request the answer to one prompt, as 32-bit numbers, so that a stored one is the same."""
        if prompt.top:
            values = [float(token) for token, _ in self._top(client, prompt, stop)]
        else:
            values = [value for value, _ in self._log_probs(client, prompt, stop)]
        return tuple(np.array(values, dtype=np.float32).tolist())

    def _log_probs(
        self, client: httpx.Client, prompt: _Prompt, stop: threading.Event
    ) -> list[tuple[float, str | None]]:
        """For each token of a prompt except the first, return its log-probability, and the server's text for it."""
        choice = self._complete(client, prompt, stop, prompt_logprobs=0)
        said = choice.get("prompt_logprobs")
        if not isinstance(said, list):
            raise ModelError(
                f"{self.name}: the server does not return prompt log-probabilities (prompt_logprobs), from which"
                " likelihoods are read: serve the model with vLLM, or give its folder or hub name"
            )
        if len(said) != len(prompt.ids):
            raise self._wrong(f"{len(said)} of them for a prompt of {len(prompt.ids)} tokens")
        found = []
        for token, entry in zip(prompt.ids[1:], said[1:], strict=True):
            told = entry.get(str(token)) if isinstance(entry, Mapping) else None
            if not isinstance(told, Mapping) or "logprob" not in told:
                raise self._wrong(f"none for token {token}")
            found.append((self._checked(told["logprob"]), told.get("decoded_token")))
        return found

    def _top(self, client: httpx.Client, prompt: _Prompt, stop: threading.Event) -> list[tuple[int, float]]:
        """Return the most probable tokens after a prompt, best first, ties by id; and their log-probabilities."""
        choice = self._complete(client, prompt, stop, logprobs=prompt.top, return_tokens_as_token_ids=True)
        try:
            told = choice["logprobs"]["top_logprobs"][0]
            pairs = [(int(name.split("token_id:")[1]), self._checked(value)) for name, value in told.items()]
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            raise ModelError(
                f"{self.name}: the server does not return the most probable tokens by id (logprobs with"
                " return_tokens_as_token_ids): serve the model with vLLM, or give its folder or hub name"
            ) from None
        if len(pairs) < min(prompt.top, len(self.codec.tokenizer)):
            raise self._wrong(f"{len(pairs)} tokens, expected {prompt.top}")
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[: prompt.top]

    def _checked(self, value: Any) -> float:
        if not isinstance(value, int | float) or not math.isfinite(value) or value > 1e-3:
            raise self._wrong(f"{value!r} as one of them")
        return float(value)

    def _wrong(self, what: str) -> ModelError:
        return ModelError(
            f"{self.name}: the server's log-probabilities cannot be right, {what}: update the server, or give"
            " the model's folder or hub name"
        )

    def _complete(self, client: httpx.Client, prompt: _Prompt, stop: threading.Event, **options: Any) -> dict[str, Any]:
        """Request a completion and return its only choice."""
        body = {"model": self.model, "prompt": list(prompt.ids), "max_tokens": 1, "temperature": 0, **options}
        response = post(client, "/v1/completions", body, self.name, stop)
        if not response.is_success:
            raise ModelError(f"{self.name}: the server refuses a request ({said(response)})")
        try:
            choice: dict[str, Any] = response.json()["choices"][0]
        except (ValueError, KeyError, IndexError, TypeError):
            raise ModelError(f"{self.name}: the server's answer is not a completion: {response.text:.80}") from None
        return choice


def post(client: httpx.Client, path: str, body: Mapping[str, Any], name: str, stop: threading.Event) -> httpx.Response:
    """Post a request to a server; one that fails temporarily is sent again, after increasingly long pauses.

    Args:
        client: client of the server.
        path: path of the endpoint.
        body: body of the request.
        name: name of the model, for messages.
        stop: event that is set when nobody is waiting.

    Raises:
        ModelError: the server no longer answers.
    """
    reason = ""
    for pause in (*_PAUSES, None):
        try:
            response = client.post(path, json=dict(body))
        except httpx.TransportError as error:
            reason = in_words(error)
        else:
            if response.status_code not in _PASSING:
                break
            reason = said(response)
        if pause is None or stop.wait(pause):
            raise ModelError(
                f"{name}: the server no longer answers ({reason}): start it again, then run the same"
                " command again to resume"
            )
    return response


def connect(
    name: str,
    *,
    tokenizer: str | None = None,
    concurrency: int = 8,
    timeout: float = 120.0,
    trust_remote_code: bool = False,
) -> ServedModel:
    """Connect to a served model, and check that it returns the numbers that are read from it.

    Args:
        name: ``server:URL#MODEL``.
        tokenizer: hub name or folder; by default what the server says that it loaded.
        concurrency: maximum number of requests at the same time.
        timeout: seconds to wait for a request.
        trust_remote_code: whether a tokenizer's code from the hub may run.

    Raises:
        InputError: the name does not have this form, or ``concurrency`` or ``timeout`` is not above 0.
        ModelError: there is no such endpoint or model, the tokenizer cannot be loaded or is another model's, or the
            server returns no prompt log-probabilities, or wrong ones.
    """
    check_range("--concurrency", concurrency, whole=True, zero=False)
    check_range("timeout", timeout, zero=False)
    url, model, told, version = reach(name, timeout)
    root = told.get("root")
    codec = TextCodec(
        _tokenizer(name, tokenizer or root or model, trust_remote_code, given=tokenizer is not None),
        kind="causal",
        window=0,
        has_states=False,
    )
    longest = told.get("max_model_len") or codec.tokenizer.model_max_length
    served = ServedModel(
        name=name,
        url=url,
        model=model,
        root=root,
        revision=told.get("revision"),
        version=version,
        codec=replace(codec, window=min(longest, codec.tokenizer.model_max_length) - _BEYOND),
        concurrency=concurrency,
        timeout=timeout,
    )
    return replace(served, probed=served.probe())


def _tokenizer(name: str, source: str, trust_remote_code: bool, *, given: bool) -> PreTrainedTokenizerBase:
    try:
        return read_tokenizer(source, trust_remote_code=trust_remote_code)
    except Exception as error:  # a damaged file can cause any error
        whose = f"--tokenizer {source}" if given else f"{name}: the tokenizer of {source}, which the server has loaded,"
        raise ModelError(
            f"{whose} cannot be loaded here ({first_line(error)}): give --tokenizer with its hub name or its folder"
        ) from error


def _reads(request: Request) -> list[tuple[_Prompt, slice]]:
    """The prompts that answer a request, in its order, each with the slice of its numbers that the request needs."""
    if isinstance(request, TopTokens):
        return [(_Prompt(request.input_ids[: request.position + 1], request.count), slice(None))]
    assert isinstance(request, TokenLogProbs)
    ids = request.input_ids
    following = [p + 1 < len(ids) and ids[p + 1] == t for p, t in zip(request.positions, request.targets, strict=True)]
    end = max((p + 2 for p, is_next in zip(request.positions, following, strict=True) if is_next), default=0)
    return [
        (_Prompt(ids[:end] if is_next else (*ids[: position + 1], target)), slice(position, position + 1))
        for position, target, is_next in zip(request.positions, request.targets, following, strict=True)
    ]
