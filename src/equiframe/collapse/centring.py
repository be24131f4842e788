"""Class means minus their mean, which all metrics use."""

from __future__ import annotations

import torch
from torch import Tensor

from equiframe.errors import InputError


def centred(means: Tensor, center: bool = True) -> Tensor:
    """Class means minus their mean, in float64, as a new tensor."""
    _check_means(means)
    vectors = means.detach().to(torch.float64, copy=True)
    return vectors.sub_(vectors.mean(dim=0)) if center else vectors


def centred_beside_rows(means: Tensor, classifier: Tensor) -> tuple[Tensor, Tensor]:
    """Centred means and classifier rows in the higher of their precisions, float32 or more."""
    _check_means(means)
    if classifier.shape != means.shape:
        raise InputError(
            f"classifier is {list(classifier.shape)}, means are {list(means.shape)}: pass the rows of the same"
            " classes, e.g. classifier[statistics.class_ids]"
        )
    dtype = torch.promote_types(torch.promote_types(means.dtype, classifier.dtype), torch.float32)
    means = means.to(dtype)
    return means - means.mean(dim=0), classifier.to(dtype)


def _check_means(means: Tensor) -> None:
    if means.ndim != 2 or len(means) < 2:
        raise InputError(f"means must be [classes, dim] with two classes or more, got {list(means.shape)}")
