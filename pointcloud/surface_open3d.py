"""The two classic reconstructions of open3d: screened Poisson and ball pivoting. Both want oriented normals."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from .errors import PointCloudError
from .mesh import Mesh

MOST_DEPTH = 12  # octrees deeper than this take tens of gigabytes


def import_open3d(what: str = "this method", without: str = " (the methods gauss and alpha do not)") -> Any:
    """open3d, or an ImportError that says what needs it, which extra has it, and what works without."""
    try:
        return importlib.import_module("open3d")
    except ImportError as error:
        raise ImportError(f"{what} needs open3d: pip install 'trifold[open3d]'{without}") from error


def _cloud(open3d: Any, points: np.ndarray, normals: np.ndarray) -> Any:
    cloud = open3d.geometry.PointCloud()
    cloud.points = open3d.utility.Vector3dVector(points.astype(np.float64))
    cloud.normals = open3d.utility.Vector3dVector(normals.astype(np.float64))
    return cloud


def _mesh(result: Any, method: str, name: str) -> Mesh:
    result.remove_degenerate_triangles()
    result.remove_unreferenced_vertices()
    faces = np.asarray(result.triangles)
    if not len(faces):
        raise PointCloudError(f"{name or 'surface'}: {method} found no surface")
    return Mesh(np.asarray(result.vertices), faces.astype(np.int64), name)


def poisson_surface(points: np.ndarray, normals: np.ndarray, depth: int, *, trim: float, name: str = "") -> Mesh:
    """Screened Poisson reconstruction (Kazhdan and Hoppe 2013), octree `depth`, trimmed by density.

    normals: outward [N, 3]. trim: share of the vertices, those with the fewest points around, that are cut away with
    their faces; 0 keeps the closed surface, which bulges over gaps.
    """
    if not 2 <= depth <= MOST_DEPTH:
        raise PointCloudError(f"surface: an octree depth of {depth}; expected 2 to {MOST_DEPTH}")
    open3d = import_open3d()
    # One thread: the result of several depends on their order.
    result, density = open3d.geometry.TriangleMesh.create_from_point_cloud_poisson(
        _cloud(open3d, points, normals), depth=depth, n_threads=1
    )
    if trim > 0:
        density = np.asarray(density)
        result.remove_vertices_by_mask(density < np.quantile(density, trim))
    return _mesh(result, "Poisson reconstruction", name)


def ball_pivoting_surface(points: np.ndarray, normals: np.ndarray, radii: list[float], name: str = "") -> Mesh:
    """Ball pivoting (Bernardini et al. 1999) with balls of growing `radii`: triangles between the points themselves,
    open where no ball rests."""
    open3d = import_open3d()
    result = open3d.geometry.TriangleMesh.create_from_point_cloud_ball_pivoting(
        _cloud(open3d, points, normals), open3d.utility.DoubleVector(radii)
    )
    return _mesh(result, "ball pivoting", name)
