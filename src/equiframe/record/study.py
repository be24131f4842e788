"""The numbers of a study, as ``study.json`` holds them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from equiframe.record.schema import Frozen


class StudyFigure(Frozen):
    """One number of a study: of a model, a method and an arm, over seeds.

    ``kind`` is ``bias`` or ``understanding`` (a benchmark's measure, named by ``name``), ``gain`` (fairness gain on
    one benchmark), ``mean gain`` (over all of them, the headline), ``pooled gain`` (weighted by precision),
    ``mean change`` (of language understanding), ``collapse`` or ``rank correlation``. The arm ``difference`` is with
    (U)NC3 minus without.
    """

    model: str
    method: str = Field(description="empty for the model as it was")
    arm: Literal["before", "plain", "unc3", "difference", "all"]
    kind: Literal[
        "bias", "understanding", "gain", "mean gain", "pooled gain", "mean change", "collapse", "rank correlation"
    ]
    name: str
    unit: str
    value: float | None
    sd: float | None = Field(description="standard deviation over seeds (n-1), where there are several")
    low: float | None = Field(description="95 % interval over items and seeds")
    high: float | None


class StudyCell(Frozen):
    """One fine-tuned model of a study: its collapse, its pooled gain."""

    model: str
    method: str
    arm: Literal["before", "plain", "unc3"]
    seed: int
    unc3: float | None
    gain: float | None


class StudyResult(Frozen):
    """``study.json``: what a study came to."""

    schema_version: Literal["equiframe.study/1"] = "equiframe.study/1"
    study: dict[str, Any]
    figures: list[StudyFigure]
    cells: list[StudyCell]
