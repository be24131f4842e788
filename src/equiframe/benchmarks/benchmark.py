"""The common structure of every benchmark that is scored by requests."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

import pandas as pd

from equiframe.about import About
from equiframe.data import DEFAULT_SOURCE, DataFile, DataSource
from equiframe.data.spreading import evenly_in_any_order
from equiframe.errors import CannotScoreError, DataError, InputError
from equiframe.requests import Answer, Request, TextCodec, TokenLogProbs
from equiframe.uncertainty import Estimate, estimate
from equiframe.uncertainty import Measure as Measure

Item = TypeVar("Item")


@dataclass(frozen=True)
class Outcome:
    """One row of the per-item table: the result of one item, or of one part of it.

    Args:
        item: stable identifier, the same for every model.
        groups: what the item can be grouped by, such as ``{"bias_type": "gender", "target": "nurse"}``.
        values: numbers by name: scores, for example the log-probability of each candidate, and numbers from the data.
        excluded: why the item is left out of every measure, None if it counts.
        text: the texts of the item that a reader needs to see, for example both sentences.
    """

    item: str
    groups: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    excluded: str | None = None
    text: Mapping[str, str] = field(default_factory=dict)

    def with_found(self, found: Mapping[str, float | str]) -> Outcome:
        """Return the row with the found scores before its own numbers and the found texts after its own texts."""
        values = {name: value for name, value in found.items() if not isinstance(value, str)}
        text = {name: value for name, value in found.items() if isinstance(value, str)}
        return replace(self, values={**values, **self.values}, text={**self.text, **text})


@dataclass(frozen=True)
class HalfPrecision:
    """The changes that half precision made, on items of a benchmark that were also scored in float32.

    Args:
        precision: the precision in which all items were scored, such as ``bfloat16``.
        items: number of rows of the outcome table that were compared.
        flips: number of rows with another decision, None if the benchmark has no decisions.
        largest_change: largest change of any value, in the unit of that value.
    """

    precision: str
    items: int
    flips: int | None
    largest_change: float

    def __str__(self) -> str:
        if self.flips is None:
            return f"in {self.precision} the values of {self.items} items change by up to {self.largest_change:.2g}"
        return f"in {self.precision} {self.flips} of {self.items} decisions flip"


@dataclass(frozen=True)
class Generated:
    """How the responses were generated.

    Args:
        origin: who wrote them, such as ``the model loaded here``, or the file that they were read from.
        decoding: how tokens were chosen, such as ``greedy``; None if a file does not say.
        samples: number of responses to each prompt.
        max_new_tokens: maximum length of a response, None if a file does not say.
        stop: texts that ended a response.
        chat_template: whether prompts were written with the model's chat template, None if unknown.
        altered: number of responses that were cut or cleaned, by what was done.
    """

    origin: str
    decoding: str | None = None
    samples: int = 1
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    chat_template: bool | None = None
    altered: Mapping[str, int] = field(default_factory=dict)

    @property
    def settings(self) -> tuple[Any, ...] | None:
        """The settings that two runs must share to be compared, None if they are unknown."""
        return None if self.decoding is None else (self.decoding, self.samples, self.max_new_tokens, self.stop)

    def __str__(self) -> str:
        said = [f"responses by {self.origin}"]
        if self.decoding is not None:
            said += [self.decoding, f"at most {self.max_new_tokens} tokens"]
        said.append(f"{self.samples} to each prompt")
        if self.chat_template is not None:
            said.append(f"{'with the' if self.chat_template else 'without a'} chat template")
        said += [f"stopped at {text!r}" for text in self.stop]
        return ", ".join([*said, *(f"{count} {what}" for what, count in self.altered.items())])


@dataclass(frozen=True)
class BenchmarkResult:
    """All numbers of one benchmark on one model; the per-item table is stored next to it.

    Args:
        benchmark: name with variant, such as ``crows_pairs:changed``, as ``load_benchmark`` reads it.
        version: number that is raised when a score of the same model may change.
        scoring: how the items were scored, in a few words; it depends on the kind of model. Records with
            different ``scoring_key`` are not compared.
        files: data files, with hash.
        items: rows of the outcome table.
        excluded: number of items left out, by reason.
        estimates: estimates by measure key.
        seconds: wall time of scoring.
        half_precision: the changes that half precision made, None if they were not measured.
        headline: keys of the measures that represent the benchmark if there is room for only a few.
        about: what a reader must know about the benchmark, None if there is no such text.
        suite: fairness (bias) or nlu (language understanding); None in records of older versions.
        prompt: the first sequence that the model read, special tokens included; empty if unknown.
        generated: how the responses were generated, None if the benchmark does not generate text.
        available: items that the data has (examples, or units of prompts), of which ``--limit`` may have left out some;
            None if unknown.
    """

    benchmark: str
    version: int
    scoring: str
    files: tuple[DataFile, ...]
    items: int
    excluded: Mapping[str, int]
    estimates: Mapping[str, Estimate]
    seconds: float
    half_precision: HalfPrecision | None = None
    headline: tuple[str, ...] = ()
    about: About | None = None
    suite: Literal["fairness", "nlu"] | None = None
    prompt: str = ""
    generated: Generated | None = None
    available: int | None = None

    @property
    def name(self) -> str:
        """The name of the benchmark in comparisons and policies."""
        return self.benchmark

    @property
    def scoring_key(self) -> str:
        """``scoring`` in today's words, so that records whose texts differ only in wording can be compared.

        Records written before December 2026 say "behind" where later ones say "after".
        """
        return re.sub(r"\bbehind\b", "after", self.scoring)


class Scored(ABC):
    """The common part of all benchmarks: a name with variants, and measures of the outcomes.

    Attributes:
        name: the name under which the benchmark is registered.
        version: number that is raised when a score of the same model may change.
        about: what a reader must know about it, None if there is nothing specific to say.
        headline: keys of the measures that represent the benchmark if there is room for only a few.
        suite: fairness (bias) or nlu (language understanding).
        variants: choices by option, the default first. An option is an argument of the class and an
            attribute of its instances; no two options share a choice.
        counts: columns of the outcome table that only depend on the tokenizer, if the measures are per token. Runs
            that differ in them are not compared.
    """

    name: str
    version: ClassVar[int]
    about: About | None = None
    headline: tuple[str, ...] = ()
    suite: Literal["fairness", "nlu"] = "fairness"
    variants: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    counts: ClassVar[tuple[str, ...]] = ()

    @property
    def spec(self) -> str:
        """The name and the choices that are not the default: ``crows_pairs:changed``."""
        chosen = {getattr(self, option): choices[0] for option, choices in self.variants.items()}
        words = [word for word, default in chosen.items() if word != default]
        return f"{self.name}:{','.join(words)}" if words else self.name

    @abstractmethod
    def measures(self, outcomes: pd.DataFrame) -> list[Measure]:
        """Return the measures. ``outcomes`` has one row per item, or the rows of several runs stacked."""


Answers: TypeAlias = Sequence[Sequence[Answer]]
"""The answers to the requests of each part, in order."""


@dataclass(frozen=True)
class Asked:
    """The requests about one item, in parts.

    Args:
        parts: if an item compares texts, the requests of each text; otherwise one part. Parts with the same
            requests cannot be distinguished, so such an item is excluded.
    """

    parts: Sequence[Sequence[Request]]

    @property
    def requests(self) -> list[Request]:
        """The requests of all parts, in order."""
        return [request for part in self.parts for request in part]

    def by_part(self, answers: Iterable[Answer]) -> Answers:
        """Group answers, one for each request, by part, as :meth:`Benchmark.read` takes them."""
        following = iter(answers)
        return [[next(following) for _ in part] for part in self.parts]


@dataclass(frozen=True)
class Excluded:
    """The reason why an item is not scored."""

    reason: str
    requests: tuple[()] = ()


class Benchmark(Scored, Generic[Item]):
    """A benchmark that turns items into requests, answers into outcomes, and outcomes into measures.

    A benchmark sees a tokenizer and answers, never a model. Everything in it is a pure function except
    ``items``, which reads its files through ``equiframe.data``. A subclass defines the requests about one item
    (``ask``) and how to read the answers (``read``); this class does the rest.

    Attributes:
        needs: the kinds of request that a model must answer; a model that does not answer them is not scored.
        decisions: the decisions that the measures count: for each the names of the values that are compared, of
            which the largest wins; a single name is compared with 0. Empty if the measures use the values themselves.
        puts_questions: whether a causal model with a chat template is asked in a user's turn.
    """

    needs: tuple[type[Request], ...] = (TokenLogProbs,)
    decisions: ClassVar[Sequence[tuple[str, ...]]] = ()
    puts_questions: ClassVar[bool] = False

    @abstractmethod
    def items(self, source: DataSource = DEFAULT_SOURCE) -> tuple[list[Item], tuple[DataFile, ...]]:
        """Find, parse and check the data.

        Args:
            source: the source of data files; by default the data wheel, then the hub.

        Raises:
            DataError: the data is not as expected; the error names the file, the line or field, and the content.
        """

    @abstractmethod
    def scoring(self, codec: TextCodec) -> str:
        """Describe in a few words how items are scored with such a model."""

    @abstractmethod
    def rows(self, item: Item, codec: TextCodec) -> list[Outcome]:
        """Return the rows of one item, most often one: its names, groups and texts, without answers."""

    @abstractmethod
    def ask(self, item: Item, codec: TextCodec) -> Asked | Excluded:
        """Return the requests about one item, or why it cannot be scored.

        A text that is empty, longer than the model's window, unknown to the tokenizer, or tokenized like another text
        of the item need not be checked here: :meth:`asked` excludes such items.
        """

    @abstractmethod
    def read(self, item: Item, answers: Answers, codec: TextCodec) -> Sequence[Mapping[str, float | str]]:
        """Read the answers: return, for each row of the item, its scores, and texts if they are part of the result."""

    def asked(self, item: Item, codec: TextCodec) -> Asked | Excluded:
        """Return what :meth:`ask` returns, if the model can answer it and the answers can differ."""
        asked = self.ask(item, codec)
        if isinstance(asked, Excluded):
            return asked
        if not all(asked.parts) or any(map(_is_empty, asked.requests)):
            return Excluded("a text has no token")
        if not all(map(codec.fits, asked.requests)):
            return Excluded("longer than the model's window")
        if len({tuple(part) for part in asked.parts}) < len(asked.parts):
            return Excluded("texts that are compared have the same tokens")
        if any(_is_unknown(part, codec.tokenizer.unk_token_id) for part in asked.parts):
            return Excluded("the tokenizer knows no token that is scored")
        return asked

    def outcomes(
        self, items: Sequence[Item], codec: TextCodec, answer: Callable[[Sequence[Request]], Sequence[Answer]]
    ) -> list[list[Outcome]]:
        """Return the rows of each item.

        Args:
            items: what to score.
            codec: how the model reads text.
            answer: gives one answer for each request, in order; it is called once, with the requests of all items.

        Raises:
            CannotScoreError: the model does not answer the kinds of request that the benchmark needs.
            DataError: two rows have the same name.
        """
        for kind in self.needs:
            if kind not in codec.answers:
                raise CannotScoreError(
                    f"{self.spec} asks for {kind.__name__}, which this {codec.kind} language model does not answer"
                )
        rows = [self.rows(item, codec) for item in items]
        check_names(self.spec, (row.item for of_item in rows for row in of_item))
        asked = [self.asked(item, codec) for item in items]
        answers = iter(answer([request for one in asked for request in one.requests]))
        return [self._answered(*each, answers, codec) for each in zip(items, rows, asked, strict=True)]

    def _answered(
        self, item: Item, rows: list[Outcome], asked: Asked | Excluded, answers: Iterator[Answer], codec: TextCodec
    ) -> list[Outcome]:
        if isinstance(asked, Excluded):
            return [replace(row, excluded=asked.reason) for row in rows]
        found = self.read(item, asked.by_part(answers), codec)
        return [row.with_found(each) for row, each in zip(rows, found, strict=True)]


def _is_empty(request: Request) -> bool:
    return not request.input_ids or (isinstance(request, TokenLogProbs) and not request.targets)


def _is_unknown(part: Sequence[Request], unknown: int | None) -> bool:
    """Whether only the unknown token is scored: its probability says how often it occurs, and nothing else."""
    targets = [target for request in part if isinstance(request, TokenLogProbs) for target in request.targets]
    return bool(targets) and set(targets) == {unknown}


def check_names(spec: str, names: Iterable[str]) -> None:
    """Raise a DataError if a name is repeated: the items of two runs are paired by their names."""
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise DataError(f"{spec}: two items are called {repeated[0]!r}: give each a different name in the data")


def spread(items: list[Item], limit: int | None) -> list[Item]:
    """Take ``limit`` items, spread evenly over all of them; by default take all.

    Raises:
        InputError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}: score one item or more")
    if limit is None or limit >= len(items):
        return items
    return [items[at] for at in evenly_in_any_order(len(items), limit)]


