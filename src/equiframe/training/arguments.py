"""From a method's published settings and the user's wishes to the arguments of the Trainer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from transformers import TrainingArguments

from equiframe.config import FineTuning
from equiframe.errors import InputError, ModelError
from equiframe.methods.method import Settings


def with_half_the_batch(fine_tuning: FineTuning, settings: Settings) -> FineTuning:
    """The same examples a step in batches of half the size, or, where that is odd, of one.

    Raises:
        ModelError: a batch is one example already.
    """
    size = fine_tuning.batch_size or settings.batch_size
    if size == 1:
        raise ModelError("too little free memory for one example: lower --max-length, or try --lora")
    smaller = size // 2 if size % 2 == 0 else 1
    return replace(fine_tuning, batch_size=smaller, accumulation=fine_tuning.accumulation * (size // smaller))


def training_arguments(
    fine_tuning: FineTuning, folder: Path, settings: Settings, device: torch.device
) -> TrainingArguments:
    """Arguments for a Trainer on that kind of device that keeps its checkpoints in ``folder``.

    Raises:
        InputError: fp16 without a GPU.
    """
    precision = best_precision() if fine_tuning.precision == "auto" else fine_tuning.precision
    if precision == "fp16" and device.type == "cpu":
        raise InputError("--precision fp16 needs a GPU: choose fp32 or bf16")
    return TrainingArguments(
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
        logging_steps=1,  # a mean over several would begin anew where a run goes on from a checkpoint
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


def best_precision() -> Literal["fp32", "bf16"]:
    """bf16 on a GPU that has instructions for it, else float32: every processor then gives the same numbers."""
    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if on_gpu else "fp32"
