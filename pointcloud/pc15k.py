"""ShapeNetCore.v2.PC15k and ModelNet.PC15k of PointFlow: <class>/<train|val|test>/<name>.npy, 15,000 points each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from .errors import PointCloudError
from .items import SPLITS, Split, StoredClouds, check_split, choose_classes
from .npz_source import read_array
from .synsets import SYNSETS, class_name

STORED_POINTS = 15_000
TRAINING_POINTS = 10_000

Part = Literal["auto", "training", "reference", "whole"]


class Pc15kClouds(StoredClouds):
    """Clouds of a split, class after class, by file name.

    The protocol of PointFlow, PVD and LION cuts each cloud in two: points 0..9999 to train on, and from 10000 on the
    reference of the metrics, of which the first `num_points` are taken as they are stored (10000..12047 for 2048).
    `part="auto"` is "training" for the train split (of which `num_points` are drawn by `seed`), else "reference";
    "whole" is all 15,000 points, over which the protocol takes the mean and deviation of the train split. For split
    "all" every cloud's own split decides.

    Raises PointCloudError for a folder laid out otherwise, unknown classes, a missing split, and a damaged file.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: Split = "train",
        *,
        classes: Sequence[str] | None = None,
        num_points: int | None = 2048,
        seed: int = 0,
        part: Part = "auto",
    ) -> None:
        self.folder, self.part = Path(folder), part
        if part not in ("auto", "training", "reference", "whole"):
            raise PointCloudError(f"part: expected auto, training, reference or whole, found {part!r}")
        groups = class_folders(self.folder)
        found = [class_name(group.name) for group in groups]
        chosen = choose_classes(found, classes, str(self.folder), SYNSETS)
        check_split(split, [s for s in SPLITS if any((g / s).is_dir() for g in groups)], str(self.folder))
        files: list[tuple[Path, int]] = []
        for label, name in enumerate(chosen):
            for piece in SPLITS if split == "all" else (split,):
                inside = groups[found.index(name)] / piece
                files += [(file, label) for file in sorted(inside.glob("*.npy")) if not file.name.startswith(".")]
        self._files = [file for file, _ in files]
        names = [file.relative_to(self.folder).as_posix() for file in self._files]
        super().__init__(f"{folder} ({split})", chosen, names, [label for _, label in files], num_points, seed)

    def _read(self, index: int, seed: int) -> tuple[np.ndarray, None]:
        file = self._files[index]
        stored = read_array(file)
        if stored.shape != (STORED_POINTS, 3):
            raise PointCloudError(f"{file}: expected [{STORED_POINTS}, 3], found {list(stored.shape)}")
        part = self.part
        if part == "auto":
            part = "training" if file.parent.name == "train" else "reference"
        if part == "whole":
            return stored, None
        if part == "training":
            return stored[:TRAINING_POINTS], None
        reference = stored[TRAINING_POINTS:]
        return reference[: self.num_points or len(reference)], None


def class_folders(folder: Path) -> list[Path]:
    """The folders inside `folder` that hold a train, val or test folder, by name; `folder` itself where its own splits
    hold the arrays, as when one class is opened alone. Raises PointCloudError for none."""
    if any(_first_array(folder / split) for split in SPLITS):
        return [folder]
    found = [f for f in sorted(folder.iterdir()) if f.is_dir() and any((f / split).is_dir() for split in SPLITS)]
    if not found:
        raise PointCloudError(f"{folder}: expected folders <class>/train|val|test, found none")
    return found


def is_pc15k(folder: Path) -> bool:
    """Whether the first array in the first split folder of any class has the 15,000 points of PC15k."""
    groups = [folder, *sorted(f for f in folder.iterdir() if f.is_dir())]
    first = next(filter(None, (_first_array(group / split) for group in groups for split in SPLITS)), None)
    if first is None:
        return False
    try:
        return np.load(first, mmap_mode="r", allow_pickle=False).shape == (STORED_POINTS, 3)
    except Exception:  # damaged bytes make numpy raise anything at all
        return False  # whoever opens it as a folder of clouds names the file and what is wrong with it


def _first_array(folder: Path) -> Path | None:
    files = (f for f in folder.iterdir() if f.suffix == ".npy" and f.name[0] != ".") if folder.is_dir() else ()
    return min(files, default=None)
