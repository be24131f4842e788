"""Turns messages of transformers into one line that says what to do, or silences them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator

from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from equiframe.errors import ModelError
from equiframe.models.sources import BUILTIN
from equiframe.options import first_line

_SHARD = re.compile(r"[\w.-]+-\d+-of-\d+\.safetensors")


@contextlib.contextmanager
def explained(name: str, model_args: Iterable[str] = ()) -> Iterator[None]:
    """Turn an error of transformers about an unusable model into one line that says what to do."""
    try:
        yield
    except ModelError:
        raise
    except ImportError as error:  # of a package that a kind of quantisation, or of attention, needs
        package = f"; pip install {error.name}" if error.name else ""
        raise ModelError(f"{name}: {first_line(error)}{package}") from error
    except Exception as error:  # whatever a damaged file leads it to
        reason = first_line(error)
        if isinstance(error, SafetensorError):
            reason = (
                f"a file of its weights is incomplete or damaged: {reason}; download it again, in a clone of its"
                " repository by git lfs pull"
            )
        elif shard := _SHARD.search(str(error)):
            reason = f"its weights are incomplete: there is no file {shard[0]}; download it again"
        elif "safetensors" in str(error):
            reason = (
                "it has no safetensors weights, and pickled ones are never read: if you trust them, load it with"
                " transformers and save it again with save_pretrained"
            )
        if "Dequantization" in reason:  # of a type of tensor in a GGUF file
            reason += ": choose a file of the model with another quantisation, such as Q4_K_M or Q8_0"
        if "backend tokenizer" in reason:
            reason = "it has no tokenizer files: save the tokenizer beside the model by save_pretrained"
        if model_args:
            raise ModelError(f"{name}: cannot be loaded with --model-arg {', '.join(model_args)} ({reason})") from error
        raise ModelError(
            f"{name}: cannot be loaded as a language model ({reason}); give a hub name, a local directory, or"
            f" one of {', '.join(BUILTIN)}"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the reports and progress bars of transformers, and restore them later."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
