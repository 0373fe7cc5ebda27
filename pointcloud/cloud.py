"""One cloud of points: checked arrays, files by suffix, subsets by seed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import PointCloudError

if TYPE_CHECKING:
    from .mesh import Mesh
    from .surface import Method

# Keeps the stream of subsets apart from every other stream that is opened with the same seed.
STREAM = 0xC10D


def checked_vectors(values: Any, where: str) -> np.ndarray:
    """`values` as a contiguous float32 array [N, 3]; the array itself where it already is one.

    Raises PointCloudError naming `where` for another shape, no rows, no numbers, and NaN, infinity or a number
    beyond the float32 range.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise PointCloudError(f"{where}: expected numbers [N, 3], found rows of unequal length") from error
    if array.dtype.kind not in "fiu":
        raise PointCloudError(f"{where}: expected real numbers, found {array.dtype}")
    if array.ndim != 2 or array.shape[1] != 3:
        raise PointCloudError(f"{where}: expected [N, 3], found {list(array.shape)}")
    if not len(array):
        raise PointCloudError(f"{where}: expected at least one point, found none")
    with np.errstate(over="ignore"):  # becomes infinity, which is refused below
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        finite = np.isfinite(array).all(axis=1)
        row = int(np.argmin(finite))
        count = len(array) - int(finite.sum())
        raise PointCloudError(
            f"{where}: {count} of {len(array)} points are not finite float32 numbers (row {row} is {array[row]})"
        )
    return array


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points in space, in no order that means anything.

    points: float32 [N, 3], N >= 1, finite, in the units and axes of whoever made them.
    normals: float32 [N, 3] or None; one direction a point, unit length where it is known.
    name: for messages and file names.

    Raises PointCloudError for arrays that are empty, misshapen or not finite. Other number types are converted.
    """

    points: np.ndarray
    normals: np.ndarray | None = None
    name: str = ""

    def __post_init__(self) -> None:
        where = self.name or "cloud"
        object.__setattr__(self, "points", checked_vectors(self.points, f"{where}: points"))
        if self.normals is not None:
            normals = checked_vectors(self.normals, f"{where}: normals")
            if len(normals) != len(self.points):
                raise PointCloudError(f"{where}: {len(normals)} normals for {len(self.points)} points")
            object.__setattr__(self, "normals", normals)

    @property
    def num_points(self) -> int:
        """N."""
        return len(self.points)

    def subsampled(self, num_points: int, seed: int) -> PointCloud:
        """`num_points` different points of this cloud in random order, decided by `seed`; all of them as they are
        for `num_points` equal to N.

        Raises PointCloudError for fewer than 1 or more than N points.
        """
        if not 1 <= num_points <= self.num_points:
            raise PointCloudError(
                f"{self.name or 'cloud'}: num_points: expected 1 to {self.num_points}, found {num_points}"
            )
        if num_points == self.num_points:
            return self
        rows = np.random.default_rng([STREAM, seed]).choice(self.num_points, num_points, replace=False)
        return PointCloud(self.points[rows], None if self.normals is None else self.normals[rows], self.name)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cloud, whole or not at all: .ply .obj .xyz .npy .npz or .glb, normals included.

        Raises PointCloudError for another suffix and for a file that cannot be written.
        """
        from .cloud_files import write_cloud

        write_cloud(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, num_points: int | None = None, seed: int = 0) -> PointCloud:
        """Read a cloud: the suffixes of `save`, .gltf, .pts, .txt, .pcd (which needs open3d), and .off without faces.
        The name is the file's.

        A file that holds a surface needs `num_points`: so many points are then drawn from it, uniform by area; a
        cloud with more points than `num_points` is subsampled, one with fewer is an error.

        Raises PointCloudError naming the file: missing, unreadable, empty, not finite, a surface without `num_points`.
        """
        from .cloud_files import read_geometry
        from .sampling import sample_surface

        found = read_geometry(path)
        if isinstance(found, PointCloud):
            return found if num_points is None else found.subsampled(num_points, seed)
        if num_points is None:
            raise PointCloudError(
                f"{path}: expected points, found a surface of {len(found.faces)} faces; say num_points to sample it"
            )
        points, normals = sample_surface(found, num_points, seed)
        return cls(points, normals, found.name)

    def to_mesh(
        self,
        method: Method = "auto",
        *,
        resolution: int | None = None,
        radius: float | None = None,
        smoothing: float | None = None,
        max_points: int | None = None,
        use_normals: bool = True,
    ) -> Mesh:
        """A surface through the points; `surface.cloud_to_mesh` says what the settings mean."""
        from .surface import cloud_to_mesh

        return cloud_to_mesh(
            self,
            method,
            resolution=resolution,
            radius=radius,
            smoothing=smoothing,
            max_points=max_points,
            use_normals=use_normals,
        )
