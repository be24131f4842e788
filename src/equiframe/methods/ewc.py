"""Elastic weight consolidation: keep a weight close to its old value if predictions depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from equiframe.errors import InputError


class ElasticWeights(nn.Module):
    """sum_i F_i (theta_i - theta*_i)^2, with theta* the weights before training and F their diagonal Fisher.

    F_i is the mean over examples of (d loss / d theta_i)^2 at theta*, in evaluation mode, one example at a time. Both
    are kept next to the model, so it takes three times its memory; neither is saved, since both follow from the
    model before training.

    Args:
        model: the model before training; its own parameters are those that are kept. They have no gradient afterwards.
        examples: batches of one example.
        loss: function from model and batch to a scalar.

    Reference: Kirkpatrick et al. 2017, equation 3 (without the factor lambda / 2).
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Iterable[Mapping[str, Tensor]],
        loss: Callable[[nn.Module, Mapping[str, Tensor]], Tensor],
    ) -> None:
        super().__init__()
        # in a tuple, so that the model does not become part of this module
        self._parameters_held = tuple(p for p in model.parameters() if p.requires_grad)
        sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in self._parameters_held]
        count = 0
        was_training = model.training
        model.eval()
        for batch in examples:
            gradients = torch.autograd.grad(loss(model, batch), self._parameters_held, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient.float().square())
            count += 1
        model.train(was_training)
        for number, (parameter, total) in enumerate(zip(self._parameters_held, sums, strict=True)):
            self.register_buffer(f"fisher_{number}", total / max(count, 1), persistent=False)
            self.register_buffer(f"before_{number}", parameter.detach().clone().float(), persistent=False)

    def forward(self) -> Tensor:
        """Compute the penalty, a scalar; it is 0 before training.

        Raises:
            InputError: the weights were frozen later, as LoRA does.
        """
        if not any(parameter.requires_grad for parameter in self._parameters_held):
            raise InputError("EWC holds weights that are frozen: give --set ewc_weight=0, or leave out --lora")
        terms = [
            (
                self.get_buffer(f"fisher_{number}") * (parameter.float() - self.get_buffer(f"before_{number}")).square()
            ).sum()
            for number, parameter in enumerate(self._parameters_held)
        ]
        return torch.stack(terms).sum()
