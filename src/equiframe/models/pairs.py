"""A text and its counterfactual as a model reads them, and the role of each place in the loss."""

from __future__ import annotations

import contextlib
import heapq
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from equiframe.data.counterfactual import Bias, CounterfactualSwapper, Swap
from equiframe.errors import InputError
from equiframe.models.encoding import PadRight
from equiframe.models.language_model import LanguageModel
from equiframe.requests import ModelKind
from equiframe.words import WordSet

Token: TypeAlias = tuple[int, int, int]
"""An id, and the characters that it covers, without white space before them; special tokens cover none."""
_MASK_SHARE = 0.15


class Role(IntEnum):
    """The use of a place.

    In a causal LM a place is the state that predicts the next token, in a masked LM the state of a masked token.
    """

    UNREAD = 0
    KEPT = 1
    """Not part of the comparison: the original model's output must be kept."""
    ALIGNED = 2
    """The token is the same in both texts and outside the swapped words, and their contexts differ."""
    NEUTRAL = 3
    """A swapped word, one token in each text, whose context does not give the group."""
    AGREEING = 4
    """A swapped word, one token in each text, after or next to other words of its group."""


class Reading(NamedTuple):
    """One sequence of a pair.

    Args:
        ids: true tokens, special ones included. A masked LM reads the mask at every place that is used.
        roles: role of each place, see :class:`Role`.
        partners: at the places of swapped words the token of the counterpart, elsewhere 0.
    """

    ids: list[int]
    roles: list[int]
    partners: list[int]


def check_offsets(language_model: LanguageModel, needs: str) -> None:
    """Refuse a tokenizer that does not give the positions of tokens in a text.

    Args:
        language_model: the model with the tokenizer.
        needs: the feature that needs the positions, for the message.

    Raises:
        InputError: the tokenizer is not a fast one.
    """
    if not language_model.tokenizer.is_fast:
        raise InputError(
            f"{language_model.name}: its tokenizer does not give the positions of tokens in a text, which {needs}"
            " needs: use a model with a fast tokenizer"
        )


def read_pair(
    language_model: LanguageModel, text: str, swaps: Sequence[Swap], *, max_length: int, draw: random.Random
) -> tuple[Reading, ...]:
    """Encode a text and its counterfactual, with the role of each place.

    Causal LM: the text and its counterfactual, after a start token (the tokenizer's own, if it adds one). The first
    swapped word is neutral, later ones agree; tokens that are the same in both texts are aligned after the first
    swapped word, since the texts are equal before it. All other tokens are kept.

    Masked LM: three sequences. In the text and its counterfactual 15 % of the aligned tokens are masked, the same ones
    in both; if two words or more are swapped, one of these is also masked, and the others give its group. In the third
    sequence every swapped word is one mask, whatever its number of tokens, so that nothing gives the group; 15 % of the
    other tokens are masked, and kept. The masks are drawn once.

    Args:
        language_model: a model whose tokenizer passes :func:`check_offsets`.
        text: the text.
        swaps: the exchanged words, see :meth:`equiframe.data.CounterfactualSwapper.swaps`.
        max_length: longest sequence in tokens.
        draw: generator of the masks.

    Returns:
        Two sequences, or three for a masked LM. Places of one role are in the same order in the first two. Empty
        if a text is longer than ``max_length``, or if all places are kept ones.
    """
    other, spans, other_spans = _exchanged(text, swaps)
    tokens, others = _tokens(language_model, text), _tokens(language_model, other)
    language_model.check_ids([token for token, *_ in sequence] for sequence in (tokens, others))
    if max(len(tokens), len(others)) > max_length or not spans:
        return ()
    aligned = _aligned(tokens, others, spans, other_spans)
    words = [
        (mine[0], theirs[0]) if len(mine) == len(theirs) == 1 and whole else None
        for mine, theirs, whole in (
            (
                _inside(tokens, span),
                _inside(others, other_span),
                _is_word(tokens, span) and _is_word(others, other_span),
            )
            for span, other_span in zip(spans, other_spans, strict=True)
        )
    ]
    words = [pair if pair and tokens[pair[0]][0] != others[pair[1]][0] else None for pair in words]
    if language_model.kind == "masked":
        readings = _masked(tokens, others, spans, aligned, words, mask_id=language_model.codec.mask_id, draw=draw)
    else:
        readings = _causal(tokens, others, spans, aligned, words)
    is_useful = any(role > Role.KEPT for reading in readings for role in reading.roles)
    return readings if is_useful else ()


