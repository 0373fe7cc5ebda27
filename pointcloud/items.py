"""What every source of clouds shares: items, splits, classes, seeds by name, a fixed number of points."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from .cloud import checked_vectors
from .errors import PointCloudError

Split = Literal["train", "val", "test", "all"]
SPLITS = ("train", "val", "test")
SPLIT_NAMES: Mapping[str, str] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

SURFACE_POINTS = 2048
"""Points drawn from a surface where the caller keeps every cloud at its own size."""
MOST_POINTS = 1_000_000
"""A stored cloud above this size is subsampled even where every cloud keeps its own size."""


@dataclass(frozen=True, eq=False)
class CloudItem:
    """One training cloud. points: float32 [n, 3]; normals: float32 [n, 3] or None; label: index into the source's
    classes; name: unique in the source, the same on every machine."""

    points: np.ndarray
    normals: np.ndarray | None
    label: int
    name: str


class CloudSource(Protocol):
    """Anything that hands out clouds by number; item i is the same each time. IndexError beyond the last."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> CloudItem: ...


class StoredClouds:
    """A source over an index of names and labels that is read one cloud at a time; readers add `_read`.

    classes: names of the labels. names, labels: one of each a cloud, known without reading any cloud. num_points: every
    item has exactly so many points (see `fixed_size`), or None: each cloud keeps its own size.
    Pickles and forks freely: no file stays open.
    """

    def __init__(
        self,
        where: str,
        classes: Sequence[str],
        names: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        num_points: int | None,
        seed: int,
    ) -> None:
        if num_points is not None and num_points < 1:
            raise PointCloudError(f"num_points: expected 1 or more, or None, found {num_points}")
        if not names:
            raise PointCloudError(f"{where}: holds no clouds")
        self.where, self.classes, self.names = where, tuple(classes), list(names)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.num_points, self.seed = num_points, seed

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> CloudItem:
        if not 0 <= index < len(self):  # else a loop over the source would never end
            raise IndexError(f"cloud {index} of {len(self)}")
        name = self.names[index]
        label, seed = f"{self.where}: {name}", item_seed(self.seed, name)
        points, normals = self._read(index, seed)
        points = checked_vectors(points, label)
        if normals is not None:
            normals = checked_vectors(normals, f"{label}: normals")
            if len(normals) != len(points):
                raise PointCloudError(f"{label}: {len(normals)} normals for {len(points)} points")
        points, normals = fixed_size(points, normals, self.num_points, seed, label)
        return CloudItem(points, normals, int(self.labels[index]), name)

    def _read(self, index: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Points and normals of one cloud as they are stored; `seed` is the item's own, for those drawn anew."""
        raise NotImplementedError


def item_seed(seed: int, name: str) -> int:
    """A 63-bit seed of one item, a function of the source's seed and the item's name alone: neither the order of the
    items nor what else is in the data set changes it."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()) >> 1


def fixed_size(
    points: np.ndarray, normals: np.ndarray | None, num_points: int | None, seed: int, where: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Exactly `num_points` points: those stored if they are so many; different ones of them, drawn by `seed`, if there
    are more; each of them equally often (up to one) if there are fewer, with a warning.

    With None a cloud keeps its points; one of more than a million is subsampled to a million, with a warning.
    """
    stored = len(points)
    if stored > MOST_POINTS and stored != num_points:
        kept = min(stored, num_points or MOST_POINTS)
        warnings.warn(f"{where}: {stored:,} points; {kept:,} of them are drawn (seed {seed})", stacklevel=3)
    wanted = num_points or min(stored, MOST_POINTS)
    if wanted == stored:
        return points, normals
    rng = np.random.default_rng(seed)
    rows = rng.choice(stored, wanted % stored if wanted > stored else wanted, replace=False)
    if wanted > stored:
        warnings.warn(
            f"some clouds have fewer than the {wanted} points asked for (as {where}: {stored}); points are repeated",
            stacklevel=3,
        )
        rows = np.concatenate([np.tile(np.arange(stored), wanted // stored), rows])
    return points[rows], None if normals is None else normals[rows]


def choose_classes(
    found: Sequence[str], wanted: Sequence[str] | None, where: str, aliases: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The classes of a selection in the order they were asked for, which is the order of the labels; all of `found`
    for None. `aliases` maps other names to those in `found`.

    Raises PointCloudError for none, a class asked for twice, and one that is unknown, with the list of the known.
    """
    if wanted is None:
        return tuple(found)
    if isinstance(wanted, str):
        raise PointCloudError(f"classes: expected a list of names, found the text {wanted!r}")
    names = tuple((aliases or {}).get(name, name) for name in wanted)
    if unknown := [name for name in names if name not in found]:
        raise PointCloudError(f"{where}: no class {', '.join(map(repr, unknown))}; known: {', '.join(found)}")
    if not names or len(set(names)) != len(names):
        raise PointCloudError(f"classes: expected at least one, each once, found {', '.join(names) or 'none'}")
    return names


def check_split(split: str, found: Sequence[str], where: str) -> None:
    """Raises PointCloudError for a word that is no split and for a split that is not among those found."""
    if split not in (*SPLITS, "all"):
        raise PointCloudError(f"split: expected one of {', '.join(SPLITS)}, all; found {split!r}")
    if split != "all" and split not in found:
        raise PointCloudError(f"{where}: has no {split!r} split; found: {', '.join(dict.fromkeys(found)) or 'none'}")


def split_by_name(name: str) -> str:
    """The split of an item in data that has none of its own: by a hash of its name 80 % train, 10 % val, 10 % test.

    An item stays where it is when others are added.
    """
    place = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, person=b"split").digest()) / 2**64
    return "train" if place < 0.8 else "val" if place < 0.9 else "test"
