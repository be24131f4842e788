"""What a study file says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from equiframe.config.base import NonNegative, Options, Positive, Seed, Text, Weight
from equiframe.config.groups import AuditOptions, FineTuning, UNC3Options
from equiframe.errors import InputError


@dataclass(frozen=True)
class StudyMethod(Options):
    """One method of a study."""

    method: str
    """Its name or ``package.module:Class``; or ``self-debias``, which corrects predictions (option ``bias``)."""
    label: str | None = field(default=None, kw_only=True)
    """What the tables call it; its name by default."""
    options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Options of the method itself."""
    fine_tuning: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """What differs for it from the study's ``fine_tuning``."""
    unc3: Weight | None = field(default=None, kw_only=True)
    """Weight of the (U)NC3 term in the second arm; by default the one that the method was published with."""
    term: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """What differs for it from the study's ``unc3``."""

    cc: NonNegative = field(default=0.0, kw_only=True)
    """Weight of the terms of counterfactual collapse added to it; 0 for none."""
    cc_options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Options of these terms."""

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.label or self.method


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Options):
    """Compare methods over seeds, each without and with (U)NC3: gain, price and collapse, with intervals.

    Give the command again after a stop, or once on each device: finished cells are kept, and processes share the rest.
    """

    verb: ClassVar[Literal["study"]] = "study"
    models: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Hub names, local directories, or ``builtin:...``."""
    methods: Annotated[tuple[StudyMethod, ...], Field(min_length=1)]
    """Each is run without and with (U)NC3; a projection, which trains nothing, only without."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds of fine-tuning, and of the heads of fine-tuned benchmarks."""
    benchmarks: Annotated[Mapping[str, str], Field(min_length=1)]
    """Benchmarks of bias, each with the measure whose distance from its ideal counts for the gain."""
    understanding: Mapping[str, str] = field(default_factory=dict)
    """Benchmarks of language understanding, each with the measure that counts; also another measure of one of bias."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Benchmarks of what debiasing must keep besides, such as ``agreement``, each with the measure that counts."""
    headline: str | None = None
    """Method that ``headline.json`` is about, and that every other is set against; by default the first."""
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    """How long and how fast to train."""
    unc3: UNC3Options = field(default_factory=UNC3Options)
    """The term, except for its weight."""
    unc3_words: Text = "gender"
    """Words of the term: the name of a word set, or a file."""
    audit: AuditOptions = field(default_factory=AuditOptions)
    """How collapse is measured."""
    heads: Mapping[str, float] = field(default_factory=dict)
    """Settings of fine-tuned benchmarks that differ from the published ones."""
    data: Path | None = None
    """Folder of data files, relative to where the command is given."""
    keep_models: bool = False
    """Keep the weights of each cell; otherwise only its record."""
    token_budget: Positive = 4096
    """Tokens of one forward pass in scoring, padding included."""
    seed: Seed = 0
    """Seed of bootstraps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        labels = tuple(method.name for method in self.methods)
        if self.headline is not None and self.headline not in labels:
            raise InputError(f"headline of the study: {self.headline!r} is no method of it: {', '.join(labels)}")
        for what, values in (("methods", labels), ("seeds", self.seeds), ("models", self.models)):
            if len(set(values)) < len(values):
                raise InputError(
                    f"{what} of the study: {list(values)} names one twice; give each method a label of its own"
                )
