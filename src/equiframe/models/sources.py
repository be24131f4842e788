"""What the user names as a model and as a device, looked at before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from equiframe.errors import InputError, ModelError

SERVER = "server:"
"""How the name of a model begins that a server runs: ``server:URL#MODEL``."""

_ADAPTER = "adapter_config.json"


def usable_device(device: str | torch.device | None) -> torch.device:
    """A device that this machine has and that holds numbers; by default a GPU if there is one.

    Raises:
        InputError: it has no such device; those it has are named.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:  # by kind of device
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            there.append("mps")
        raise InputError(f"--device {device}: no device that can be used here: choose {', '.join(there)}") from error
    return found


def check_folder(name: str, folder: Path, revision: str | None) -> None:
    """Refuse what a local folder does not have: revisions, or a whole model where it holds an adapter.

    Raises:
        InputError: a revision is given.
        ModelError: the folder holds a PEFT adapter.
    """
    if revision is not None:
        raise InputError(
            f"--revision {revision}: only models on the hub have revisions, and {name} is local: leave it out"
        )
    if (folder / _ADAPTER).is_file():
        raise ModelError(
            f"{name} holds an adapter ({_ADAPTER}) and not a whole model: merge it with its base model, by"
            f" peft.PeftModel.from_pretrained(base_model, {name!r}).merge_and_unload(), save the merged model"
            " and the tokenizer with save_pretrained, and give that folder"
        )
