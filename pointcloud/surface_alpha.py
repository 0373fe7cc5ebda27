"""Alpha shape of a cloud with its inside filled, on scipy's Delaunay tetrahedra."""

from __future__ import annotations

import numpy as np

from .errors import PointCloudError
from .orientation import import_scipy


def alpha_faces(points: np.ndarray, radius: float, name: str = "") -> np.ndarray:
    """Faces [F, 3] between `points` [N, 3]: the boundary of what a ball of `radius` cannot enter from outside without
    swallowing a point.

    Of the Delaunay tetrahedra those are outside which are reached from infinity through triangles whose circumcircle is
    wider than the ball (Edelsbrunner and Mücke 1994 for the criterion; a plain alpha shape would keep the empty inside
    of a sampled surface as a second, inner boundary). The mesh passes through the points themselves, noise included.
    Closed, but several sheets may meet in an edge.

    Raises PointCloudError for fewer than four points, flat clouds, and a radius so small that nothing stays.
    """
    spatial, sparse = import_scipy().spatial, import_scipy().sparse
    if len(points) < 4:
        raise PointCloudError(f"{name or 'surface'}: {len(points)} points; a solid needs at least 4")
    points = points.astype(np.float64)
    try:
        delaunay = spatial.Delaunay(points)
    except spatial.QhullError as error:
        raise PointCloudError(f"{name or 'surface'}: the points lie in a plane or a line; no solid") from error
    tetrahedra, neighbours = delaunay.simplices.astype(np.int64), delaunay.neighbors.astype(np.int64)
    count = len(tetrahedra)
    # Triangle k of a tetrahedron lies opposite its corner k and borders neighbour k (-1 at the hull).
    triangles = tetrahedra[:, [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]]
    open_side = _circumradius(points[triangles]) > radius
    own = np.repeat(np.arange(count)[:, None], 4, axis=1)
    beyond = np.where(neighbours < 0, count, neighbours)
    graph = sparse.coo_matrix(
        (np.ones(int(open_side.sum()), dtype=np.int8), (own[open_side], beyond[open_side])),
        shape=(count + 1, count + 1),
    )
    part = sparse.csgraph.connected_components(graph, directed=False)[1]
    outside = part == part[count]
    border = ~outside[own] & outside[beyond]
    if not border.any():
        raise PointCloudError(f"{name or 'surface'}: a ball of radius {radius:.3g} passes everywhere; use a larger one")
    faces, apex = triangles[border], tetrahedra[border]
    a, b, c = points[faces].swapaxes(0, 1)
    looks_in = np.einsum("fi,fi->f", np.cross(b - a, c - a), points[apex] - a) > 0
    faces[looks_in] = faces[looks_in][:, ::-1]
    return faces


def alpha_normals(points: np.ndarray, radius: float) -> np.ndarray:
    """Outward unit normals float64 [N, 3] of the points on the alpha shape; zero for those inside it, and for all where
    there is no such solid.

    What a ball can reach is outside whatever lies beyond: the two sides of a thin sheet are told apart as long as they
    are not one to the ball.
    """
    try:
        faces = alpha_faces(points, radius)
    except PointCloudError:
        # A cloud without an alpha solid, for example a sheet that is open, is no fault: nothing is known then.
        return np.zeros((len(points), 3))
    a, b, c = points[faces].swapaxes(0, 1)
    corners, vectors = faces.ravel(), np.repeat(np.cross(b - a, c - a), 3, axis=0)
    total = np.stack([np.bincount(corners, vectors[:, k], len(points)) for k in range(3)], axis=1)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return total / np.where(length > 0, length, 1)


def _circumradius(corners: np.ndarray) -> np.ndarray:
    """Radius of the circle through three points: corners [..., 3, 3] -> [...]; infinite for points on a line."""
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    sides = np.linalg.norm(b - a, axis=-1) * np.linalg.norm(c - b, axis=-1) * np.linalg.norm(a - c, axis=-1)
    twice = np.linalg.norm(np.cross(b - a, c - a), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(twice > 0, sides / (2 * twice), np.inf)
