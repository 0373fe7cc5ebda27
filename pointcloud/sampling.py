"""Points on a surface: independent, uniform by area, decided by a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import PointCloudError

if TYPE_CHECKING:
    from .mesh import Mesh

# Keeps the stream of points apart from every other stream that is opened with the same seed.
STREAM = 0x5A4D
# Below this share of the squared extent an area is rounding, not a surface.
LEAST_AREA = 1e-14


def sample_surface(mesh: Mesh, num_points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`num_points` independent points, uniform by area, with the flat normal of the face each lies on.

    A face is drawn by its share of the area, a point in it by (1 - sqrt(u)) A + sqrt(u) (1 - v) B + sqrt(u) v C
    with u, v uniform in [0, 1] (Osada et al., Shape Distributions, 2002, equation 1).

    Returns (points float32 [n, 3], normals float32 [n, 3] of unit length).
    Raises PointCloudError for a mesh whose area is nothing but rounding (all faces are points or lines), for
    `num_points` below 1 and for a negative seed.
    """
    name = f"mesh {mesh.name!r}" if mesh.name else "mesh"
    if num_points < 1:
        raise PointCloudError(f"num_points: expected 1 or more, found {num_points}")
    if seed < 0:
        raise PointCloudError(f"seed: expected 0 or more, found {seed}")
    edges = np.cumsum(mesh.face_areas)
    extent = float(np.ptp(mesh.bounds, axis=0).max())
    if edges[-1] <= LEAST_AREA * extent**2:
        raise PointCloudError(f"{name}: expected a surface to sample, found {len(mesh.faces)} faces of zero area")

    rng = np.random.default_rng([STREAM, seed])
    # Rounding may lift a draw to the very end, past the last face that has any area.
    chosen = np.searchsorted(edges, rng.random(num_points) * edges[-1], side="right")
    chosen = np.minimum(chosen, np.flatnonzero(mesh.face_areas)[-1])
    root, v = np.sqrt(rng.random(num_points)), rng.random(num_points)
    weights = np.stack([1 - root, root * (1 - v), root * v], axis=1)
    points = np.einsum("nk,nkc->nc", weights, mesh.vertices.astype(np.float64)[mesh.faces[chosen]])
    return points.astype(np.float32), mesh.face_normals[chosen]
