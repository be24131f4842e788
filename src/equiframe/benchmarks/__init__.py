"""Bias benchmarks: items to requests, answers to outcomes, outcomes to measures."""

from equiframe.benchmarks.benchmark import Asked, Benchmark, BenchmarkResult, Excluded, Outcome, outcome_table
from equiframe.benchmarks.registry import BENCHMARKS, load_benchmark, suite

__all__ = [
    "BENCHMARKS",
    "Asked",
    "Benchmark",
    "BenchmarkResult",
    "Excluded",
    "Outcome",
    "load_benchmark",
    "outcome_table",
    "suite",
]
