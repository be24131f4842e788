"""The small groups of options from which the verbs are composed. A field holds its default, choices and help text.

Annotations are not postponed here, because modules that inherit the fields read them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from equiframe.choices import (
    SERVER,
    Dtype,
    Feature,
    Memory,
    ModelKind,
    MultiToken,
    Pairing,
    TrainingPrecision,
    Visibility,
    check_model_args,
)
from equiframe.config.base import (
    AUDIT,
    FLAT,
    GENERATION,
    METHOD,
    MODEL,
    NAMES,
    OUTPUT,
    RARE,
    SCORING,
    SETTINGS,
    SILENT,
    TRAINING,
    UNSEEN,
    YAML,
    YAML_SETTINGS,
    Count,
    Decay,
    NonNegative,
    Options,
    Positive,
    PositiveReal,
    Seed,
    Share,
    Text,
    Weight,
    named,
    number,
)
from equiframe.errors import InputError


@dataclass(frozen=True)
class ModelOptions(Options):
    """The model to measure, and the device to use."""

    model: Annotated[Text, MODEL]
    """Hub name, folder, PEFT adapter, .gguf file, or built-in model (builtin:minilm-mlm, builtin:smollm2-135m)."""
    device: Annotated[str | None, MODEL, SILENT] = field(default=None, kw_only=True)
    """Device to use: cpu, cuda, cuda:1 or mps. Default: a GPU if one is available."""
    kind: Annotated[ModelKind | None, RARE, SILENT] = field(default=None, kw_only=True)
    """Kind of the model, for a checkpoint that does not state it."""
    revision: Annotated[str | None, RARE, SILENT] = field(default=None, kw_only=True)
    """Branch, tag or commit of the model on the Hub."""
    trust_remote_code: Annotated[bool, RARE, SILENT] = field(default=False, kw_only=True)
    """Allow code from the model's repository on the Hub to run."""
    dtype: Annotated[Dtype, MODEL] = field(default="auto", kw_only=True)
    """Data type of the weights (auto = the type of the checkpoint on a GPU, float32 on a CPU)."""
    device_map: Annotated[str | int | Mapping[str, str | int] | None, RARE, YAML, SILENT] = field(
        default=None, kw_only=True
    )
    """Map that spreads a large model over devices and disk: auto, or a device for each module, in YAML."""
    model_args: Annotated[Mapping[str, Any], RARE, YAML_SETTINGS, named("--model-arg")] = field(
        default_factory=dict, kw_only=True
    )
    """Additional argument of from_pretrained as NAME=VALUE, with the value in YAML. Can be repeated."""
    seed: Annotated[Seed, RARE] = field(default=0, kw_only=True)
    """Seed of bootstraps and permutation tests."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_model_args(self.model_args)

    @property
    def is_served(self) -> bool:
        """Whether a server runs the model."""
        return self.model.startswith(SERVER)


@FLAT
@dataclass(frozen=True)
class DataOptions(Options):
    """The source of data files."""

    data: Annotated[Text | None, OUTPUT, SILENT] = field(default=None, kw_only=True)
    """Folder with your data files, or hub:OWNER/NAME. Default: download as needed."""


@FLAT
@dataclass(frozen=True)
class AuditOptions(Options):
    """Settings of the audit, which measures collapse."""

    text: Annotated[Text, AUDIT] = "bug"
    """Text to audit on: bug, gap, bold, or a .txt or .jsonl file with one text per line."""
    sentences: Annotated[Count, number(whole=True, otherwise="; 0 reads the whole text"), AUDIT] = 4000
    """Maximum number of sentences, sampled evenly (0 = all)."""
    words: Annotated[Text, AUDIT] = "fairness"
    """Words to audit: fairness, gender, professions, race, religion, names, or a text or JSON file."""
    multi_token: Annotated[MultiToken, RARE] = "skip"
    """Handling of words with several tokens: skip, or use one token."""
    pairing: Annotated[Pairing, RARE] = "aligned"
    """Assignment of states to tokens (paper = as in the code of Xu et al.)."""
    feature: Annotated[Feature, RARE] = "decoder-input"
    """State to measure: the input of the output embedding, or the output of the last layer."""
    visibility: Annotated[Visibility, RARE] = "visible"
    """Visibility of the measured token to a masked LM."""
    min_count: Annotated[Positive, RARE] = 5
    """Minimum number of samples per word. Means of few samples inflate (U)NC3."""
    pairs: Annotated[Count, number(whole=True, otherwise="; 0 reads no counterfactuals"), RARE] = 300
    """Maximum number of texts per bias for CC1, CC3 and agreement (0 = none)."""


OF_AUDIT = ("pairing", "feature", "multi_token")
"""Options of the (U)NC3 term that the command line takes from the audit."""


@FLAT
@dataclass(frozen=True)
class UNC3Options(Options):
    """The (U)NC3 term."""

    weight: Annotated[Weight, METHOD, named("--unc3")] = 0.0
    """Weight lambda of the (U)NC3 term (0 = no term, auto = balance its gradient with that of the method)."""
    warmup_steps: Annotated[Count, RARE, named("--unc3-warmup")] = 0
    """Number of steps of a linear rise of lambda from 0."""
    memory: Annotated[Memory, RARE, named("--unc3-memory")] = "run"
    """Kind of class means (run = over the whole run, as in the paper; ema = moving average)."""
    decay: Annotated[Decay, RARE, named("--unc3-decay")] = 0.9
    """Decay of the moving average of class means."""
    through_features: Annotated[bool, RARE, SILENT, named("--unc3-through-features")] = False
    """Let the gradient of the term reach the encoder, not only the word embeddings."""
    pairing: Annotated[Pairing, UNSEEN] = "aligned"
    """Assignment of states to tokens; the command line uses the setting of the audit."""
    feature: Annotated[Feature, UNSEEN] = "decoder-input"
    """State that the term reads; the command line uses the setting of the audit."""
    multi_token: Annotated[MultiToken, UNSEEN] = "skip"
    """Handling of the term's words with several tokens; the command line uses the setting of the audit."""


