"""The options of each verb: one class per verb."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from equiframe.choices import Bias, Layout, Suite
from equiframe.config.base import (
    FLAT,
    GENERATION,
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
    OF_AUDIT,
    AuditOptions,
    DataOptions,
    FineTuning,
    GenerationOptions,
    ModelOptions,
    ScoringOptions,
    UNC3Options,
    check_gradient,
    needs_weights,
)
from equiframe.errors import InputError

_OF_RESPONSES = ("model", "responses", "benchmarks", "suite", "limit", "seed", "data", "generation", "audit")
"""The options of an evaluation that apply to responses from a file."""


@FLAT
@dataclass(frozen=True)
class AuditConfig(DataOptions, ModelOptions):
    """Measure the neural collapse of the vocabulary and of fairness words (NC1 to NC4), and of contexts (CC1, CC3)."""

    verb: ClassVar[Literal["audit"]] = "audit"
    audit: AuditOptions = field(default_factory=AuditOptions, kw_only=True)
    """How to measure collapse."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_served:
            raise needs_weights(self.verb, self.model)


@FLAT
@dataclass(frozen=True)
class EvaluateConfig(ScoringOptions, DataOptions, ModelOptions):
    """Score a model on bias and language understanding benchmarks, with 95 % intervals and a record of every item."""

    verb: ClassVar[Literal["evaluate"]] = "evaluate"
    suite: Annotated[Suite | None, SCORING, SILENT] = field(default=None, kw_only=True)
    """Suite of benchmarks whose data is available, instead of --benchmarks."""
    check_float32: Annotated[bool, SCORING, SILENT] = field(default=False, kw_only=True)
    """Score 200 items of each benchmark in float32 too, and report the difference."""
    tokenizer: Annotated[str | None, RARE, SILENT] = field(default=None, kw_only=True)
    """Tokenizer of a served model: Hub name or folder. Default: the tokenizer of the server."""
    concurrency: Annotated[Positive, RARE] = field(default=8, kw_only=True)
    """Maximum number of simultaneous requests to a server."""
    self_debias: Annotated[Bias | None, RARE, SILENT] = field(default=None, kw_only=True)
    """Bias to correct in the predictions by the Self-Debias baseline."""
    responses: Annotated[Path | None, GENERATION, SILENT] = field(default=None, kw_only=True)
    """JSONL file of responses to measure. MODEL is then only a name, and nothing is loaded."""
    audit: Annotated[AuditOptions | None, UNSEEN] = field(default=None, kw_only=True)
    """How to measure collapse as well; None skips the audit."""

    def __post_init__(self) -> None:
        if self.benchmarks is type(self).benchmarks:  # nobody named them
            unnamed = () if self.suite is not None else ("responses",) if self.responses is not None else None
            object.__setattr__(self, "benchmarks", self.benchmarks if unnamed is None else unnamed)
        super().__post_init__()
        if self.suite is not None and self.benchmarks:
            raise InputError("--suite and --benchmarks cannot be combined. Give only one of them")
        if self.suite is None and not self.benchmarks and self.audit is None:
            raise InputError("there is nothing to score. Name a benchmark with --benchmarks")
        if self.responses is not None:
            self._check_responses()
        for name in ("tokenizer", "concurrency"):
            if not self.is_served and (value := getattr(self, name)) != getattr(type(self), name):
                raise InputError(f"--{name} {value}: this option applies only to a served model. Remove it")
        if self.chat_template == "server" and not self.is_served:
            raise InputError("--chat-template server: only a server has its own template. Choose off, on or a file")
        if self.self_debias is not None and self.chat_template != "off":
            raise InputError(
                "--self-debias adds its own text before a prompt and cannot be combined with --chat-template"
            )
        if self.is_served:
            self._check_served()

    def _check_responses(self) -> None:
        if self.audit is not None:
            raise InputError(f"--responses {self.responses}: no model is loaded. Remove the audit")
        if options := self.given(without=_OF_RESPONSES):
            raise InputError(f"--responses {self.responses}: no model is loaded. Remove {', '.join(options)}")
        if options := self.generation.given(without=("groups", "measures")):
            raise InputError(f"--responses {self.responses}: nothing is generated. Remove {', '.join(options)}")

    def _check_served(self) -> None:
        if self.audit is not None:
            raise needs_weights(self.verb, self.model)
        for name in ("revision", "device", "self_debias"):
            if (value := getattr(self, name)) is not None:
                raise InputError(
                    f"--{name.replace('_', '-')} {value}: this option does not apply to a served model. Remove it"
                )
        if self.tokenizer is not None and self.chat_template == "server":
            raise InputError(
                f"--tokenizer {self.tokenizer}: with --chat-template server the server reads the text. Remove it"
            )
        of_weights = self.dtype != "auto" or self.device_map is not None or self.model_args or self.check_float32
        if self.kind == "masked" or of_weights or self.token_budget != type(self).token_budget:
            raise InputError(
                "a served model is causal and already loaded by its server. Remove --kind, --dtype, --device-map,"
                " --model-arg, --token-budget and --check-float32"
            )


