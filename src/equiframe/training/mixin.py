"""Adds the (U)NC3 term to any Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from equiframe.collapse import UNC3Regularizer
from equiframe.errors import ModelError
from equiframe.models.adapter import classifier, output_embedding, pair, unwrap
from equiframe.requests import ModelKind
from equiframe.training.sharding import check_version
from equiframe.training.trainer import check_devices, checkpoint_folder, load_state, resumed_from, save_state

_FILE = "unc3.safetensors"


class UNC3Mixin:
    """Adds lambda times the spread of the cosines to the loss of a Trainer, whatever that loss is.

    The features are the input of the output embedding in the Trainer's own forward pass; there is no second pass.
    The term counts once per optimizer step, however many batches are accumulated. Its value is logged next to the
    loss (``unc3``, ``unc3_weight``, ``mean_cosine``), and its class means are part of each checkpoint.

    Put it before the Trainer of transformers, or before a Trainer derived from it, such as trl's SFTTrainer. Give it
    the tokenizer (``processing_class``); without it, the state at a start token counts as a state of the first word.

    Args:
        unc3: the term, with its words and weight.
        unc3_kind: ``masked`` or ``causal``; it decides which state belongs to which token.
        *args: arguments of the Trainer.
        **kwargs: arguments of the Trainer.

    Raises:
        InputError: there are several GPUs in one process, or weights are sharded by the first version of FSDP.
        ModelError: the model has no output embedding, or it is frozen and the term reaches nothing else; or (on
            training) the model computed its loss without it, as fused losses do.

    Reference: Xu et al. 2025, the (U)NC3 regularizer.

    Example:
        >>> from transformers import Trainer
        >>> class FairTrainer(UNC3Mixin, Trainer):
        ...     pass
    """

    accelerator: Any
    args: Any
    model: Any
    processing_class: Any
    add_callback: Any

    def __init__(self, *args: Any, unc3: UNC3Regularizer, unc3_kind: ModelKind, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_devices(self.args)
        if not (unc3.through_features or output_embedding(self.model).weight.requires_grad):
            raise ModelError(
                "the output embedding is frozen, so the term would have no gradient: give"
                " UNC3Regularizer(..., through_features=True), or train the embedding too"
            )
        if getattr(self, "is_fsdp_enabled", False):
            check_version(self.accelerator.state.fsdp_plugin.fsdp_version)
        self.unc3 = unc3.to(self.args.device)
        self.add_callback(_ClassMeans(self.unc3))
        self.unc3_kind = unc3_kind
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)  # that of a processor of images
        self._special_ids = torch.tensor(getattr(tokenizer, "all_special_ids", ()), device=self.args.device).long()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the Trainer's loss, and in training add the term."""
        batch = dict(inputs)
        states: list[Tensor] = []
        last: list[Tensor] = []
        hooks = [output_embedding(model).register_forward_pre_hook(lambda _, given: states.append(given[0]))]
        if self.unc3_kind == "causal":  # a fused head, such as trl's, reads the labels and bypasses the embedding
            hooks.append(_backbone(model).register_forward_hook(lambda _, given, out: last.append(out[0])))
        try:
            found = super().compute_loss(  # type: ignore[misc]
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        finally:
            for hook in hooks:
                hook.remove()
        loss, outputs = found if return_outputs else (found, None)
        if model.training:
            loss = loss + self._term(model, batch, states or last) / self._shares(num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _term(self, model: nn.Module, batch: Mapping[str, Tensor], states: list[Tensor]) -> Tensor:
        input_ids = batch["input_ids"]
        if not states or states[-1].shape[:2] != input_ids.shape:
            raise ModelError(
                "the output embedding did not read a state for each token: switch fused or chunked losses off, or give"
                " batches with labels"
            )
        labels = batch.get("labels")
        where, token_ids = pair(
            self.unc3_kind,
            input_ids,
            batch.get("attention_mask", torch.ones_like(input_ids)),
            self._special_ids,
            true_ids=None if labels is None else torch.where(labels == -100, input_ids, labels),
        )
        term: Tensor = self.unc3(states[-1][where], token_ids, classifier(model))
        return term

    def _shares(self, num_items_in_batch: Tensor | int | None) -> int:
        """The number of batches over which the Trainer averages a step's loss, if it does not divide it itself."""
        trainer: Any = self
        is_summed = trainer.compute_loss_func is not None or (
            trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
        )
        return int(trainer.current_gradient_accumulation_steps) if is_summed else 1

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as the Trainer does, with the term of the last batch next to the loss."""
        if "loss" in logs:
            parts = ("unc3", "unc3_weight", "mean_cosine")
            logs = {**logs, **{part: float(self.unc3.last_parts[part]) for part in parts if self.unc3.last_parts}}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does, continuing with the class means of the checkpoint."""
        if folder := resumed_from(self.args, resume_from_checkpoint):
            load_state(self.unc3, folder / _FILE)
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]


class _ClassMeans(TrainerCallback):
    """Puts the term's class means into each checkpoint."""

    def __init__(self, unc3: UNC3Regularizer) -> None:
        self._unc3 = unc3

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if args.should_save:
            save_state(self._unc3, checkpoint_folder(args, state) / _FILE)


def _backbone(model: nn.Module) -> nn.Module:
    """A causal language model without its head, whether wrapped for data parallelism or by peft."""
    with_head: Any = unwrap(model)
    if hasattr(with_head, "get_base_model"):
        with_head = with_head.get_base_model()
    backbone: nn.Module = with_head.base_model
    return backbone
