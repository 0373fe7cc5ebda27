"""From a cloud to a mesh: five methods behind one function, and the choice between them."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from .cloud import PointCloud
from .errors import PointCloudError
from .mesh import Mesh
from .orientation import (
    Dipoles,
    gauss_dipoles,
    point_areas,
    point_spacing,
    roughness,
)
from .surface_alpha import alpha_faces, alpha_normals
from .surface_field import field_normals, gauss_surface
from .surface_open3d import ball_pivoting_surface, import_open3d, poisson_surface

Method = Literal["auto", "gauss", "poisson", "ball_pivoting", "alpha"]
METHODS: tuple[str, ...] = get_args(Method)
FEWEST = 8
MOST_SOLVED, MOST_POINTS = 4096, 300_000
# In units of the points' spacing: the blur of gauss's dipoles, alpha's ball, and ball pivoting's three balls.
WIDTH = 0.6
ALPHA_RADIUS = 2.0
BALLS = (1.0, 2.0, 4.0)
POISSON_TRIM = 0.02
# Stiffness without smoothing: the blurred system is too nearly singular for none.
STIFFNESS = 0.08
# Roughness of exact points, and what noise that wants ten times the stiffness adds to it.
CALM, ROUGH = 0.09, 0.11
MOST_SMOOTHING = 3.0
LARGEST_RESOLUTION = 512
# Cells along the longest side when none are asked for: two for each spacing of the points, within these.
COARSE, FINE = 96, 192


def cloud_to_mesh(
    cloud: PointCloud,
    method: Method = "auto",
    *,
    resolution: int | None = None,
    radius: float | None = None,
    smoothing: float | None = None,
    max_points: int | None = None,
    use_normals: bool = True,
) -> Mesh:
    """A surface through a cloud, in the cloud's units.

    method:
    - "gauss": the indicator of the solid by the Gauss formula, solved for the normals too (`orientation.gauss_dipoles`,
      its signs helped by the alpha shape), then its level by surface nets. Always closed and watertight; keeps legs,
      wings and plates; forgives noise. Needs scipy only. Where the cloud has normals (outward ones are expected) they
      are used and the linear system is skipped.
    - "poisson": screened Poisson of open3d, trimmed where points are sparse. Open at gaps. Without normals, it and the
      next take those of gauss (`surface_field.field_normals`).
    - "ball_pivoting": of open3d; triangles between the points themselves. Open where no ball rests, torn by noise.
    - "alpha": alpha shape with its inside filled; triangles between the points themselves, closed (but sheets may meet
      in an edge), thickened by noise, and the fastest.
    - "auto": gauss, whichever extras are installed. Over seven shapes (scans, chairs, tables, lamps, airplanes, mugs)
      of 2048 points with noise of 1 % of their size its mean Chamfer distance was 0.92 % (poisson 1.02, ball_pivoting
      1.03, alpha 1.22), its F-score at 1 % 0.66 (0.65, 0.60, 0.44) and its agreement of normals 0.75 (0.66, 0.63,
      0.77); without noise 0.70 % (0.81, 0.63, 0.68). It alone was watertight every time. For exact points of sheets
      thinner than the points are apart, alpha is better.

    resolution: grid cells along the longest side, for gauss and poisson (whose octree has the next power of two). None:
    two for each spacing of the points, at least 96 and at most 192 (eight lamps, noise of 0.45 %: F-score at 1 % 0.83
    instead of the 0.81 of 96).
    radius: of the ball of alpha and ball_pivoting, None for one fit for the spacing of the points.
    smoothing: for gauss without normals, 0 to 3; 0 passes the points, 1 suits noise with a standard deviation of 0.4 of
    their spacing, None estimates it (`noise_smoothing`).
    max_points: clouds with more are thinned evenly, by the mean of each cell of a grid. None for 4096 where gauss has
    to find the normals, whose time grows with the cube (2 s at 2048, 15 s at 4096 on one core), else for 300,000.
    use_normals: False ignores the cloud's normals.

    Raises PointCloudError for fewer than 8 points, points in a plane or at one place, settings out of range, and clouds
    in which the method finds no surface; ImportError where scipy or open3d is missing.
    """
    name = cloud.name or "cloud"
    if method not in METHODS:
        raise PointCloudError(f"method: expected one of {', '.join(METHODS)}, found {method!r}")
    if resolution is not None and not 8 <= resolution <= LARGEST_RESOLUTION:
        raise PointCloudError(f"resolution: expected 8 to {LARGEST_RESOLUTION}, found {resolution}")
    if radius is not None and not (math.isfinite(radius) and radius > 0):
        raise PointCloudError(f"radius: expected a positive number, found {radius}")
    if smoothing is not None and not 0 <= smoothing <= MOST_SMOOTHING:
        raise PointCloudError(f"smoothing: expected 0 to {MOST_SMOOTHING:g}, found {smoothing}")
    if max_points is not None and max_points < FEWEST:
        raise PointCloudError(f"max_points: expected at least {FEWEST}, found {max_points}")
    points, normals = _solid(cloud, name, use_normals)
    solves = method in ("auto", "gauss") and normals is None
    points, normals = thinned(points, normals, max_points or (MOST_SOLVED if solves else MOST_POINTS))
    # Every method works in a box of side 1, whatever the cloud's unit.
    low, high = points.min(0), points.max(0)
    centre, scale = (low + high) / 2, float((high - low).max())
    unit = (points - centre) / scale
    spacing = point_spacing(unit)
    resolution = resolution or min(max(math.ceil(2 / spacing), COARSE), FINE)
    ball = radius / scale if radius is not None else None
    if method == "alpha":
        used, faces = np.unique(alpha_faces(unit, ball or ALPHA_RADIUS * spacing, name), return_inverse=True)
        return Mesh(points[used], faces.reshape(-1, 3), cloud.name)
    if method in ("auto", "gauss"):
        mesh = gauss_surface(_dipoles(unit, normals, spacing, smoothing), resolution, cloud.name)
    else:
        import_open3d()
        if normals is None:
            few = thinned(unit, None, MOST_SOLVED)[0]
            normals = field_normals(_dipoles(few, None, point_spacing(few), smoothing), unit)
        if method == "poisson":
            depth = max(3, math.ceil(math.log2(resolution)))
            mesh = poisson_surface(unit, normals, depth, trim=POISSON_TRIM, name=cloud.name)
        else:
            radii = [factor * (ball or spacing) for factor in BALLS]
            mesh = ball_pivoting_surface(unit, normals, radii, cloud.name)
    return Mesh(mesh.vertices.astype(np.float64) * scale + centre, mesh.faces, cloud.name)


def _solid(cloud: PointCloud, name: str, use_normals: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Different points float64 and their normals; refused where they cannot bound a solid."""
    points, rows = np.unique(cloud.points, axis=0, return_index=True)
    points = points.astype(np.float64)
    if len(points) < FEWEST:
        raise PointCloudError(f"{name}: {len(points)} different points; a surface needs at least {FEWEST}")
    spread = np.linalg.svd(points - points.mean(0), compute_uv=False) if len(points) < 100_000 else _spread(points)
    if spread[2] <= 1e-5 * spread[0]:
        shape = "plane" if spread[1] > 1e-5 * spread[0] else "line"
        raise PointCloudError(f"{name}: all points lie in a {shape}; no solid has them on its surface")
    if cloud.normals is None or not use_normals:
        return points, None
    normals = cloud.normals[rows].astype(np.float64)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    if not (length > 0).all():
        raise PointCloudError(f"{name}: {int((length == 0).sum())} normals are zero; use_normals=False ignores them")
    return points, normals / length


