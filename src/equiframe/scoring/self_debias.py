"""Self-Debias: at scoring time, it suppresses tokens that become more likely after a biased prompt."""

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
    """A prompt for biased text, and how strongly the tokens that it makes more likely are suppressed.

    Args:
        prompt: tokens of the prompt, read before the text, after a start token.
        decay: lambda.
    """

    prompt: tuple[int, ...]
    decay: float = _DECAY

    @classmethod
    def against(cls, bias: Bias, tokenizer: PreTrainedTokenizerBase) -> SelfDebias:
        """Return the authors' prompt against one bias."""
        return cls(tuple(tokenizer.encode(_PROMPTS[bias], add_special_tokens=False, verbose=False)))


def debiased_logits(logits: Tensor, prompted: Tensor, decay: float = _DECAY) -> Tensor:
    """Log of alpha(p - q) * p, not normalised, where p is the model's prediction and q that after the prompt.

    alpha(d) is 1 if the prompt does not make a token more likely, else exp(decay * d).

    Args:
        logits: logits of the text alone, [places, vocabulary].
        prompted: logits at the same places after the prompt, [places, vocabulary].
        decay: lambda.

    Returns:
        [places, vocabulary], float32.

    Reference: Schick, Udupa and Schütze 2021, section 4. Their code floors alpha at 0.01.
    """
    log_p = logits.float().log_softmax(dim=-1)
    difference = log_p.exp() - prompted.float().softmax(dim=-1)
    return log_p + decay * torch.clamp(difference, max=0)