@FLAT
@dataclass(frozen=True)
class DebiasConfig(ScoringOptions, DataOptions, ModelOptions):
    """Debias a model by fine-tuning or projection, with or without (U)NC3, then audit and score it."""

    verb: ClassVar[Literal["debias"]] = "debias"
    method: Annotated[str, METHOD] = field(default="bec", kw_only=True)
    """Method: bec, cda, ase, mabel, adept, dropout, counterfactual-collapse, sentence-debias, inlp, or MODULE:CLASS."""
    method_options: Annotated[Mapping[str, Any], METHOD, SETTINGS, named("--set")] = field(
        default_factory=dict, kw_only=True
    )
    """Option of the method as NAME=VALUE. Can be repeated."""
    cc: Annotated[NonNegative, METHOD] = field(default=0.0, kw_only=True)
    """Weight of added counterfactual-collapse terms (0 = none)."""
    cc_options: Annotated[Mapping[str, Any], RARE, SETTINGS, named("--cc-set")] = field(
        default_factory=dict, kw_only=True
    )
    """Option of the counterfactual-collapse terms as NAME=VALUE. Can be repeated."""
    unc3: UNC3Options = field(default_factory=UNC3Options, kw_only=True)
    """The (U)NC3 term that is added to the method."""
    unc3_words: Annotated[Text, METHOD] = field(default="gender", kw_only=True)
    """Words of the (U)NC3 term: a word set or a file."""
    fine_tuning: FineTuning = field(default_factory=FineTuning, kw_only=True)
    """Length and speed of training."""
    audit: Annotated[AuditOptions | None, FLAT] = field(default_factory=AuditOptions, kw_only=True)
    """How to measure collapse after training; None skips the audit."""
    benchmarks: Annotated[tuple[str, ...], SCORING, NAMES] = field(default=("lm_loss",), kw_only=True)
    """Benchmarks to score after training, separated by commas."""
    watch: Annotated[tuple[str, ...], SCORING, NAMES, SILENT] = field(default=(), kw_only=True)
    """Benchmarks to score during training too, every --audit-steps steps (default: 50)."""
    generation: Annotated[GenerationOptions, UNSEEN] = field(default_factory=GenerationOptions, kw_only=True)
    """The text that benchmarks by generation let the model write; the command uses the defaults."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_served:
            raise needs_weights(self.verb, self.model)
        if self.cc_options and not self.cc:
            raise InputError("--cc-set has no effect without --cc. Add the weight of the terms, such as --cc 1")
        if not self.unc3.weight:
            self._check_no_term()
        if self.unc3.memory == "run" and self.unc3.decay != UNC3Options.decay:
            raise InputError("--unc3-decay has no effect on means over the whole run. Add --unc3-memory ema")
        check_gradient(self.unc3, self.fine_tuning)

    def _check_no_term(self) -> None:
        options = self.unc3.given(without=("weight", *OF_AUDIT))
        if self.unc3_words != type(self).unc3_words:
            options.append("--unc3-words")
        if options:
            raise InputError(f"{', '.join(options)}: no effect without --unc3. Add its weight, such as --unc3 auto")


RunConfig: TypeAlias = AuditConfig | EvaluateConfig | DebiasConfig
"""A configuration that :func:`equiframe.run` accepts."""

FinishedRun: TypeAlias = Annotated[Path, OUTPUT]


@FLAT
@dataclass(frozen=True)
class CompareConfig(Options):
    """Compare finished runs: paired differences with 95 % intervals and p-values."""

    verb: ClassVar[Literal["compare"]] = "compare"
    runs: Annotated[tuple[Path, ...], OUTPUT]
    """Folders of finished runs. The first is the reference."""
    seed: Annotated[Seed, OUTPUT] = field(default=0, kw_only=True)
    """Seed of bootstraps and permutation tests."""


@FLAT
@dataclass(frozen=True)
class CardConfig(Options):
    """Write a model card: scores with intervals, what changed, limits of the numbers, data and licences."""

    verb: ClassVar[Literal["card"]] = "card"
    run: FinishedRun
    """Folder of a finished run."""
    before: Annotated[Path | None, OUTPUT, SILENT] = field(default=None, kw_only=True)
    """Folder of a run of the original model, to report what changed."""
    out: Annotated[Path | None, OUTPUT, SILENT] = field(default=None, kw_only=True)
    """File to write. Default: README.md in the folder of the model."""


@FLAT
@dataclass(frozen=True)
class ExportConfig(Options):
    """Export the numbers of a run in the format of another tool."""

    verb: ClassVar[Literal["export"]] = "export"
    run: FinishedRun
    """Folder of a finished run."""
    out: Annotated[Path, OUTPUT] = field(kw_only=True)
    """File to write."""
    layout: Annotated[Layout, OUTPUT] = field(default="lm-eval", kw_only=True)
    """Format to write: results of lm-evaluation-harness (JSON), or the model-index of a model card (YAML)."""


@FLAT
@dataclass(frozen=True)
class PushConfig(Options):
    """Upload a debiased model and its card to the Hugging Face Hub, to a private repository by default."""

    verb: ClassVar[Literal["push"]] = "push"
    run: FinishedRun
    """Folder of a finished run."""
    repository: Annotated[str, OUTPUT]
    """Repository on the Hub, as OWNER/NAME."""
    public: Annotated[bool, OUTPUT, SILENT] = field(default=False, kw_only=True)
    """Make a new repository public."""


@FLAT
@dataclass(frozen=True)
class ServeConfig(Options):
    """Read and compare finished runs in a browser, and try sentence pairs on their models."""

    verb: ClassVar[Literal["serve"]] = "serve"
    runs: Annotated[Path, OUTPUT] = Path("runs")
    """Folder with the finished runs, or the folder of one run."""
    host: Annotated[str, OUTPUT] = field(default="127.0.0.1", kw_only=True)
    """Address to listen on. Any other address makes the page available to other machines."""
    port: Annotated[Port, OUTPUT] = field(default=7860, kw_only=True)
    """Port to listen on."""


@FLAT
@dataclass(frozen=True)
class BenchmarksConfig(DataOptions):
    """List the benchmarks, the data that each needs, and whether that data is available."""

    verb: ClassVar[Literal["benchmarks"]] = "benchmarks"
