"""Score one model, or responses from a file, on one benchmark by generation."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch.distributed as dist

from equiframe.benchmarks.benchmark import BenchmarkResult, Generated, Outcome, check_names, summarise
from equiframe.benchmarks.generated import GeneratedBenchmark, Prompt
from equiframe.cache import cache_folder, writing_to_cache
from equiframe.chat import user_turn
from equiframe.config import GenerationOptions
from equiframe.data import AnySource, DataFile, DataSource
from equiframe.errors import CannotScoreError, InputError
from equiframe.generation.columns import FAVOURABLE, UNDECIDED, YES
from equiframe.generation.local import Ids, LocalWriter, batches
from equiframe.generation.measurer import Measurer
from equiframe.generation.measures import measurers
from equiframe.generation.responses import Response, ResponseFile
from equiframe.generation.served import ChatModel, ServedWriter
from equiframe.generation.sets import Responses
from equiframe.generation.text import decision
from equiframe.generation.writing import responses_of
from equiframe.models import LanguageModel
from equiframe.requests import TextCodec, TokenLogProbs
from equiframe.scoring.answering import Progress
from equiframe.scoring.engine import LocalAnswerer
from equiframe.uncertainty import RESAMPLES

if TYPE_CHECKING:
    from equiframe.scoring.served import ServedModel

_BY_PROBABILITY = "the probability of the favourable answer against the other, at the first token of the response"
_BY_TEXT = "whether the response begins with the favourable answer"
_AS_WRITTEN = "measured on the text of the responses"
_MISSING = "no response to this template for this group"
_FILTERED = "filtered by the server"
_TOO_LONG = "prompt and response are longer than the model's window"


class _Said(NamedTuple):
    """The responses to each prompt, how they were generated, and the first sequence that was read."""

    responses: list[list[Response]]
    generated: Generated
    prompt: str = ""


def score_generated(
    model: LocalAnswerer | ServedModel | ChatModel | LanguageModel | ResponseFile,
    benchmark: GeneratedBenchmark,
    *,
    settings: GenerationOptions | None = None,
    source: AnySource = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: Progress | None = None,
    limit: int | None = None,
) -> tuple[BenchmarkResult, pd.DataFrame]:
    """Give a benchmark's prompts to a model, and measure its responses.

    Args:
        model: the model that writes, or responses that already exist.
        benchmark: see :func:`equiframe.benchmarks.load_benchmark`.
        settings: how to write, about which groups, and what to measure.
        source: the source of data files: a folder, or ``hub:OWNER/NAME``; by default the data wheel.
        seed: seed of the bootstrap.
        resamples: number of resamples of the bootstrap.
        progress: called with the number of prompts answered so far.
        limit: use this many units (most often templates), spread evenly; all by default.

    Returns:
        The numbers, and the table of outcomes with one row per response.

    Raises:
        DataError: data is missing or malformed.
        CannotScoreError: the model does not write text, or no response counts.
        InputError: ``limit`` is below 1, a measure or a group is unknown, or several processes run.
        ModelError: there is too little memory, or a server does not answer.
    """
    start, settings = time.perf_counter(), settings or GenerationOptions()
    measuring = measurers(settings.measures, DataSource.of(source))
    every, files = _prompts(model, benchmark, settings, source)
    prompts = benchmark.limited(every, limit)
    if isinstance(model, ResponseFile):
        said = _from_file(model, benchmark, prompts)
    else:
        answerer = LocalAnswerer(model) if isinstance(model, LanguageModel) else model
        said = _written(answerer, benchmark, prompts, settings, progress)
    by_probability = _has_probabilities(prompts, said.responses)
    outcomes = _outcomes(prompts, said.responses, measuring, by_probability)
    check_names(benchmark.spec, (outcome.item for outcome in outcomes))
    if all(outcome.excluded is not None for outcome in outcomes):
        reasons = Counter(outcome.excluded for outcome in outcomes)
        counted = ", ".join(f"{why} ({count} of {len(outcomes)})" for why, count in reasons.items())
        raise CannotScoreError(f"{benchmark.spec}: all responses are left out: {counted}")
    result, table = summarise(
        benchmark,
        outcomes,
        scoring="; ".join([_scoring(prompts, by_probability), *(m.said for m in measuring if m.said)]),
        files=(*files, *(file for measurer in measuring for file in measurer.files)),
        seconds=time.perf_counter() - start,
        seed=seed,
        resamples=resamples,
        prompt=said.prompt,
        available=len({prompt.unit for prompt in every}),
    )
    headline = (*benchmark.headline, *benchmark.headlines_among(result.estimates))
    altered = Counter(response.altered for responses in said.responses for response in responses if response.altered)
    found = dataclasses.replace(said.generated, altered=dict(altered))
    return dataclasses.replace(result, headline=headline, generated=found), table


def _scoring(prompts: Sequence[Prompt], by_probability: bool) -> str:
    """Describe how responses are judged."""
    if not any(prompt.favourable for prompt in prompts):
        return _AS_WRITTEN
    return _BY_PROBABILITY if by_probability else _BY_TEXT


def _prompts(
    model: object, benchmark: GeneratedBenchmark, settings: GenerationOptions, source: AnySource
) -> tuple[list[Prompt], tuple[DataFile, ...]]:
    """Return the prompts of the benchmark, or those of the system whose responses a file holds."""
    if isinstance(benchmark, Responses) and isinstance(model, ResponseFile):
        return benchmark.prompts_in(model)
    return benchmark.prompts(DataSource.of(source), settings.groups)


def _from_file(given: ResponseFile, benchmark: GeneratedBenchmark, prompts: Sequence[Prompt]) -> _Said:
    """Look up the responses in a file for each prompt; missing ones are excluded.

    Raises:
        CannotScoreError: the file has nothing for the benchmark.
    """
    rows = given.rows.get(given.of(benchmark.spec), {})
    found = [(prompt.template, prompt.group) for prompt in prompts]
    asked = set(found)
    samples = max((sample + 1 for template, group, sample in rows if (template, group) in asked), default=0)
    if not samples:
        example = f"template {found[0][0]!r}, group {found[0][1]!r}" if found else "none"
        raise CannotScoreError(
            f"{benchmark.spec}: {given.file.name} has no response to its templates, such as {example}"
        )
    missing = Response("", excluded=_MISSING)
    responses = [[rows.get((*at, sample), missing) for sample in range(samples)] for at in found]
    return _Said(responses, Generated(f"whoever wrote {given.file.name} ({given.file.sha256[:12]})", samples=samples))


def _written(
    subject: LocalAnswerer | ServedModel | ChatModel,
    benchmark: GeneratedBenchmark,
    prompts: Sequence[Prompt],
    settings: GenerationOptions,
    progress: Progress | None,
) -> _Said:
    """Generate the responses of a model."""
    if subject.kind != "causal":
        raise CannotScoreError(f"{benchmark.spec} needs a model that writes text, but {subject.name} is a masked LM")
    if isinstance(subject, LocalAnswerer) and subject.self_debias is not None:
        raise CannotScoreError(f"{benchmark.spec}: Self-Debias corrects probabilities, but does not write text")
    if dist.is_initialized():
        raise InputError(f"{benchmark.spec} generates text in one process: start it without torchrun")
    length = settings.max_new_tokens or benchmark.max_new_tokens
    how = settings.decoding, settings.samples, length, settings.stop
    cache = cache_folder() / "generation"
    if isinstance(subject, ChatModel):
        asked = [_worded(prompt, is_chat=True) for prompt in prompts]
        with writing_to_cache():
            texts = responses_of(subject, asked, _hundreds(len(asked)), settings, length, cache, progress)
        responses = [[_response(text) for text in written] for written in texts]
        return _Said(responses, Generated("the chat endpoint of a server", *how, chat_template=True), asked[0])
    ids = [_ids(prompt, subject.codec) for prompt in prompts]
    fitting = [at for at, one in enumerate(ids) if len(one) + length <= subject.codec.window]
    fitted = [ids[at] for at in fitting]
    with writing_to_cache():
        if not isinstance(subject, LocalAnswerer):
            hundreds, served = _hundreds(len(fitted)), ServedWriter(subject)
            texts = responses_of(served, fitted, hundreds, settings, length, cache, progress)
        else:
            batched = batches(fitted, settings.samples, length, subject.token_budget)
            writer = LocalWriter(subject.language_model)
            texts = responses_of(writer, fitted, batched, settings, length, cache, progress)
    probability = _favourable(subject, {at: prompts[at] for at in fitting}, ids)
    responses = [[Response("", excluded=_TOO_LONG)] * settings.samples for _ in prompts]
    for at, written in zip(fitting, texts, strict=True):
        responses[at] = [_response(text, probability.get(at)) for text in written]
    is_here, is_chat = isinstance(subject, LocalAnswerer), subject.codec.chat_template is not None
    generated = Generated("the model loaded here" if is_here else "a server", *how, chat_template=is_chat)
    return _Said(responses, generated, subject.codec.tokenizer.decode(ids[0]) if ids else "")


def _hundreds(count: int) -> Iterator[range]:
    """Yield positions of prompts, a hundred at a time."""
    return (range(start, min(start + 100, count)) for start in range(0, count, 100))


def _response(text: str | None, probability: float | None = None) -> Response:
    return Response("", excluded=_FILTERED) if text is None else Response.of(text, probability)


def _ids(prompt: Prompt, codec: TextCodec) -> Ids:
    """Encode a prompt: in a user's turn if there is a chat template, else as text."""
    template = codec.chat_template
    if template is None:
        return codec.encode(_worded(prompt, is_chat=False))
    return user_turn(codec.tokenizer, _worded(prompt, is_chat=True), template)


