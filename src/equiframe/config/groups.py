"""The small groups of options that the verbs are composed of. A field holds its default, its choices and its help.

Annotations are not postponed here: they are read in modules that inherit the fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
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
    Options,
    Positive,
    PositiveReal,
    Seed,
    Text,
    Weight,
    named,
    number,
)
from equiframe.errors import InputError


@dataclass(frozen=True)
class ModelOptions(Options):
    """Which model is measured, and on what device."""

    model: Annotated[Text, MODEL]
    """Hub name, local directory, PEFT adapter, .gguf file (on the hub OWNER/NAME:FILE.gguf), builtin:mini-mlm,
    builtin:smollm2-135m."""
    device: Annotated[str | None, MODEL, SILENT] = field(default=None, kw_only=True)
    """cpu, cuda, cuda:1 or mps. Default: a GPU if there is one."""
    kind: Annotated[ModelKind | None, RARE, SILENT] = field(default=None, kw_only=True)
    """The kind of the model, for a checkpoint that does not say it."""
    revision: Annotated[str | None, RARE, SILENT] = field(default=None, kw_only=True)
    """Branch, tag or commit of the model on the hub."""
    trust_remote_code: Annotated[bool, RARE, SILENT] = field(default=False, kw_only=True)
    """Let code from the hub run."""
    dtype: Annotated[Dtype, MODEL] = field(default="auto", kw_only=True)
    """Type of the weights; auto is that of the checkpoint on a GPU, float32 on a processor."""
    device_map: Annotated[str | int | Mapping[str, str | int] | None, RARE, YAML, SILENT] = field(
        default=None, kw_only=True
    )
    """Spread a large model over devices and disk: auto, or places by module."""
    model_args: Annotated[Mapping[str, Any], RARE, YAML_SETTINGS, named("--model-arg")] = field(
        default_factory=dict, kw_only=True
    )
    """Further argument of from_pretrained as NAME=VALUE, the value in YAML; may be repeated."""
    seed: Annotated[Seed, RARE] = field(default=0, kw_only=True)
    """Seed of bootstraps and permutation tests."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_model_args(self.model_args)

    @property
    def is_served(self) -> bool:
        """Whether the model is behind a server."""
        return self.model.startswith(SERVER)


@FLAT
@dataclass(frozen=True)
class DataOptions(Options):
    """Where data files come from."""

    data: Annotated[Path | None, OUTPUT, SILENT] = field(default=None, kw_only=True)
    """Folder of your data files, or hub:OWNER/NAME. Default: files are fetched at their first use."""


@FLAT
@dataclass(frozen=True)
class AuditOptions(Options):
    """How collapse is measured."""

    text: Annotated[Text, AUDIT] = "bug"
    """Text to audit on: bug, gap, bold, or a .txt or .jsonl file with one text in each line."""
    sentences: Annotated[Count, number(whole=True, otherwise="; 0 reads the whole text"), AUDIT] = 4000
    """The most sentences to read, spread evenly over the text; 0 reads all."""
    words: Annotated[Text, AUDIT] = "fairness"
    """Fairness words: fairness, gender, professions, race, religion, names, or a text or JSON file."""
    multi_token: Annotated[MultiToken, RARE] = "skip"
    """What to do with a word of several tokens: skip it, or take its first or its last token."""
    pairing: Annotated[Pairing, RARE] = "aligned"
    """Which state belongs to which token; paper repeats the code of Xu et al."""
    feature: Annotated[Feature, RARE] = "decoder-input"
    """Which state to measure: the one that the output embedding multiplies, or that after the last layer."""
    visibility: Annotated[Visibility, RARE] = "visible"
    """Whether a masked LM sees the token whose state is measured."""
    min_count: Annotated[Positive, RARE] = 5
    """Samples a word needs to count. A mean of few samples is mostly noise, which inflates (U)NC3."""
    pairs: Annotated[Count, number(whole=True, otherwise="; 0 reads no counterfactuals"), RARE] = 300
    """The most texts of each bias to read beside their counterfactual, for CC1, CC3 and agreement; 0 reads none."""


