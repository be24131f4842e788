"""Neural collapse: class statistics, the metrics NC1 to NC4, and the (U)NC3 term."""

from equiframe.collapse.arrangement import (
    Equinormness,
    RieszEnergy,
    equinormness,
    etf_angles,
    hyperspherical_uniformity,
    riesz_energy,
)
from equiframe.collapse.duality import (
    decision_agreement,
    duality_cosines,
    duality_distance,
    self_duality,
    uniform_duality,
)
from equiframe.collapse.metrics import METRICS, CollapseMetric, about_collapse, collapse_metrics
from equiframe.collapse.pairwise import PairSummary
from equiframe.collapse.regularizer import UNC3Regularizer
from equiframe.collapse.statistics import ClassStatistics
from equiframe.collapse.variability import CDNV, cdnv

__all__ = [
    "CDNV",
    "METRICS",
    "ClassStatistics",
    "CollapseMetric",
    "Equinormness",
    "PairSummary",
    "RieszEnergy",
    "UNC3Regularizer",
    "about_collapse",
    "cdnv",
    "collapse_metrics",
    "decision_agreement",
    "duality_cosines",
    "duality_distance",
    "equinormness",
    "etf_angles",
    "hyperspherical_uniformity",
    "riesz_energy",
    "self_duality",
    "uniform_duality",
]
