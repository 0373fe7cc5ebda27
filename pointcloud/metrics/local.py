"""Measures of local agreement between two clouds: density, surface direction, and points within a tolerance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import PointCloudError
from ..orientation import plane_normals
from .inputs import Cloud, Clouds, cloud_points, cloud_set
from .nearest import Reduction, directed_matrix, nearest
from .parallel import ProgressCallback


def _crowding(alpha: float) -> Reduction:
    if not alpha > 0:
        raise PointCloudError(f"alpha: expected above 0, found {alpha}")

    def mean(distances: np.ndarray, indices: np.ndarray) -> float:
        sharing = np.bincount(indices)[indices]
        return float(1.0 - (np.exp(-alpha * distances**2) / sharing).mean())

    return mean


def density_aware_chamfer(a: Cloud, b: Cloud, *, alpha: float = 1000.0) -> float:
    """DCD in [0, 1] (Wu et al., Density-aware Chamfer Distance, 2021); 0 for equal clouds without double points.

    Half of the mean over a of 1 - exp(-alpha d^2) / n, where d is the distance to the nearest point of b and n the
    number of points of a with that same nearest point, plus half of the same from b to a. The squared distance and
    alpha = 1000, for clouds about 1 across, are those of the authors' code. For clouds of different sizes, where the
    authors' factor leaves [0, 1], this keeps n as it is. It saturates: clouds much farther apart than
    1 / sqrt(alpha) all score near 1.
    """
    first, second = cloud_points(a, "a"), cloud_points(b, "b")
    reduce = _crowding(alpha)
    return 0.5 * (reduce(*nearest(first, second)) + reduce(*nearest(second, first)))


def density_aware_matrix(
    rows: Clouds,
    columns: Clouds | None = None,
    *,
    alpha: float = 1000.0,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> np.ndarray:
    """`density_aware_chamfer` of every pair: float64 [R, C]; columns None: rows against themselves, symmetric."""
    first, reduce = cloud_set(rows, "rows"), _crowding(alpha)
    if columns is None:
        forth = directed_matrix(first, first, reduce, workers=workers, progress=progress)
        return 0.5 * (forth + forth.T)
    second = cloud_set(columns, "columns")
    forth = directed_matrix(first, second, reduce, workers=workers, progress=progress)
    return 0.5 * (forth + directed_matrix(second, first, reduce, workers=workers, progress=progress).T)


def _unit_normals(normals: np.ndarray | None, points: np.ndarray, neighbours: int, name: str) -> np.ndarray:
    if normals is None:
        if len(points) < 3:
            raise PointCloudError(f"{name}: {len(points)} points span no planes; expected 3 or more, or normals")
        return plane_normals(points, neighbours)
    given = np.asarray(normals, dtype=np.float64)
    lengths = np.linalg.norm(given, axis=-1, keepdims=True)
    if given.shape != points.shape or not np.isfinite(given).all() or not lengths.all():
        expected = f"expected finite non-zero normals {list(points.shape)}"
        raise PointCloudError(f"{name}: {expected}, found {list(given.shape)}, or some are zero or not finite")
    return given / lengths


def normal_concordance(
    a: Cloud,
    b: Cloud,
    *,
    normals_a: np.ndarray | None = None,
    normals_b: np.ndarray | None = None,
    neighbours: int = 16,
) -> float:
    """Mean |cos| between a point's normal and that of its nearest point in the other cloud, over both ways; in [0, 1].

    1 where surfaces run the same way, 0.5 for unrelated directions. Normals [N, 3] need not be of unit length, their
    sign does not matter; where not given they are the normals of planes through `neighbours` nearest points
    (`plane_normals`). Follows the idea of Bastico et al., Rethinking Metrics and Diffusion Architecture for 3D Point
    Cloud Generation, 2025 (arXiv 2511.05308); this definition is our own.
    """
    first, second = cloud_points(a, "a"), cloud_points(b, "b")
    n = _unit_normals(normals_a, first, neighbours, "normals_a")
    m = _unit_normals(normals_b, second, neighbours, "normals_b")
    forth = np.abs(np.einsum("ni,ni->n", n, m[nearest(first, second)[1]])).mean()
    back = np.abs(np.einsum("ni,ni->n", m, n[nearest(second, first)[1]])).mean()
    return float(forth + back) / 2


@dataclass(frozen=True)
class FScore:
    """precision: share of a within the threshold of b; recall: share of b within it of a; score: harmonic mean."""

    score: float
    precision: float
    recall: float


def f_score(a: Cloud, b: Cloud, threshold: float) -> FScore:
    """F-score of cloud a against cloud b at a distance (Knapitsch et al. 2017; Tatarchenko et al. 2019, who advise 1 %
    of the side of the object's box). Points at exactly the threshold count as within it."""
    if not threshold > 0:
        raise PointCloudError(f"threshold: expected above 0, found {threshold}")
    first, second = cloud_points(a, "a"), cloud_points(b, "b")
    precision = float((nearest(first, second)[0] <= threshold).mean())
    recall = float((nearest(second, first)[0] <= threshold).mean())
    total = precision + recall
    return FScore(2 * precision * recall / total if total > 0 else 0.0, precision, recall)