@FLAT
@dataclass(frozen=True)
class UNC3Options(Options):
    """The (U)NC3 term."""

    weight: Annotated[Weight, METHOD, named("--unc3")] = 0.0
    """Weight lambda of the (U)NC3 term; 0 trains the method alone, auto balances the gradients of both."""
    warmup_steps: Annotated[Count, RARE, named("--unc3-warmup")] = 0
    """Steps over which lambda rises linearly from 0."""
    memory: Annotated[Memory, RARE, named("--unc3-memory")] = "run"
    """Class means over the whole run, as in the paper, or their exponential moving average."""
    decay: Annotated[Decay, RARE, named("--unc3-decay")] = 0.9
    """Decay of the moving average."""
    through_features: Annotated[bool, RARE, SILENT, named("--unc3-through-features")] = False
    """Let the gradient of the term reach the encoder too; in the paper it reaches the word embeddings alone."""
    pairing: Annotated[Pairing, UNSEEN] = "aligned"
    """Which state belongs to which token; the command takes that of the audit."""
    feature: Annotated[Feature, UNSEEN] = "decoder-input"
    """Which state the term reads; the command takes that of the audit."""


@FLAT
@dataclass(frozen=True)
class FineTuning(Options):
    """How long and how fast to train. None means the setting that the method was published with."""

    epochs: Annotated[PositiveReal | None, TRAINING, SILENT] = None
    """Passes over the data. Default: as published for the method."""
    max_steps: Annotated[Positive | None, TRAINING, SILENT] = None
    """Number of optimizer steps, instead of epochs."""
    learning_rate: Annotated[PositiveReal | None, TRAINING, SILENT] = None
    """Peak rate of AdamW, which falls linearly to zero. Default: as published."""
    batch_size: Annotated[Positive | None, TRAINING, SILENT] = None
    """Examples in a batch on each device. Default: as published."""
    accumulation: Annotated[Positive, RARE] = 1
    """Number of batches whose gradients make one step."""
    max_length: Annotated[Positive | None, TRAINING, SILENT] = None
    """Longest example in tokens. Default: as published."""
    seed: Annotated[Seed | None, TRAINING, SILENT, named("--training-seed")] = None
    """Seed of fine-tuning. Default: as published."""
    precision: Annotated[TrainingPrecision, TRAINING] = "auto"
    """Precision of the steps of training; auto takes bf16 on a GPU that has it, otherwise fp32."""
    save_steps: Annotated[Positive, RARE] = 500
    """Steps between two checkpoints; a stopped run goes on from the last one."""
    lora_rank: Annotated[
        Count, number(whole=True, otherwise="; 0 trains all weights"), TRAINING, SILENT, named("--lora")
    ] = 0
    """Rank of LoRA adapters on all linear layers; 0 trains all weights."""
    report_to: Annotated[tuple[str, ...], RARE, NAMES, SILENT] = ()
    """Trackers that the Trainer reports to, separated by commas: tensorboard, wandb."""
    audit_steps: Annotated[Count, RARE] = 0
    """Steps between two audits of the fairness words while training; 0 audits only at the end."""


def needs_weights(verb: str, model: str) -> InputError:
    """The error of a served model where its states or weights are needed."""
    return InputError(
        f"{verb} needs the states and the weights of a model, and {model} gives neither: give the"
        " model's hub name or folder"
    )


def check_gradient(unc3: UNC3Options, fine_tuning: FineTuning) -> None:
    """Refuse a term that could change nothing.

    Raises:
        InputError: LoRA freezes all that the term reaches.
    """
    if unc3.weight and fine_tuning.lora_rank and not unc3.through_features:
        raise InputError(
            "with --lora the word embeddings are frozen, and (U)NC3 would have no gradient: add"
            " --unc3-through-features, or leave out --lora"
        )


@dataclass(frozen=True)
class ScoringOptions(Options):
    """Which benchmarks are scored, and how."""

    benchmarks: Annotated[tuple[str, ...], SCORING, NAMES] = field(default=("stereoset", "crows_pairs"), kw_only=True)
    """Names separated by commas, with variants, such as stereoset,crows_pairs:changed; or package.module:Class."""
    limit: Annotated[Positive | None, SCORING, SILENT] = field(default=None, kw_only=True)
    """Score this many items of each benchmark, spread evenly: a quick look."""
    token_budget: Annotated[Positive, RARE] = field(default=4096, kw_only=True)
    """Tokens of one forward pass, padding included; a smaller number needs less memory."""
    chat_template: Annotated[Text, RARE, SILENT] = field(default="off", kw_only=True)
    """Put questions in turns of a chat: off, on or a file."""
    heads: Annotated[Mapping[str, Any], RARE, SETTINGS, named("--head")] = field(default_factory=dict, kw_only=True)
    """Setting of fine-tuned benchmarks as NAME=VALUE, such as max_steps=200; may be repeated."""
