"""The requests that a benchmark may make to a model, and what it may know about the model's tokens.

A benchmark turns each item into requests and gets back one answer per request, in order. It never sees
the model, so the engine is free to drop duplicates, pack sequences, and share their common parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from transformers import PreTrainedTokenizerBase

from equiframe.chat import answers_in_turn
from equiframe.choices import ModelKind as ModelKind
from equiframe.errors import CannotScoreError, InputError

Pooling: TypeAlias = Literal["cls", "mean", "last"]


@dataclass(frozen=True, slots=True)
class TokenLogProbs:
    """Natural log-probabilities of given tokens at given places of one sequence.

    Args:
        input_ids: the sequence exactly as the model must read it, special and mask tokens included.
        positions: where logits are read. A masked LM predicts the token at the position itself, a causal
            LM the token after it: for a causal LM the log-probability of ``input_ids[t]`` is read at t - 1.
        targets: the tokens whose log-probabilities are requested, one per position.

    Raises:
        InputError: a position is outside the sequence, or there is not one target per position.
    """

    input_ids: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.positions) != len(self.targets):
            raise InputError(f"{len(self.positions)} positions, but {len(self.targets)} targets: give one for each")
        if self.positions and not 0 <= min(self.positions) <= max(self.positions) < len(self.input_ids):
            raise InputError(f"positions {self.positions} are not all within {len(self.input_ids)} tokens")


@dataclass(frozen=True, slots=True)
class AttentionWeightedLogProbs(TokenLogProbs):
    """Log-probabilities of a masked LM, each multiplied by the attention that its position receives.

    The attention is that of the whole sequence, special tokens included, to the position: the mean over layers,
    heads, and the tokens that attend.
    """


@dataclass(frozen=True, slots=True)
class Embedding:
    """One vector for a sequence: the first token's last state, the mean over all tokens, or the last token's.

    The state is that of the last layer, before any language-modelling head; special tokens count as tokens.
    """

    input_ids: tuple[int, ...]
    pooling: Pooling = "mean"


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The most probable tokens at one place of one sequence, best first.

    Args:
        input_ids: the sequence exactly as the model must read it, special and mask tokens included.
        position: where logits are read, as in :class:`TokenLogProbs`.
        count: number of tokens; all of them if the vocabulary is smaller.

    Raises:
        InputError: the position is outside the sequence, or the count is below 1.
    """

    input_ids: tuple[int, ...]
    position: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.position < len(self.input_ids):
            raise InputError(f"position {self.position} is not within {len(self.input_ids)} tokens")
        if self.count < 1:
            raise InputError(f"count {self.count}: request one token or more")


@dataclass(frozen=True, slots=True)
class NextSentence:
    """Natural log-probability that the second text of a pair follows the first, by a next-sentence head.

    Args:
        input_ids: both texts exactly as the model must read them, special tokens included.
        token_types: for each token, 0 in the first text and 1 in the second.

    Raises:
        InputError: there is not one type per token.
    """

    input_ids: tuple[int, ...]
    token_types: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.input_ids) != len(self.token_types):
            raise InputError(f"{len(self.input_ids)} tokens, but {len(self.token_types)} types: give one for each")


Request: TypeAlias = TokenLogProbs | Embedding | TopTokens | NextSentence
Answer: TypeAlias = tuple[float, ...]
"""One log-probability per position or pair, or one coordinate per dimension, or one token id per top token."""