def sample_swaps(
    texts: Iterable[str], swappers: Sequence[CounterfactualSwapper], count: int, draw: random.Random
) -> list[tuple[str, list[Swap]]]:
    """Sample up to ``count`` texts with something to exchange, in random order, each with its swapper.

    Texts larger than memory are read without being kept. If several swappers change a text, one is drawn.

    Args:
        texts: texts, which are read one at a time.
        swappers: swappers to use.
        count: maximum number of texts.
        draw: generator of the sample.
    """

    def found() -> Iterator[tuple[float, str, CounterfactualSwapper]]:
        for text in texts:
            fitting = [swapper for swapper in swappers if swapper.has_swap(text)]
            if fitting:
                yield draw.random(), text, draw.choice(fitting)

    chosen = heapq.nsmallest(count, found(), key=lambda candidate: candidate[0])
    return [(text, swapper.swaps(text)) for _, text, swapper in chosen]


def pair_batch(pairs: Sequence[Sequence[Reading | Sequence[Sequence[int]]]], pad: PadRight) -> dict[str, Tensor]:
    """Pairs as tensors: all texts, then all counterfactuals, then all third sequences, padded on the right.

    Args:
        pairs: results of :func:`read_pair`, or the same as plain lists.
        pad: pads the tokens.

    Returns:
        ``input_ids``, ``attention_mask``, ``roles`` and ``partners``, [sequences, longest].
    """
    ids, *marks = zip(*(reading for readings in zip(*pairs, strict=True) for reading in readings), strict=True)
    # padding has no role and no counterpart: 0 means both
    roles, partners = (pad_sequence([torch.tensor(values) for values in mark], batch_first=True) for mark in marks)
    return {**pad(ids), "roles": roles, "partners": partners}


def read_by(kind: ModelKind, batch: Mapping[str, Tensor], mask_id: int | None) -> dict[str, Tensor]:
    """Return the input of the model for a batch of pairs: a masked LM reads the mask at every place that is used.

    Args:
        kind: masked or causal.
        batch: see :func:`pair_batch`.
        mask_id: id of the mask token of a masked LM.
    """
    ids = batch["input_ids"]
    if kind == "masked":
        ids = torch.where(batch["roles"] > Role.UNREAD, torch.as_tensor(mask_id, device=ids.device), ids)
    return {"input_ids": ids, "attention_mask": batch["attention_mask"]}


def targets(kind: ModelKind, batch: Mapping[str, Tensor]) -> Tensor:
    """The token to predict at each place: a masked LM's own one, a causal LM's next one, [sequences, longest].

    Args:
        kind: masked or causal.
        batch: see :func:`pair_batch`.
    """
    ids = batch["input_ids"]
    return ids if kind == "masked" else ids.roll(-1, 1)  # the last place is never used


def group_ids(language_model: LanguageModel, bias: Bias) -> Tensor:
    """Tokens that p_N leaves out: words of the groups, and for gender first names, [tokens], on the model's device.

    Words of several tokens are not left out; if the tokenizer has a token for none of the words, the result is empty.
    """
    sets = [WordSet.builtin(name) for name in (("gender", "names") if bias == "gender" else (bias,))]
    words = WordSet(bias, {f"{part.name}/{group}": words for part in sets for group, words in part.groups.items()})
    found: tuple[int, ...] = ()
    with contextlib.suppress(InputError):
        found = words.resolve(language_model.tokenizer).token_ids
    known = [token for token in found if token < language_model.examination.rows]
    return torch.tensor(known, dtype=torch.int64, device=language_model.device)


Places: TypeAlias = list[tuple[int, int]]
Words: TypeAlias = list[tuple[int, int] | None]


def _causal(
    tokens: list[Token], others: list[Token], spans: list[tuple[int, int]], aligned: Places, words: Words
) -> tuple[Reading, ...]:
    first, second = _blank(tokens), _blank(others)
    for reading in (first, second):
        reading.roles[:-1] = [Role.KEPT] * (len(reading.ids) - 1)
    begin = min(_inside(tokens, spans[0]), default=len(tokens))
    for i, j in aligned:
        if i > begin:
            first.roles[i - 1] = second.roles[j - 1] = Role.ALIGNED
    for number, pair in enumerate(words):
        if pair is None or 0 in pair:
            continue
        i, j = pair
        if number > 0:
            _ask(first, second, i, j, Role.AGREEING, shift=1)
        elif first.ids[:i] == second.ids[:j]:
            _ask(first, second, i, j, Role.NEUTRAL, shift=1)
    return first, second


