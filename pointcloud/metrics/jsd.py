"""Jensen-Shannon divergence of where two sets of clouds put their points (Achlioptas et al. 2018)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..errors import PointCloudError
from .inputs import Clouds, cloud_set
from .nearest import build_tree

Grid = Literal["fit", "original"]


def sphere_grid(resolution: int = 28) -> np.ndarray:
    """Grid points float32 [G, 3] of the cube [-0.5, 0.5]^3, `resolution` a side, that lie within the 0.5-sphere."""
    if resolution < 2:
        raise PointCloudError(f"resolution: expected at least 2, found {resolution}")
    ticks = np.arange(resolution, dtype=np.float64) / (resolution - 1) - 0.5
    corners = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)
    return corners[np.linalg.norm(corners, axis=1) <= 0.5]


def jensen_shannon_divergence(
    generated: Clouds, reference: Clouds, *, resolution: int = 28, grid: Grid = "fit"
) -> float:
    """JSD in bits, in [0, 1], between the sets' shares of points nearest to each point of `sphere_grid`.

    All clouds of a set count together, so this sees only the average shape. grid "fit": both sets are moved and scaled
    alike, so that the references' bounding box is centred and their farthest point lies on the 0.5-sphere. "original":
    coordinates are used as they are. Points outside the sphere count for the nearest cell of its border; the original
    feeds clouds of [-1, 1] to it, so that most of its published values measure borders.
    """
    sets = [np.concatenate(cloud_set(c, name)) for c, name in ((generated, "generated"), (reference, "reference"))]
    if grid == "fit":
        middle = (sets[1].min(0) + sets[1].max(0)) / 2
        radius = float(np.linalg.norm(sets[1] - middle, axis=1).max())
        if radius == 0:
            raise PointCloudError("reference: all points coincide; there is no scale to fit the grid to")
        sets = [(points - middle) * (0.5 / radius) for points in sets]
    elif grid != "original":
        raise PointCloudError(f'grid: expected "fit" or "original", found {grid!r}')
    cells = sphere_grid(resolution)
    tree = build_tree(cells)
    p, q = (np.bincount(tree.query(points, workers=-1)[1], minlength=len(cells)) / len(points) for points in sets)
    return max(0.0, entropy_bits((p + q) / 2) - (entropy_bits(p) + entropy_bits(q)) / 2)


def entropy_bits(shares: np.ndarray) -> float:
    """-sum p log2 p of shares that sum to 1."""
    positive = shares[shares > 0]
    return float(-(positive * np.log2(positive)).sum())
