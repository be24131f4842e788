"""The record of a run: one folder.

config.json          every option, seeds, versions, hashes of model and data
metrics.json         the numbers
items/NAME.parquet   one row per item of each benchmark
classes.parquet      one row per class of the audited word set
vectors.parquet      mean and embedding of those classes that are in pairs
pairs.parquet        one row per text and its counterfactual
history.parquet      one row per logged step of fine-tuning
model/               the fine-tuned model, safetensors
report.html          the same as a page
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from equiframe.data import read_json
from equiframe.errors import RunError
from equiframe.record.folder import file_name, write_json
from equiframe.record.provenance import Provenance
from equiframe.record.schema import Comparison, InNotebooks, Metrics

_Model = TypeVar("_Model", bound=BaseModel)

_ITEMS = "items"
_TABLES = ("classes", "vectors", "pairs", "history")
_MOST_ROWS, _LARGEST = 10_000_000, 1 << 32  # rows and unpacked bytes of a table: a small file may claim to be huge


@dataclass(frozen=True)
class RunRecord(InNotebooks):
    """A finished run in memory.

    Args:
        provenance: every option, seed, version and hash.
        metrics: the numbers.
        items: per-item table of each benchmark, by its name with variant.
        classes: the audited classes: ``token_id, token, word, form, groups, count, variance, norm, cosine``. ``form``
            names the same class under another tokenizer, see :class:`equiframe.words.word_set.ResolvedWords`.
        vectors: for the audited classes that are in pairs: ``token_id``, the ids of their ``partners``, the centred
            ``mean`` and the ``embedding``; None in records of older versions.
        pairs: texts that were read with their counterfactuals, see :func:`equiframe.runs.contexts.read_contexts`;
            None in records of older versions.
        history: the logged steps of fine-tuning: ``step``, ``loss``, its named parts, and ``collapse/KEY`` for the
            steps that were audited.
    """

    provenance: Provenance
    metrics: Metrics
    items: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    classes: pd.DataFrame | None = None
    vectors: pd.DataFrame | None = None
    pairs: pd.DataFrame | None = None
    history: pd.DataFrame | None = None

    def write(self, folder: Path) -> None:
        """Write everything except model and report into an existing folder."""
        made = self.provenance
        write_json(folder / "config.json", {"schema_version": made.schema_version, **made.plain()})
        write_json(folder / "metrics.json", self.metrics.model_dump(mode="json"))
        shutil.rmtree(folder / _ITEMS, ignore_errors=True)  # from the same run, if it was stopped while writing
        for name, table in self.items.items():
            (folder / _ITEMS).mkdir(exist_ok=True)
            table.to_parquet(folder / _ITEMS / _item_file(name), index=False)
        for name in _TABLES:
            file = folder / f"{name}.parquet"
            file.unlink(missing_ok=True)
            if (extra := getattr(self, name)) is not None:
                extra.to_parquet(file, index=False)

    @classmethod
    def read(cls, folder: Path | str) -> RunRecord:
        """Read a finished run.

        Raises:
            DataError: a file is not readable.
            RunError: there is no such run, or its files do not fit the schema.
        """
        folder = Path(folder)
        metrics = _read(folder / "metrics.json", Metrics)
        items = {}
        for result in metrics.benchmarks:
            items[result.benchmark] = _read_table(folder / _ITEMS / _item_file(result.benchmark))
        optional = {
            name: _read_table(folder / f"{name}.parquet") if (folder / f"{name}.parquet").exists() else None
            for name in _TABLES
        }
        if (classes := optional["classes"]) is not None and "form" not in classes:  # written by an older version
            classes["form"] = classes["token"]
        return cls(_read(folder / "config.json", Provenance), metrics, items, **optional)


def read_metrics(folder: Path | str) -> Metrics:
    """Read the numbers of a finished run, without its items.

    Raises:
        DataError: the file is not readable.
        RunError: there is no such run, or its file does not fit the schema.
    """
    return _read(Path(folder) / "metrics.json", Metrics)


def read_comparison(folder: Path | str) -> Comparison:
    """Read the numbers of a finished comparison.

    Raises:
        DataError: the file is not readable.
        RunError: there is no such run, or its file does not fit the schema.
    """
    return _read(Path(folder) / "metrics.json", Comparison)


def _read(file: Path, schema: type[_Model]) -> _Model:
    if not file.exists():
        raise RunError(f"{file.parent} is not a finished run: it has no {file.name}")
    value = read_json(file)
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise RunError(
            f"{file}: {place}: {first['msg']}; edited, or written by another version: run the command again"
        ) from error


def _item_file(benchmark: str) -> str:
    """The file of a benchmark's items; if the benchmark is named by a path, a digest of it is in the name."""
    name = file_name(benchmark)
    if "/" in benchmark:
        name = f"{name[-100:]}-{hashlib.sha256(benchmark.encode()).hexdigest()[:8]}"
    return f"{name}.parquet"


def _read_table(path: Path) -> pd.DataFrame:
    try:
        said = pq.read_metadata(path)
        size = sum(said.row_group(i).total_byte_size for i in range(said.num_row_groups))
        if said.num_rows > _MOST_ROWS or size > _LARGEST:
            raise RunError(f"{path}: {said.num_rows:,} rows, {size:,} bytes: this is too large for a table of a run")
        return pd.read_parquet(path)
    except RunError:
        raise
    except Exception as error:  # pandas and arrow raise any error on a damaged file
        raise RunError(f"{path}: not readable as Parquet ({error}); run the command again") from error
