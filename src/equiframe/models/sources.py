"""What the user names as a model, as a device and as arguments, looked at before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, OfflineModeIsEnabled

from equiframe.errors import InputError, ModelError

BUILTIN = ("builtin:minilm-mlm", "builtin:mini-mlm", "builtin:smollm2-135m")


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


def stored_if_unreachable(source: Source) -> Source:
    """A model on the hub, of which only stored files are read if the hub does not answer a first request.

    Otherwise the hub's client would retry each file for more than 20 seconds before an error is reported.

    Args:
        source: where the files of a model are; a local folder is returned unchanged.
    """
    if Path(source.where).exists():
        return source
    try:
        get_hf_file_metadata(hf_hub_url(source.where, "config.json", revision=source.options["revision"]))
    except (HfHubHTTPError, FileMetadataError, OfflineModeIsEnabled, ValueError):
        return source  # the hub answered, may not be asked, or has no such names: loading reports what is wrong
    except Exception:  # of the library that the hub's client uses for its connections
        return replace(source, options={**source.options, "local_files_only": True})
    return source


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
