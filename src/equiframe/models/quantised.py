"""A model whose weights are quantised: what reading them needs, looked at before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import transformers
from transformers.quantizers import AutoHfQuantizer

from equiframe.errors import ModelError

_PACKAGES = {
    "aqlm": ("aqlm", "'aqlm[cpu,gpu]'"),
    "awq": ("gptqmodel", "gptqmodel"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "gptq": ("gptqmodel", "optimum gptqmodel"),
    "hqq": ("hqq", "hqq"),
    "quanto": ("optimum.quanto", "optimum-quanto"),
    "quark": ("quark", "amd-quark"),
    "torchao": ("torchao", "torchao"),
}
"""By method, the module that computes with its weights, and what to install for it."""


def check_quantised(name: str, config: Any, model_args: Mapping[str, Any]) -> None:
    """Refuse quantised weights that cannot be read here; transformers would read those of an unknown method as numbers.

    Args:
        name: name of the model, for the message.
        config: its configuration, with ``quantization_config`` where the checkpoint is quantised.
        model_args: arguments of ``from_pretrained``, which may ask for a quantisation.

    Raises:
        ModelError: the method is unknown, or its package is not installed.
    """
    asked = model_args.get("quantization_config") or getattr(config, "quantization_config", None)
    if asked is None:
        return
    details = asked if isinstance(asked, dict) else asked.to_dict()
    is_bitsandbytes = details.get("load_in_4bit") or details.get("load_in_8bit")  # whose older versions name no method
    method = details.get("quant_method", "bitsandbytes" if is_bitsandbytes else None)
    method = str(getattr(method, "value", method))
    if method == "None" or not AutoHfQuantizer.supports_quant_method(details):
        raise ModelError(
            f"{name}: its weights are quantised by the method {method!r}, which transformers {transformers.__version__}"
            " does not know: choose the model that it was made from, or install a transformers that knows the method"
        )
    module, package = _PACKAGES.get(method, ("", ""))
    if module and not _is_installed(module):
        raise ModelError(f"{name}: weights quantised by {method} need a package: pip install {package}")


def _is_installed(module: str) -> bool:
    """Whether a module, perhaps inside another, can be imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