@FLAT
@dataclass(frozen=True)
class FineTuning(Options):
    """Length and speed of training. None means the published setting of the method."""

    epochs: Annotated[PositiveReal | None, TRAINING, SILENT] = None
    """Number of passes over the data. Default: the published setting."""
    max_steps: Annotated[Positive | None, TRAINING, SILENT] = None
    """Number of optimizer steps. Overrides --epochs."""
    learning_rate: Annotated[PositiveReal | None, TRAINING, SILENT] = None
    """Peak learning rate of AdamW with linear decay. Default: the published setting."""
    batch_size: Annotated[Positive | None, TRAINING, SILENT] = None
    """Number of examples per batch and device. Default: the published setting."""
    accumulation: Annotated[Positive, RARE] = 1
    """Number of batches per optimizer step."""
    max_length: Annotated[Positive | None, TRAINING, SILENT] = None
    """Maximum length of an example in tokens. Default: the published setting, at most the model's window."""
    seed: Annotated[Seed | None, TRAINING, SILENT, named("--training-seed")] = None
    """Seed of fine-tuning. Default: the published setting."""
    precision: Annotated[TrainingPrecision, TRAINING] = "auto"
    """Precision of training (auto = bf16 if the GPU supports it, else fp32)."""
    save_steps: Annotated[Positive, RARE] = 500
    """Number of steps between checkpoints. An interrupted run resumes from the last one."""
    lora_rank: Annotated[
        Count, number(whole=True, otherwise="; 0 trains all weights"), TRAINING, SILENT, named("--lora")
    ] = 0
    """Rank of LoRA adapters on all linear layers (0 = train all weights)."""
    report_to: Annotated[tuple[str, ...], RARE, NAMES, SILENT] = ()
    """Experiment trackers of the Trainer, separated by commas: tensorboard (into OUT/tensorboard), wandb."""
    audit_steps: Annotated[Count, RARE] = 0
    """Number of steps between audits during training (0 = audit only at the end)."""


def needs_weights(verb: str, model: str) -> InputError:
    """The error for a served model where states or weights are needed."""
    return InputError(
        f"{verb} needs the states and weights of a model, and {model} provides neither. Give the"
        " model's Hub name or its folder"
    )


