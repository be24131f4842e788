"""Bias benchmarks: they turn items into requests, answers into outcomes, and outcomes into measures."""

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