def _spread(points: np.ndarray) -> np.ndarray:
    centred = points - points.mean(0)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(centred.T @ centred)[::-1], 0))


def _dipoles(points: np.ndarray, normals: np.ndarray | None, spacing: float, smoothing: float | None) -> Dipoles:
    if normals is not None:
        return Dipoles(points, normals * point_areas(points)[:, None], spacing)
    if smoothing is None:
        smoothing = noise_smoothing(points)
    # Signs from the alpha shape, which sees thin sheets; everything else from the Gauss formula.
    guess = alpha_normals(points, ALPHA_RADIUS * spacing) * point_areas(points)[:, None]
    return gauss_dipoles(points, WIDTH * spacing, STIFFNESS * 10**smoothing, guess)


def noise_smoothing(points: np.ndarray) -> float:
    """A smoothing, 0 to 2, for the noise of a cloud [N, 3], from its roughness.

    The square makes up for roughness flattening out. Fitted on seven shapes of 2048 points with noise of 0, 1 and 2 %
    of their size, which is up to 0.7 of the spacing of the points.
    """
    return float(np.clip((roughness(points) - CALM) / ROUGH, 0.0, math.sqrt(2.0)) ** 2)


def thinned(points: np.ndarray, normals: np.ndarray | None, most: int) -> tuple[np.ndarray, np.ndarray | None]:
    """At most `most` points [N, 3], even in space: the means of the points, and directions of the sums of the normals,
    in the cells of the finest cubic grid that has no more occupied cells. Untouched where there are no more."""
    if len(points) <= most:
        return points, normals
    low, extent = points.min(0), float(np.ptp(points, axis=0).max())
    coarse, fine = 1.0, 4.0 * most
    for _ in range(16):
        middle = math.sqrt(coarse * fine)
        if len(np.unique(_cells(points, low, extent / middle))) <= most:
            coarse = middle
        else:
            fine = middle
    _, index, count = np.unique(_cells(points, low, extent / coarse), return_inverse=True, return_counts=True)

    def summed(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(index, values[:, k], len(count)) for k in range(3)], axis=1)

    if normals is None:
        return summed(points) / count[:, None], None
    total = summed(normals)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    kept = length[:, 0] > 1e-9  # where two sides of a sheet meet in a cell they cancel
    return (summed(points) / count[:, None])[kept], (total / np.maximum(length, 1e-9))[kept]


def _cells(points: np.ndarray, low: np.ndarray, side: float) -> np.ndarray:
    place = ((points - low) / side).astype(np.int64)
    high = place.max(0) + 1
    return (place[:, 0] * high[1] + place[:, 1]) * high[2] + place[:, 2]
