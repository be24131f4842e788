"""Requests that several benchmarks share."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from equiframe.requests import TextCodec, TokenLogProbs


def masked_alone(ids: tuple[int, ...], place: int, mask_id: int) -> TokenLogProbs:
    """Ask for one token of a sequence, with only that token masked."""
    return TokenLogProbs((*ids[:place], mask_id, *ids[place + 1 :]), (place,), (ids[place],))


def masked_within_word(ids: tuple[int, ...], place: int, words: Sequence[int | None], mask_id: int) -> TokenLogProbs:
    """Ask for one token of a sequence, masked together with the later tokens of its word.

    Args:
        ids: the sequence.
        place: position of the token.
        words: for each token, the number of its word, as :meth:`TextCodec.words` gives it.
        mask_id: id of the mask token.

    Reference: Kauf and Ivanova 2023 (PLL-word-l2r).
    """
    masked = (
        mask_id if at >= place and word == words[place] else token
        for at, (token, word) in enumerate(zip(ids, words, strict=True))
    )
    return TokenLogProbs(tuple(masked), (place,), (ids[place],))


def each_masked_alone(text: str, codec: TextCodec) -> list[TokenLogProbs]:
    """Ask a masked LM for every token of a text except the special tokens around it, each masked alone."""
    ids = codec.encode(text)
    return [masked_alone(ids, place, codec.mask_id) for place in codec.places(ids)]


def aligned(both: Sequence[tuple[int, ...]], codec: TextCodec) -> tuple[list[list[int]], list[list[int]]]:
    """Find the positions, in each of two sentences, of the tokens that they share and of those that differ.

    The longest matching blocks are aligned. The special tokens around the sentence are left out.
    """
    shared: list[list[int]] = [[], []]
    changed: list[list[int]] = [[], []]
    first, second = both
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    for kind, start_first, end_first, start_second, end_second in matcher.get_opcodes():
        kept = shared if kind == "equal" else changed
        kept[0] += range(start_first, end_first)
        kept[1] += range(start_second, end_second)
    texts = [codec.places(ids) for ids in both]
    return [[p for p in places if p in text] for places, text in zip(shared, texts, strict=True)], changed


def log_probs_after(before: str, texts: Sequence[str], codec: TextCodec) -> list[TokenLogProbs]:
    """Ask a causal LM for every token of each text, read after the start token and the text ``before``.

    White space at the end of ``before`` becomes part of each text, as in :meth:`TextCodec.pieces`.
    """
    head = codec.sequence_log_probs(before.rstrip()).input_ids
    return [
        TokenLogProbs((*head, *pieces), tuple(range(len(head) - 1, len(head) + len(pieces) - 1)), pieces)
        for pieces in codec.pieces(texts, before=before)
    ]


def replies(question: str, texts: Sequence[str], codec: TextCodec) -> list[list[TokenLogProbs]]:
    """For each text, request its tokens as the answer to a question.

    With a chat template the text begins the assistant's turn; without one it follows the question, as in
    :func:`continuations`.
    """
    if codec.chat_template is None:
        return continuations(question, texts, codec)
    return [[request] for request in codec.answers_to(question, texts)]


def continuations(before: str, texts: Sequence[str], codec: TextCodec) -> list[list[TokenLogProbs]]:
    """For each text, request its tokens after the text ``before`` and a space.

    A masked LM is asked for one token at a time, masked alone; a causal LM for all of them at once.
    """
    if codec.kind == "causal":
        return [[request] for request in log_probs_after(f"{before} ", texts, codec)]
    ids, mask_id = codec.encode(f"{before} {codec.tokenizer.mask_token}"), codec.mask_id
    start = ids.index(mask_id)
    return [
        [masked_alone((*ids[:start], *pieces, *ids[start + 1 :]), start + j, mask_id) for j in range(len(pieces))]
        for pieces in codec.pieces(texts, before=f"{before} ")
    ]
