"""Debiasing methods: one module for each, each with or without (U)NC3."""

from equiframe.methods.balance import balanced_weight
from equiframe.methods.method import METHODS, Method, Settings, load_method, what_it_does
from equiframe.methods.objective import Objective, ObjectiveOutput
from equiframe.methods.projection import Projection
from equiframe.methods.with_counterfactuals import WithCounterfactuals
from equiframe.methods.with_unc3 import WithUNC3

__all__ = [
    "METHODS",
    "Method",
    "Objective",
    "ObjectiveOutput",
    "Projection",
    "Settings",
    "WithCounterfactuals",
    "WithUNC3",
    "balanced_weight",
    "load_method",
    "what_it_does",
]
