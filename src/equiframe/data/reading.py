"""Text, JSON and tables from files of any origin, with the file and the line of what is wrong in them."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from equiframe.errors import DataError

_LARGEST = 1 << 30


def read_text(path: Path | str, *, largest: int = _LARGEST) -> str:
    """Read a complete UTF-8 file, with or without a byte-order mark.

    Args:
        path: the file.
        largest: maximum size in bytes.

    Raises:
        DataError: the file is missing, unreadable, too large, or not UTF-8 (the message names the line and byte).
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > largest:
            raise DataError(f"{size:,} bytes, and no data file is over {largest:,}: is it the right one?", path=path)
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"not UTF-8 at byte {error.start}: save it in that encoding", path=path, line=line) from None


def read_lines(path: Path | str) -> Iterator[tuple[int, str]]:
    """Read the lines of a UTF-8 file of any size one at a time, each with its number.

    Raises:
        DataError: the file is missing or unreadable, a line is too long, or it is not UTF-8 (the message names the line
            and byte).
    """
    try:
        with Path(path).open("rb") as file:
            for number in itertools.count(1):
                raw = file.readline(_LARGEST)
                if not raw:
                    return
                if len(raw) == _LARGEST:
                    raise DataError(f"the line is longer than {_LARGEST:,} bytes: is it text?", path=path, line=number)
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    message = f"not UTF-8 at byte {error.start} of the line: save it in that encoding"
                    raise DataError(message, path=path, line=number) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is not readable or not JSON (the message names the line).
    """
    return _json(read_text(path), path)


def read_jsonl(path: Path | str, fields: Sequence[str] = ()) -> list[tuple[int, dict[str, Any]]]:
    """Read a file with one JSON object per line, each with its line number; empty lines are skipped.

    Args:
        path: the file.
        fields: required fields of each object.

    Raises:
        DataError: a line is not an object, or lacks a field (the message names the line and field).
    """
    if (size := Path(path).stat().st_size if Path(path).exists() else 0) > _LARGEST:
        raise DataError(f"{size:,} bytes, and no data file is over {_LARGEST:,}: is it the right one?", path=path)
    return list(stream_jsonl(path, fields))


def stream_jsonl(path: Path | str, fields: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Like :func:`read_jsonl`, but for a file of any size, one line at a time."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        value = _json(line, path, number)
        if not isinstance(value, dict):
            raise DataError(f"expected an object, found {type(value).__name__}", path=path, line=number)
        for field in fields:
            if field not in value:
                raise DataError(f"no field {field!r}. Available: {', '.join(value)}", path=path, line=number)
        yield number, value


def _json(text: str, path: Path | str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        message = f"not valid JSON ({error.msg}, column {error.colno}): is the file complete?"
        raise DataError(message, path=path, line=line or error.lineno) from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"not valid JSON ({type(error).__name__})", path=path, line=line) from None


def read_delimited(path: Path | str, delimiter: str, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read the rows of a table with a header, each with the number of its last line.

    Args:
        path: the file.
        delimiter: a comma (with quotes as in CSV) or a tab (quotes are plain characters).
        columns: the required columns, which are returned; other columns are ignored.

    Raises:
        DataError: a column is missing, or a row has too few or too many (the message names the line and column).
    """
    return list(_delimited(path, delimiter, columns))


def _delimited(path: Path | str, delimiter: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(
        io.StringIO(read_text(path), newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE,
        strict=True,
    )
    try:
        header = next(reader, [])
        for column in columns:
            if column not in header:
                raise DataError(f"no column {column!r}. Available: {', '.join(header) or 'none'}", path=path, line=1)
        places = {column: header.index(column) for column in columns}
        for row in reader:
            if row and len(row) != len(header):
                cut = f", cut short at {header[len(row)]!r}" if len(row) < len(header) else ""
                raise DataError(
                    f"found {len(row)} columns, expected {len(header)}{cut}", path=path, line=reader.line_num
                )
            if row:
                yield reader.line_num, {column: row[place] for column, place in places.items()}
    except csv.Error as error:
        raise DataError(f"not a table ({error}): is the file complete?", path=path, line=reader.line_num) from None
