"""Opening data sets of clouds by what lies at a path, and keeping what was read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ..common.weights import replaced_file
from .errors import PointCloudError
from .folder_source import FolderClouds
from .items import (
    SURFACE_POINTS,
    CloudItem,
    CloudSource,
    Split,
    StoredClouds,
    choose_classes,
    item_seed,
    split_by_name,
)
from .npz_source import NpzClouds, array_names
from .pc15k import Pc15kClouds, is_pc15k
from .shapenet_hdf5 import ShapeNetHdf5, luo_hu_order
from .solids_source import BoxClouds, VoxelClouds

__all__ = [
    "PROCEDURAL",
    "BoxClouds",
    "CloudItem",
    "CloudSource",
    "FolderClouds",
    "NpzClouds",
    "Pc15kClouds",
    "ShapeNetHdf5",
    "Split",
    "StoredClouds",
    "TurnedClouds",
    "VoxelClouds",
    "cached",
    "item_seed",
    "luo_hu_order",
    "open_source",
    "split_by_name",
]

PROCEDURAL = "procedural"


def open_source(
    spec: str | os.PathLike[str],
    *,
    split: Split = "train",
    classes: Sequence[str] | None = None,
    num_points: int | None = 2048,
    seed: int = 0,
    up: Literal["y", "z"] = "y",
) -> CloudSource:
    """The data set that `spec` names:

    "procedural"                         shapes made on the spot (a folder of that name is `./procedural`)
    a .h5 or .hdf5 file                  `ShapeNetHdf5`, the file of Luo & Hu
    a folder of 15,000-point npy files   `Pc15kClouds`, the protocol of PointFlow, PVD and LION
    any other folder                     `FolderClouds`: ModelNet OFF trees, meshes and clouds of all kinds
    a .npz file                          `NpzClouds` (points), `BoxClouds` (cuboids) or `VoxelClouds` (X_train, y_train)
    a .npy file [S, N, 3]                `NpzClouds`

    classes: which, and in which order they are labelled; all by default. num_points: of every cloud, or None to keep
    each at its own size. seed: decides the points drawn, and for procedural shapes the shapes themselves. up="z" says
    that the data stands on the xy plane, as ModelNet does; it is turned so that y is up.

    Raises PointCloudError naming the path, what was found and expected.
    """
    if split not in ("train", "val", "test", "all"):
        raise PointCloudError(f"split: expected train, val, test or all, found {split!r}")
    if up not in ("y", "z"):
        raise PointCloudError(f"up: expected 'y' or 'z', found {up!r}")
    source = _open(spec, split, classes, num_points, seed)
    return TurnedClouds(source) if up == "z" else source


def _open(
    spec: str | os.PathLike[str], split: Split, classes: Sequence[str] | None, num_points: int | None, seed: int
) -> CloudSource:
    if spec == PROCEDURAL:
        return _procedural(split, classes, num_points, seed)
    path = Path(spec).expanduser()
    if not path.exists():
        raise PointCloudError(f"{path}: no such file or folder; a data set is a path or {PROCEDURAL!r}")
    reader = _reader(path)
    return reader(path, split, classes=classes, num_points=num_points, seed=seed)


def _reader(path: Path) -> Callable[..., CloudSource]:
    if path.is_dir():
        return Pc15kClouds if is_pc15k(path) else FolderClouds
    suffix = path.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        return ShapeNetHdf5
    if suffix == ".npy":
        return NpzClouds
    if suffix != ".npz":
        raise PointCloudError(f"{path}: expected a folder, or a data set as .h5, .hdf5, .npz or .npy, found {suffix!r}")
    keys = array_names(path)
    for key, reader in (
        ("points", NpzClouds),
        ("cuboids", BoxClouds),
        ("X_train", VoxelClouds),
        ("X_test", VoxelClouds),
    ):
        if key in keys:
            return reader
    raise PointCloudError(f"{path}: expected an array points, cuboids or X_train, found {', '.join(keys) or 'nothing'}")


def _procedural(split: Split, classes: Sequence[str] | None, num_points: int | None, seed: int) -> CloudSource:
    from .shapes import CATEGORIES, ProceduralClouds

    if split == "all":
        raise PointCloudError("split: procedural shapes have train, val and test, found 'all'")
    chosen = choose_classes(CATEGORIES, classes, PROCEDURAL)
    drawn = SURFACE_POINTS if num_points is None else num_points
    return ProceduralClouds(split=split, classes=chosen, num_points=drawn, seed=seed)


class TurnedClouds:
    """A source whose z axis points up, turned about x so that y does: (x, y, z) becomes (x, z, -y)."""

    def __init__(self, source: CloudSource) -> None:
        self.source = source

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> CloudItem:
        item = self.source[index]
        normals = None if item.normals is None else _y_up(item.normals)
        return CloudItem(_y_up(item.points), normals, item.label, item.name)


def _y_up(vectors: np.ndarray) -> np.ndarray:
    return np.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], axis=1)


def cached(source: CloudSource, path: str | os.PathLike[str]) -> NpzClouds:
    """The same items out of one npz file, which is written first if it is not there: surfaces are sampled once, not
    each time an item is read.

    The file holds every point of the source in memory when it is opened. Items keep their order, names and labels;
    normals are kept where all items have them.
    Raises PointCloudError where the file is there but holds another number of clouds or other classes, and when it
    cannot be written.
    """
    path = Path(path).with_suffix(".npz")
    if not path.exists():
        try:
            _write_cache(source, path)
        except OSError as error:
            raise PointCloudError(f"{path}: cannot be written ({error.strerror or error})") from error
    kept = NpzClouds(path, "all", num_points=None)
    if len(kept) != len(source) or kept.classes != source.classes:
        raise PointCloudError(
            f"{path}: holds {len(kept)} clouds of {', '.join(kept.classes)}, "
            f"the source {len(source)} of {', '.join(source.classes)}; delete the file to write it anew"
        )
    return kept


def _write_cache(source: CloudSource, path: Path) -> None:
    items = [source[i] for i in range(len(source))]
    normals = [item.normals for item in items if item.normals is not None]
    arrays = {
        "points": np.concatenate([item.points for item in items]),
        "count": np.array([len(item.points) for item in items]),
        "label": np.array([item.label for item in items]),
        "classes": np.array(source.classes),
        "names": np.array([item.name for item in items]),
    }
    if len(normals) == len(items):
        arrays["normals"] = np.concatenate(normals)
    with replaced_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
