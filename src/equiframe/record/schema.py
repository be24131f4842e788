"""The numbers of a run, as stored in ``metrics.json``, and those of a comparison of runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from equiframe.about import About
from equiframe.benchmarks.benchmark import BenchmarkResult
from equiframe.choices import ModelKind
from equiframe.data import DataFile
from equiframe.models.examination import Examination
from equiframe.uncertainty import Difference, Estimate

Verb: TypeAlias = Literal["audit", "evaluate", "debias", "compare", "demo"]


COLLAPSE, CONTEXTS = "collapse", "contexts"
"""The name of geometry in place of a benchmark's name; the class set, or the bias, is its variant."""


class InNotebooks:
    """An object that shows itself as tables in a notebook once the report is loaded; a record alone shows text."""

    html: ClassVar[Callable[[Any], str] | None] = None

    def _repr_html_(self) -> str | None:
        made = type(self).html
        return None if made is None else made(self)


class Frozen(BaseModel):
    """A part of a record; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class ServerDescription(Frozen):
    """The server through which the model was used, and its description of itself and of the model."""

    url: str
    model: str = Field(description="the name under which it is served")
    root: str | None = Field(description="what the server loaded")
    revision: str | None
    version: str | None = Field(description="version of the server's software")
    tokenizer: str = Field(description="tokenizer that encoded the texts here")
    window: int = Field(description="longest sequence that is sent, in tokens")


class ModelDescription(Frozen):
    """The model that the numbers are about."""

    name: str
    kind: ModelKind
    architecture: str | None = Field(default=None, description="null if a server does not say")
    parameters: int | None = Field(default=None, description="null if a server does not say")
    vocabulary: int = Field(description="number of tokens; 0 if only responses are known")
    precision: str = "float32"
    projected: bool = Field(default=False, description="whether a projection acts on its last hidden states")
    fingerprint: str = Field(
        description="SHA-256 of the weights, the configuration and the tokenizer; for a served model, of its server's"
        " description and of the tokenizer"
    )
    examination: Examination | None = Field(default=None, description="what was found in the model after loading")
    server: ServerDescription | None = Field(default=None, description="null if the model was loaded here")
    chat_template: str | None = Field(
        default=None, description="template that put questions in a user's turn; null if they were plain text"
    )

    @property
    def in_words(self) -> str:
        """The model in words, for a reader: ``LlamaForCausalLM, 134,515,008 parameters``."""
        if self.architecture is None and self.server is None:
            return "system of which only responses are known"
        if self.server is None:
            return f"{self.architecture}, {self.parameters:,} parameters"
        version = f", version {self.server.version}" if self.server.version else ""
        return f"{self.server.root or self.server.model}, on a server{version}"


class CollapseResult(Frozen):
    """Collapse metrics of one class set on one text.

    ``estimates`` holds the metrics that are a statistic over words, with intervals by resampling words.
    """

    class_set: str = Field(description="'vocabulary', or the name of a word set")
    classes: int = Field(description="classes seen often enough to count")
    tokens: int = Field(description="samples of these classes")
    values: dict[str, float | None] = Field(
        description="metrics by flat key: nc1_cdnv_mean, unc3, nc4_agreement, ...; null where undefined"
    )
    estimates: dict[str, Estimate] = {}
    files: tuple[DataFile, ...] = Field((), description="files of the text")
    texts: int | None = Field(None, description="number of texts read; null in records of older versions")
    truncated: int = Field(0, description="number of texts that were longer than the model's window and were cut")
    short: int = Field(0, description="number of texts of fewer than three words, which were left out")
    about: About | None = Field(None, description="facts about every value; null in records of older versions")

    @property
    def name(self) -> str:
        """The name in comparisons and policies: ``collapse:WORDS``."""
        return f"{COLLAPSE}:{self.class_set}"


class ContextsResult(Frozen):
    """Collapse of contexts: texts compared with their counterfactuals, with intervals by resampling texts.

    ``estimates`` holds ``cc1_states``, ``cc1_js``, ``cc3_log_odds``, ``cc3_cosine_gap``, ``agreement`` and
    ``agreement_log_odds``, as far as the texts have suitable places.
    """

    bias: str = Field(description="bias whose words are swapped: gender, race or religion")
    pairs: int = Field(description="number of texts read with their counterfactuals")
    estimates: dict[str, Estimate] = {}
    about: About | None = Field(None, description="facts about every measure; null in records of older versions")

    @property
    def name(self) -> str:
        """The name in comparisons and policies: ``contexts:BIAS``."""
        return f"{CONTEXTS}:{self.bias}"


Result: TypeAlias = BenchmarkResult | CollapseResult | ContextsResult


class TrainingResult(Frozen):
    """The debiasing of a model."""

    method: str
    does: str = Field("", description="the method in a sentence; empty in records of older versions")
    options: dict[str, Any] = Field({}, description="options of the method, including defaults")
    settings: dict[str, Any] = Field(
        {}, description="settings of fine-tuning that were used; empty in records of older versions"
    )
    outcome: str = Field("", description="what a projection removed, in a sentence; empty for fine-tuning")
    unc3_weight: float
    steps: int
    seconds: float
    final_loss: float | None = Field(description="mean over the last ten steps; null if nothing was trained")


class Metrics(InNotebooks, Frozen):
    """The content of ``metrics.json``."""

    schema_version: Literal["equiframe.metrics/1"] = "equiframe.metrics/1"
    verb: Verb
    model: ModelDescription
    collapse: list[CollapseResult] = []
    contexts: list[ContextsResult] = []
    benchmarks: list[BenchmarkResult] = []
    training: TrainingResult | None = None

    @property
    def results(self) -> dict[str, Result]:
        """All results with estimates by name: benchmarks, ``collapse:WORDS`` and ``contexts:BIAS``."""
        found: list[Result] = [*self.benchmarks, *self.collapse, *self.contexts]
        return {result.name: result for result in found}


class ComparedMeasure(Frozen):
    """One measure of one run against the first run of the comparison, all three numbers over the same items."""

    benchmark: str
    measure: str
    first: Estimate
    second: Estimate
    difference: Difference


class SharedItems(Frozen):
    """The number of items, or words, that all runs of a comparison measured, and the number that each measured."""

    shared: int
    measured: dict[str, int] = Field(description="number of items by run")

    @property
    def is_part(self) -> bool:
        """Whether a run measured more than the compared items."""
        return any(count > self.shared for count in self.measured.values())


class Comparison(InNotebooks, Frozen):
    """``metrics.json`` of a comparison: the runs by name, and each later run against the first.

    If the runs did not measure the same items, the estimates in ``runs`` are those over the items that all share.
    """

    schema_version: Literal["equiframe.metrics/1"] = "equiframe.metrics/1"
    verb: Literal["compare", "demo"]
    runs: dict[str, Metrics]
    measures: dict[str, list[ComparedMeasure]] = Field(description="measures by name of the later run")
    shared: dict[str, SharedItems] = Field({}, description="shared items by benchmark, or collapse:WORDS")

    @property
    def results(self) -> dict[str, Result]:
        """For each name of a result, the result of the first run that has it, which explains what was compared."""
        return {name: result for run in reversed(self.runs.values()) for name, result in run.results.items()}
