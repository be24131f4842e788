"""Word sets, and the token ids that stand for their words under a tokenizer."""

from __future__ import annotations

import difflib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from equiframe.errors import DataError, InputError

MultiToken: TypeAlias = Literal["skip", "first", "last"]
BUILTIN = ("fairness", "gender", "professions", "race", "religion", "names")


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is needed here."""

    unk_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        ...


@dataclass(frozen=True)
class ResolvedWords:
    """A word set under one tokenizer.

    Args:
        token_ids: the classes, sorted, each once.
        word_of: the word of each id; of several, the first in the set.
        groups_of: the groups of each id; one that stands in several belongs to all.
        pairs: ids of pairs of which both words are classes.
        multi_token: words left out, or represented by one piece, as they have several tokens.
        unknown: words the tokenizer does not know.
        shared: ids that stand for several words, as happens with first and last pieces.
    """

    token_ids: tuple[int, ...]
    word_of: Mapping[int, str]
    groups_of: Mapping[int, tuple[str, ...]]
    pairs: tuple[tuple[int, int], ...]
    multi_token: tuple[str, ...]
    unknown: tuple[str, ...]
    shared: Mapping[int, tuple[str, ...]]

    def summary(self) -> str:
        """One line: how many classes, and what was left out."""
        parts = [f"{len(set(self.word_of.values()))} words as {len(self.token_ids)} tokens"]
        for label, words in (("of several tokens", self.multi_token), ("unknown", self.unknown)):
            if words:
                shown = ", ".join(words[:5]) + (", ..." if len(words) > 5 else "")
                parts.append(f"{len(words)} {label}: {shown}")
        return "; ".join(parts)


@dataclass(frozen=True)
class WordSet:
    """Words in groups, and pairs of counterparts.

    Args:
        name: for the record.
        groups: words by group.
        pairs: counterparts, such as ("she", "he").
    """

    name: str
    groups: Mapping[str, tuple[str, ...]]
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """All words, each once, in order."""
        return tuple(dict.fromkeys(word for group in self.groups.values() for word in group))

    @classmethod
    def builtin(cls, name: str) -> WordSet:
        """One of our own lists; ``fairness`` is all but the names.

        Raises:
            InputError: no such list.
        """
        if name == "fairness":
            parts = [cls.builtin(part) for part in ("gender", "professions", "race", "religion")]
            groups = {f"{part.name}/{group}": words for part in parts for group, words in part.groups.items()}
            return cls(name, groups, tuple(pair for part in parts for pair in part.pairs))
        if name not in BUILTIN:
            raise InputError(f"no word set {name!r}: there are {', '.join(BUILTIN)}")
        resource = importlib.resources.files("equiframe.words") / "lists" / f"{name}.txt"
        return _parse_text(name, resource.read_text(encoding="utf-8"), f"{name}.txt")

    @classmethod
    def from_file(cls, path: Path) -> WordSet:
        """A user's own list.

        Text: one word a line; two words with a tab between are a pair, the first of the group before ``|`` in
        the last ``[first | second]`` heading; ``[group]`` begins a group; ``#`` begins a comment. JSON: a list
        of words, words by group, or ``{"groups": ..., "pairs": ...}``.

        Raises:
            DataError: missing or malformed; file and line are named.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"not readable as UTF-8 text ({error})", path=path) from error
        if path.suffix == ".json":
            return _parse_json(path.stem, text, path)
        return _parse_text(path.stem, text, path)

    @classmethod
    def load(cls, spec: str) -> WordSet:
        """A built-in set by name, or a file.

        Raises:
            InputError: neither; near names are given, then all.
            DataError: the file is malformed.
        """
        if spec in BUILTIN:
            return cls.builtin(spec)
        if Path(spec).is_file():
            return cls.from_file(Path(spec))
        near = difflib.get_close_matches(spec, BUILTIN, n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"no word set and no file {spec!r}: {meant}there are {', '.join(BUILTIN)}")

    def resolve(self, tokenizer: Tokenizer, *, multi_token: MultiToken = "skip") -> ResolvedWords:
        """Token ids for the words, as they stand in running text.

        Each word is tried as it is, in lower case, capitalised and in capitals, at the start of a text and
        behind a space: all single-token forms become classes, which an uncased tokenizer folds into one.

        Args:
            tokenizer: of the model.
            multi_token: what stands for a word none of whose forms is one token: nothing (``skip``), or the
                ``first`` or ``last`` piece of the word behind a space.

        Raises:
            InputError: no word of the set is known.
        """
        word_of: dict[int, str] = {}
        forms: dict[str, list[int]] = {}
        shared: dict[int, list[str]] = {}
        several, unknown = [], []
        for word in self.words:
            ids, is_single = _forms(word, tokenizer, multi_token)
            if not ids:
                (several if is_single is False else unknown).append(word)
                continue
            if not is_single:
                several.append(word)
            forms[word] = ids
            for token in ids:
                word_of.setdefault(token, word)
                shared.setdefault(token, []).append(word)
        if not word_of:
            raise InputError(
                f"the tokenizer knows no word of {self.name!r} as one token ({len(self.words)} words tried): give"
                " other words, or --multi-token first"
            )
        groups_of: dict[int, list[str]] = {token: [] for token in word_of}
        for group, words in self.groups.items():
            for token in dict.fromkeys(token for word in words for token in forms.get(word, ())):
                groups_of[token].append(group)
        pairs = [
            (a, b)
            for first, second in self.pairs
            for a, b in zip(forms.get(first, ()), forms.get(second, ()), strict=False)
            if a != b
        ]
        return ResolvedWords(
            token_ids=tuple(sorted(word_of)),
            word_of=word_of,
            groups_of={token: tuple(groups) for token, groups in groups_of.items()},
            pairs=tuple(dict.fromkeys(pairs)),
            multi_token=tuple(several),
            unknown=tuple(unknown),
            shared={token: tuple(words) for token, words in shared.items() if len(set(words)) > 1},
        )


