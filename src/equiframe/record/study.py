"""The numbers of a study, as stored in ``study.json``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from equiframe.record.schema import Frozen, InNotebooks


class StudyFigure(Frozen):
    """One number of a study: for a model, a method and an arm, over seeds.

    ``kind`` is ``bias``, ``understanding`` or ``kept`` (a benchmark's measure, named by ``name``), ``gain`` (fairness
    gain on one benchmark), ``mean gain`` (over all of them, the headline), ``pooled gain`` (weighted by precision),
    ``change`` (of a measure of understanding, or of what must be kept), ``mean change`` (of understanding in points),
    ``collapse`` or ``rank correlation``. The arm ``difference`` is with (U)NC3 minus without, ``against`` is the
    headline's method minus another.
    """

    model: str
    method: str = Field(description="empty for the original model")
    arm: Literal["before", "plain", "unc3", "difference", "against", "all"]
    kind: Literal[
        "bias",
        "understanding",
        "kept",
        "gain",
        "mean gain",
        "pooled gain",
        "change",
        "mean change",
        "collapse",
        "rank correlation",
    ]
    name: str
    unit: str
    value: float | None
    sd: float | None = Field(description="standard deviation over seeds (n-1), if there are several")
    low: float | None = Field(description="lower end of the 95 % interval over items and seeds")
    high: float | None
    ideal: float | None = Field(None, description="ideal of a benchmark's measure, if it has one")
    higher_is_better: bool | None = Field(None, description="direction of a benchmark's measure, if it has one")


class StudyCell(Frozen):
    """One fine-tuned model of a study: its collapse, its pooled gain, its distance from each benchmark's ideal."""

    model: str
    method: str
    arm: Literal["before", "plain", "unc3"]
    seed: int
    unc3: float | None
    gain: float | None
    geometry: dict[str, float | None] = Field(
        {}, description="measures of collapse; empty in records of older versions"
    )
    distances: dict[str, float | None] = Field(
        {}, description="distances by benchmark; empty in records of older versions"
    )


class StudyHeadline(Frozen):
    """The result of the headline's method on one model; gain in percent, understanding in points."""

    model: str
    method: str
    gain: float | None = Field(description="mean fairness gain over the benchmarks, in percent")
    gain_low: float | None
    gain_high: float | None
    nlu_change: float | None = Field(description="mean change of language understanding, in points")
    nlu_low: float | None
    nlu_high: float | None
    kept: dict[str, tuple[float | None, float | None, float | None]] = Field(
        description="change of what must be kept, with its interval"
    )
    benchmarks: list[str]
    seeds: list[int]


class StudyResult(InNotebooks, Frozen):
    """The content of ``study.json``: the result of a study."""

    schema_version: Literal["equiframe.study/1"] = "equiframe.study/1"
    study: dict[str, Any]
    figures: list[StudyFigure]
    cells: list[StudyCell]
