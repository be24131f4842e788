"""Sentences that contain given words, and samples of them in which counterparts are equally frequent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

from equiframe.data.corpora import count_words
from equiframe.errors import InputError
from equiframe.options import check_several
from equiframe.words.word_set import WordSet

_FEWEST, _MOST = 2, 128  # words of a sentence
Span: TypeAlias = tuple[int, int]
Item = TypeVar("Item")


def word_sentences(
    texts: Iterable[str], attributes: Sequence[str], neutral: Sequence[str]
) -> Iterator[tuple[str, dict[str, Span]]]:
    """Sentences of 2 to 128 words that contain a word of either list, with the words and their first positions.

    A sentence is searched for words of ``attributes``, and only if it has none, for neutral words. Whole words match,
    in any case.

    Args:
        texts: sentences.
        attributes: words, in lower case.
        neutral: words, in lower case.

    Returns:
        Each sentence, and for each word the characters of its first occurrence.

    Reference: Yang et al. 2022 (ADEPT), the collection of sentences.
    """
    for name, values in (("texts", texts), ("attributes", attributes), ("neutral", neutral)):
        check_several(name, values)
    patterns = (_any_of(attributes), _any_of(neutral))
    for text in texts:
        if _FEWEST <= count_words(text) <= _MOST:
            for pattern in patterns:
                found: dict[str, Span] = {}
                for match in pattern.finditer(text):
                    found.setdefault(match.group().lower(), match.span())
                if found:
                    yield text, found
                    break


def counterparts(words: WordSet, groups: Sequence[str]) -> list[tuple[str, ...]]:
    """Words that are counterparts of each other, one from each group.

    Args:
        words: the word set.
        groups: two or more of its groups.

    Raises:
        InputError: a group does not exist, or there is no pair between the first group and another.

    Example:
        >>> counterparts(WordSet.builtin("religion"), ("christian", "jewish", "muslim"))[0]
        ('christian', 'jewish', 'muslim')
    """
    check_several("groups", groups)
    first, *others = groups
    if first not in words.groups:
        raise InputError(f"{words.name} has no group {first!r}. Available: {', '.join(words.groups)}")
    rows: list[tuple[str, ...]] = [(word,) for word in words.groups[first]]
    for other in others:
        pairs = words.counterparts(first, other)
        rows = [(*row, theirs) for row in rows for ours, theirs in pairs if ours == row[0]]
    return rows


def balanced(
    items: Mapping[str, Sequence[Item]], rows: Iterable[Sequence[str]], *, fewest: int
) -> list[tuple[Item, ...]]:
    """Items of counterparts, with equal numbers for all words of a row: as many as the rarest word has.

    An item is used once: if a word has several counterparts ("her" for "him" and "his"), later rows use the items that
    earlier rows did not.

    Args:
        items: items by word.
        rows: counterparts, one from each group.
        fewest: minimum number of items of the rarest word of a row; other rows are left out.

    Returns:
        Items, one from each group, row by row.

    Reference: Yang et al. 2022 (ADEPT), whose published collection leaves out rows below 30.
    """
    taken: dict[str, int] = {}
    found: list[tuple[Item, ...]] = []
    for row in rows:
        left = [items.get(word, ())[taken.get(word, 0) :] for word in row]
        size = min(map(len, left))
        if size >= fewest:
            found += zip(*(of_word[:size] for of_word in left), strict=True)
            for word in row:
                taken[word] = taken.get(word, 0) + size
    return found


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)
