"""Makes the arguments of the Trainer from a method's published settings and the user's options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from equiframe.choices import TrainingPrecision
from equiframe.config import FineTuning
from equiframe.errors import InputError, ModelError
from equiframe.methods.method import Settings
from equiframe.training.sharding import is_sharding


def with_half_the_batch(fine_tuning: FineTuning, settings: Settings) -> FineTuning:
    """The same number of examples per step in batches of half the size, or of one example if the size is odd.

    Raises:
        ModelError: a batch already has only one example.
    """
    size = fine_tuning.batch_size or settings.batch_size
    if size == 1:
        raise ModelError("too little free memory for one example: lower --max-length, or try --lora")
    smaller = size // 2 if size % 2 == 0 else 1
    return replace(fine_tuning, batch_size=smaller, accumulation=fine_tuning.accumulation * (size // smaller))


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that the Trainer cannot report to.

    Raises:
        InputError: a tracker is unknown or not installed.
    """
    installed = get_available_reporting_integrations() if names else []
    for name in names:
        if name not in (*installed, "all", "none"):
            if name in INTEGRATION_TO_CALLBACK:
                problem, fix = "that tracker is not installed", f"pip install {name}"
            else:
                problem, fix = "the Trainer does not know this tracker", f"give {', '.join(INTEGRATION_TO_CALLBACK)}"
            raise InputError(f"--report-to {name}: {problem}: {fix}, or leave the option out")


def training_arguments(
    fine_tuning: FineTuning, folder: Path, settings: Settings, device: torch.device
) -> TrainingArguments:
    """Make arguments for a Trainer on that device that keeps its checkpoints in ``folder``.

    Raises:
        InputError: fp16, or sharded weights (FSDP), without a GPU; or a GPU that is not the first one.
    """
    if device.type == "cpu" and is_sharding():
        raise InputError(
            "FSDP needs GPUs: accelerate does not shard weights on CPUs: launch with recipes/accelerate/ddp.yaml"
        )
    precision = training_precision(fine_tuning.precision, device)
    if device.type == "cuda" and device.index and not dist.is_initialized():
        raise InputError(
            f"--device {device}: fine-tuning takes the first GPU it sees; start with"
            f" CUDA_VISIBLE_DEVICES={device.index} and leave out --device"
        )
    return OneDevice(
        output_dir=str(folder),
        num_train_epochs=fine_tuning.epochs or settings.epochs,
        max_steps=fine_tuning.max_steps or -1,
        learning_rate=fine_tuning.learning_rate or settings.learning_rate,
        per_device_train_batch_size=fine_tuning.batch_size or settings.batch_size,
        gradient_accumulation_steps=fine_tuning.accumulation,
        seed=settings.seed if fine_tuning.seed is None else fine_tuning.seed,
        lr_scheduler_type="linear",
        adam_epsilon=1e-8,
        max_grad_norm=1.0,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        train_sampling_strategy="group_by_length",
        logging_steps=1,  # a mean over several would start again where a run resumes from a checkpoint
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=fine_tuning.save_steps,
        save_total_limit=2,
        eval_strategy="no",
        report_to=list(fine_tuning.report_to),
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        use_cpu=device.type == "cpu",
        disable_tqdm=True,
    )


class OneDevice(TrainingArguments):
    """Arguments of a Trainer that uses one device per process; those of the Trainer itself use every visible GPU.

    Several GPUs in one process mean ``nn.DataParallel``, which splits batches whose places an objective has chosen.
    """

    @property
    def n_gpu(self) -> int:
        """At most one."""
        return min(1, super().n_gpu)


def training_precision(given: TrainingPrecision, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """The precision that was given; for ``auto`` bf16 on a GPU that supports it, else fp32, equal on every CPU.

    Raises:
        InputError: fp16 without a GPU.
    """
    if given == "fp16" and device.type == "cpu":
        raise InputError("precision fp16 needs a GPU: choose fp32 or bf16")
    if given != "auto":
        return given
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if on_gpu else "fp32"
