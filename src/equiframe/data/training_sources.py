"""Training data that is not in the data wheel: from the user's folder, else from the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from equiframe.data.known import KNOWN
from equiframe.data.sources import HUB, DataFile, DataSource, LocatedFile, locate, user_file
from equiframe.errors import DataError, MissingDataError

COMMITS = {
    "nyu-mll/glue": "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
    "stanfordnlp/snli": "cdb5c3d5eed6ead6e5a341c8e56e669bb666725b",
    "LabHC/bias_in_bios": "052f01de644dba841176e0449528b41f27d94a61",
}
"""Datasets of the Hub at fixed commits, each of which names its files by their hashes."""


def in_folder(name: str, source: DataSource, places: Sequence[str]) -> LocatedFile | None:
    """A file below the user's folder, or None if it is not there.

    Args:
        name: name of the file in the record; the hash of a known file is compared.
        source: may have a folder; a repository on the Hub is searched only for known files.
        places: paths below the folder; the first that exists is used.

    Raises:
        DataError: the folder does not exist, or the file cannot be read.
    """
    if source.repository is not None:
        return locate(name, source) if name in KNOWN else None
    if source.folder is None:
        return None
    if not source.folder.is_dir():
        raise DataError("no such folder", path=source.folder)
    for place in places:
        if (path := source.folder / PurePosixPath(place)).is_file():
            located = user_file(path)
            known = KNOWN.get(name)
            is_known = known is not None and known.sha256 == located.file.sha256
            licence = located.file.licence if known is None else known.licence
            file = dataclasses.replace(located.file, name=name, is_known_version=is_known, licence=licence)
            return LocatedFile(path, file)
    return None


def hub_rows(
    name: str, repository: str, configuration: str | None, split: str, columns: Sequence[str], otherwise: str
) -> tuple[list[tuple[Any, ...]], DataFile]:
    """Columns of a dataset on the Hub at its fixed commit, row by row, and its entry for the record.

    Args:
        name: name of the dataset in the record.
        repository: a key of ``COMMITS``.
        configuration: configuration, such as ``cola``, or None if there is only one.
        split: split, such as ``train``.
        columns: columns to read.
        otherwise: another way to get the data, for the message.

    Raises:
        DataError: the dataset is not available, or a column is missing.
    """
    from datasets import load_dataset

    try:
        dataset = load_dataset(repository, configuration, split=split, revision=COMMITS[repository])
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingDataError(
            f"{name} is missing: {HUB}{repository} cannot be read ({reason}); {otherwise}"
        ) from error
    missing = [column for column in columns if column not in dataset.column_names]
    if missing:
        raise DataError(
            f"{HUB}{repository}, {split}: no column {missing[0]!r}. Available: {', '.join(dataset.column_names)}"
        )
    rows = list(zip(*(dataset[column] for column in columns), strict=True))
    digest = hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode())
    return rows, DataFile(name, "hub", digest.hexdigest(), is_known_version=False)
