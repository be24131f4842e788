"""How a run was made, as stored in ``config.json``."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from equiframe.data import DataFile


class _Options(BaseModel):
    """Options of a run. Options that the code reads have a type here; the others are kept as they were given."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Environment(_Options):
    """What a reader needs to run it again; empty if an older version did not write it."""

    command: str = ""
    date: str = ""
    platform: str = ""
    python: str = ""
    packages: dict[str, str] = {}


class AuditedWith(_Options):
    """How collapse was measured: the options that must agree for two audits to be compared."""

    multi_token: str | None = None
    pairing: str | None = None
    feature: str | None = None
    visibility: str | None = None


class FineTunedWith(_Options):
    """How the model was fine-tuned."""

    lora_rank: int = 0


class Provenance(_Options):
    """``config.json``: every option, seed and version, and the hashes of the model and of the data.

    Records of every version can be read: missing options are empty, and options of that version are kept.
    """

    schema_version: Literal["equiframe.config/1"] = "equiframe.config/1"
    verb: str = ""
    model: str = ""
    seed: int | None = None
    benchmarks: list[str] = []
    limit: int | None = None
    self_debias: str | None = None
    method_options: dict[str, Any] = {}
    fine_tuning: FineTunedWith = FineTunedWith()
    audit: AuditedWith | None = None
    model_before: str | None = None
    left_out: dict[str, str] = {}
    files: tuple[DataFile, ...] = ()
    words_left_out: str | None = None
    environment: Environment = Environment()

    def plain(self) -> dict[str, Any]:
        """What was given or found, by name, as stored in ``config.json``."""
        return self.model_dump(mode="json", exclude={"schema_version"}, exclude_unset=True)


def environment() -> Environment:
    """Return command, date, platform and versions of this process."""
    program = Path(sys.argv[0])
    name = "equiframe" if program.parts[-2:] == ("equiframe", "__main__.py") else program.name
    packages = ("equiframe", "torch", "transformers", "tokenizers", "numpy", "scipy", "pandas")
    return Environment(
        command=shlex.join([name, *sys.argv[1:]]),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        platform=platform.platform(),
        python=platform.python_version(),
        packages={name: importlib.metadata.version(name) for name in packages},
    )
