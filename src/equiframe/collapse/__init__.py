"""Neural collapse: class statistics, the metrics NC1 to NC4, and the (U)NC3 term."""

from equiframe.collapse.metrics import (
    CDNV,
    Equinormness,
    RieszEnergy,
    cdnv,
    collapse_metrics,
    decision_agreement,
    duality_cosines,
    duality_distance,
    equinormness,
    etf_angles,
    hyperspherical_uniformity,
    riesz_energy,
    self_duality,
    uniform_duality,
)
from equiframe.collapse.pairwise import PairSummary
from equiframe.collapse.regularizer import UNC3Regularizer
from equiframe.collapse.statistics import ClassStatistics

__all__ = [
    "CDNV",
    "ClassStatistics",
    "Equinormness",
    "PairSummary",
    "RieszEnergy",
    "UNC3Regularizer",
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
