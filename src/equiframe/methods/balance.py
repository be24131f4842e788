"""The weight of the (U)NC3 term, computed from the gradients of the host and of the term."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from equiframe.collapse import UNC3Regularizer
from equiframe.errors import InputError
from equiframe.methods.objective import Objective, ObjectiveOutput
from equiframe.models.adapter import classifier


def balanced_weight(
    objective: Objective,
    regularizer: UNC3Regularizer,
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
) -> float:
    """The lambda at which term and host change the words' embeddings equally strongly before training.

    lambda = mean ||d L_host / d W_K|| / mean ||d std / d W_K||, Frobenius norms over the rows K of the
    output embedding that belong to the term's words; the means are over batches in which two words were seen. Only
    these rows are compared, since the published term changes nothing else. No benchmark is used. The idea is that of
    GradNorm (Chen et al. 2018), applied once instead of at every step, so that the objective stays fixed.

    Args:
        objective: the host; what it counts and accumulates is restored at the end.
        regularizer: the term, with a weight above 0; its memory is updated by these batches.
        model: the model before training; no weight changes.
        batches: batches of training examples, on the model's device.

    Raises:
        InputError: the embedding has no gradient, or the host or the term has none on these batches.
    """
    weight = classifier(model)
    if not weight.requires_grad:
        raise InputError("the word embeddings are frozen: --unc3 auto compares gradients on them; give a number")
    rows = regularizer.class_ids
    norms: list[tuple[float, float]] = []
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    objective.train()
    for batch in batches:
        host: ObjectiveOutput = objective(model, batch)
        weighted = regularizer(host.features, host.token_ids, weight)
        term = weighted / regularizer.last_parts["unc3_weight"]
        of_host, of_term = (
            torch.autograd.grad(loss, weight, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for loss in (host.loss, term)
        )
        if (length := float(of_term[rows].norm())) > 0:
            norms.append((float(of_host[rows].norm()), length))
    objective.load_state_dict(before)  # so that training begins as with a weight that was given
    if not norms:
        raise InputError(
            "--unc3 auto: the term has no gradient on the first batches, in which fewer than two of its words occur:"
            " give more words (--unc3-words), larger batches, or a number"
        )
    if not any(host for host, _ in norms):
        raise InputError("--unc3 auto: the method does not change the word embeddings of this model. Give a number")
    return sum(host for host, _ in norms) / sum(term for _, term in norms)
