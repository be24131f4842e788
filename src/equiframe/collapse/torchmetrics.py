"""Collapse as a metric of torchmetrics, for Lightning and custom training loops: its state and its synchronisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equiframe.collapse.metrics import collapse_metrics
from equiframe.collapse.statistics import ClassStatistics
from equiframe.errors import InputError

try:
    from torchmetrics import Metric
except ImportError as error:
    raise InputError("CollapseMetrics needs torchmetrics: pip install 'equiframe[torchmetrics]'") from error


class CollapseMetrics(Metric):
    """NC1 to NC3 of a set of words over the batches so far, by the keys of :func:`collapse_metrics`.

    Batches, ranks and merged states are joined by :meth:`ClassStatistics.merge`, so that the numbers are those of
    one pass over all samples. Means are kept in float64.

    ``update`` takes features [tokens, dim] and their token ids [tokens]. ``compute`` returns scalars by key; all are
    nan if fewer than two words have ``min_count`` samples. :func:`collapse_metrics` names the functions that give the
    ideal values; the direction differs between metrics, so ``higher_is_better`` is None. In a
    ``MetricCollection`` with several word sets, each key begins with the name of its set.

    Args:
        class_ids: token ids of the words, [classes], unique; others are ignored.
        dim: width of a feature.
        classifier: a function that returns the complete output embedding, [vocabulary, dim]. ``compute`` calls it, so
            that the rows are up to date.
        min_count: minimum number of samples of a word.
        kwargs: of ``torchmetrics.Metric``, such as ``process_group``.

    Raises:
        InputError: ids repeat or are fewer than two, states of other words are merged, or (on update and compute)
            shapes do not fit.

    Example:
        >>> metric = CollapseMetrics(torch.arange(2), dim=2, classifier=lambda: torch.eye(2), min_count=2)
        >>> metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1]))
        >>> metric.update(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]), torch.tensor([0, 1]))
        >>> metric.compute()["nc3_self_duality"]
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    class_ids: Tensor
    samples: Tensor

    def __init__(
        self,
        class_ids: Tensor,
        dim: int,
        *,
        classifier: Callable[[], Tensor],
        min_count: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.classifier, self.min_count = classifier, min_count
        ids = ClassStatistics(class_ids, dim).class_ids  # checked
        if len(ids) < 2:
            raise InputError(f"collapse is measured over two or more words, got {len(ids)}")
        # The ids are state too, so that a collection can distinguish two sets that have no samples yet.
        self.add_state("class_ids", ids, dist_reduce_fx=_alike)
        # Count, scatter and mean of each class, [classes, 2 + dim]: one tensor, as they merge together only.
        empty = torch.zeros(len(ids), 2 + dim, dtype=torch.float64, device=ids.device)
        self.add_state("samples", empty, dist_reduce_fx=_merged)

    @torch.inference_mode()  # so that a state that was reset in inference mode can be changed outside of it
    def update(self, features: Tensor, token_ids: Tensor) -> None:
        """Add a batch."""
        statistics = _statistics(self.class_ids, self.samples)
        self.samples[:, 0] = statistics.update(features, token_ids).counts

    def compute(self) -> dict[str, Tensor]:
        """The metrics of all samples so far on all ranks."""
        seen = _statistics(self.class_ids, self.samples).seen(self.min_count)
        rows = self.classifier()
        if len(rows) <= int(self.class_ids.max()):
            raise InputError(
                f"class_ids go up to {int(self.class_ids.max())}, the classifier has {len(rows)} rows: give the whole"
                " output embedding"
            )
        if len(seen.counts) < 2:  # nan under the same keys
            seen = ClassStatistics(self.class_ids[:2], rows.shape[1])
            seen.counts += 1
            seen.means += math.nan
        values = collapse_metrics(seen, rows[seen.class_ids])
        return {key: torch.tensor(value, device=self.device) for key, value in values.items()}


def _statistics(class_ids: Tensor, samples: Tensor) -> ClassStatistics:
    """Statistics that share means and scatter with the state [classes, 2 + dim]; the counts are copied."""
    statistics = ClassStatistics(class_ids, 0, dtype=samples.dtype)
    statistics.counts = samples[:, 0].long()
    statistics.scatter, statistics.means = samples[:, 1], samples[:, 2:]
    return statistics


def _merged(samples: Tensor) -> Tensor:
    """Merge several states, [states, classes, 2 + dim], into one."""
    ids = torch.arange(samples.shape[1], device=samples.device)
    whole, *others = (_statistics(ids, state) for state in samples)
    for other in others:
        whole.merge(other)
    samples[0, :, 0] = whole.counts
    return samples[0]


def _alike(class_ids: Tensor) -> Tensor:
    """Check that all states, [states, classes], have the same ids, and return them."""
    if (class_ids != class_ids[0]).any():
        raise InputError("the class_ids of two states differ: give each the same words")
    return class_ids[0]
