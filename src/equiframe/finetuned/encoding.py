"""The token ids that a model reads of each example, or why it cannot read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from datasets import Dataset

from equiframe.benchmarks.benchmark import Excluded
from equiframe.benchmarks.fine_tuned import MentionExample, TextExample
from equiframe.models import LanguageModel
from equiframe.models.encoding import check_length, cut_at_end
from equiframe.models.spans import tokens_of

Examples: TypeAlias = Sequence[TextExample] | Sequence[MentionExample]


@dataclass(frozen=True)
class Encoded:
    """The tokens of one example that the model reads, and whether its text was cut."""

    features: Mapping[str, Any]
    cut: bool


def encoded_dataset(
    encode: Encoder, examples: Examples, *, labelled: bool, outputs: int
) -> tuple[Dataset, list[int], list[Encoded | Excluded]]:
    """Encode the examples that can be read; return them, their positions, and per example its tokens or why not."""
    read = encode(examples)
    rows: dict[int, dict[str, Any]] = {}
    for at, found in enumerate(read):
        if isinstance(found, Encoded):
            label = examples[at].label if outputs == 1 else int(examples[at].label)
            rows[at] = {**found.features, **({"labels": label} if labelled else {})}
    return Dataset.from_list(list(rows.values())), list(rows), read


class Encoder:
    """Encodes examples as token ids.

    A masked LM reads one text or two in the form of its tokenizer. A causal LM reads its start
    token, the text, and between two texts its end token. Texts longer than ``max_length`` are cut at the
    end (of two texts always the longer one), or at both ends around mentions.

    Args:
        language_model: the model whose tokenizer is used.
        max_length: maximum length in tokens, special ones included.

    Raises:
        InputError: the length leaves nothing of a text, or is above the model's window.
    """

    def __init__(self, language_model: LanguageModel, max_length: int) -> None:
        self.tokenizer = language_model.tokenizer
        self.codec = language_model.codec
        self.longest = max_length
        check_length(language_model, max_length, option="--head max_length")
        self.excluded: dict[str, int] = {}

    def __call__(self, examples: Examples) -> list[Encoded | Excluded]:
        """For each example, return its tokens, or why it cannot be read."""
        read: list[Encoded | Excluded] = [
            self._mentions(example) if isinstance(example, MentionExample) else self._text(example)
            for example in examples
        ]
        for found in read:
            if isinstance(found, Excluded):
                self.excluded[found.reason] = self.excluded.get(found.reason, 0) + 1
        return read

    def _text(self, example: TextExample) -> Encoded:
        """Encode one text or two."""
        if self.codec.kind == "causal":
            return self._causal_text(example)
        texts = [example.text] if example.second is None else [example.text, example.second]
        read = self.tokenizer(*texts, verbose=False)
        cut = len(read["input_ids"]) > self.longest
        if cut:
            read = cut_at_end(self.tokenizer, *texts, max_length=self.longest)
        features = {name: read[name] for name in ("input_ids", "token_type_ids") if name in read}
        return Encoded(features, cut)

    def _causal_text(self, example: TextExample) -> Encoded:
        plain = [
            self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            for text in (example.text, example.second)
            if text is not None
        ]
        room = self.longest - len(plain)
        cut = sum(map(len, plain)) > room
        while sum(map(len, plain)) > room:
            max(plain, key=len).pop()
        ids = [self.codec.start_id, *plain[0]]
        if len(plain) == 2:
            end = self.tokenizer.eos_token_id
            ids += [self.codec.start_id if end is None else end, *plain[1]]
        return Encoded({"input_ids": ids}, cut)

    def _mentions(self, example: MentionExample) -> Encoded | Excluded:
        """Encode a text, with the tokens of its mentions."""
        read = self.tokenizer(example.text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
        ids, special = read["input_ids"], read["special_tokens_mask"]
        lead = next((at for at, is_special in enumerate(special) if not is_special), len(ids))
        trail = next((at for at, is_special in enumerate(special[::-1]) if not is_special), 0)
        before, body, after = ids[:lead], ids[lead : len(ids) - trail], ids[len(ids) - trail :]
        if self.codec.kind == "causal" and not before:
            before = [self.codec.start_id]
        offsets = read["offset_mapping"][lead : len(ids) - trail]
        mentions = [tokens_of(span, offsets) for span in (example.pronoun, *example.candidates)]
        if not all(mentions):
            return Excluded("a mention has no token")
        places = [place for tokens in mentions for place in (tokens[0], tokens[-1])]
        room = self.longest - len(before) - len(after)
        spread = max(places) - min(places) + 1
        if spread > room:
            return Excluded(f"the mentions are too far apart for {self.longest} tokens")
        start = min(max(min(places) - (room - spread) // 2, 0), max(len(body) - room, 0))
        shift = len(before) - start
        return Encoded(
            {
                "input_ids": [*before, *body[start : start + room], *after],
                "spans": [[first + shift, last + shift] for first, last in zip(places[::2], places[1::2], strict=True)],
            },
            cut=len(body) > room,
        )
