"""The ShapeNet file of Luo & Hu: hdf5 with one group a class (a synset id) and arrays train, val, test [n, N, 3]."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .errors import PointCloudError
from .items import SPLITS, Split, StoredClouds, check_split, choose_classes
from .synsets import SYNSETS, class_name

Order = Literal["stored", "luo_hu"]


class ShapeNetHdf5(StoredClouds):
    """Clouds of a split, class after class in the order of `classes`; with `order="luo_hu"` in the original's order.

    `classes` may name categories or synset ids; by default all in the file, by synset id. Names are
    `<synset>/<split>/<row>`. The file is opened for each cloud and closed again, so that data-loader workers never
    share a handle; `in_memory` reads the whole selection at once, which is worth its memory for a compressed file.

    Raises PointCloudError for a file that is missing, damaged or laid out otherwise (with what was found), unknown
    classes, a missing split, and ImportError without h5py.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: Split = "train",
        *,
        classes: Sequence[str] | None = None,
        num_points: int | None = 2048,
        seed: int = 0,
        order: Order = "stored",
        in_memory: bool = False,
    ) -> None:
        self.path = Path(path)
        if order not in ("stored", "luo_hu"):
            raise PointCloudError(f"order: expected 'stored' or 'luo_hu', found {order!r}")
        with _opened(self.path) as file:
            groups = _groups(file, self.path)
            found = [class_name(group) for group in groups]
            chosen = choose_classes(found, classes, str(self.path), SYNSETS)
            check_split(split, [s for s in SPLITS if any(s in file[g] for g in groups)], str(self.path))
            rows: list[tuple[str, str, int, int]] = []  # group, split, row, label
            for label, name in enumerate(chosen):
                group = groups[found.index(name)]
                for part in SPLITS if split == "all" else (split,):
                    rows += [(group, part, row, label) for row in range(_num_clouds(file, group, part, self.path))]
            if order == "luo_hu":
                rows = [rows[i] for i in luo_hu_order(_numbers(rows))]
            self._rows = rows
            self._arrays: dict[tuple[str, str], np.ndarray] | None = None
            if in_memory:
                self._arrays = {key: file[key[0]][key[1]][...] for key in dict.fromkeys(row[:2] for row in rows)}
        names = [f"{group}/{part}/{row}" for group, part, row, _ in rows]
        super().__init__(f"{path} ({split})", chosen, names, [row[3] for row in rows], num_points, seed)

    def _read(self, index: int, seed: int) -> tuple[np.ndarray, None]:
        group, part, row, _ = self._rows[index]
        if self._arrays is not None:
            return self._arrays[group, part][row], None
        with _opened(self.path) as file:
            return file[group][part][row], None


def luo_hu_order(numbers: Sequence[int]) -> list[int]:
    """The order in which Luo & Hu's data set yields its items: sorted by their number inside the class (equal ones stay
    as they were), then shuffled by Python's generator with seed 2020."""
    order = sorted(range(len(numbers)), key=lambda i: numbers[i])
    random.Random(2020).shuffle(order)
    return order


def _numbers(rows: Sequence[tuple[str, str, int, int]]) -> list[int]:
    return [row[2] for row in rows]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:  # an h5py.File, whose entries may be of any type
    try:
        import h5py
    except ImportError as error:
        raise ImportError("hdf5 files need h5py: pip install 'trifold[pointcloud]'") from error
    if not path.is_file():
        raise PointCloudError(f"{path}: no such file")
    try:
        with h5py.File(path, "r", locking="best-effort") as file:  # some network disks have no locks
            yield file
    except PointCloudError:
        raise
    except Exception as error:  # h5py raises anything at all over damaged bytes
        raise PointCloudError(f"{path}: not a readable hdf5 file ({type(error).__name__}: {error})") from error


def _groups(file: Any, path: Path) -> list[str]:
    import h5py

    groups = sorted(key for key in file if isinstance(file[key], h5py.Group) and any(s in file[key] for s in SPLITS))
    if not groups:
        found = [f"{key} {list(getattr(file[key], 'shape', ())) or '(group)'}" for key in list(file)[:8]]
        raise PointCloudError(
            f"{path}: expected groups <synset>/train|val|test of clouds [n, N, 3], "
            f"found {', '.join(found) or 'nothing'}"
        )
    return groups


def _num_clouds(file: Any, group: str, split: str, path: Path) -> int:
    import h5py

    array = file[group].get(split)
    if array is None:
        return 0
    if not isinstance(array, h5py.Dataset) or array.ndim != 3 or array.shape[2] != 3 or array.shape[1] < 1:
        found = list(array.shape) if isinstance(array, h5py.Dataset) else "a group"
        raise PointCloudError(f"{path}: {group}/{split}: expected clouds [n, N, 3], found {found}")
    return int(array.shape[0])
