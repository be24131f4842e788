"""Fine-tuning on the Hugging Face Trainer."""

from equiframe.config import FineTuning
from equiframe.training.arguments import OneDevice, best_precision
from equiframe.training.mixin import UNC3Mixin
from equiframe.training.trainer import DebiasingTrainer

__all__ = ["DebiasingTrainer", "FineTuning", "OneDevice", "UNC3Mixin", "best_precision"]
