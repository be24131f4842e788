"""What each verb can be told: one class a verb, with its own options only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from equiframe.choices import Bias, Layout, Suite
from equiframe.config.base import (
    FLAT,
    METHOD,
    NAMES,
    OUTPUT,
    RARE,
    SCORING,
    SETTINGS,
    SILENT,
    UNSEEN,
    NonNegative,
    Options,
    Port,
    Positive,
    Seed,
    Text,
    named,
)
from equiframe.config.groups import (
    AuditOptions,
    DataOptions,
    FineTuning,
    ModelOptions,
    ScoringOptions,
    UNC3Options,
    check_gradient,
    needs_weights,
)
from equiframe.errors import InputError


@FLAT
@dataclass(frozen=True)
class AuditConfig(DataOptions, ModelOptions):
    """Measure neural collapse over the vocabulary, over fairness words (NC1 to NC4), and of contexts (CC1, CC3)."""

    verb: ClassVar[Literal["audit"]] = "audit"
    audit: AuditOptions = field(default_factory=AuditOptions, kw_only=True)
    """How collapse is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_served:
            raise needs_weights(self.verb, self.model)


@FLAT
@dataclass(frozen=True)
class EvaluateConfig(ScoringOptions, DataOptions, ModelOptions):
    """Score bias benchmarks and language understanding, with 95 % intervals and every item kept."""

    verb: ClassVar[Literal["evaluate"]] = "evaluate"
    suite: Annotated[Suite | None, SCORING, SILENT] = field(default=None, kw_only=True)
    """Instead of names: every benchmark of a kind whose data is available."""
    check_float32: Annotated[bool, SCORING, SILENT] = field(default=False, kw_only=True)
    """Score 200 items of each in float32 too, and say what changed."""
    tokenizer: Annotated[str | None, RARE, SILENT] = field(default=None, kw_only=True)
    """Tokenizer of a served model: hub name or folder. Default: what the server has loaded."""
    concurrency: Annotated[Positive, RARE] = field(default=8, kw_only=True)
    """Requests to a server at the same time."""
    self_debias: Annotated[Bias | None, RARE, SILENT] = field(default=None, kw_only=True)
    """Correct the predictions against this bias by the Self-Debias baseline."""
    audit: Annotated[AuditOptions | None, UNSEEN] = field(default=None, kw_only=True)
    """How collapse is measured too; None for not at all."""

    def __post_init__(self) -> None:
        if self.suite is not None and self.benchmarks is type(self).benchmarks:  # nobody named them
            object.__setattr__(self, "benchmarks", ())
        super().__post_init__()
        if self.suite is not None and self.benchmarks:
            raise InputError("--suite and --benchmarks exclude each other: give one")
        if self.suite is None and not self.benchmarks and self.audit is None:
            raise InputError("there is nothing to do: name a benchmark in --benchmarks")
        if not self.is_served and self.tokenizer is not None:
            raise InputError(f"--tokenizer {self.tokenizer}: only a served model needs one: leave it out")
        if self.self_debias is not None and self.chat_template != "off":
            raise InputError(
                "--self-debias writes its own text before a prompt, not into a turn: leave out --chat-template"
            )
        if self.is_served:
            self._check_served()

    def _check_served(self) -> None:
        if self.audit is not None:
            raise needs_weights(self.verb, self.model)
        for name in ("revision", "device", "self_debias"):
            if (value := getattr(self, name)) is not None:
                raise InputError(f"--{name.replace('_', '-')} {value}: a served model is asked as it is: leave it out")
        of_weights = self.dtype != "auto" or self.device_map is not None or self.model_args or self.check_float32
        if self.kind == "masked" or of_weights:
            raise InputError(
                "a served model is causal, and its server has loaded it: leave out --kind, --dtype, --device-map,"
                " --model-arg and --check-float32"
            )