@dataclass(frozen=True)
class TextCodec:
    """How one model reads text: its tokenizer, its kind, and its longest sequence.

    Args:
        tokenizer: any Hugging Face tokenizer.
        kind: ``masked`` or ``causal``.
        window: maximum number of tokens of one sequence, special tokens included.
        has_next_sentence: whether the model answers :class:`NextSentence`.
        has_states: whether the model answers :class:`Embedding`.
        chat_template: template for questions to a causal model; None asks them as plain text.
    """

    tokenizer: PreTrainedTokenizerBase
    kind: ModelKind
    window: int
    has_next_sentence: bool = False
    has_states: bool = True
    chat_template: str | None = None

    @property
    def answers(self) -> frozenset[type[Request]]:
        """The kinds of request that such a model answers."""
        kinds: set[type[Request]] = {TokenLogProbs, TopTokens}
        if self.has_states:
            kinds.add(Embedding)
        if self.kind == "masked":
            kinds.add(AttentionWeightedLogProbs)
        if self.has_next_sentence:
            kinds.add(NextSentence)
        return frozenset(kinds)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text with the special tokens that the tokenizer adds. Never cut: see :meth:`fits`.

        A mask replaces a word and the space before it, even if the tokenizer would leave a separate token for that
        space.
        """
        ids = tuple(self.tokenizer.encode(text, verbose=False))
        if self._space_before_mask is None:
            return ids
        masks = {at for at, token in enumerate(ids) if token == self.mask_id}
        return tuple(t for at, t in enumerate(ids) if not (at + 1 in masks and t == self._space_before_mask))

    def words(self, text: str) -> tuple[int | None, ...]:
        """Return, for each token that :meth:`encode` gives for a text without masks, the number of its word.

        A word ends at white space, and wherever the tokenizer splits a text before it looks for pieces: in BERT's
        tokenizers at punctuation. Special tokens have None.

        Raises:
            CannotScoreError: the tokenizer does not give words (a slow tokenizer).
        """
        if not self.tokenizer.is_fast:
            raise CannotScoreError(f"{type(self.tokenizer).__name__} does not report which tokens form a word")
        encoded = self.tokenizer(text, return_offsets_mapping=True, verbose=False)
        found: list[int | None] = []
        count, last, end = -1, None, 0
        for word, (start, stop) in zip(encoded.word_ids(), encoded["offset_mapping"], strict=True):
            if word is None:
                found.append(None)
                continue
            if word != last or any(letter.isspace() for letter in text[end : start + 1]):
                count += 1
            last, end = word, max(stop, end)
            found.append(count)
        return tuple(found)

    def places(self, ids: Sequence[int]) -> range:
        """The positions of the text in :meth:`encode`'s ids, between the special tokens around it."""
        before, after = self._frame
        return range(before, len(ids) - after)

    @cached_property
    def _frame(self) -> tuple[int, int]:
        """The numbers of special tokens that the tokenizer puts before and after a text."""
        nothing, something = (self.tokenizer.encode(text, verbose=False) for text in ("", "a"))
        before = next((at for at, pair in enumerate(zip(nothing, something, strict=False)) if pair[0] != pair[1]), None)
        before = min(len(nothing), len(something)) if before is None else before
        return before, len(nothing) - before

    @cached_property
    def _space_before_mask(self) -> int | None:
        """The token that the tokenizer leaves between a word and a mask after it, if any."""
        if self.kind != "masked":
            return None
        (ids,), (word,) = self._plain(f"a {self.tokenizer.mask_token}"), self._plain("a")
        left = ids[len(word) : ids.index(self.mask_id)] if self.mask_id in ids else ()
        return left[0] if len(left) == 1 and not self.tokenizer.decode(list(left)).strip() else None

    def pieces(self, words: Sequence[str], before: str = "") -> list[tuple[int, ...]]:
        """Return the ids of words, each as it is encoded after other text, without special tokens.

        Byte-level and SentencePiece tokenizers write the space before a word into its first piece, and
        some encode the start of a text differently from its middle. So the pieces of a word are those by
        which ``before`` and the word together are longer than ``before`` alone.

        Args:
            words: words, or any texts, each read by itself.
            before: text in front of each word; white space at its end counts as one space.
        """
        head = before.rstrip()
        space = " " if head and head != before else ""
        ids_before, *found = self._plain(head, *(head + space + word for word in words))
        if not head:
            return found
        if all(ids[: len(ids_before)] == ids_before for ids in found):
            return [ids[len(ids_before) :] for ids in found]
        return self._plain(*(space + word for word in words))  # a piece spans the border

    def _plain(self, *texts: str) -> list[tuple[int, ...]]:
        """Return ids without special tokens."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return [tuple(ids) for ids in encoded["input_ids"]]

    @property
    def mask_id(self) -> int:
        """Id of the mask token.

        Raises:
            InputError: the tokenizer has no mask token.
        """
        return self._special("mask")

    @property
    def start_id(self) -> int:
        """Id of the token from which a causal LM predicts the first token of a text.

        This is the beginning-of-sequence token; if there is none, as in Qwen, it is the end-of-sequence token, after
        which the next text began in training.

        Raises:
            InputError: the tokenizer has neither.
        """
        if self.tokenizer.bos_token_id is not None:
            return int(self.tokenizer.bos_token_id)
        return self._special("eos")

    def _special(self, name: str) -> int:
        token_id = getattr(self.tokenizer, f"{name}_token_id")
        if token_id is None:
            raise InputError(
                f"the tokenizer has no {name} token, which scoring with a {self.kind} LM needs: set"
                f" tokenizer.{name}_token, or choose a model whose tokenizer has one"
            )
        return int(token_id)

    def sequence_log_probs(self, text: str) -> TokenLogProbs:
        """Ask a causal LM for every token of a text, the first one after the start token."""
        (ids,) = self._plain(text)
        return TokenLogProbs((self.start_id, *ids), tuple(range(len(ids))), ids)

    def answers_to(self, question: str, answers: Sequence[str]) -> list[TokenLogProbs]:
        """Ask a causal LM for every token of each answer, which begins the assistant's turn after a user's question.

        Raises:
            InputError: there is no chat template.
            ModelError: the template cannot be rendered with this question.
        """
        if self.chat_template is None:
            raise InputError("a chat turn needs a chat template: give --chat-template")
        head, found = answers_in_turn(self.tokenizer, question, answers, self.chat_template)
        return [
            TokenLogProbs((*head, *ids), tuple(range(len(head) - 1, len(head) + len(ids) - 1)), ids) for ids in found
        ]

    def shown(self, request: Request) -> str:
        """Return the text that the model reads, special tokens included."""
        ids = list(request.input_ids)
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def next_sentence(self, first: str, second: str) -> NextSentence:
        """Ask whether a text follows another one, both encoded with the special tokens of a pair."""
        encoded = self.tokenizer(first, second, return_token_type_ids=True, verbose=False)
        return NextSentence(tuple(encoded["input_ids"]), tuple(encoded["token_type_ids"]))

    def fits(self, request: Request) -> bool:
        """Whether the model can read the whole sequence. A sequence that does not fit is never cut."""
        return 0 < len(request.input_ids) <= self.window
