"""Benchmarks that fine-tune the model first: language understanding, and bias of fine-tuned models."""

from equiframe.benchmarks.fine_tuned import FineTunedBenchmark, FineTuneSettings
from equiframe.finetuned.score import score_finetuned

__all__ = ["FineTuneSettings", "FineTunedBenchmark", "score_finetuned"]
