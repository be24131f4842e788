"""The Hugging Face Trainer with a debiasing objective instead of the model's own loss."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from equiframe.errors import InputError, ModelError
from equiframe.methods.objective import Objective, ObjectiveOutput
from equiframe.models.adapter import own_forward
from equiframe.models.explaining import quiet
from equiframe.training.sharding import check_version, gather, is_sharding, shard

_OBJECTIVE_FILE = "objective.safetensors"
_COMPLETE = "complete"  # written last: a checkpoint without it was interrupted


class LengthGrouped(LengthGroupedSampler):
    """Batches of similar length in an order that depends only on seed and epoch.

    The Trainer's own sampler draws from the global generator, whose state at the start of an epoch a resumed run does
    not know, and which differs between ranks once they have masked batches of different lengths on a CPU.
    """

    def __init__(self, batch_size: int, *, dataset: Any, seed: int) -> None:
        super().__init__(batch_size, lengths=[len(ids) for ids in dataset["input_ids"]])
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        self.generator = torch.Generator().manual_seed(self.seed + epoch)


def check_devices(arguments: TrainingArguments) -> None:
    """Refuse ``nn.DataParallel``: it splits batches, and with them the places that an objective or a hook reads."""
    if arguments.n_gpu > 1:
        raise InputError(
            f"{arguments.n_gpu} GPUs in one process: start one process each (torchrun, accelerate launch), or show it"
            " one GPU alone (CUDA_VISIBLE_DEVICES=0)"
        )


class ResumableTrainer(Trainer):
    """A Trainer with checkpoints that are marked when they are complete: see :func:`complete_checkpoint`.

    If a step has several batches, accumulated or from several ranks, the Trainer takes the mean of their losses.
    :meth:`share` is the factor by which a loss is first multiplied, so that each batch counts by its :meth:`weight`.
    """

    _step_weight: float = 0.0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.add_callback(_Marking(self))

    def create_accelerator_and_postprocess(self) -> None:
        """Prepare as the Trainer does, with one device per process, and with FSDP2 if weights are sharded."""
        check_devices(self.args)
        if is_sharding():
            check_version(os.environ.get("FSDP_VERSION", "1"))
        super().create_accelerator_and_postprocess()

    def train_on(self) -> None:
        """Train to the end, starting from the newest complete checkpoint if there is one.

        The Trainer's own resumption makes one step too many if the checkpoint is that of the last step.
        """
        checkpoint = complete_checkpoint(Path(self.args.output_dir))
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
            if state.global_step >= state.max_steps:
                self._load_from_checkpoint(checkpoint)
                self.load_more(Path(checkpoint))
                self.state = state
                if self.args.load_best_model_at_end:
                    self._load_best_model()
                return
        self.train(resume_from_checkpoint=checkpoint)

    def weight(self, batch: Mapping[str, Tensor]) -> int:
        """The number of items over which the loss of a batch is a mean: its examples."""
        return len(next(iter(batch.values())))

    def get_batch_samples(self, *arguments: Any) -> Any:
        """Get batches as the Trainer does, and sum the weights of the step's batches over all ranks."""
        found = super().get_batch_samples(*arguments)
        total = sum(self.weight(batch) for batch in found[0])
        if self.args.world_size > 1:
            total = self.accelerator.reduce(torch.tensor(total, device=self.args.device), "sum").item()
        self._step_weight = total
        return found

    def share(self, batch: Mapping[str, Tensor]) -> float:
        """A batch's weight over the mean weight of the step's batches; exactly 1 if there is one batch."""
        if not self._step_weight:
            return 1.0
        batches = self.current_gradient_accumulation_steps * self.args.world_size
        return self.weight(batch) * batches / self._step_weight

    def save_model(self, *arguments: Any, **named: Any) -> None:
        """Save as the Trainer does, without a progress bar."""
        with quiet():
            super().save_model(*arguments, **named)

    def train(self, resume_from_checkpoint: Any = None, **named: Any) -> Any:
        """Train as the Trainer does; before that, read everything that a checkpoint holds."""
        if folder := resumed_from(self.args, resume_from_checkpoint):
            self.load_more(folder)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **named)

    def save_more(self, folder: Path) -> None:
        """Write the parts of a checkpoint that the Trainer does not write."""

    def load_more(self, folder: Path) -> None:
        """Read the files of :meth:`save_more`."""

    def loader_by_length(self) -> DataLoader[Any]:
        """Training batches of similar length in an order that a resumed run repeats, see :class:`LengthGrouped`."""
        arguments = self.args
        size = arguments.train_batch_size * arguments.gradient_accumulation_steps
        loader: DataLoader[Any] = self.accelerator.prepare(
            DataLoader(
                self.train_dataset,
                batch_size=arguments.train_batch_size,
                sampler=LengthGrouped(size, dataset=self.train_dataset, seed=arguments.seed),
                collate_fn=self.data_collator,
                num_workers=arguments.dataloader_num_workers,
                pin_memory=arguments.dataloader_pin_memory,
            )
        )
        return loader


