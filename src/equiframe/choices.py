"""What an option may be where there are few choices: named once, without torch, so that the command can list them."""

from __future__ import annotations

from typing import Literal, TypeAlias

ModelKind: TypeAlias = Literal["masked", "causal"]
Bias: TypeAlias = Literal["gender", "race", "religion"]
MultiToken: TypeAlias = Literal["skip", "first", "last"]
Pairing: TypeAlias = Literal["aligned", "paper"]
Feature: TypeAlias = Literal["decoder-input", "last-layer"]
Visibility: TypeAlias = Literal["visible", "masked"]
Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
TrainingPrecision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
Memory: TypeAlias = Literal["run", "ema"]
Suite: TypeAlias = Literal["fairness", "nlu", "all"]
Layout: TypeAlias = Literal["lm-eval", "model-index"]
