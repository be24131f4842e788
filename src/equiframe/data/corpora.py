"""Plain text to train and to measure on, as sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from equiframe.data.sources import DataFile, LocatedFile, locate, read_delimited, read_text, user_file
from equiframe.errors import DataError

_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof rev hon st jr sr sen rep gov gen col lt sgt capt maj inc ltd co corp no vs etc al ed vol"
    " fig ca approx dept univ assn bros mt ft e.g i.e u.s u.k d.c ph.d b.a m.a a.m p.m".split()
)
_END = re.compile(r"([.!?]+)['\"’”)\]]*\s+(?=['\"‘“(\[]*[A-Z0-9])")


@dataclass(frozen=True)
class Corpus:
    """Sentences, and the files they come from."""

    name: str
    sentences: tuple[str, ...]
    files: tuple[DataFile, ...]


def corpus(name: str, folder: Path | str | None = None) -> Corpus:
    """A text by name: ``gap`` (development and test), ``gap/validation``, ``bug``, or a file of one's own.

    Args:
        name: as above; a file holds one text a line, or JSON objects with ``text`` where it ends in .jsonl.
        folder: where the user keeps data files; by default the data wheel.

    Raises:
        DataError: missing or malformed; file and line are named.
    """
    if name == "gap":
        return _gap(name, ("development", "test"), folder)
    if name == "gap/validation":
        return _gap(name, ("validation",), folder)
    if name == "bug":
        file = locate("bug/full", folder)
        rows = read_delimited(file.path, ",", ("sentence_text",))
        return _corpus(name, (row["sentence_text"] for _, row in rows), (file,))
    path = Path(name)
    if not path.is_file():
        raise DataError(f"no text {name!r}: give gap, gap/validation, bug, or a file of one text a line")
    texts = _json_lines(path) if path.suffix == ".jsonl" else read_text(path).splitlines()
    return _corpus(path.name, iter(texts), (user_file(path),))


def _gap(name: str, splits: tuple[str, ...], folder: Path | str | None) -> Corpus:
    files = tuple(locate(f"gap/{split}", folder) for split in splits)
    texts = (row["Text"] for file in files for _, row in read_delimited(file.path, "\t", ("Text",)))
    return _corpus(name, (sentence for text in texts for sentence in split_sentences(text)), files)


def _corpus(name: str, texts: Iterator[str], files: tuple[LocatedFile, ...]) -> Corpus:
    sentences = tuple(text.strip() for text in texts if len(text.split()) >= 3)
    if not sentences:
        raise DataError("no text of three words or more in it", path=files[0].path)
    return Corpus(name, sentences, tuple(file.file for file in files))


def _json_lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
            text = None
        if not isinstance(text, str):
            raise DataError('expected an object with a string "text"', path=path, line=number)
        yield text


def split_sentences(text: str) -> list[str]:
    """Sentences of edited English prose, by end marks before a capital.

    Abbreviations and initials do not end one. Good for encyclopaedic text; no claim beyond.

    Example:
        >>> split_sentences("Dr. J. Smith met her. She left at 5 p.m. with Mrs. Jones.")
        ['Dr. J. Smith met her.', 'She left at 5 p.m. with Mrs. Jones.']
    """
    sentences, start = [], 0
    for match in _END.finditer(text):
        last = text[start : match.start()].rsplit(None, 1)[-1:]
        word = last[0].strip("('\"").lower() if last else ""
        is_initial = len(word) == 1 and word.isalpha()
        if match.group(1) == "." and (is_initial or word in _ABBREVIATIONS):
            continue
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    if text[start:].strip():
        sentences.append(text[start:].strip())
    return sentences
