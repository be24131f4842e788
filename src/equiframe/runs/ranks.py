"""Several processes of one run, started by ``torchrun`` or ``accelerate launch``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist


def processes() -> int:
    """The number of processes of this run, whether they have joined or not yet."""
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def process_group() -> Iterator[int]:
    """Join the processes that a launcher started, and leave them at the end; yield the rank of this process.

    In a single process, or if the caller has already joined, nothing is changed.
    """
    if dist.is_initialized():
        yield dist.get_rank()
    elif processes() == 1:
        yield 0
    else:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        # gloo in addition to nccl, for tensors that FSDP keeps in CPU memory
        dist.init_process_group("cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo")
        try:
            yield dist.get_rank()
        finally:
            dist.destroy_process_group()


def wait_for_all() -> None:
    """Continue when every rank has arrived here."""
    if dist.is_initialized():
        dist.barrier()