def outcome_table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Make a table with one row per item: ``item``, groups, values (NaN if excluded), texts, and ``excluded``."""
    rows: list[dict[str, Any]] = [
        {"item": o.item, **o.groups, **o.values, **o.text, "excluded": o.excluded} for o in outcomes
    ]
    columns = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)
    return pd.DataFrame(rows, columns=list(columns))


def summarise(
    benchmark: Scored,
    outcomes: Sequence[Outcome],
    *,
    scoring: str,
    files: Sequence[DataFile],
    seconds: float,
    seed: int,
    resamples: int,
    half: HalfPrecision | None = None,
    prompt: str = "",
    available: int | None = None,
) -> tuple[BenchmarkResult, pd.DataFrame]:
    """Estimate the measures of a benchmark with their intervals; return them with the table that they come from."""
    table = outcome_table(outcomes)
    result = BenchmarkResult(
        benchmark=benchmark.spec,
        version=benchmark.version,
        scoring=scoring,
        files=tuple(dict.fromkeys(files)),
        items=len(outcomes),
        excluded=dict(Counter(outcome.excluded for outcome in outcomes if outcome.excluded is not None)),
        estimates={m.key: estimate(m, seed=seed, resamples=resamples) for m in benchmark.measures(table)},
        seconds=seconds,
        half_precision=half,
        headline=benchmark.headline,
        about=benchmark.about,
        suite=benchmark.suite,
        prompt=prompt,
        available=available,
    )
    return result, table
