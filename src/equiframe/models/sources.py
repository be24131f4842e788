"""What the user names as a model, as a device and as arguments, looked at before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from equiframe.errors import InputError, ModelError

SERVER = "server:"
"""How the name of a model begins that a server runs: ``server:URL#MODEL``."""
BUILTIN = ("builtin:mini-mlm", "builtin:smollm2-135m")

_GIVEN_OTHERWISE = {
    "dtype": "--dtype",
    "torch_dtype": "--dtype",
    "device_map": "--device-map",
    "revision": "--revision",
    "trust_remote_code": "--trust-remote-code",
    "gguf_file": "the file as the model",
}
_OWN = ("config", "use_safetensors", "output_loading_info", "state_dict", "weights_only", "adapter_kwargs")


@dataclass(frozen=True)
class Source:
    """Where the files of a model are.

    Args:
        where: a local folder, or a repository on the hub.
        options: what each ``from_pretrained`` that reads them needs to know besides.
    """

    where: str
    options: Mapping[str, Any]

    @property
    def is_gguf(self) -> bool:
        """Whether weights, configuration and tokenizer are in one GGUF file."""
        return "gguf_file" in self.options


def find_source(name: str, folder: Path, revision: str | None) -> Source:
    """Where the files of a model are.

    Args:
        name: as the user gave it.
        folder: where it is, if it is local.
        revision: branch, tag or commit on the hub.

    Raises:
        InputError: a revision of what is not on the hub.
        ModelError: a path at which there is nothing.
    """
    is_local = folder.is_dir() or folder.is_file()
    if is_local and revision is not None:
        raise InputError(
            f"--revision {revision}: only models on the hub have revisions, and {name} is local: leave it out"
        )
    repository, _, file = name.rpartition(":")
    if name.endswith(".gguf"):
        if folder.is_file():
            return Source(str(folder.parent), {"gguf_file": folder.name})
        if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
            raise ModelError(f"{name}: no such file; give the path of a GGUF file, or OWNER/NAME:FILE.gguf on the hub")
        return Source(repository, {"revision": revision, "gguf_file": file})
    if folder.is_dir():
        return Source(str(folder), {})
    if name.startswith((".", "/", "~")):
        raise ModelError(
            f"{name}: no such directory; give a hub name, a local directory, a GGUF file, or {' or '.join(BUILTIN)}"
        )
    return Source(name, {"revision": revision})


def check_model_args(names: Iterable[str]) -> None:
    """Refuse arguments of ``from_pretrained`` that are given another way, or that equiframe sets itself.

    Raises:
        InputError: names the other way.
    """
    for name in names:
        if name in _GIVEN_OTHERWISE:
            raise InputError(f"--model-arg {name}: give {_GIVEN_OTHERWISE[name]} instead")
        if name in _OWN:
            raise InputError(f"--model-arg {name}: equiframe sets it itself: leave it out")


def usable_device(device: str | torch.device | None) -> torch.device:
    """A device that this machine has and that holds numbers; by default a GPU (cuda, mps, xpu) if there is one.

    Raises:
        InputError: it has no such device; those it has are named.
    """
    if device is None:
        device = (torch.accelerator.is_available() and torch.accelerator.current_accelerator()) or "cpu"
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:  # by kind of device
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            there.append("mps")
        raise InputError(f"--device {device}: no device that can be used here: choose {', '.join(there)}") from error
    return found
