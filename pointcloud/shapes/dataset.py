"""Procedural shapes as a data set of point clouds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import PointCloudError
from ..items import CloudItem
from ..sampling import sample_surface
from .generate import CATEGORIES, Shape, make_shape

SPLITS = ("train", "val", "test")
DEFAULT_SIZES = {"train": 60_000, "val": 600, "test": 1_200}
# A shape's seed is split * 2^48 + seed * 2^24 + index: no two data sets that differ in split or seed share a shape.
MOST_SHAPES = 1 << 24
MOST_SEEDS = 1 << 24


class ProceduralClouds:
    """A fixed, lazily built list of point clouds (a `CloudSource`): item i is of class i modulo the number of classes.

    split: train, val and test never share a shape, whatever the other settings.
    num_shapes: length, at most 2^24; by default 60,000 for train, 600 for val and 1,200 for test.
    classes: which categories, in the order of their labels.
    num_points: points a cloud, drawn anew for every item from its surface, with flat normals.
    seed: another one (0 to 2^24 - 1) is another set of shapes of the same kind: test with seed 1 is an independent
    second sample of the same distribution.
    drawing: another one is the same shapes with other points on them.

    Every item is decided by these alone: the same in every process, in any order of access.
    Points lie in a box about the origin with a longest side of 1; y is up, the front towards +z.
    """

    def __init__(
        self,
        split: Literal["train", "val", "test"] = "train",
        num_shapes: int | None = None,
        classes: Sequence[str] = CATEGORIES,
        num_points: int = 2048,
        seed: int = 0,
        drawing: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise PointCloudError(f"split: expected one of {', '.join(SPLITS)}, found {split!r}")
        num_shapes = DEFAULT_SIZES[split] if num_shapes is None else num_shapes
        if not 1 <= num_shapes <= MOST_SHAPES:
            raise PointCloudError(f"num_shapes: expected 1 to {MOST_SHAPES}, found {num_shapes}")
        unknown = [name for name in classes if name not in CATEGORIES]
        if unknown or not classes or isinstance(classes, str) or len(set(classes)) != len(classes):
            raise PointCloudError(f"classes: expected different ones of {', '.join(CATEGORIES)}, found {classes!r}")
        if num_points < 1:
            raise PointCloudError(f"num_points: expected 1 or more, found {num_points}")
        if not 0 <= seed < MOST_SEEDS:
            raise PointCloudError(f"seed: expected 0 to {MOST_SEEDS - 1}, found {seed}")
        if drawing < 0:
            raise PointCloudError(f"drawing: expected 0 or more, found {drawing}")
        self.split, self.num_shapes, self.num_points = split, num_shapes, num_points
        self.classes: tuple[str, ...] = tuple(classes)
        self.seed, self.drawing = seed, drawing

    def __len__(self) -> int:
        return self.num_shapes

    def shape_seed(self, index: int) -> int:
        """The seed of an item's shape, for `make_shape`."""
        if not 0 <= index < self.num_shapes:
            raise IndexError(f"shape index {index} outside 0 to {self.num_shapes - 1}")
        return (SPLITS.index(self.split) * MOST_SEEDS + self.seed) * MOST_SHAPES + index

    def shape(self, index: int) -> Shape:
        """The surface and the parameters behind an item."""
        return make_shape(self.classes[index % len(self.classes)], self.shape_seed(index))

    def __getitem__(self, index: int) -> CloudItem:
        shape = self.shape(index)
        # Beyond all shape seeds, so that every drawing has a stream of its own.
        points, normals = sample_surface(shape.mesh, self.num_points, (self.drawing << 50) + self.shape_seed(index))
        return CloudItem(points, normals, index % len(self.classes), shape.mesh.name)
