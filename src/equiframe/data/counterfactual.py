"""Counterfactual text: the same sentence with its gendered words swapped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from equiframe.words.word_set import WordSet

# What follows a possessive "her": a word that can begin or continue a noun phrase. These cannot.
_AFTER_OBJECT = frozenset(
    """a an the this that these those some any each every no another all both either neither my your his her its
    our their whose i you he she it we they him me us them who whom which what
    and or but nor so yet if because although though while when where whenever wherever until unless since
    as than that whether before after once lest
    of in on at by for with about against between into through during to from up down out off over under again
    away back near along across behind beyond toward towards upon within without among around inside outside
    onto despite except like unlike via per
    is was were are be been being am has had have having do does did will would shall should can could may might
    must
    not never then there here now just too also even either instead together alone apart aside home more most
    again already soon later today yesterday tomorrow tonight often always sometimes recently repeatedly forever
    anyway however well how why""".split()
)
_WORD = re.compile(r"[A-Za-zÀ-ÖØ-öø-ÿ]+(?:['’][A-Za-z]+)?")
_BEFORE = re.compile(r"([A-ZÀ-ÖØ-Þ][\w'’-]*\.?) $")
_TITLES = frozenset("king queen prince princess saint sister brother aunt uncle father mother said yes no o".split())
_NEXT = re.compile(r"\s*([^\w\s]|\w+)")


class CounterfactualSwapper:
    """Swap each word of a pair for its partner, capitals kept, whole words only.

    ``her`` becomes ``his`` before a noun phrase and ``him`` elsewhere; ``his`` becomes ``her`` before a noun
    phrase and ``hers`` elsewhere. The decision is by rule from what follows: a mark, the end, a determiner,
    pronoun, conjunction, preposition, auxiliary or adverb rules a possessive out.

    Args:
        pairs: words to exchange, lower case. A word in several pairs keeps its first partner.
        names: first names to exchange; only where they are capitalised, and not behind another capitalised
            word that may be a first name itself, where they are surnames.

    Example:
        >>> swapper = CounterfactualSwapper.gender()
        >>> swapper.swap("She gave her brother his book; he thanked her.")
        'He gave his sister her book; she thanked him.'
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], names: Iterable[tuple[str, str]] = ()) -> None:
        self._partner = _both_ways(pairs)
        self._name = _both_ways(names)
        self._swaps_pronouns = self._partner.get("he") == "she"

    @classmethod
    def gender(cls) -> CounterfactualSwapper:
        """With the built-in gender pairs and first names."""
        return cls(WordSet.builtin("gender").pairs, WordSet.builtin("names").pairs)

    def swap(self, text: str) -> str:
        """The counterfactual of a text."""
        return _WORD.sub(lambda match: self._partner_of(match.group(), text, match.start(), match.end()), text)

    def has_swap(self, text: str) -> bool:
        """Whether the text holds anything to swap."""
        return self.swap(text) != text

    def _partner_of(self, word: str, text: str, start: int, end: int) -> str:
        stem, mark, ending = word.replace("’", "'").partition("'")
        lower = stem.lower()
        if self._swaps_pronouns and lower in ("her", "his") and not mark:
            possessive = _is_possessive(text, end)
            partner = {"her": ("him", "his"), "his": ("hers", "her")}[lower][possessive]
            return _with_case_of(word, partner)
        partner = self._partner.get(lower)
        if partner is None and stem[:1].isupper() and not _is_surname(text, start):
            partner = self._name.get(lower)
        if partner is None:
            return word
        return _with_case_of(stem, partner) + word[len(stem) :]


def augment(texts: Iterable[str], swapper: CounterfactualSwapper, *, two_sided: bool) -> Iterator[str]:
    """Counterfactual data augmentation, as a stream.

    Args:
        texts: the text.
        swapper: what to exchange.
        two_sided: keep each original that has a counterfactual beside it; otherwise it is replaced.

    Yields:
        Texts with nothing to swap as they are; of the others the counterfactual, and before it the original
        if ``two_sided``.

    Reference: Lu et al. 2020; Zhao et al. 2018.
    """
    for text in texts:
        swapped = swapper.swap(text)
        if two_sided and swapped != text:
            yield text
        yield swapped


def _both_ways(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    partner: dict[str, str] = {}
    for first, second in pairs:
        partner.setdefault(first.lower(), second.lower())
        partner.setdefault(second.lower(), first.lower())
    return partner


def _is_possessive(text: str, end: int) -> bool:
    following = _NEXT.match(text, end)
    if following is None:
        return False
    token = following.group(1)
    if not token[0].isalnum():
        return token in "\"'‘“`$£€#*(" and text[end : end + 1] == " "
    return token.lower() not in _AFTER_OBJECT


def _is_surname(text: str, start: int) -> bool:
    before = _BEFORE.search(text, 0, start)
    return before is not None and before.group(1).lower() not in _AFTER_OBJECT | _TITLES


def _with_case_of(pattern: str, word: str) -> str:
    if len(pattern) > 1 and pattern.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if pattern[:1].isupper() else word
