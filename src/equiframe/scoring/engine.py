"""Answers requests with a model in this process, in the asked order."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import transformers
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from numpy.typing import NDArray
from torch import Tensor

from equiframe.errors import ModelError
from equiframe.models.adapter import evaluating, forward_at
from equiframe.models.loading import LanguageModel
from equiframe.models.next_sentence import next_sentence_log_probs
from equiframe.options import check_range
from equiframe.requests import (
    Answer,
    AttentionWeightedLogProbs,
    Embedding,
    ModelKind,
    NextSentence,
    Request,
    TextCodec,
    TokenLogProbs,
    TopTokens,
)
from equiframe.scoring.answering import Progress, check_requests
from equiframe.scoring.planner import Ids, Plan, Row, batches, plan, positions_read
from equiframe.scoring.self_debias import SelfDebias, debiased_logits
from equiframe.scoring.store import AnswerStore

TOKEN_BUDGET = 4096
_TREE_TOKENS = 128  # longer trees share little more, and attention is quadratic in them
_LOGITS_AT_ONCE = 2**26  # 256 MB in float32
_ROWS_AT_ONCE = 64  # of logits, when they are summed up


@dataclass(frozen=True)
class LocalAnswerer:
    """Asks a model in this process, in as few and as full forward passes as the requests allow.

    The vocabulary is computed only where it is read. With ``torch.distributed`` the ranks share the work, and each
    returns all answers. The model is read in evaluation mode, and left as it was. See
    :class:`equiframe.scoring.answering.Answerer`.

    Args:
        language_model: the model.
        token_budget: tokens of one forward pass, padding included; halved, with a warning, where the memory does not
            suffice.
        store: where answers of this model are kept; batches found there are not computed again.
        self_debias: how its predictions are corrected; by default not at all.
        chat_template: by which benchmarks put questions; by default as plain text.

    Raises:
        InputError: ``token_budget`` below 1.
    """

    language_model: LanguageModel
    token_budget: int = TOKEN_BUDGET
    store: AnswerStore | None = None
    self_debias: SelfDebias | None = None
    chat_template: str | None = None

    def __post_init__(self) -> None:
        check_range("token_budget", self.token_budget, whole=True, zero=False)

    @property
    def name(self) -> str:
        """As the user gave it."""
        return self.language_model.name

    @property
    def kind(self) -> ModelKind:
        """Masked or causal."""
        return self.language_model.kind

    @property
    def precision(self) -> str:
        """In what its numbers are computed."""
        return self.language_model.precision

    @cached_property
    def codec(self) -> TextCodec:
        """How the model reads text; what Self-Debias puts before it counts."""
        codec = replace(self.language_model.codec, chat_template=self.chat_template)
        return codec if self.self_debias is None else replace(codec, window=codec.window - len(self.self_debias.prompt))

    def fingerprint(self) -> str:
        """That of the model, and of Self-Debias."""
        return self.language_model.fingerprint(self.self_debias)

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Answer]:
        """One answer per request, in order.

        Args:
            requests: each within the model's window.
            progress: called with the number of requests answered so far (by this rank), and of all.

        Raises:
            InputError: a kind of request that the model does not answer, or a sequence longer than its window.
            ModelError: a not-a-number answer, or too little memory for one row.
        """
        language_model = self.language_model
        check_requests(self, requests)
        language_model.check_ids(request.input_ids for request in requests)
        language_model.check_ids(request.targets for request in requests if isinstance(request, TokenLogProbs))
        answers: dict[int, Answer] = {i: () for i, request in enumerate(requests) if not positions_read(request)}
        asked = {i: request for i, request in enumerate(requests) if i not in answers}
        with evaluating(language_model.model):
            for kind in (TokenLogProbs, AttentionWeightedLogProbs, TopTokens, Embedding, NextSentence):
                alike = {i: request for i, request in asked.items() if type(request) is kind}
                for found in _answers(self, alike):
                    answers |= found
                    if progress is not None:
                        progress(len(answers), len(requests))
        if dist.is_initialized():
            shares: list[dict[int, Answer]] = [{}] * dist.get_world_size()
            dist.all_gather_object(shares, answers)
            answers = {i: value for share in shares for i, value in share.items()}
        for i, value in answers.items():
            if any(map(math.isnan, value)):
                tokens = language_model.tokenizer.convert_ids_to_tokens(requests[i].input_ids)
                raise ModelError(
                    f"{language_model.name} answers not-a-number to {' '.join(tokens)!r}: are its weights whole,"
                    " and is its precision wide enough?"
                )
        return [answers[i] for i in range(len(requests))]


def answer(
    language_model: LanguageModel, requests: Sequence[Request], *, progress: Progress | None = None, **options: Any
) -> list[Answer]:
    """Ask a model once: what :class:`LocalAnswerer` answers with these options."""
    return LocalAnswerer(language_model, **options).answer(requests, progress)


def _answers(local: LocalAnswerer, requests: Mapping[int, Request]) -> Iterator[dict[int, Answer]]:
    """Answers to requests of one kind by their number, batch by batch; this rank's share.

    Ranks share batches, not rows, so that a batch, and with it each number, is the same for any number of ranks.
    """
    language_model, token_budget, store = local.language_model, local.token_budget, local.store
    planned = _plan(local, list(requests.values()))
    askers: list[dict[int, Ids]] = [{} for _ in planned.rows]
    for number, (row, places) in zip(requests, planned.reads, strict=True):
        askers[row][number] = places
    place_budget = _LOGITS_AT_ONCE // language_model.examination.rows
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    bounds = batches(
        planned.rows,
        token_budget=token_budget,
        place_budget=place_budget,
        padded=not language_model.examination.reads_padding,
    )
    waiting = deque(bounds[rank::ranks])
    how = str(language_model.model.dtype), language_model.device.type, torch.__version__, transformers.__version__
    largest: float = token_budget
    while waiting:
        start, end = waiting.popleft()
        rows, asking = planned.rows[start:end], askers[start:end]
        tokens = len(rows) * len(rows[0].tokens)
        if len(rows) > 1 and tokens > largest:
            middle = (start + end) // 2
            waiting.extendleft([(middle, end), (start, middle)])
            continue
        reads = [(number, places) for asker in asking for number, places in asker.items()]
        if store:
            key = store.key(how, (rows, [(requests[number], places) for number, places in reads]))
            if (stored := store.get(key)) is not None:
                yield {number: value for (number, _), value in zip(reads, stored, strict=True)}
                continue
        try:
            found = _read(local, rows, asking, requests)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if len(rows) == 1:
                raise ModelError(
                    f"{language_model.device} has too little free memory for {tokens} tokens"
                    f" of {language_model.name}: end what else uses it, or choose another device"
                ) from error
            largest = tokens // 2
            warnings.warn(f"out of memory: going on with a token budget of {largest}", stacklevel=2)
            clear_device_cache()
            waiting.appendleft((start, end))
        else:
            if store:
                store.put(key, [found[number] for number, _ in reads])
            yield found


def _plan(local: LocalAnswerer, requests: Sequence[Request]) -> Plan:
    """Rows for the requests: trees of sequences if the model is causal and reads them right."""
    if local.kind == "causal" and local.self_debias is None:
        language_model = local.language_model
        planned = plan(requests, tree_tokens=min(_TREE_TOKENS, local.token_budget, language_model.window))
        trees = (row for row in planned.rows if row.parents is not None)
        deepest = max(trees, key=lambda row: len(_path(row, _deepest(row))), default=None)
        if deepest is None or _reads_trees(language_model, deepest):
            return planned
    return plan(requests)


def _path(row: Row, end: int) -> list[int]:
    """Places of a sequence of a tree, from its start to one of its tokens."""
    assert row.parents is not None
    path = [end]
    while (parent := row.parents[path[-1]]) >= 0:
        path.append(parent)
    return path[::-1]


def _deepest(row: Row) -> int:
    """The place in a tree before which the most tokens stand."""
    assert row.parents is not None
    depths: list[int] = []
    for parent in row.parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return max(range(len(depths)), key=depths.__getitem__)


def _reads_trees(language_model: LanguageModel, row: Row) -> bool:
    """Whether a model says the same at places of a tree as at the end of that sequence alone.

    Not every architecture takes positions and an explicit mask: some refuse them, some ignore them. The places are the
    deepest one, and the last one, which has another branch before it.
    """
    deepest = _deepest(row)
    if any(width <= len(_path(row, deepest)) for width in _attention_widths(language_model)):
        return False
    return all(_agrees(language_model, row, place) for place in (deepest, len(row.tokens) - 1))


def _agrees(language_model: LanguageModel, row: Row, place: int) -> bool:
    """Whether a model says the same at a place of a tree as at the end of that sequence alone."""
    path = _path(row, place)
    alone = Row(tuple(row.tokens[at] for at in path), None, (len(path) - 1,))
    expected = _forward(language_model, [alone])
    try:
        found = _forward(language_model, [Row(row.tokens, row.parents, (place,))])
    except Exception:  # whatever it objects to, the plain way remains
        return False
    error = (found - expected).norm() / (expected - expected.mean()).norm()
    return bool(error < (1e-4 if expected.dtype in (torch.float32, torch.float64) else 5e-2))


def _attention_widths(language_model: LanguageModel) -> list[int]:
    """Tokens that layers with a sliding window, or with chunks, see at most; a mask of ours would widen them."""
    options = language_model.model.config.get_text_config().to_dict()
    return [
        value
        for name, value in options.items()
        if ("window" in name or "chunk" in name) and isinstance(value, int) and value > 0
    ]


def _read(
    local: LocalAnswerer,
    rows: Sequence[Row],
    askers: Sequence[Mapping[int, Ids]],
    requests: Mapping[int, Request],
) -> dict[int, Answer]:
    """Answers to the requests that read a batch.

    Args:
        local: the model, and how its predictions are corrected.
        rows: the batch.
        askers: for each row, the numbers of the requests that read it, and their places in it.
        requests: by number, all of one kind.
    """
    at: dict[int, list[int]] = {}
    offset = 0
    for row, asker in zip(rows, askers, strict=True):
        index = {place: offset + i for i, place in enumerate(row.places)}
        offset += len(row.places)
        at |= {number: [index[place] for place in places] for number, places in asker.items()}
    asked = [requests[number] for number in at]
    language_model = local.language_model
    if isinstance(asked[0], Embedding | NextSentence):
        states = _forward(language_model, rows, logits=False)
        if isinstance(asked[0], Embedding):
            return {number: tuple(states[places].float().mean(dim=0).tolist()) for number, places in at.items()}
        follows = next_sentence_log_probs(language_model.model, states).tolist()
        return {number: (follows[place],) for number, (place,) in at.items()}
    values = _forward(language_model, rows)
    if local.self_debias is not None:
        prompted = _forward(language_model, [_behind(row, language_model, local.self_debias.prompt) for row in rows])
        values = debiased_logits(values, prompted, local.self_debias.decay)
    if isinstance(asked[0], TopTokens):
        return {
            number: _top(values[places[0]], request.count)
            for (number, places), request in zip(at.items(), asked, strict=True)
            if isinstance(request, TopTokens)
        }
    targets = [target for request in asked if isinstance(request, TokenLogProbs) for target in request.targets]
    parts = [values[start : start + _ROWS_AT_ONCE] for start in range(0, len(values), _ROWS_AT_ONCE)]
    log_totals = torch.cat([part.float().logsumexp(dim=-1) for part in parts])
    flat = torch.tensor([place for places in at.values() for place in places], device=values.device)
    logs = values[flat, torch.tensor(targets, device=values.device)].float() - log_totals[flat]
    if isinstance(asked[0], AttentionWeightedLogProbs):
        logs *= _attention(language_model, rows)[flat]
    found = iter(logs.tolist())
    return {number: tuple(itertools.islice(found, len(places))) for number, places in at.items()}


def _top(logits: Tensor, count: int) -> Answer:
    """Ids of the largest logits [vocabulary], best first, equals by id; not-a-number where one of them is."""
    if logits.isnan().any():
        return (math.nan,)
    best = logits.topk(min(count, len(logits))).values[-1]
    candidates = (logits >= best).nonzero().squeeze(1)
    order = logits[candidates].sort(descending=True, stable=True).indices
    return tuple(candidates[order][:count].float().tolist())


def _forward(language_model: LanguageModel, rows: Sequence[Row], *, logits: bool = True) -> Tensor:
    """Logits [places, vocabulary] or last states [places, dim] at the places of rows, row after row."""
    inputs, where = _inputs(language_model, rows)
    read = forward_at(
        language_model.model,
        inputs,
        where,
        logits=logits,
        feature="decoder-input" if logits else "last-layer",
    )
    return read.states if read.logits is None else read.logits


def _behind(row: Row, language_model: LanguageModel, prompt: Ids) -> Row:
    """A row with a prompt before its text, and after the start token if it has one."""
    at = int(row.tokens[0] in language_model.tokenizer.all_special_ids)
    return Row((*row.tokens[:at], *prompt, *row.tokens[at:]), None, tuple(p + len(prompt) for p in row.places))


def _attention(language_model: LanguageModel, rows: Sequence[Row]) -> Tensor:
    """Attention that the places of rows receive, [places], row after row.

    The mean over layers, heads, and the tokens of the row. Fused attention keeps no weights, so the model,
    without its head, is run once more with the plain one.
    """
    model, (inputs, where) = language_model.model, _inputs(language_model, rows)
    fused = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        layers = model.base_model(**inputs, output_attentions=True, return_dict=True).attentions
    finally:
        model.set_attn_implementation(fused)
    if not layers or any(layer is None for layer in layers):
        raise ModelError(f"{type(model).__name__} does not tell its attention: choose a score that needs none")
    attends = inputs["attention_mask"][:, :, None]
    total = sum(layer.float().mean(dim=1) for layer in layers)  # [batch, attending, attended]
    received = (total * attends).sum(dim=1) / (len(layers) * attends.sum(dim=1))
    return received[where]


def _inputs(language_model: LanguageModel, rows: Sequence[Row]) -> tuple[dict[str, Any], Tensor]:
    """What the model's forward takes for rows, and the places where they are read, bool [batch, length]."""
    model, device = language_model.model, language_model.device
    shape = len(rows), max(len(row.tokens) for row in rows)
    ids = np.full(shape, language_model.examination.pad_id)
    attended, where = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    for number, row in enumerate(rows):
        ids[number, : len(row.tokens)] = row.tokens
        attended[number, : len(row.tokens)] = 1
        where[number, row.places] = True
    inputs: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(device)}
    if language_model.kind == "causal":
        inputs["use_cache"] = False
    if rows[0].types is not None:
        types = np.zeros(shape, dtype=np.int64)
        for number, row in enumerate(rows):
            types[number, : len(row.tokens)] = row.types or 0
        inputs["token_type_ids"] = torch.from_numpy(types).to(device)
    if rows[0].parents is None:
        inputs["attention_mask"] = torch.from_numpy(attended).to(device)
    else:
        ancestors, depths = _ancestry(rows, shape)
        hidden = torch.zeros(ancestors.shape, dtype=model.dtype)
        hidden[torch.from_numpy(~ancestors)] = torch.finfo(model.dtype).min
        inputs["attention_mask"] = hidden[:, None].to(device)  # [batch, heads, length, length]
        inputs["position_ids"] = torch.from_numpy(depths).to(device)
    return inputs, torch.from_numpy(where).to(device)


def _ancestry(rows: Sequence[Row], shape: tuple[int, int]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """For trees, which tokens are ancestors of a token, or itself, [batch, length, length]; its depth."""
    ancestors = np.repeat(np.eye(shape[1], dtype=bool)[None], shape[0], axis=0)
    depths = np.zeros(shape, dtype=np.int64)
    for number, row in enumerate(rows):
        assert row.parents is not None
        for place, parent in enumerate(row.parents):
            if parent >= 0:
                ancestors[number, place] |= ancestors[number, parent]
                depths[number, place] = depths[number, parent] + 1
    return ancestors, depths
