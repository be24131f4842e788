"""Benchmarks by generation: the responses of a model, a server or a file to prompts about several groups."""

from equiframe.generation.benchmark import ComparedGroups
from equiframe.generation.responses import read_responses
from equiframe.generation.score import score_generated

__all__ = ["ComparedGroups", "read_responses", "score_generated"]