def check_gradient(unc3: UNC3Options, fine_tuning: FineTuning) -> None:
    """Refuse a (U)NC3 term that could not change any weight.

    Raises:
        InputError: LoRA freezes every weight that the term reaches, or the rows whose gradients ``auto`` compares.
    """
    if unc3.weight and fine_tuning.lora_rank and not unc3.through_features:
        raise InputError(
            "--lora freezes the word embeddings, so (U)NC3 would have no gradient. Add"
            " --unc3-through-features, or remove --lora"
        )
    if unc3.weight == "auto" and fine_tuning.lora_rank:
        raise InputError("--unc3 auto compares gradients of the word embeddings, which --lora freezes. Give a number")


@FLAT
@dataclass(frozen=True)
class GenerationOptions(Options):
    """The text that benchmarks by generation let a model write, and what to measure of it."""

    samples: Annotated[Positive, GENERATION] = 1
    """Number of responses to each prompt."""
    temperature: Annotated[NonNegative, GENERATION] = 0.0
    """Temperature of sampling (0 = always take the most probable token)."""
    top_p: Annotated[Share, GENERATION] = 1.0
    """Total probability of the most probable tokens to sample from (1 = all tokens)."""
    max_new_tokens: Annotated[Positive | None, GENERATION, SILENT] = None
    """Maximum length of a response in tokens. Default: the length that the benchmark sets."""
    stop: Annotated[tuple[str, ...], RARE, SILENT] = ()
    """Text that ends a response. Can be repeated."""
    seed: Annotated[Seed, RARE, named("--sampling-seed")] = 0
    """Seed of sampling."""
    groups: Annotated[tuple[str, ...], GENERATION, NAMES] = ("gender", "race", "religion", "names")
    """Groups of people that prompts are about, separated by commas, or YAML files."""
    measures: Annotated[tuple[str, ...], GENERATION, NAMES] = ("refused", "words", "she")
    """Measures of a response: refused, words, she, womens_names, agentic, hurtful, sentiment, rouge_l,
    classifier:NAME, embedding:NAME."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples > 1 and not self.temperature:
            raise InputError(
                f"--samples {self.samples}: the most probable tokens are always the same. Add a --temperature above 0"
            )
        if self.top_p < 1 and not self.temperature:
            raise InputError(
                f"--top-p {self.top_p:g}: the most probable token is always taken. Add a --temperature above 0"
            )
        if self.seed and not self.temperature:
            raise InputError(
                f"--sampling-seed {self.seed}: the most probable token is always taken. Add a --temperature above 0"
            )
        if "" in self.stop:
            raise InputError("--stop: an empty text ends every response at once. Remove it")

    @property
    def decoding(self) -> str:
        """How tokens are chosen, in a few words."""
        if not self.temperature:
            return "greedy"
        nucleus = f", top-p {self.top_p:g}" if self.top_p < 1 else ""
        return f"sampled at temperature {self.temperature:g}{nucleus}, seed {self.seed}"


@dataclass(frozen=True)
class ScoringOptions(Options):
    """The benchmarks to score, and how to score them."""

    benchmarks: Annotated[tuple[str, ...], SCORING, NAMES] = field(default=("stereoset", "crows_pairs"), kw_only=True)
    """Benchmarks, separated by commas, such as stereoset,crows_pairs:changed. See equiframe benchmarks."""
    limit: Annotated[Positive | None, SCORING, SILENT] = field(default=None, kw_only=True)
    """Maximum number of items per benchmark, sampled evenly. Default: all items."""
    token_budget: Annotated[Positive, RARE] = field(default=4096, kw_only=True)
    """Maximum number of tokens per forward pass, including padding. A smaller number needs less memory."""
    chat_template: Annotated[Text, RARE, SILENT] = field(default="off", kw_only=True)
    """Put questions in turns of a chat: off, on, server or a file."""
    heads: Annotated[Mapping[str, Any], RARE, SETTINGS, named("--head")] = field(default_factory=dict, kw_only=True)
    """Setting of fine-tuned benchmarks as NAME=VALUE, such as max_steps=200. Can be repeated."""
    generation: GenerationOptions = field(default_factory=GenerationOptions, kw_only=True)
    """The text that benchmarks by generation let the model write."""
