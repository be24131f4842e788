"""User turns as a chat model reads them: by the template of its tokenizer, or by the user's own template."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from equiframe.errors import InputError, ModelError
from equiframe.options import first_line

_OTHERWISE = "give another one as --chat-template FILE"
_DATE = datetime.datetime(2024, 7, 26)
"""Variables for templates that write the date, so that a prompt is the same on every day."""
_NOW = "".join(f"|replace('%{letter}', '{_DATE.strftime(f'%{letter}')}')" for letter in "YymdBbAaHMS")
_DATED = f"{{%- macro strftime_now(format) -%}}{{{{ format{_NOW} }}}}{{%- endmacro -%}}"
_THOUGHTS = re.compile(r"[<\[](/?)[\w:]*(?:think|reason)\w*[>\]]", re.IGNORECASE)
_CHANNEL, _MESSAGE = "<|channel|>", "<|message|>"
"""If a template has the first tag, the model says before the second one whether it thinks or answers."""


def read_template(value: str, tokenizer: PreTrainedTokenizerBase, name: str) -> str | None:
    """Load the template for ``--chat-template``, and check that it can render a turn.

    Args:
        value: ``off``, ``on`` for the tokenizer's own, or a file of Jinja.
        tokenizer: tokenizer of the model.
        name: name of the model, for messages.

    Returns:
        The text of the template; None for ``off``.

    Raises:
        InputError: there is no such file.
        ModelError: the tokenizer has no template, or see :func:`user_turn`.
    """
    if value == "off":
        return None
    if value == "on":
        try:
            template = str(tokenizer.get_chat_template())
        except ValueError:
            raise ModelError(
                f"{name}: its tokenizer has no chat template: give one as --chat-template FILE, or leave the option out"
            ) from None
    else:
        try:
            template = Path(value).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--chat-template {value}: {first_line(error)}: choose off, on, or a Jinja file") from None
    try:
        user_turn(tokenizer, "Hello", template)
    except ModelError as error:
        raise ModelError(f"--chat-template {value}, {name}: {error}") from error
    return template


def user_turn(
    tokenizer: PreTrainedTokenizerBase, text: str, template: str | None = None, *, thinking: bool = False
) -> tuple[int, ...]:
    """Return the ids of a chat in which the user has spoken and the assistant is about to answer.

    There is exactly one start token if the tokenizer or the template writes one, and none if neither does. The
    date that some templates write is always the same.

    Args:
        tokenizer: tokenizer that reads the chat.
        text: text of the user.
        template: Jinja template; by default the tokenizer's own.
        thinking: whether the answer may begin with thoughts; if not, they are switched off in the ways that templates
            support.

    Raises:
        ModelError: the template cannot be rendered, leaves out the text, or lets the model think in any case.
    """
    start, chat = _chat(tokenizer, text, template, thinking)
    return start + _plain(tokenizer, chat)


def answers_in_turn(
    tokenizer: PreTrainedTokenizerBase, question: str, answers: Sequence[str], template: str
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Return the ids of :func:`user_turn`, and those of each answer as the beginning of the assistant's turn.

    Raises:
        ModelError: see :func:`user_turn`.
    """
    start, chat = _chat(tokenizer, question, template, thinking=False)
    head = _plain(tokenizer, chat)
    both = [_plain(tokenizer, chat + answer) for answer in answers]
    if all(ids[: len(head)] == head for ids in both):
        return start + head, [ids[len(head) :] for ids in both]
    return start + head, [_plain(tokenizer, answer) for answer in answers]  # a token spans the border


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False, verbose=False))


def _chat(
    tokenizer: PreTrainedTokenizerBase, text: str, template: str | None, thinking: bool
) -> tuple[tuple[int, ...], str]:
    """Return the start token, if there is one, and the chat after it."""
    options: dict[str, Any] = {
        "enable_thinking": thinking,
        "thinking": thinking,
        "date_string": f"{_DATE:%d %b %Y}",
    }
    said = [{"role": "user", "content": text}]
    try:
        template = tokenizer.get_chat_template(template)
        chat = str(
            tokenizer.apply_chat_template(
                said, chat_template=_DATED + template, tokenize=False, add_generation_prompt=True, **options
            )
        )
    except Exception as error:  # the code of a template can raise any error
        raise ModelError(f"the chat template cannot be rendered ({first_line(error)}): {_OTHERWISE}") from error
    _, found, behind = chat.rpartition(text.strip())
    if not found:
        raise ModelError(f"the chat template leaves out what the user says: {_OTHERWISE}")
    thoughts = _THOUGHTS.findall(behind)
    if not thinking and (thoughts[-1:] == [""] or (_CHANNEL in template and not behind.endswith(_MESSAGE))):
        raise ModelError(
            "with this chat template the model thinks before it answers, and that cannot be switched off:"
            f" {_OTHERWISE} that begins the answer itself"
        )
    if (start := tokenizer.bos_token) is None:
        return (), chat
    is_written = tokenizer.bos_token_id in tokenizer.encode("", verbose=False)[:1] or chat.startswith(start)
    while chat.startswith(start):
        chat = chat.removeprefix(start)
    return (tokenizer.bos_token_id,) if is_written else (), chat
