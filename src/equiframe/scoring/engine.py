"""Answers requests with a model in this process, in the order of the requests."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor

from equiframe.errors import ModelError
from equiframe.models.adapter import evaluating
from equiframe.models.language_model import LanguageModel
from equiframe.models.memory import in_less_memory
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
from equiframe.scoring.forward import attention_received, forward
from equiframe.scoring.planner import Ids, Plan, Row, batches, plan, positions_read
from equiframe.scoring.self_debias import SelfDebias, debiased_logits
from equiframe.scoring.store import AnswerStore
from equiframe.scoring.trees import deepest_place, path_of, reads_trees

TOKEN_BUDGET = 4096
_TREE_TOKENS = 128  # longer trees share little more, and attention is quadratic in them
_LOGITS_AT_ONCE = 2**26  # 256 MB in float32
_ROWS_AT_ONCE = 64  # rows of logits that are reduced at once


@dataclass(frozen=True)
class LocalAnswerer:
    """Answers requests with a model in this process, in as few forward passes as possible.

    The vocabulary is computed only where it is read. With ``torch.distributed`` the ranks share the work, and each
    returns all answers. The model is read in evaluation mode, and left as it was. See
    :class:`equiframe.scoring.answering.Answerer`.

    Args:
        language_model: the model.
        token_budget: tokens of one forward pass, padding included; halved, with a warning, if memory is insufficient.
        store: stored answers of this model; batches in it are not computed again.
        self_debias: correction of its predictions; none by default.
        chat_template: template in which benchmarks ask questions; plain text by default.

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
        """The name as the user gave it."""
        return self.language_model.name

    @property
    def kind(self) -> ModelKind:
        """The kind of model: masked or causal."""
        return self.language_model.kind

    @property
    def precision(self) -> str:
        """The data type of the model's computations."""
        return self.language_model.precision

    @cached_property
    def codec(self) -> TextCodec:
        """How the model reads text; Self-Debias puts its prompt in the window and corrects only token probabilities."""
        codec = replace(self.language_model.codec, chat_template=self.chat_template)
        if self.self_debias is None:
            return codec
        window = codec.window - len(self.self_debias.prompt)
        return replace(codec, window=window, has_states=False, has_next_sentence=False)

    def fingerprint(self) -> str:
        """The fingerprint of the model, and of Self-Debias."""
        return self.language_model.fingerprint(self.self_debias)

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Answer]:
        """Return one answer per request, in order.

        Args:
            requests: requests within the model's window.
            progress: called with the number of requests answered so far (by this rank), and the number of all.

        Raises:
            InputError: the model does not answer a kind of request, or a sequence is longer than its window.
            ModelError: an answer is NaN, or there is too little memory for one row.
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
                    f"{language_model.name} gives not-a-number for {' '.join(tokens)!r}: are its weights complete,"
                    " and is its precision wide enough?"
                )
        return [answers[i] for i in range(len(requests))]


def answer(
    language_model: LanguageModel, requests: Sequence[Request], *, progress: Progress | None = None, **options: Any
) -> list[Answer]:
    """Answer requests once with a model, as :class:`LocalAnswerer` does with these options."""
    return LocalAnswerer(language_model, **options).answer(requests, progress)


def _answers(local: LocalAnswerer, requests: Mapping[int, Request]) -> Iterator[dict[int, Answer]]:
    """Yield this rank's answers to requests of one kind by their number, batch by batch.

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
    how = str(language_model.model.dtype), language_model.device.type, torch.__version__, transformers.__version__

    def read(start: int, end: int) -> dict[int, Answer]:
        rows, asking = planned.rows[start:end], askers[start:end]
        reads = [(number, places) for asker in asking for number, places in asker.items()]
        key = store.key(how, (rows, [(requests[number], places) for number, places in reads])) if store else None
        if store and key and (stored := store.get(key)) is not None:
            return {number: value for (number, _), value in zip(reads, stored, strict=True)}
        found = _read(local, rows, asking, requests)
        if store and key:
            store.put(key, [found[number] for number, _ in reads])
        return found

    def read_in_parts(start: int, end: int, budget: int) -> dict[int, Answer]:
        parts = _halves(start, end, max(1, budget // len(planned.rows[start].tokens)))
        return {number: value for part in parts for number, value in read(*part).items()}

    def halved(start: int, end: int, budget: int) -> tuple[int, str]:
        longest = len(planned.rows[start].tokens)
        if budget < 2 * longest or end - start == 1:
            raise ModelError(
                f"{language_model.device} has too little free memory for {longest} tokens of {language_model.name}:"
                " stop other programs that use it, or choose another device"
            )
        half = min(budget, (end - start) * longest) // 2
        return half, f"continuing with a token budget of {half}"

    largest = token_budget  # smaller for all later batches once memory was too small
    for batch in bounds[rank::ranks]:
        found, largest = in_less_memory(partial(read_in_parts, *batch), largest, partial(halved, *batch))
        yield found


def _halves(start: int, end: int, most: int) -> list[tuple[int, int]]:
    """Halve a range until no part is longer than ``most``."""
    if end - start <= most:
        return [(start, end)]
    middle = (start + end) // 2
    return [*_halves(start, middle, most), *_halves(middle, end, most)]


def _plan(local: LocalAnswerer, requests: Sequence[Request]) -> Plan:
    """Plan rows for the requests: trees of sequences if the model is causal and reads them correctly."""
    if local.kind == "causal" and local.self_debias is None:
        language_model = local.language_model
        planned = plan(requests, tree_tokens=min(_TREE_TOKENS, local.token_budget, language_model.window))
        trees = (row for row in planned.rows if row.parents is not None)
        deepest = max(trees, key=lambda row: len(path_of(row, deepest_place(row))), default=None)
        if deepest is None or reads_trees(language_model, deepest):
            return planned
    return plan(requests)


def _read(
    local: LocalAnswerer,
    rows: Sequence[Row],
    askers: Sequence[Mapping[int, Ids]],
    requests: Mapping[int, Request],
) -> dict[int, Answer]:
    """Answer the requests that read a batch.

    Args:
        local: the model, and how its predictions are corrected.
        rows: the batch.
        askers: for each row, the numbers of the requests that read it, and their places in it.
        requests: requests by number, all of one kind.
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
        states = forward(language_model, rows, logits=False)
        if isinstance(asked[0], Embedding):
            return {number: tuple(states[places].float().mean(dim=0).tolist()) for number, places in at.items()}
        follows = next_sentence_log_probs(language_model.model, states).tolist()
        return {number: (follows[place],) for number, (place,) in at.items()}
    values = forward(language_model, rows)
    if local.self_debias is not None:
        prompted = forward(language_model, [_after(row, language_model, local.self_debias.prompt) for row in rows])
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
        logs *= attention_received(language_model, rows)[flat]
    found = iter(logs.tolist())
    return {number: tuple(itertools.islice(found, len(places))) for number, places in at.items()}


def _top(logits: Tensor, count: int) -> Answer:
    """Ids of the largest logits [vocabulary], best first, ties by id; NaN if one of them is NaN."""
    if logits.isnan().any():
        return (math.nan,)
    best = logits.topk(min(count, len(logits))).values[-1]
    candidates = (logits >= best).nonzero().squeeze(1)
    order = logits[candidates].sort(descending=True, stable=True).indices
    return tuple(candidates[order][:count].float().tolist())


def _after(row: Row, language_model: LanguageModel, prompt: Ids) -> Row:
    """A row with a prompt before its text; the prompt comes after the start token if there is one."""
    at = int(row.tokens[0] in language_model.tokenizer.all_special_ids)
    return Row((*row.tokens[:at], *prompt, *row.tokens[at:]), None, tuple(p + len(prompt) for p in row.places))