def _worded(prompt: Prompt, is_chat: bool) -> str:
    """Return a prompt as the model reads it.

    A chat model is asked to continue a beginning; any other model is shown where the answer begins.
    """
    if is_chat:
        return f"Continue this text: {prompt.text}" if prompt.is_beginning else prompt.text
    return prompt.text if prompt.favourable is None else f"{prompt.text}\nAnswer:"


def _favourable(
    answerer: LocalAnswerer | ServedModel, prompts: Mapping[int, Prompt], asked: Sequence[Ids]
) -> dict[int, float]:
    """For prompts that ask for a decision, compute p(favourable) / (p(yes) + p(no)) at the response's first token."""
    deciding = {at: prompt for at, prompt in prompts.items() if prompt.favourable is not None}
    if not deciding:
        return {}
    yes, no = answer_tokens(answerer.codec)
    targets = (*yes, *no)
    requests = [TokenLogProbs(asked[at], (len(asked[at]) - 1,) * len(targets), targets) for at in deciding]
    shares = {}
    for (at, prompt), logs in zip(deciding.items(), answerer.answer(requests), strict=True):
        of_yes, of_no = (np.logaddexp.reduce(part) for part in np.split(np.array(logs), [len(yes)]))
        log_odds = of_yes - of_no if prompt.favourable == "yes" else of_no - of_yes
        shares[at] = float(1 / (1 + np.exp(-log_odds)))
    return shares


