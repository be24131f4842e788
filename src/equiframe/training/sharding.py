"""FSDP2: shards weights, gradients and optimizer state over the ranks, and gathers them again."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from equiframe.errors import InputError


def is_sharding() -> bool:
    """Whether ``accelerate launch`` was told to shard the weights."""
    return dist.is_initialized() and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_version(version: int | str) -> None:
    """Refuse the first version of FSDP: it makes one flat tensor of many weights, in which words have no rows."""
    if int(version) != 2:
        raise InputError(f"fsdp_version: {version} in the configuration of accelerate: give 2")


def shard(model: nn.Module, plugin: FullyShardedDataParallelPlugin) -> nn.Module:
    """Shard a model's weights, in place: each layer of the stack is a unit, and the rest is one unit.

    accelerate makes a separate unit of the embeddings, and fails on heads such as BERT's, which share a bias with
    their last linear map. It does not change a model that is already sharded.

    Args:
        model: a model that is complete on every rank.
        plugin: accelerate's settings.

    Returns:
        The same model without weights, for :func:`gather`.

    Raises:
        InputError: the settings are those of the first version of FSDP.
    """
    check_version(plugin.fsdp_version)
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    skeleton: nn.Module = copy.deepcopy(model, empty)
    options: dict[str, Any] = {"mp_policy": plugin.mixed_precision_policy or MixedPrecisionPolicy()}
    if plugin.cpu_offload is not None:
        options["offload_policy"] = plugin.cpu_offload
    for layer in _layers(model):
        fully_shard(layer, reshard_after_forward=plugin.reshard_after_forward, **options)
    fully_shard(model, **options)
    return skeleton


def gather(model: nn.Module, skeleton: nn.Module) -> nn.Module:
    """Gather the complete weights of a sharded model on every rank, in its skeleton."""
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    skeleton.load_state_dict(state, assign=True)
    skeleton.tie_weights()  # type: ignore[operator]
    return skeleton


def _layers(module: nn.Module) -> list[nn.Module]:
    """The members of the outermost lists of modules; what is nested in them, such as experts, may not be called."""
    if isinstance(module, nn.ModuleList):
        return list(module)
    return [layer for child in module.children() for layer in _layers(child)]
