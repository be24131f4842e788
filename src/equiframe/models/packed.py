"""Weights in 8 bits with a scale for each row: a quarter of the bytes of float32, for models in the package."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_NAME

from equiframe.cache import cache_folder, made_once
from equiframe.errors import InputError, ModelError

PACKED_FILE = "model.int8.safetensors"
_SCALE = ".scale"
_DIGEST = "sha256"
_FIX = "install equiframe again"
_LEVELS = 127


def pack(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round each row of each matrix to whole multiples of a 127th of its largest value.

    W_ij becomes q_ij = round(W_ij / s_i) in [-127, 127] with s_i = max_j |W_ij| / 127, so that
    |W_ij - s_i q_ij| <= s_i / 2 up to the rounding of float32. Vectors stay as they are, in float32.

    Args:
        weights: floating-point tensors by name, [...] or [rows, columns], finite.

    Returns:
        For each matrix NAME, ``NAME`` in int8, [rows, columns], and ``NAME.scale`` in float32, [rows]; each vector
        unchanged, in float32.

    Raises:
        InputError: a tensor is not floating-point, has more than two dimensions or is not finite, or its name is that
            of the scales of another.

    Reference: Jacob et al. 2018, symmetric and without a zero point; Krishnamoorthi 2018 (a scale for each row).
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or tensor.dim() > 2 or not bool(tensor.isfinite().all()):
            raise InputError(f"{name}: only finite floating-point vectors and matrices can be packed")
        tensor = tensor.detach().float()
        if tensor.dim() < 2:
            packed[name] = tensor.contiguous()
            continue
        scale = tensor.abs().amax(1) / _LEVELS
        divisor = torch.where(scale > 0, scale, 1.0)  # a row of zeros, or of numbers too small to divide
        rounded = (tensor / divisor[:, None]).round().clamp(-_LEVELS, _LEVELS)
        if name + _SCALE in weights:
            raise InputError(f"{name}{_SCALE}: this name is needed for the scales of {name}: rename it")
        packed[name], packed[name + _SCALE] = rounded.to(torch.int8), scale
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The float32 weights q_ij s_i: one rounding each, so they are the same on every machine."""
    return {
        name: tensor.float() * packed[name + _SCALE][:, None] if tensor.dtype == torch.int8 else tensor
        for name, tensor in packed.items()
        if name.removesuffix(_SCALE) not in packed or not name.endswith(_SCALE)
    }


def digest(weights: Mapping[str, Tensor]) -> str:
    """Compute SHA-256 of names, types, shapes and bytes, in the order of names."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def write_packed(weights: Mapping[str, Tensor], file: Path) -> None:
    """Write packed weights as safetensors, with the digest of what they unpack to."""
    packed = pack(weights)
    save_file(packed, file, metadata={_DIGEST: digest(unpack(packed))})


def read_packed(file: Path) -> dict[str, Tensor]:
    """The float32 weights of a file that :func:`write_packed` has written.

    Raises:
        ModelError: they are not those that were written.
    """
    with _opened(file) as stored:
        weights = unpack({name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118
        if digest(weights) != stored.metadata()[_DIGEST]:
            raise ModelError(f"{file}: its weights are not those that were written: {_FIX}")
    return weights


def unpacked_folder(folder: Path) -> Path:
    """The folder of a model with its weights unpacked, which transformers reads; made once and kept in the cache.

    Args:
        folder: configuration, tokenizer and packed weights.

    Raises:
        ModelError: the packed weights are damaged.
        RunError: the cache cannot be written.
    """
    with _opened(folder / PACKED_FILE) as stored:
        target = cache_folder() / f"{folder.name}-{stored.metadata()[_DIGEST][:16]}"
    if not target.is_dir():
        weights = read_packed(folder / PACKED_FILE)
        with made_once(target) as made:
            for file in folder.glob("*.json"):
                shutil.copyfile(file, made / file.name)
            save_file(weights, made / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
    return target


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a file of packed weights; a file that is none is refused in one line."""
    try:
        with safe_open(file, framework="pt") as stored:
            yield stored
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: no packed weights can be read from it ({error}): {_FIX}") from error
