"""Word sets, and the token ids of their words in a tokenizer."""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from equiframe.choices import MultiToken as MultiToken
from equiframe.errors import DataError, InputError
from equiframe.options import check_choice, check_several

BUILTIN = ("fairness", "gender", "professions", "race", "religion", "names")
_COMMENT = re.compile(r"(^|\s)#.*")
_LARGEST = 1 << 24
_AS_IS, _START = "as is", "start"
_FORMS: Mapping[str, Callable[[str], str]] = {
    _AS_IS: str,
    "lower": str.lower,
    "capitalised": str.capitalize,
    "upper": str.upper,
    _START: lambda word: f"{word.capitalize()} (start)",
}
"""The ways to write a word."""


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that this module needs."""

    unk_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        ...


@dataclass(frozen=True)
class ResolvedWords:
    """A word set in one tokenizer.

    Args:
        token_ids: the classes: sorted, unique token ids.
        word_of: the word of each id; the first in the set if there are several.
        form_of: the written form of each id's word, "she" or "She", with "(start)" if its token occurs only at the
            start of a text; the first form if there are several. Unlike an id, a form means the same in any tokenizer.
        groups_of: all groups of each id.
        pairs: ids of counterparts in the same form, "She" with "He" and "she" with "he".
        multi_token: words of several tokens, which are left out or represented by one piece.
        unknown: words that the tokenizer does not know.
        shared: ids that represent several words, as can happen with first and last pieces.
    """

    token_ids: tuple[int, ...]
    word_of: Mapping[int, str]
    form_of: Mapping[int, str]
    groups_of: Mapping[int, tuple[str, ...]]
    pairs: tuple[tuple[int, int], ...]
    multi_token: tuple[str, ...]
    unknown: tuple[str, ...]
    shared: Mapping[int, tuple[str, ...]]

    def summary(self) -> str:
        """One line with the number of words and classes, and the words without a separate class."""
        parts = [f"{len(set(self.word_of.values()))} words as {len(self.token_ids)} tokens"]
        clashes = [" = ".join(words) for words in self.shared.values()]
        for label, words in (
            ("of several tokens", self.multi_token),
            ("unknown to the tokenizer", self.unknown),
            ("tokens of more than one word", clashes),
        ):
            if words:
                shown = ", ".join(words[:5]) + (", ..." if len(words) > 5 else "")
                parts.append(f"{len(words)} {label} ({shown})")
        return "; ".join(parts)


@dataclass(frozen=True)
class WordSet:
    """Words in groups, and pairs of counterparts.

    Args:
        name: name in the record.
        groups: words by group.
        pairs: counterparts, such as ("she", "he").
        origin: file of the words, or ``built-in``.

    Example:
        >>> WordSet.builtin("gender").pairs[0]
        ('she', 'he')
    """

    name: str
    groups: Mapping[str, tuple[str, ...]]
    pairs: tuple[tuple[str, str], ...] = ()
    origin: str = ""

    def __post_init__(self) -> None:
        for group, words in self.groups.items():
            check_several(f"group {group!r} of {self.name}", words)
        for pair in self.pairs:
            check_several(f"a pair of {self.name}", pair)

    @property
    def words(self) -> tuple[str, ...]:
        """All words in order, without duplicates."""
        return tuple(dict.fromkeys(word for group in self.groups.values() for word in group))

    def counterparts(self, first: str, second: str) -> tuple[tuple[str, str], ...]:
        """The pairs between two groups, to swap one religion for another.

        Args:
            first: a group; its word is the first of each pair.
            second: another group.

        Raises:
            InputError: a group does not exist, or there is no pair between the groups.

        Example:
            >>> WordSet.builtin("religion").counterparts("muslim", "christian")[0]
            ('muslim', 'christian')
        """
        for group in (first, second):
            if group not in self.groups:
                raise InputError(f"{self.name} has no group {group!r}. Available: {', '.join(self.groups)}")
        ours, theirs = self.groups[first], self.groups[second]
        both_ways = [pair for a, b in self.pairs for pair in ((a, b), (b, a))]
        found = tuple((a, b) for a, b in both_ways if a in ours and b in theirs)
        if not found:
            raise InputError(f"{self.name} has no pairs between {first!r} and {second!r}")
        return found

    @classmethod
    def builtin(cls, name: str) -> WordSet:
        """A built-in list; ``fairness`` contains all lists except the names.

        Raises:
            InputError: the list does not exist.
        """
        if name == "fairness":
            parts = [cls.builtin(part) for part in ("gender", "professions", "race", "religion")]
            groups = {f"{part.name}/{group}": words for part in parts for group, words in part.groups.items()}
            return cls(name, groups, tuple(pair for part in parts for pair in part.pairs), "built-in")
        if name not in BUILTIN:
            raise InputError(f"no word set {name!r}. Available: {', '.join(BUILTIN)}")
        resource = importlib.resources.files("equiframe.words") / "lists" / f"{name}.txt"
        return _parse_text(name, resource.read_text(encoding="utf-8"), "built-in")

    @classmethod
    def from_file(cls, path: Path | str) -> WordSet:
        """Read a user's list from a file.

        Text files have one word per line: ``[group]`` begins a group and ``#`` a comment; words separated by tabs are
        counterparts, each in the group of its column in a heading such as ``[female | male]``.
        JSON files, with a name that ends in ``.json``, contain a list of words, words by group, or
        ``{"groups": {name: [words]}, "pairs": [[a, b]]}``.

        Raises:
            DataError: the file is missing or malformed; the message names the file, and the line or field.
        """
        path = Path(path)
        try:
            if path.stat().st_size > _LARGEST:
                raise DataError(f"the file is larger than {_LARGEST:,} bytes, too large for a list of words", path=path)
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 at byte {error.start}: save it in that encoding", path=path) from None
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", path=path) from None
        parse = _parse_json if path.suffix == ".json" else _parse_text
        return parse(path.stem, text, str(path))

    @classmethod
    def load(cls, spec: str | Path) -> WordSet:
        """Load a built-in set by name, or a file by path.

        Raises:
            InputError: neither exists; the message suggests similar names and lists all.
            DataError: the file is malformed.
        """
        spec = str(spec)
        if spec in BUILTIN:
            return cls.builtin(spec)
        if Path(spec).is_file():
            return cls.from_file(spec)
        near = difflib.get_close_matches(spec, BUILTIN, n=1)
        meant = f"Did you mean {near[0]!r}? " if near else ""
        raise InputError(f"no word set and no file {spec!r}. {meant}Available: {', '.join(BUILTIN)}")

    def resolve(self, tokenizer: Tokenizer, *, multi_token: MultiToken = "skip") -> ResolvedWords:
        """Find the token ids of the words in running text.

        Each word is tried inside a text as written here, in lower case, capitalised and in capitals, and capitalised
        at the start of a text: every form that is one token becomes a class. An uncased tokenizer merges them. If a
        tokenizer marks the leading space, the token of a lower-case word *without* the mark is not a class: it is
        nearly always a piece of a longer word ("man" in "human"; in SmolLM2 seven times in eight).

        Args:
            tokenizer: tokenizer of the model.
            multi_token: representation of a word with no single-token form: none (``skip``), or the ``first`` or
                ``last`` piece of its form in running text.

        Raises:
            InputError: the tokenizer knows no word of the set.
        """
        check_choice("--multi-token", multi_token, MultiToken)

        @functools.cache
        def encode(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False))

        forms = {word: _forms(word, encode, tokenizer.unk_token_id) for word in self.words}
        whole, several = _single_tokens(forms, multi_token)
        words_of: dict[int, list[str]] = {}
        form_of: dict[int, str] = {}
        for word, tokens in whole.items():
            for token in dict.fromkeys(tokens.values()):
                words_of.setdefault(token, []).append(word)
            for form, token in tokens.items():
                form_of.setdefault(token, _FORMS[form](word))
        if not words_of:
            known_as = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
            raise InputError(
                f"the tokenizer {known_as} has no single token for any of the {len(forms)} words of"
                f" {self.name!r}: give other words, or --multi-token first"
            )
        groups_of: dict[int, list[str]] = {token: [] for token in words_of}
        for group, words in self.groups.items():
            for token in dict.fromkeys(token for word in words for token in whole[word].values()):
                groups_of[token].append(group)
        pairs = [
            (token, whole[second][form])
            for first, second in self.pairs
            for form, token in whole[first].items()
            if form in whole[second] and whole[second][form] != token
        ]
        return ResolvedWords(
            token_ids=tuple(sorted(words_of)),
            word_of={token: words[0] for token, words in words_of.items()},
            form_of=form_of,
            groups_of={token: tuple(groups) for token, groups in groups_of.items()},
            pairs=tuple(dict.fromkeys(pairs)),
            multi_token=tuple(several),
            unknown=tuple(word for word in forms if not forms[word]),
            shared={token: tuple(words) for token, words in words_of.items() if len(words) > 1},
        )


def _single_tokens(
    forms: Mapping[str, Mapping[str, list[int]]], multi_token: MultiToken
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """The token of each form of each word, and the words that have no single token."""
    whole = {w: {form: ids[0] for form, ids in f.items() if len(ids) == 1} for w, f in forms.items()}
    several = [word for word in forms if forms[word] and not whole[word]]
    if multi_token != "skip":
        for word in several:
            pieces = next(iter(forms[word].values()))
            whole[word] = {_AS_IS: pieces[0 if multi_token == "first" else -1]}
    return whole, several


def _forms(word: str, encode: Callable[[str], list[int]], unknown: int | None) -> dict[str, list[int]]:
    """Token ids by form, without forms that the tokenizer does not know."""

    def inside(form: str) -> list[int]:
        before, both = encode("a"), encode("a " + form)
        return both[len(before) :] if both[: len(before)] == before else encode(" " + form)

    found = {form: inside(written(word)) for form, written in _FORMS.items() if form != _START}
    found[_START] = encode(word.capitalize())
    return {form: ids for form, ids in found.items() if ids and unknown not in ids}


def _parse_text(name: str, text: str, origin: str) -> WordSet:
    groups: dict[str, list[str]] = {}
    pairs: list[tuple[str, str]] = []
    headings = [name]
    for number, raw in enumerate(text.split("\n"), start=1):
        line = _COMMENT.sub("", raw)
        if not line.strip():
            continue
        if line.lstrip().startswith("["):
            inner = line.strip()[1:]
            headings = [heading.strip() for heading in inner.removesuffix("]").split("|")]
            if not inner.endswith("]") or not all(headings):
                raise DataError(f"expected [group] or [group | group], found {line!r}", path=origin, line=number)
            continue
        words = [word.strip() for word in line.split("\t")]
        if not all(words) or len(words) > max(2, len(headings)):
            raise DataError(
                f"expected a word, or words separated by tabs, at most one per group of the heading; found {line!r}",
                path=origin,
                line=number,
            )
        for position, word in enumerate(words):
            groups.setdefault(headings[min(position, len(headings) - 1)], []).append(word)
        pairs += itertools.combinations(words, 2)
    return _built(name, groups, pairs, origin)


def _parse_json(name: str, text: str, origin: str) -> WordSet:
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON ({error.msg})", path=origin, line=error.lineno) from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"not valid JSON for a list of words ({type(error).__name__})", path=origin) from None
    pairs: Any = []
    if isinstance(value, dict) and "groups" in value:
        value, pairs = value["groups"], value.get("pairs", [])
    groups = value if isinstance(value, dict) else {name: value}
    for group, words in groups.items():
        _check_words(words, f"group {group!r}", origin)
    if not isinstance(pairs, list):
        raise DataError('"pairs": expected a list of pairs', path=origin)
    known = {word for words in groups.values() for word in words}
    for number, pair in enumerate(pairs, start=1):
        _check_words(pair, f"pair {number}", origin)
        if len(pair) != 2 or not known.issuperset(pair):
            raise DataError(f"pair {number}: expected two words of the groups, found {pair}", path=origin)
    return _built(name, groups, [(a, b) for a, b in pairs], origin)


def _check_words(value: Any, field: str, origin: str) -> None:
    if not isinstance(value, list):
        raise DataError(f"{field}: expected a list of words, found {type(value).__name__}", path=origin)
    for number, word in enumerate(value, start=1):
        if not isinstance(word, str) or not word.strip():
            raise DataError(f"{field}, word {number}: expected a word, found {word!r}", path=origin)


def _built(name: str, groups: Mapping[str, Sequence[str]], pairs: Sequence[tuple[str, str]], origin: str) -> WordSet:
    unique = {group: tuple(dict.fromkeys(words)) for group, words in groups.items()}
    if not any(unique.values()):
        raise DataError("the file has no words", path=origin)
    return WordSet(name, unique, tuple(dict.fromkeys(pairs)), origin)