@FLAT
@dataclass(frozen=True)
class DebiasConfig(ScoringOptions, DataOptions, ModelOptions):
    """Fine-tune by a debiasing method, with or without (U)NC3, then audit and score the result."""

    verb: ClassVar[Literal["debias"]] = "debias"
    method: Annotated[str, METHOD] = field(default="bec", kw_only=True)
    """bec, cda, ase, mabel, adept, dropout, counterfactual-collapse; sentence-debias, inlp; or package.module:Class."""
    method_options: Annotated[Mapping[str, Any], METHOD, SETTINGS, named("--set")] = field(
        default_factory=dict, kw_only=True
    )
    """Option of the method as NAME=VALUE; may be repeated."""
    cc: Annotated[NonNegative, METHOD] = field(default=0.0, kw_only=True)
    """Weight of the terms of counterfactual collapse, added to the method; 0 adds none."""
    cc_options: Annotated[Mapping[str, Any], RARE, SETTINGS, named("--cc-set")] = field(
        default_factory=dict, kw_only=True
    )
    """Option of these terms as NAME=VALUE; may be repeated."""
    unc3: UNC3Options = field(default_factory=UNC3Options, kw_only=True)
    """The term added to the method."""
    unc3_words: Annotated[Text, METHOD] = field(default="gender", kw_only=True)
    """Words of the term: the name of a word set, or a file."""
    fine_tuning: FineTuning = field(default_factory=FineTuning, kw_only=True)
    """How long and how fast to train."""
    audit: Annotated[AuditOptions | None, FLAT] = field(default_factory=AuditOptions, kw_only=True)
    """How collapse is measured afterwards; None for not at all."""
    benchmarks: Annotated[tuple[str, ...], SCORING, NAMES] = field(default=("lm_loss",), kw_only=True)
    """Benchmarks to score afterwards, separated by commas."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_served:
            raise needs_weights(self.verb, self.model)
        if self.cc_options and not self.cc:
            raise InputError("--cc-set without --cc: give the weight of the terms too, such as --cc 1")
        check_gradient(self.unc3, self.fine_tuning)


RunConfig: TypeAlias = AuditConfig | EvaluateConfig | DebiasConfig
"""What :func:`equiframe.run` carries out."""

FinishedRun: TypeAlias = Annotated[Path, OUTPUT]


@FLAT
@dataclass(frozen=True)
class CompareConfig(Options):
    """Set runs side by side: paired differences with intervals and p-values."""

    verb: ClassVar[Literal["compare"]] = "compare"
    runs: Annotated[tuple[Path, ...], OUTPUT]
    """Folders of finished runs; the first is the reference."""
    seed: Annotated[Seed, OUTPUT] = field(default=0, kw_only=True)
    """Seed of bootstraps and permutation tests."""


@FLAT
@dataclass(frozen=True)
class CardConfig(Options):
    """Write a model card: benchmarks with intervals, what changed, what the numbers do not show, data and licences."""

    verb: ClassVar[Literal["card"]] = "card"
    run: FinishedRun
    """Folder of a finished run."""
    before: Annotated[Path | None, OUTPUT, SILENT] = field(default=None, kw_only=True)
    """Run of the model as it was, to tell what changed."""
    out: Annotated[Path | None, OUTPUT, SILENT] = field(default=None, kw_only=True)
    """File to write. Default: README.md beside the model."""


@FLAT
@dataclass(frozen=True)
class ExportConfig(Options):
    """Write the numbers of a run in the format of another tool."""

    verb: ClassVar[Literal["export"]] = "export"
    run: FinishedRun
    """Folder of a finished run."""
    out: Annotated[Path, OUTPUT] = field(kw_only=True)
    """File to write."""
    layout: Annotated[Layout, OUTPUT] = field(default="lm-eval", kw_only=True)
    """Results of lm-evaluation-harness (JSON), or the model-index of a model card (YAML)."""


@FLAT
@dataclass(frozen=True)
class PushConfig(Options):
    """Put a debiased model with its card on the Hugging Face hub, private unless you say otherwise."""

    verb: ClassVar[Literal["push"]] = "push"
    run: FinishedRun
    """Folder of a finished run."""
    repository: Annotated[str, OUTPUT]
    """OWNER/NAME on the hub."""
    public: Annotated[bool, OUTPUT, SILENT] = field(default=False, kw_only=True)
    """Let everybody see a repository that is made."""


@FLAT
@dataclass(frozen=True)
class ServeConfig(Options):
    """Read and compare finished runs in a browser, and try pairs of sentences on their models."""

    verb: ClassVar[Literal["serve"]] = "serve"
    runs: Annotated[Path, OUTPUT] = Path("runs")
    """Folder that holds the finished runs."""
    host: Annotated[str, OUTPUT] = field(default="127.0.0.1", kw_only=True)
    """Address to listen on; another one lets other machines in."""
    port: Annotated[Port, OUTPUT] = field(default=7860, kw_only=True)
    """Port to listen on."""


@FLAT
@dataclass(frozen=True)
class BenchmarksConfig(DataOptions):
    """List what can be scored, what it needs, and whether that is available."""

    verb: ClassVar[Literal["benchmarks"]] = "benchmarks"
