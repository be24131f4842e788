"""Responses of a model in this process, in batches, with ``generate`` of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import GenerationConfig

from equiframe.config import GenerationOptions
from equiframe.errors import ModelError
from equiframe.generation.writing import Written, cut_at
from equiframe.models import LanguageModel
from equiframe.models.adapter import evaluating

Ids: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class LocalWriter:
    """Writes responses with a model in this process; see :class:`equiframe.generation.writing.Writer`.

    Prompts are padded on the left, whatever the tokenizer's setting. A batch is halved if there is too little
    memory.

    Args:
        language_model: the model.
    """

    language_model: LanguageModel

    @property
    def identity(self) -> tuple[str, ...]:
        """The model's fingerprint and precision."""
        return self.language_model.fingerprint(), self.language_model.precision

    def write(self, prompts: Sequence[Ids], settings: GenerationOptions, length: int, seed: int) -> list[Written]:
        """Write the responses to one batch.

        Args:
            prompts: each shorter than the model's window by ``length`` or more.
            settings: how tokens are chosen.
            length: maximum length of a response, in tokens.
            seed: seed of sampling.

        Raises:
            ModelError: there is too little memory for one prompt, or the model does not know a token.
        """
        self.language_model.check_ids(prompts)
        try:
            return self._generate(prompts, settings, length, seed)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if len(prompts) == 1:
                raise ModelError(f"out of memory ({error}): give a smaller --max-new-tokens or --samples") from error
        half = len(prompts) // 2
        first = self.write(prompts[:half], settings, length, seed)
        return first + self.write(prompts[half:], settings, length, seed + 1)

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[Ids], settings: GenerationOptions, length: int, seed: int) -> list[Written]:
        model, tokenizer = self.language_model.model, self.language_model.tokenizer
        config = _generation_config(self.language_model, settings, length)
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), int(config.pad_token_id))
        attended = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            attended[row, longest - len(prompt) :] = 1
        device = self.language_model.device
        devices = [device] if device.type == "cuda" else []
        with evaluating(model), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            written = model.generate(
                input_ids=ids.to(device),
                attention_mask=attended.to(device),
                generation_config=config,
                tokenizer=tokenizer,
            )
        texts = [
            cut_at(text, settings.stop)
            for text in tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)
        ]
        return [[*texts[start : start + settings.samples]] for start in range(0, len(texts), settings.samples)]


def batches(prompts: Sequence[Ids], samples: int, length: int, token_budget: int) -> Iterator[list[int]]:
    """Group positions of prompts, longest first, so that prompts and responses of a batch fit into a token budget.

    Example:
        >>> list(batches([(1,), (1, 2, 3), (1, 2)], samples=1, length=2, token_budget=10))
        [[1, 2], [0]]
    """
    order = sorted(range(len(prompts)), key=lambda at: (-len(prompts[at]), prompts[at]))
    while order:
        rows = max(1, token_budget // ((len(prompts[order[0]]) + length) * samples))
        yield order[:rows]
        order = order[rows:]


def _generation_config(language_model: LanguageModel, settings: GenerationOptions, length: int) -> GenerationConfig:
    """Combine the options with the tokens by which this model ends a text."""
    own, tokenizer = language_model.model.generation_config, language_model.tokenizer
    end = tokenizer.eos_token_id if own is None or own.eos_token_id is None else own.eos_token_id
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = end[0] if isinstance(end, list) else end
    sampling = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=length,
        num_return_sequences=settings.samples,
        num_beams=1,
        repetition_penalty=1.0,
        eos_token_id=end,
        pad_token_id=0 if pad is None else pad,
        stop_strings=list(settings.stop) or None,
        use_cache=True,
        **(sampling if settings.temperature else {"do_sample": False}),
    )
