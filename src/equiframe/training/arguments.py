"""From a method's published settings and the user's wishes to the arguments of the Trainer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
import torch.distributed as dist
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from equiframe.errors import InputError, ModelError
from equiframe.methods.method import Settings
from equiframe.options import SEEDS, check_range

Precision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class FineTuning:
    """How long and how fast to train. None means the method's published setting.

    Args:
        epochs: passes over the data.
        max_steps: optimizer steps, instead of epochs.
        learning_rate: peak rate of AdamW, decaying linearly to zero.
        batch_size: examples a device and step.
        accumulation: steps whose gradients are added up.
        max_length: longest example in tokens.
        seed: of everything drawn at random.
        precision: ``auto`` takes bf16 autocast on a GPU that multiplies it natively, else float32.
        save_steps: a checkpoint every so many steps.
        lora_rank: rank of LoRA adapters on all linear layers, 0 to train all weights.
        report_to: trackers that the Trainer shall report to, such as ``tensorboard``.
        audit_steps: measure the collapse of the fairness words after the first step and every so many; 0 for never.
    """

    epochs: float | None = None
    max_steps: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    accumulation: int = 1
    max_length: int | None = None
    seed: int | None = None
    precision: Precision = "auto"
    save_steps: int = 500
    lora_rank: int = 0
    report_to: tuple[str, ...] = ()
    audit_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate"):
            check_range(f"--{name.replace('_', '-')}", getattr(self, name), zero=False)
        for name in ("max_steps", "batch_size", "accumulation", "max_length", "save_steps"):
            check_range(f"--{name.replace('_', '-')}", getattr(self, name), whole=True, zero=False)
        check_range("--training-seed", self.seed, whole=True, most=SEEDS)
        check_range("--lora", self.lora_rank, whole=True, otherwise="; 0 trains all weights")
        check_range("--audit-steps", self.audit_steps, whole=True)
        if self.precision not in get_args(Precision):
            raise InputError(f"--precision {self.precision}: choose {', '.join(get_args(Precision))}")
        installed = get_available_reporting_integrations() if self.report_to else []
        for name in self.report_to:
            if name not in (*installed, "all", "none"):
                if name in INTEGRATION_TO_CALLBACK:
                    problem, fix = "that tracker is not installed", f"pip install {name}"
                else:
                    problem, fix = "the Trainer knows no such tracker", f"give {', '.join(INTEGRATION_TO_CALLBACK)}"
                raise InputError(f"--report-to {name}: {problem}: {fix}, or leave the option out")

    def with_half_the_batch(self, settings: Settings) -> FineTuning:
        """The same examples a step in batches of half the size, or, where that is odd, of one.

        Raises:
            ModelError: a batch is one example already.
        """
        size = self.batch_size or settings.batch_size
        if size == 1:
            raise ModelError("too little free memory for one example: lower --max-length, or try --lora")
        smaller = size // 2 if size % 2 == 0 else 1
        return replace(self, batch_size=smaller, accumulation=self.accumulation * (size // smaller))

    def training_arguments(self, folder: Path, settings: Settings, device: torch.device) -> TrainingArguments:
        """Arguments for a Trainer on that device that keeps its checkpoints in ``folder``.

        Raises:
            InputError: fp16 without a GPU, or a GPU that is not the first one.
        """
        precision = best_precision(device) if self.precision == "auto" else self.precision
        if precision == "fp16" and device.type == "cpu":
            raise InputError("--precision fp16 needs a GPU: choose fp32 or bf16")
        if device.type == "cuda" and device.index and not dist.is_initialized():
            raise InputError(
                f"--device {device}: fine-tuning takes the first GPU it sees; start with"
                f" CUDA_VISIBLE_DEVICES={device.index} and leave out --device"
            )
        return OneDevice(
            output_dir=str(folder),
            num_train_epochs=self.epochs or settings.epochs,
            max_steps=self.max_steps or -1,
            learning_rate=self.learning_rate or settings.learning_rate,
            per_device_train_batch_size=self.batch_size or settings.batch_size,
            gradient_accumulation_steps=self.accumulation,
            seed=settings.seed if self.seed is None else self.seed,
            lr_scheduler_type="linear",
            adam_epsilon=1e-8,
            max_grad_norm=1.0,
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            train_sampling_strategy="group_by_length",
            logging_steps=1,  # a mean over several would begin anew where a run goes on from a checkpoint
            logging_nan_inf_filter=False,
            save_strategy="steps",
            save_steps=self.save_steps,
            save_total_limit=2,
            eval_strategy="no",
            report_to=list(self.report_to),
            remove_unused_columns=False,
            dataloader_pin_memory=device.type == "cuda",
            use_cpu=device.type == "cpu",
            disable_tqdm=True,
        )


class OneDevice(TrainingArguments):
    """Arguments of a Trainer that takes one device a process, where the Trainer's own would take every GPU it sees.

    Several GPUs in one process mean ``nn.DataParallel``, which splits batches whose places an objective has chosen.
    """

    @property
    def n_gpu(self) -> int:
        """At most one."""
        return min(1, super().n_gpu)


def best_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """bf16 on a GPU that has instructions for it, else float32: every processor then gives the same numbers."""
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if on_gpu else "fp32"
