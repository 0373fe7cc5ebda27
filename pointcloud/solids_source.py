"""Shapes stored as oriented boxes or as voxels: points are drawn from the surface of their union."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .errors import PointCloudError
from .items import SURFACE_POINTS, Split, StoredClouds, check_split, choose_classes
from .npz_source import column, read_arrays, split_rows

MODELNET10 = ("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet")
THINNEST = 1e-3  # a box of no thickness has sides of no area, and points on it would all lie inside its neighbours
NEAR_COPY = 0.9  # overlap (IoU) with a training shape from which a shape is no test of anything new


class BoxClouds(StoredClouds):
    """Shapes made of oriented boxes: `cuboids` [sum of count, 15] = centre, dims, right, top, front (a corner is
    centre +- dims / 2 along the axes), `count` [S], `split` 0 train or 1 val, optional `ids`, `unique`, `val_near_iou`.

    Points lie on the outside of the union, uniform by area, with normals. The one class is named by the file
    ("chair_cuboids.npz": chair). Where `val_near_iou` tells how much a val shape overlaps the nearest training shape,
    the split "test" is the val shapes below 0.9.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: Split = "train",
        *,
        classes: Sequence[str] | None = None,
        num_points: int | None = 2048,
        seed: int = 0,
    ) -> None:
        self.path = Path(path)
        arrays = read_arrays(self.path)
        try:
            cuboids, count = arrays["cuboids"], arrays["count"].astype(np.int64)
        except KeyError as error:
            raise PointCloudError(f"{path}: expected the array {error}, found {', '.join(arrays)}") from error
        if cuboids.ndim != 2 or cuboids.shape[1] != 15 or count.ndim != 1 or count.sum() != len(cuboids):
            raise PointCloudError(
                f"{path}: expected cuboids [{count.sum()}, 15] for their count, found {list(cuboids.shape)}"
            )
        self._cuboids, self._starts = cuboids, np.concatenate([[0], np.cumsum(count)])
        ids = column(arrays, "ids", len(count), self.path)
        names = [str(i) for i in range(len(count))] if ids is None else [str(name) for name in ids]
        near = column(arrays, "val_near_iou", len(count), self.path)
        rows = split_rows(
            arrays, names, "val" if split == "test" and near is not None else split, {0: "train", 1: "val"}, self.path
        )
        self._rows = rows if split != "test" or near is None else [i for i in rows if near[i] < NEAR_COPY]
        chosen = choose_classes([self.path.stem.removesuffix("_cuboids")], classes, str(path))
        super().__init__(
            f"{path} ({split})", chosen, [names[i] for i in self._rows], [0] * len(self._rows), num_points, seed
        )

    def _read(self, index: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        row = self._rows[index]
        boxes = self._cuboids[self._starts[row] : self._starts[row + 1]]
        try:
            return sample_boxes(boxes, self.num_points or SURFACE_POINTS, seed)
        except PointCloudError as error:
            raise PointCloudError(f"{self.where}: {self.names[index]}: {error}") from error


def sample_boxes(boxes: np.ndarray, num_points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on the outside of a union of boxes [K, 15] (see `BoxClouds`), uniform by area, and their normals.

    Returns float32 [num_points, 3] each. Raises PointCloudError for no boxes, numbers that are not finite, and a union
    that shows almost no outside.
    """
    if not len(boxes) or not np.isfinite(boxes).all():
        raise PointCloudError(f"expected boxes [K, 15] of finite numbers, found {list(boxes.shape)}")
    values = boxes.astype(np.float64)
    centre, dims, axes = values[:, :3], np.maximum(values[:, 3:6], THINNEST), values[:, 6:].reshape(-1, 3, 3)
    areas = np.repeat(np.prod(dims, axis=1, keepdims=True) / dims, 2, axis=1)  # two faces across each axis
    chance = areas.ravel() / areas.sum()
    rng = np.random.default_rng(seed)
    points, normals, got = [], [], 0
    for _ in range(64):
        face = rng.choice(chance.size, 3 * num_points, p=chance)
        box, axis, side = face // 6, face % 6 // 2, np.where(face % 2, -0.5, 0.5)
        local = rng.uniform(-0.5, 0.5, (len(face), 3))
        local[np.arange(len(face)), axis] = side
        at = centre[box] + np.einsum("nk,nkc->nc", local * dims[box], axes[box])
        inside = np.zeros(len(face), dtype=bool)
        for k in range(len(boxes)):
            within = (np.abs((at - centre[k]) @ axes[k].T) < dims[k] / 2 - 1e-4).all(axis=1)
            inside |= within & (box != k)
        points.append(at[~inside])
        normals.append((axes[box, axis] * np.sign(side)[:, None])[~inside])
        got += len(points[-1])
        if got >= num_points:
            break
    else:
        raise PointCloudError(
            f"only {got} of {64 * 3 * num_points} points drawn lie on the outside of {len(boxes)} boxes"
        )
    at, normal = (np.concatenate(parts)[:num_points].astype(np.float32) for parts in (points, normals))
    return at, normal


class VoxelClouds(StoredClouds):
    """Shapes as bits of a cube: `X_train`, `X_test` uint8 [S, D^3 / 8], `y_train`, `y_test` labels, optional `classes`
    (by default the ten of ModelNet10).

    Points lie on the exposed faces of the voxels, uniform by area, with normals; the cube is [-1, 1]. Test shapes
    whose bits equal a training shape's are left out.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: Split = "train",
        *,
        classes: Sequence[str] | None = None,
        num_points: int | None = 2048,
        seed: int = 0,
    ) -> None:
        self.path = Path(path)
        arrays = read_arrays(self.path)
        found = [str(name) for name in arrays.get("classes", np.array(MODELNET10))]
        chosen = choose_classes(found, classes, str(path))
        parts = [part for part in ("train", "test") if f"X_{part}" in arrays]
        check_split(split, parts, str(path))
        trained: set[bytes] = set()
        rows: list[tuple[str, int, np.ndarray]] = []  # name, label, bits
        for part in parts:
            packed, kinds = self._part(arrays, part, len(found))
            if part == "train":
                trained.update(bits.tobytes() for bits in packed)
            if split in ("all", part):
                rows += [
                    (f"{part}/{i}", chosen.index(found[kind]), bits)
                    for i, (kind, bits) in enumerate(zip(kinds.tolist(), packed, strict=True))
                    if found[kind] in chosen and (part == "train" or bits.tobytes() not in trained)
                ]
        self._bits = [bits for _, _, bits in rows]
        names, labels = [name for name, _, _ in rows], [label for _, label, _ in rows]
        super().__init__(f"{path} ({split})", chosen, names, labels, num_points, seed)

    def _part(self, arrays: Mapping[str, np.ndarray], part: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
        packed = arrays[f"X_{part}"]
        kinds = column(arrays, f"y_{part}", len(packed), self.path)
        if packed.ndim != 2 or packed.dtype != np.uint8 or _side(packed.shape[1]) ** 3 != 8 * packed.shape[1]:
            found = f"{packed.dtype} {list(packed.shape)}"
            raise PointCloudError(f"{self.path}: X_{part}: expected bits of cubes, uint8 [S, D^3 / 8], found {found}")
        if kinds is None or kinds.dtype.kind not in "iu" or ((kinds < 0) | (kinds >= num_classes)).any():
            raise PointCloudError(f"{self.path}: y_{part}: expected one label of 0 to {num_classes - 1} for each shape")
        return packed, kinds

    def _read(self, index: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        side = _side(self._bits[index].size)
        solid = np.unpackbits(self._bits[index]).reshape(side, side, side).astype(bool)
        if not solid.any():
            raise PointCloudError(f"{self.where}: {self.names[index]}: no voxel is set")
        return sample_voxels(solid, self.num_points or SURFACE_POINTS, seed)


def _side(num_bytes: int) -> int:
    return round((8 * num_bytes) ** (1 / 3))


def sample_voxels(solid: np.ndarray, num_points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on the exposed faces of a bool grid [D, D, D] with any voxel set, uniform by area, and their normals.

    Returns float32 [num_points, 3] each; the grid fills [-1, 1].
    """
    padded = np.pad(solid, 1)
    voxels, axes, sides = [], [], []
    for axis in range(3):
        for side in (1, -1):
            neighbour = np.roll(padded, -side, axis=axis)[1:-1, 1:-1, 1:-1]
            exposed = np.argwhere(solid & ~neighbour)
            voxels.append(exposed)
            axes.append(np.full(len(exposed), axis))
            sides.append(np.full(len(exposed), side))
    at, axis, side = np.concatenate(voxels), np.concatenate(axes), np.concatenate(sides)
    rng = np.random.default_rng(seed)
    face, rows = rng.integers(0, len(at), num_points), np.arange(num_points)
    inside = rng.uniform(0, 1, (num_points, 3))
    inside[rows, axis[face]] = side[face] > 0
    normals = np.zeros((num_points, 3), dtype=np.float32)
    normals[rows, axis[face]] = side[face]
    points = (at[face] + inside) * (2 / len(solid)) - 1
    return points.astype(np.float32), normals
