"""The allowed values of options with few choices, defined without torch so that the command line can list them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from equiframe.errors import InputError

ModelKind: TypeAlias = Literal["masked", "causal"]
Bias: TypeAlias = Literal["gender", "race", "religion"]
MultiToken: TypeAlias = Literal["skip", "first", "last"]
Pairing: TypeAlias = Literal["aligned", "paper"]
Feature: TypeAlias = Literal["decoder-input", "last-layer"]
Visibility: TypeAlias = Literal["visible", "masked"]
Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
TrainingPrecision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
Memory: TypeAlias = Literal["run", "ema"]
Suite: TypeAlias = Literal["fairness", "nlu", "generation", "all"]
Layout: TypeAlias = Literal["lm-eval", "model-index"]
Shell: TypeAlias = Literal["bash", "zsh", "fish"]
SERVER = "server:"
"""Prefix of the name of a model that a server runs: ``server:URL#MODEL``."""

_GIVEN_OTHERWISE = {
    "dtype": "--dtype",
    "torch_dtype": "--dtype",
    "device_map": "--device-map",
    "revision": "--revision",
    "trust_remote_code": "--trust-remote-code",
    "gguf_file": "the file as the model",
}
_OWN = ("config", "use_safetensors", "output_loading_info", "state_dict", "weights_only", "adapter_kwargs")


def check_model_args(names: Iterable[str]) -> None:
    """Refuse arguments of ``from_pretrained`` that have a separate option, or that equiframe sets itself.

    Raises:
        InputError: an argument is refused; the message names the option to use.
    """
    for name in names:
        if name in _GIVEN_OTHERWISE:
            raise InputError(f"--model-arg {name}: give {_GIVEN_OTHERWISE[name]} instead")
        if name in _OWN:
            raise InputError(f"--model-arg {name}: equiframe sets this argument itself. Remove it")
