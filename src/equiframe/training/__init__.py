"""Fine-tuning on the Hugging Face Trainer."""

from equiframe.config import FineTuning
from equiframe.training.arguments import OneDevice, training_precision
from equiframe.training.mixin import UNC3Mixin
from equiframe.training.trainer import DebiasingTrainer

__all__ = ["DebiasingTrainer", "FineTuning", "OneDevice", "UNC3Mixin", "training_precision"]