class _Marking(TrainerCallback):
    """Marks a checkpoint once all ranks have written their files of it."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self._trainer = trainer

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._trainer.accelerator.wait_for_everyone()
        if args.should_save:
            folder = checkpoint_folder(args, state)
            self._trainer.save_more(folder)
            (folder / _COMPLETE).touch()


class Progress(TrainerCallback):
    """Report the progress of training."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Called by the Trainer."""
        self._tell(state.global_step, state.max_steps)


class _OwnParameters(TrainerCallback):
    """Treats the gradients of an objective's own parameters as the Trainer treats the model's."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if dist.is_initialized():
            for parameter in self._parameters:
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()
        nn.utils.clip_grad_norm_(self._parameters, args.max_grad_norm)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        for parameter in self._parameters:
            parameter.grad = None


class DebiasingTrainer(ResumableTrainer):
    """A Trainer with an :class:`~equiframe.methods.objective.Objective`; everything else is the Trainer's own.

    The named parts of the loss are averaged between two logs and logged next to it. What the objective
    accumulates, such as the class means of (U)NC3, is saved in each checkpoint and restored on resume, so
    that a resumed run continues as if it had not been interrupted. A loss that is not finite ends the run.

    An objective's own parameters, such as MABEL's projection, are trained with the model's: same optimizer,
    rate and clipping, gradients averaged over ranks. They are not part of the model that is saved.

    Args:
        objective: computes the loss of a batch.
        watch: numbers of the model in evaluation mode by column, logged next to the loss of a step.
        watch_steps: number of steps between two calls of ``watch``, which is also called after the first step; 0 for
            never.
        **arguments: arguments of :class:`transformers.Trainer`.

    Raises:
        InputError: the weights are sharded (FSDP), but the objective or ``watch`` needs the complete model.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        watch: Callable[[], Mapping[str, float]] | None = None,
        watch_steps: int = 0,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.objective = objective.to(self.args.device)
        self._watch = watch if watch_steps else None
        self._watch_steps = watch_steps
        if own := list(self.objective.parameters()):
            self.add_callback(_OwnParameters(own))
        self.model_accepts_loss_kwargs = False  # the objective's loss is already a mean
        self._part_sums: dict[str, Tensor] = {}
        self._part_steps = 0
        self._skeleton: nn.Module | None = None
        if self.is_fsdp_enabled:
            if not objective.works_sharded:
                host = objective
                while isinstance(inner := getattr(host, "objective", None), Objective):
                    host = inner
                raise InputError(
                    f"{type(host).__name__} does more with the model than call it, which sharded weights (FSDP)"
                    " do not allow: launch with recipes/accelerate/ddp.yaml"
                )
            if self._watch is not None:
                raise InputError(
                    "--audit-steps and --watch read the whole model, which sharded weights (FSDP) do not allow:"
                    " launch with recipes/accelerate/ddp.yaml, or leave them out"
                )
            self._skeleton = shard(self.model, self.accelerator.state.fsdp_plugin)

    def whole_model(self) -> Any:
        """The model with its present weights, complete on every rank, in float32 and without autocast."""
        if self._skeleton is not None:
            return gather(self.model, self._skeleton)
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        vars(model).pop("forward", None)  # accelerate restores a forward without the wrapper of transformers
        return model

    def create_optimizer(self, *model: Any) -> torch.optim.Optimizer:
        """Create the Trainer's optimizer, with the objective's own parameters in it."""
        made = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*model)
        if made and (own := list(self.objective.parameters())):
            optimizer.add_param_group({**optimizer.param_groups[-1], "params": own})
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the objective's loss of one batch."""
        self.objective.train(model.training)
        out: ObjectiveOutput = self.objective(model, inputs)
        loss = out.loss
        if model.training:
            if not torch.isfinite(loss):
                raise ModelError(
                    f"the loss is {float(loss.detach())} at step {self.state.global_step + 1}: lower"
                    " --learning-rate or the weight of the term; checkpoints written so far are kept"
                )
            share = self.share(inputs)
            if share != 1:
                loss = share * (loss - out.term) + out.term
            self._part_steps += 1
            for name, value in out.parts.items():
                self._part_sums[name] = self._part_sums.get(name, value.new_zeros(())) + share * value.detach()
        return (loss, {"loss": loss.detach()}) if return_outputs else loss

    def weight(self, batch: Mapping[str, Tensor]) -> int:
        """The weight that the objective gives to the batch."""
        return self.objective.weight(batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does, with the mean of each part since the last log."""
        if "loss" in logs and self._part_steps:
            if self._part_sums:
                totals = torch.stack([total.float() for total in self._part_sums.values()])
                totals = self.accelerator.reduce(totals, "mean")  # over ranks, as the Trainer does with the loss
                for name, total in zip(self._part_sums, totals.tolist(), strict=True):
                    logs[name] = total / self._part_steps
            self._part_sums, self._part_steps = {}, 0
            step = self.state.global_step
            if self._watch is not None and (step == 1 or step % self._watch_steps == 0):
                self.model.eval()  # the next step sets it back
                with own_forward(self.model):
                    logs.update(self._watch())
        super().log(logs, start_time)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Training batches of similar length, whose order all ranks share and a resumed run repeats."""
        if self.args.train_sampling_strategy != "group_by_length":
            loader: DataLoader[Any] = super().get_train_dataloader()
            return loader
        return self.loader_by_length()

    def save_more(self, folder: Path) -> None:
        """Save the state that the objective has accumulated."""
        save_state(self.objective, folder / _OBJECTIVE_FILE)

    def load_more(self, folder: Path) -> None:
        """Restore the state that the objective had accumulated."""
        load_state(self.objective, folder / _OBJECTIVE_FILE)

    @property
    def history(self) -> list[dict[str, float]]:
        """The training steps, columns by name: ``step``, ``loss`` and its parts, learning rate, gradient norm."""
        return [
            {name: float(value) for name, value in sorted(entry.items()) if math.isfinite(float(value))}
            for entry in self.state.log_history
            if "loss" in entry
        ]


def checkpoint_folder(arguments: TrainingArguments, state: TrainerState) -> Path:
    """The folder in which a Trainer keeps the checkpoint of its current step."""
    return Path(arguments.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def resumed_from(arguments: TrainingArguments, given: Any) -> Path | None:
    """The checkpoint that ``resume_from_checkpoint`` means: a folder, or True for the last one."""
    folder = get_last_checkpoint(arguments.output_dir) if given is True else given
    return Path(folder) if folder else None


def save_state(module: nn.Module, file: Path) -> None:
    """Save a module's parameters and buffers, if it has any, in safetensors."""
    if state := module.state_dict():
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)


def load_state(module: nn.Module, file: Path) -> None:
    """Load the file of :func:`save_state`, if it exists."""
    if file.exists():
        module.load_state_dict(load_file(file))


def complete_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint in a folder, or None."""
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if (path / _COMPLETE).exists()]
    return str(max(found, key=lambda path: int(path.name.rpartition("-")[2]))) if found else None
