"""Continues in smaller parts if the memory of a device is insufficient."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from equiframe.errors import ModelError

Size = TypeVar("Size")
Result = TypeVar("Result")


def in_less_memory(
    attempt: Callable[[Size], Result], size: Size, smaller: Callable[[Size], tuple[Size, str]]
) -> tuple[Result, Size]:
    """Run something at a size; if a device runs out of memory, run it again at a smaller one, with a warning.

    Args:
        attempt: function from a size to the result, which depends on the size only by rounding.
        size: the first size to try.
        smaller: returns the next size after one that was too large, and the text of the warning.

    Returns:
        The result, and the size that worked.

    Raises:
        ModelError: raised by ``smaller`` if there is no smaller size.
    """
    while True:
        try:
            return attempt(size), size
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            try:
                size, said = smaller(size)
            except ModelError as refusal:
                raise refusal from error
        warnings.warn(f"out of memory: {said}", stacklevel=2)
        clear_device_cache(garbage_collection=True)