def _masked(
    tokens: list[Token],
    others: list[Token],
    spans: list[tuple[int, int]],
    aligned: Places,
    words: Words,
    *,
    mask_id: int,
    draw: random.Random,
) -> tuple[Reading, ...]:
    first, second = _blank(tokens), _blank(others)
    for i, j in _some(aligned, draw):
        first.roles[i] = second.roles[j] = Role.ALIGNED
    found = [pair for pair in words if pair is not None]
    if len(spans) > 1 and found:
        _ask(first, second, *draw.choice(found), Role.AGREEING)
    kept = {i for i, _ in _some(aligned, draw)}
    word_at = {pair[0]: pair[1] for pair in found}
    swapped = {i: min(inside) for span in spans if (inside := _inside(tokens, span)) for i in inside}
    neutral = Reading([], [], [])
    for i, (token, *_) in enumerate(tokens):
        if i in word_at:
            _put(neutral, token, Role.NEUTRAL, others[word_at[i]][0])
        elif i not in swapped:
            _put(neutral, token, Role.KEPT if i in kept else Role.UNREAD)
        elif i == swapped[i]:  # the first piece of a word of several tokens
            _put(neutral, mask_id, Role.UNREAD)
    return first, second, neutral


def _ask(first: Reading, second: Reading, i: int, j: int, role: Role, *, shift: int = 0) -> None:
    first.roles[i - shift] = second.roles[j - shift] = role
    first.partners[i - shift], second.partners[j - shift] = second.ids[j], first.ids[i]


def _put(reading: Reading, token: int, role: Role, partner: int = 0) -> None:
    reading.ids.append(token)
    reading.roles.append(role)
    reading.partners.append(partner)


def _blank(tokens: list[Token]) -> Reading:
    return Reading([token for token, *_ in tokens], [Role.UNREAD] * len(tokens), [0] * len(tokens))


def _some(places: Places, draw: random.Random) -> Places:
    """15 % of the places, at least one, in order."""
    count = min(len(places), max(1, round(_MASK_SHARE * len(places))))
    return sorted(draw.sample(places, count))


def _exchanged(text: str, swaps: Sequence[Swap]) -> tuple[str, list[tuple[int, int]], list[tuple[int, int]]]:
    """The counterfactual, and the positions of the swapped words in both texts."""
    pieces: list[str] = []
    spans, other_spans = [], []
    done = length = 0
    for swap in swaps:
        pieces += text[done : swap.start], swap.new
        length += swap.start - done
        spans.append((swap.start, swap.end))
        other_spans.append((length, length + len(swap.new)))
        length += len(swap.new)
        done = swap.end
    return "".join((*pieces, text[done:])), spans, other_spans


def _tokens(language_model: LanguageModel, text: str) -> list[Token]:
    encoding = language_model.tokenizer(text, return_offsets_mapping=True, verbose=False)
    specials = set(language_model.tokenizer.all_special_ids)
    tokens = [
        (token, 0, 0) if token in specials else (token, start + _spaces(text[start:end]), end)
        for token, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
    ]
    if language_model.kind == "causal" and (not tokens or tokens[0][0] not in specials):
        return [(language_model.codec.start_id, 0, 0), *tokens]
    return tokens


def _spaces(piece: str) -> int:
    """The white space before the text of a token; none if the token has nothing else."""
    return len(piece) - len(piece.lstrip()) if piece.strip() else 0


def _inside(tokens: list[Token], span: tuple[int, int]) -> list[int]:
    return [i for i, (_, start, end) in enumerate(tokens) if start < span[1] and span[0] < end]


def _is_word(tokens: list[Token], span: tuple[int, int]) -> bool:
    return any((start, end) == span for _, start, end in tokens)


def _aligned(
    tokens: list[Token], others: list[Token], spans: list[tuple[int, int]], other_spans: list[tuple[int, int]]
) -> Places:
    """Tokens outside the swapped words that are the same, with the same characters, in both texts; in order."""
    there: dict[Token, list[int]] = {}
    swapped = {j for span in other_spans for j in _inside(others, span)}
    for j, token in enumerate(others):
        if j not in swapped and token[2] > token[1]:
            there.setdefault(token, []).append(j)
    found: Places = []
    swapped = {i for span in spans for i in _inside(tokens, span)}
    for i, (piece, start, end) in enumerate(tokens):
        if i not in swapped and end > start:
            # how much longer the swapped words before it are in the counterfactual
            shift = max(
                ((old[1], new[1] - old[1]) for old, new in zip(spans, other_spans, strict=True) if old[1] <= start),
                default=(0, 0),
            )[1]
            if same := there.get((piece, start + shift, end + shift)):
                found.append((i, same.pop(0)))
    return found
