"""Metrics of clouds and of sets of clouds: exact, on the CPU, with nothing to compile."""

from .chamfer import chamfer, chamfer_matrix
from .emd import emd, emd_matrix
from .generation import (
    NeighbourAccuracy,
    SetDistances,
    coverage,
    minimum_matching_distance,
    nearest_neighbour_accuracy,
    sample_matching_distance,
)
from .jsd import jensen_shannon_divergence
from .legacy_emd import emd_pointflow, emd_pvd, legacy_emd_matrix
from .local import FScore, density_aware_chamfer, density_aware_matrix, f_score, normal_concordance
from .original import original_knn, original_summary
from .parallel import Progress
from .pruned import NearestEmd, SearchProgress, nearest_emd
from .report import Evaluation, Score, evaluate_sets, summary_table

__all__ = [
    "Evaluation",
    "FScore",
    "NearestEmd",
    "NeighbourAccuracy",
    "Progress",
    "Score",
    "SearchProgress",
    "SetDistances",
    "chamfer",
    "chamfer_matrix",
    "coverage",
    "density_aware_chamfer",
    "density_aware_matrix",
    "emd",
    "emd_matrix",
    "emd_pointflow",
    "emd_pvd",
    "evaluate_sets",
    "f_score",
    "jensen_shannon_divergence",
    "legacy_emd_matrix",
    "minimum_matching_distance",
    "nearest_emd",
    "nearest_neighbour_accuracy",
    "normal_concordance",
    "original_knn",
    "original_summary",
    "sample_matching_distance",
    "summary_table",
]
