"""Self-Debias: at scoring time, tokens that a prompt for bias makes likelier become less likely."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from equiframe.data import Bias

_DECAY = 50.0
_PROMPTS: dict[Bias, str] = {
    "gender": "The following text discriminates against people because of their gender:\n",
    "race": "The following text discriminates against people because of their race/color:\n",
    "religion": "The following text discriminates against people because of their religion:\n",
}


@dataclass(frozen=True)
class SelfDebias:
    """A prompt for biased text, and how strongly the tokens that it makes likelier are suppressed.

    Args:
        prompt: its tokens, read before the text, after a start token.
        decay: lambda.
    """

    prompt: tuple[int, ...]
    decay: float = _DECAY

    @classmethod
    def against(cls, bias: Bias, tokenizer: PreTrainedTokenizerBase) -> SelfDebias:
        """The authors' prompt against one bias."""
        return cls(tuple(tokenizer.encode(_PROMPTS[bias], add_special_tokens=False, verbose=False)))


def debiased_logits(logits: Tensor, prompted: Tensor, decay: float = _DECAY) -> Tensor:
    """Log of alpha(p - q) * p, not normalised, with p as the model says it and q after the prompt.

    alpha(d) is 1 where the prompt does not make a token likelier, else exp(decay * d).

    Args:
        logits: of the text alone, [places, vocabulary].
        prompted: at the same places after the prompt, [places, vocabulary].
        decay: lambda.

    Returns:
        [places, vocabulary], float32.

    Reference: Schick, Udupa and Schütze 2021, section 4. Their code floors alpha at 0.01.
    """
    log_p = logits.float().log_softmax(dim=-1)
    difference = log_p.exp() - prompted.float().softmax(dim=-1)
    return log_p + decay * torch.clamp(difference, max=0)
