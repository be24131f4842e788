"""The options of a study file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from equiframe.config.base import NonNegative, Options, Positive, Seed, Text, Weight
from equiframe.config.groups import AuditOptions, FineTuning, UNC3Options
from equiframe.errors import InputError


@dataclass(frozen=True)
class StudyMethod(Options):
    """One method of a study."""

    method: str
    """Name of the method, ``package.module:Class``, or ``self-debias``, which corrects predictions for ``bias``."""
    label: str | None = field(default=None, kw_only=True)
    """Name of the method in tables. Default: ``method``."""
    options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Options of the method."""
    fine_tuning: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Settings that override the study's ``fine_tuning`` for this method."""
    unc3: Weight | None = field(default=None, kw_only=True)
    """Weight of the (U)NC3 term in the second arm. Default: the published weight for the method."""
    term: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Settings that override the study's ``unc3`` for this method."""

    cc: NonNegative = field(default=0.0, kw_only=True)
    """Weight of added counterfactual-collapse terms (0 = none)."""
    cc_options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Options of the counterfactual-collapse terms."""

    @property
    def name(self) -> str:
        """Name of the method in tables."""
        return self.label or self.method


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Options):
    """Compare methods over seeds, each without and with (U)NC3: fairness gain, cost and collapse, with intervals.

    After an interruption, run the same command again: finished cells are kept. Start it once on each device to share
    the work.
    """

    verb: ClassVar[Literal["study"]] = "study"
    models: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Models: Hub names, local directories, or ``builtin:...``."""
    methods: Annotated[tuple[StudyMethod, ...], Field(min_length=1)]
    """Methods, each run without and with (U)NC3; a projection trains nothing and is run only without."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds of fine-tuning and of the heads of fine-tuned benchmarks."""
    benchmarks: Annotated[Mapping[str, str], Field(min_length=1)]
    """Bias benchmarks, each with the measure whose distance from its ideal defines the gain."""
    understanding: Mapping[str, str] = field(default_factory=dict)
    """Language understanding benchmarks, each with the measure to compare; a bias benchmark may have another."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Benchmarks of what debiasing must also keep, such as ``agreement``, each with the measure to compare."""
    headline: str | None = None
    """Method that ``headline.json`` is about and that the others are compared with. Default: the first method."""
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    """Length and speed of training."""
    unc3: UNC3Options = field(default_factory=UNC3Options)
    """Settings of the (U)NC3 term, except its weight."""
    unc3_words: Text = "gender"
    """Words of the (U)NC3 term: a word set or a file."""
    audit: AuditOptions = field(default_factory=AuditOptions)
    """How to measure collapse."""
    heads: Mapping[str, Any] = field(default_factory=dict)
    """Settings of fine-tuned benchmarks that override the published ones."""
    limit: Positive | None = None
    """Maximum number of items per benchmark, sampled evenly. Default: all items."""
    data: Text | None = None
    """Folder with data files, relative to the current directory."""
    keep_models: bool = False
    """Keep the weights of each cell. Otherwise only its record is kept."""
    token_budget: Positive = 4096
    """Maximum number of tokens per forward pass in scoring, including padding."""
    seed: Seed = 0
    """Seed of bootstraps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_ignored()
        labels = tuple(method.name for method in self.methods)
        if self.headline is not None and self.headline not in labels:
            raise InputError(f"headline of the study: {self.headline!r} is not one of its methods: {', '.join(labels)}")
        if double := next((name for name, key in self.understanding.items() if self.kept.get(name) == key), None):
            raise InputError(f"{double} {self.kept[double]} is in understanding and in kept: name it in one of them")
        taken = {"before", *(f"{label} + (U)NC3" for label in labels)}
        if clash := next((label for label in labels if label in taken), None):
            raise InputError(
                f"methods of the study: {clash!r} is the name of another row in the tables. Choose another label"
            )
        for what, values in (("methods", labels), ("seeds", self.seeds), ("models", self.models)):
            if len(set(values)) < len(values):
                raise InputError(
                    f"{what} of the study: {list(values)} contains a duplicate. Give each method a different label"
                )

    def _refuse_ignored(self) -> None:
        """Refuse a seed or a weight in places where the study sets its own.

        Raises:
            InputError: there is one; the message says where to give it instead.
        """
        seeds = [("fine_tuning", self.fine_tuning.seed is not None), ("heads", "seed" in self.heads)]
        seeds += [(f"fine_tuning of {method.name}", "seed" in method.fine_tuning) for method in self.methods]
        weights = [("unc3", bool(self.unc3.weight))]
        weights += [(f"term of {method.name}", "weight" in method.term) for method in self.methods]
        for option, places, instead in (
            ("seed", seeds, "Give seeds to the study"),
            ("weight", weights, "Give each method its weight as unc3"),
        ):
            for place in (place for place, is_given in places if is_given):
                raise InputError(f"{place} in the study: {option} has no effect here. {instead}")
