"""Fine-tuning on the Hugging Face Trainer."""

from equiframe.training.arguments import FineTuning, OneDevice, best_precision
from equiframe.training.mixin import UNC3Mixin
from equiframe.training.trainer import DebiasingTrainer

__all__ = ["DebiasingTrainer", "FineTuning", "OneDevice", "UNC3Mixin", "best_precision"]
