"""Counterfactual text: a sentence in which the words of one group are replaced by those of another."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from equiframe.choices import Bias as Bias
from equiframe.words.word_set import WordSet


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words after "her" or "his" that do not begin a noun phrase, so the pronoun is not possessive.
_NO_NOUN_PHRASE = _words(
    """a an the this that these those some any each every no all both either neither another none enough
    my your his her its our their mine yours hers ours theirs whose
    i you he she it we they me him us them himself herself itself themselves who whom which what
    someone somebody something anyone anybody anything everyone everybody everything nobody nothing
    and or but nor yet if because although though while when where whenever wherever until till unless since
    as than whether before after lest how why
    of in on at by for with about against between into through during to from up down out off over under
    away near along across behind beyond toward towards upon within without among amongst amid around round
    inside outside onto despite except like unlike via per
    is was were are be been am has had does did would shall should could must isn wasn weren didn doesn
    not there here so too also again instead together alone apart aside yesterday tomorrow tonight
    anyway however though abroad aboard upstairs downstairs indoors goodbye"""
)
# Adverbs that fit both: "her now famous book", "he met her now and then". The next word decides.
_ADVERBS = _words(
    """now then once later soon already still well better ever never always often sometimes even just quite very
    more most less least rather almost forever everywhere somewhere today much perhaps"""
)
_NOUNS_IN_LY = _words("family ally bully belly assembly reply supply monopoly anomaly rally folly fly butterfly")
_BOUNDARY = _NO_NOUN_PHRASE | {"much", "well", "will", "may", "might", "can", "being", "soon", "enough"}
# "They made her leave", "I saw her become one": bare verbs; those that are nouns too only after the first.
_MAKES = _words("let lets letting make makes made making help helps helped helping")
_SEES = _words("have has had having see sees saw seeing seen hear hears heard hearing watch watched watching feel felt")
_VERBS = _words(
    """appear ask be become begin believe break bring build buy carry choose come confess continue cope cross
    cry decide deliver die do drive eat enter fall fill find finish fly follow forget gain gather get give go
    grow have hear hide join jump keep kick kill know land laugh learn leave live lose make marry meet obtain
    open overcome pass perform prepare pretend prove pull push put quit raise reach read realise realize recall
    recognise recognize recover regain remain remember save say secure see seem sell serve sing sit sleep solve
    speak steal stop suffer survive swim take talk teach tell think try turn understand wait wake walk wear win
    write"""
)
_VERBS_AND_NOUNS = _words(
    """act answer attack call change cook cut dance deal drink drop face feel fight guess handle help hold lie
    look love move pay plan play practice run search set sign smile sort spend stand start stay struggle study
    taste travel use visit want witness work"""
)
# "They gave her $50", "it earned her praise": the verbs, and objects that need no article.
_GIVES = _words(
    """give gives gave giving given pay pays paid paying owe owes owed lend lent offer offers offered grant grants
    granted earn earns earned earning bring brings brought gain gained cost costs award awarded"""
)
_GIFTS = _words(
    """access acclaim advice attention authority comfort comparisons control credit custody directions fame hope
    immunity instructions money permission praise recognition refuge reason shelter time"""
)
# "They found her sleeping", "had her arrested for": participles after a verb that takes them.
_TAKES_PARTICIPLE = (
    _MAKES
    | _SEES
    | _words(
        """find finds found finding leave leaves left leaving keep keeps kept keeping catch catches caught catching
    get gets got getting want wants wanted wanting show shows showed showing spot spotted notice noticed
    remember remembers remembered imagine depict depicts depicting portray sent send"""
    )
)
_NOUNS_IN_ING = _words(
    """being wedding painting clothing building calling feeling meaning ring king thing string wing
    sibling darling upbringing offspring drawing recording reading training standing ending hearing
    ranking evening morning upcoming remaining understanding funding housing lodging earring hiding
    suffering bearing beginning"""
)
_NOUNS_IN_ED = _words(
    "bed shed seed deed need speed breed feed creed greed steed weed beloved betrothed intended deathbed kindred"
)
# Adjectives that follow their noun phrase: "it made her famous", "found her dead".
_COMPLEMENTS = _words(
    """able afraid alive alone angry asleep available aware capable comfortable compatible crazy dead
    drunk eligible famous free furious guilty happy homeless ill ineligible innocent jealous mad nervous
    popular powerless pregnant ready responsible safe sick special speechless suspicious unable unaware
    uncomfortable unconscious unhappy unique unsure upset vulnerable worthy wrong"""
)
# "He called her 'the best'": quoted text after these verbs is a name, not a possession.
_NAMING = _words(
    """call calls called calling name names named naming dub dubs dubbed nickname nicknamed label labels
    labelled labeled term termed deem deemed tell tells told telling ask asks asked declare declared
    condemned"""
)
_TAKES_AWAY = _words(
    """take takes took taken taking bring brings brought bringing drive drives drove driving send sends
    sent sending follow follows followed following walk walks walked walking carry carries carried
    carrying escort escorted accompany accompanied call calls called calling get gets got want wants
    wanted welcome welcomed see seeing invite invited ask asks asked have win wins won love loves loved
    pull pulls pulled push pushed hold holds held keep kept give gave let lets buy bought hit hits pay
    paid put puts throw threw lead led"""
)
_POSSESSIVES = _words("my your his her its our their")
_PRONOUNS = _words("she he him hers herself himself")
_SHIFTED = {"her": ("him", "his"), "his": ("hers", "her")}

# Forms of address before a name; elsewhere "lady" is a noun, and "ms" or "miss" may mean anything.
_TITLES = {"sir": "dame", "dame": "sir", "lady": "lord", "lord": "lady", "ms": "mr", "miss": "mr"}
_NOT_A_TITLE_BEHIND = {"first", "notre"}
_NO_TITLE_ALONE = {"ms", "miss", "dame", "lord"}
# Capitalised, these are mostly names themselves.
_NAMES_THEMSELVES = {"god", "guy", "earl"}
# Capitalised words before a first name; any other one makes it a surname, as in "Elton John".
_BEFORE_FIRST_NAME = _words(
    """mr mrs ms miss dr prof sir dame lady lord king queen prince princess emperor empress duke duchess
    earl count countess baron baroness pope father mother sister brother aunt uncle cousin president
    senator governor mayor judge captain colonel major general lieutenant sergeant detective inspector
    officer professor doctor reverend bishop archbishop rabbi imam actor actress singer director author
    writer producer coach chef dj little young old big poor dear former late fellow said says meanwhile
    however later eventually finally thus hence afterwards originally initially additionally similarly
    unlike including featuring starring american british english french german italian spanish irish
    scottish canadian australian yes no oh hey"""
)

_TOKEN = re.compile(r"[^\W_][\w'’-]*|[^\w\s]+|_")
_WORD_BEFORE = re.compile(r"(?<![\w'’-])(\w[\w'’.-]*)\s$")
_NAME_AHEAD = re.compile(r"\.?\s(?:of\s)?[A-ZÀ-ÖØ-Þ]")
_QUOTES = tuple("\"'’”")


class Swap(NamedTuple):
    """One exchanged word: its position in the text, the old word and the new word."""

    start: int
    end: int
    old: str
    new: str


class CounterfactualSwapper:
    """Exchange each word of a pair for its partner: whole words, with their capitals, one text at a time.

    Endings are kept (she's, mother's, ex-wife, mother-in-law). If the pairs contain ("she", "he"), rules on the
    neighbouring words decide three things:

    - ``her`` becomes ``his`` if a noun phrase follows that it can own, else ``him``; ``his`` becomes ``her``
      or ``hers`` in the same way. A determiner, pronoun, preposition, conjunction, auxiliary, mark or the end rules out
      a noun phrase; after an adverb the next word decides; "let her go", "had her arrested" and "made her famous"
      are recognised by the verb before. Everything else counts as possessive.
    - Titles (Sir and Dame, Lady and Lord, Ms and Miss to Mr) are exchanged only before a name.
    - A capitalised word after a first name is a surname and is kept: Larry King.

    The rules do not parse grammar: "gave her money" is read as possessive. Titles of works and of offices are swapped.

    Args:
        pairs: words to exchange. A word in several pairs is exchanged for its first partner.
        names: pairs of first names. Capitalised names are exchanged, unless they follow another capitalised word
            that is not a title, or San, Saint or the like; middle names are exchanged.
        swap_names: whether to exchange names; otherwise they only help to recognise surnames.

    Example:
        >>> swapper = CounterfactualSwapper.gender()
        >>> swapper.swap("She gave her brother his book; he thanked her.")
        'He gave his sister her book; she thanked him.'
    """

    def __init__(
        self,
        pairs: Iterable[tuple[str, str]],
        names: Iterable[tuple[str, str]] = (),
        *,
        swap_names: bool = True,
    ) -> None:
        self._partner, self._names = _both_ways(pairs), _both_ways(names)
        self._has_gender = self._partner.get("he") == "she"
        self._swapped_names = self._names if swap_names else {}
        titles = _TITLES if self._has_gender else {}
        self._candidates = frozenset((*self._partner, *self._swapped_names, *titles))
        phrases = sorted((word for word in self._partner if not word.isalpha()), key=len, reverse=True)
        either = "|".join(re.escape(phrase).replace("'", "['’]") for phrase in phrases)
        self._pattern = re.compile(rf"(?i:{either})\b|\w+" if either else r"\w+")

    @classmethod
    def gender(cls, *, names: bool = True) -> CounterfactualSwapper:
        """A swapper with the built-in gender pairs and, optionally, first names."""
        return cls(WordSet.builtin("gender").pairs, WordSet.builtin("names").pairs, swap_names=names)

    def swap(self, text: str) -> str:
        """The counterfactual of a text; the text itself if there is nothing to exchange."""
        pieces: list[str] = []
        done = 0
        for start, end, _, new in self._swaps(text):
            pieces += text[done:start], new
            done = end
        return "".join((*pieces, text[done:]))

    def has_swap(self, text: str) -> bool:
        """Whether the text contains anything to exchange."""
        return next(self._swaps(text), None) is not None

    def swaps(self, text: str) -> list[Swap]:
        """The words that ``swap`` exchanges, in order.

        Example:
            >>> CounterfactualSwapper([("mosque", "church")]).swaps("Two churches, one Church.")
            [Swap(start=18, end=24, old='Church', new='Mosque')]
        """
        return list(self._swaps(text))

    def _swaps(self, text: str) -> Iterator[Swap]:
        for match in self._pattern.finditer(text):
            old = match.group()
            word = old.lower().replace("’", "'")
            if word not in self._candidates:
                continue
            new = self._new(word, old, text, match.start(), match.end())
            if new is not None:
                yield Swap(match.start(), match.end(), old, _with_case_of(old, new))

    def _new(self, word: str, old: str, text: str, start: int, end: int) -> str | None:
        partner = self._partner.get(word)
        if self._has_gender and word in _SHIFTED:
            return _SHIFTED[word][_owns(old, text, start, end)]
        if old.islower() or word in _PRONOUNS:
            return None if word in _NO_TITLE_ALONE and self._has_gender else partner
        before = _word_before(text, start)
        if self._has_gender:
            if word in _TITLES and _NAME_AHEAD.match(text, end) and before.lower() not in _NOT_A_TITLE_BEHIND:
                return _TITLES[word]
            if word in _NO_TITLE_ALONE or (word in _NAMES_THEMSELVES and not text.startswith(" of ", end)):
                return None
        if partner is not None:
            is_surname = before.lower() in self._names or _is_initial(before) or text[start - 1 : start] == "-"
            return None if is_surname and not text.startswith(" of ", end) else partner
        if word in self._swapped_names and self._is_first_name(before, text, start, end):
            return self._swapped_names[word]
        return None

    def _is_first_name(self, before: str, text: str, start: int, end: int) -> bool:
        if text[start - 1 : start] == "-" or text[end : end + 1] == "-":
            return False
        if not before[:1].isupper():
            return True
        lower = before.lower().rstrip(".")
        if lower in self._names:
            return _NAME_AHEAD.match(text, end) is not None
        return lower in _BEFORE_FIRST_NAME or lower in _NO_NOUN_PHRASE or lower in _ADVERBS


def swappers(bias: Bias, *, names: bool = False) -> list[CounterfactualSwapper]:
    """The swappers of a bias: one for gender; for race and religion one per pair of groups with counterparts.

    Args:
        bias: gender, race or religion.
        names: for gender, whether to exchange first names too.
    """
    if bias == "gender":
        return [CounterfactualSwapper.gender(names=names)]
    words = WordSet.builtin(bias)
    group_of = {word: group for group, members in words.groups.items() for word in members}
    between: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for first, second in words.pairs:
        between.setdefault((group_of[first], group_of[second]), []).append((first, second))
    return [CounterfactualSwapper(pairs) for pairs in between.values()]


def augment(
    texts: Iterable[str],
    swappers: Sequence[CounterfactualSwapper],
    *,
    two_sided: bool,
    neutral: bool = True,
    seed: int = 0,
) -> Iterator[str]:
    """Counterfactual data augmentation, as a stream.

    Args:
        texts: the texts, read one at a time.
        swappers: the swappers to use. If several of them change a text, one is drawn at random.
        two_sided: whether to keep the original before each counterfactual; otherwise the counterfactual replaces it.
        neutral: whether to keep texts with nothing to exchange.
        seed: seed of the draws.

    Yields:
        Texts with nothing to exchange, unchanged, if ``neutral``; for the other texts the counterfactual, after the
        original if ``two_sided``.

    Reference: Lu et al. 2020; Zhao et al. 2018.

    Example:
        >>> list(augment(["he came", "it rained"], [CounterfactualSwapper.gender()], two_sided=True))
        ['he came', 'she came', 'it rained']
    """
    generator = random.Random(seed)
    for text in texts:
        swapped = [new for new in (swapper.swap(text) for swapper in swappers) if new != text]
        if two_sided if swapped else neutral:
            yield text
        if swapped:
            yield generator.choice(swapped)


def _owns(pronoun: str, text: str, start: int, end: int) -> bool:
    """Whether "her" or "his" is possessive, that is, followed by a noun phrase."""
    if text[end : end + 1] in _QUOTES:
        return False
    if text.startswith("-", end) and text[end + 1 : end + 2].isalpha():
        return True
    before = _word_before(text, start).lower()
    return _owns_what_follows(pronoun, before, _TOKEN.findall(text, end, end + 90))


def _owns_what_follows(pronoun: str, before: str, ahead: list[str]) -> bool:
    word, after = (*ahead[:2], "", "")[:2]
    lower = re.split("['’]", word.lower())[0]
    is_his = pronoun.lower() == "his"
    if lower in ("/", "or", "and") and after.lower() in _POSSESSIVES and (is_his or lower != "and"):
        return _owns_what_follows(pronoun, before, ahead[2:])
    if lower == "and" and any(name.endswith(("'s", "’s")) for name in takewhile(_is_capitalised, ahead[1:4])):
        return True
    if not word[:1].isalnum():
        is_object = before in _NAMING or (before in _GIVES and word in "$£€") or (word == "(" and after[:1].isupper())
        if not word or word.strip("\"'`‘“(*$£€") or (is_object and not is_his):
            return False
        return _owns_what_follows(pronoun, "", ahead[1:])
    if "-" in word.strip("-") or word[0].isdigit():
        return True
    if word[0].isupper() and pronoun.islower() and lower != "i":
        return is_his or before not in _NAMING
    if lower in _NO_NOUN_PHRASE:
        return False
    ends_here = not after[:1].isalnum() or after.lower() in _BOUNDARY
    if lower in _ADVERBS or (lower.endswith("ly") and lower not in _NOUNS_IN_LY):
        return not ends_here or ((is_his or pronoun[:1].isupper()) and after.isalpha())
    if is_his:
        return True
    if before in _GIVES and lower in _GIFTS:
        return False
    if lower in ("back", "home"):
        return before not in _TAKES_AWAY
    if (lower in _VERBS and before in _MAKES | _SEES) or (lower in _VERBS_AND_NOUNS and before in _MAKES):
        return False
    if before in _TAKES_PARTICIPLE and lower.endswith("ing") and lower not in _NOUNS_IN_ING:
        return False
    if lower == "being" or (lower in _COMPLEMENTS and ends_here and after != "-"):
        return False
    is_participle = lower.endswith("ed") and lower not in _NOUNS_IN_ED and ends_here
    return not is_participle or (after in ("and", ",", "``", "-") and before not in _TAKES_PARTICIPLE | _MAKES)


def _word_before(text: str, start: int) -> str:
    found = _WORD_BEFORE.search(text, max(0, start - 30), start)
    return found.group(1).rpartition("-")[2] if found else ""


def _is_capitalised(word: str) -> bool:
    return word[:1].isupper()


def _is_initial(word: str) -> bool:
    return word.endswith(".") and word.replace(".", "").isupper() and len(word) <= 4


def _both_ways(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    partner: dict[str, str] = {}
    for first, second in pairs:
        partner.setdefault(first.lower(), second.lower())
        partner.setdefault(second.lower(), first.lower())
    return partner


def _with_case_of(pattern: str, word: str) -> str:
    if len(pattern) > 1 and pattern.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if pattern[:1].isupper() else word