def _forms(word: str, tokenizer: Tokenizer, multi_token: MultiToken) -> tuple[list[int], bool | None]:
    """Ids for a word, and whether they are whole words; None where the tokenizer does not know it."""
    found: list[int] = []
    pieces: list[int] = []
    for form in dict.fromkeys((word, word.lower(), word.capitalize(), word.upper())):
        for text in (" " + form, form):
            ids = tokenizer.encode(text, add_special_tokens=False)
            if not ids or tokenizer.unk_token_id in ids:
                continue
            if len(ids) == 1:
                found.append(ids[0])
            elif not pieces:
                pieces = ids
    if found:
        return list(dict.fromkeys(found)), True
    if not pieces:
        return [], None
    return ([] if multi_token == "skip" else [pieces[0 if multi_token == "first" else -1]]), False


def _parse_text(name: str, text: str, path: Path | str) -> WordSet:
    groups: dict[str, list[str]] = {}
    pairs: list[tuple[str, str]] = []
    headings = [name]
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        if line.startswith("["):
            if not line.endswith("]"):
                raise DataError(f"heading {line!r} has no closing bracket", path=path, line=number)
            headings = [heading.strip() for heading in line[1:-1].split("|")]
            continue
        words = [word.strip() for word in line.split("\t")]
        if len(words) > 2 or not all(words):
            raise DataError(f"expected a word, or two with one tab between, found {line!r}", path=path, line=number)
        for position, word in enumerate(words):
            groups.setdefault(headings[min(position, len(headings) - 1)], []).append(word)
        if len(words) == 2:
            pairs.append((words[0], words[1]))
    return _built(name, groups, pairs, path)


def _parse_json(name: str, text: str, path: Path) -> WordSet:
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"no valid JSON ({error.msg})", path=path, line=error.lineno) from None
    except RecursionError:
        raise DataError("nested too deeply", path=path) from None
    pairs: Any = []
    if isinstance(value, dict) and "groups" in value:
        pairs = value.get("pairs", [])
        value = value["groups"]
    if isinstance(value, list):
        value = {name: value}
    fits = isinstance(value, dict) and all(_is_words(words) for words in value.values())
    if not fits or not isinstance(pairs, list) or not all(_is_words(pair) and len(pair) == 2 for pair in pairs):
        raise DataError('expected a list of words, or {"groups": {name: [words]}, "pairs": [[a, b]]}', path=path)
    return _built(name, value, [(a, b) for a, b in pairs], path)


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) and word.strip() for word in value)


def _built(
    name: str, groups: Mapping[str, Sequence[str]], pairs: Sequence[tuple[str, str]], path: Path | str
) -> WordSet:
    built = WordSet(name, {group: tuple(dict.fromkeys(words)) for group, words in groups.items()}, tuple(pairs))
    if not built.words:
        raise DataError("no word in it", path=path)
    return built