def answer_tokens(codec: TextCodec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that are yes, and those that are no, in any spelling."""
    sides = []
    for word in ("yes", "no"):
        forms = [space + form for space in ("", " ") for form in (word, word.capitalize(), word.upper())]
        pieces = [ids[0] for form in forms if len(ids := codec.tokenizer.encode(form, add_special_tokens=False)) == 1]
        sides.append([piece for piece in dict.fromkeys(pieces) if piece != codec.tokenizer.unk_token_id])
    if not all(sides):
        raise CannotScoreError("the tokenizer has no token for yes, or none for no: give --responses FILE")
    return tuple(sides[0]), tuple(sides[1])


def _has_probabilities(prompts: Sequence[Prompt], responses: Sequence[Sequence[Response]]) -> bool:
    """Whether the probability of the favourable answer is known for every response that counts."""
    deciding = [
        response
        for prompt, found in zip(prompts, responses, strict=True)
        for response in found
        if prompt.favourable is not None and response.excluded is None
    ]
    return bool(deciding) and all(response.probability is not None for response in deciding)


def _outcomes(
    prompts: Sequence[Prompt],
    responses: Sequence[Sequence[Response]],
    measuring: Sequence[Measurer],
    by_probability: bool,
) -> list[Outcome]:
    """Make the rows of the table, one per response, with all of its numbers."""
    rows = [
        (prompt, sample, one)
        for prompt, said in zip(prompts, responses, strict=True)
        for sample, one in enumerate(said)
    ]
    counted = [at for at, (_, _, response) in enumerate(rows) if response.excluded is None]
    values: dict[int, dict[str, float]] = {at: {} for at in range(len(rows))}
    for measurer in measuring if counted else ():
        texts = [rows[at][2].text for at in counted]
        for name, column in measurer.score([rows[at][:2] for at in counted], texts).items():
            for at, value in zip(counted, column, strict=True):
                values[at][name] = float(value)
    return [_outcome(*row, values[at], by_probability) for at, row in enumerate(rows)]


def _outcome(
    prompt: Prompt, sample: int, response: Response, found: Mapping[str, float], by_probability: bool
) -> Outcome:
    """Make one row of the table."""
    values: dict[str, float] = {"sample": sample}
    if response.excluded is None and prompt.favourable is not None:
        said = decision(response.text)
        values[FAVOURABLE], values[YES] = float(said == prompt.favourable), float(said == "yes")
        if by_probability and response.probability is not None:
            values[FAVOURABLE] = values["probability"] = response.probability
            values[YES] = response.probability if prompt.favourable == "yes" else 1 - response.probability
        values[UNDECIDED] = float(said is None)
    groups = {
        "unit": prompt.unit,
        "template": prompt.template,
        "axis": prompt.axis,
        "group": prompt.group,
        "kind": prompt.kind,
        "answer": prompt.favourable or "",
    }
    return Outcome(
        f"{prompt.template}/{prompt.axis}/{prompt.group}/{sample}",
        groups=groups,
        values={**values, **found},
        text={"prompt": prompt.text, "response": response.text},
        excluded=response.excluded,
    )
