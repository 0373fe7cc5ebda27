"""What a metric accepts as a cloud or a set of clouds, and how it is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ..errors import PointCloudError


class HasPoints(Protocol):
    """A cloud of this package, or an item of one of its sources."""

    @property
    def points(self) -> np.ndarray: ...


Cloud = np.ndarray | Tensor | HasPoints
Clouds = np.ndarray | Tensor | Sequence[Cloud]  # [S, N, 3], or S clouds of any sizes


def cloud_points(cloud: Cloud, name: str = "cloud") -> np.ndarray:
    """float64 [N, 3], contiguous. Raises `PointCloudError` naming `name` unless it holds N >= 1 finite points."""
    values: Any = cloud if isinstance(cloud, (np.ndarray, Tensor)) else getattr(cloud, "points", cloud)
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    points = np.asarray(values)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise PointCloudError(f"{name}: expected numbers [N, 3], found {points.dtype} {list(points.shape)}")
    if len(points) == 0:
        raise PointCloudError(f"{name}: no points; expected at least one")
    points = np.ascontiguousarray(points, dtype=np.float64)
    bad = int((~np.isfinite(points)).any(1).sum())
    if bad:
        raise PointCloudError(f"{name}: {bad} of {len(points)} points are not finite")
    return points


def cloud_set(clouds: Clouds, name: str = "clouds") -> list[np.ndarray]:
    """A list of float64 [N_i, 3]. Raises `PointCloudError` if there is none, or naming the cloud that is wrong."""
    if isinstance(clouds, (np.ndarray, Tensor)) and clouds.ndim != 3:
        raise PointCloudError(f"{name}: expected [S, N, 3] or a sequence of clouds, found {list(clouds.shape)}")
    checked = [cloud_points(cloud, f"{name}[{i}]") for i, cloud in enumerate(clouds)]
    if not checked:
        raise PointCloudError(f"{name}: no clouds; expected at least one")
    return checked
