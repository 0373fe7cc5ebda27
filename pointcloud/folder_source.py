"""A folder of files, each a cloud or a surface: ModelNet trees, ShapeNet trees, or anything else."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from .cloud import PointCloud
from .cloud_files import READ, is_shape_file, read_geometry
from .errors import PointCloudError
from .items import SPLIT_NAMES, SURFACE_POINTS, Split, StoredClouds, check_split, choose_classes, split_by_name
from .sampling import sample_surface
from .synsets import SYNSETS, class_name


class FolderClouds(StoredClouds):
    """Every file under a folder that can be read as a cloud or surface, found recursively, in the order of the paths.

    Split: a folder called train, val (valid, validation) or test at the first or second level says it, as in
    `<class>/<split>/` (ModelNet) and `<split>/<class>/`; where there is none, `split_by_name` divides 80/10/10.
    Class: the first folder below that is not a split (a ShapeNet synset id stands for its name); files that lie in none
    belong to a class with the name of the folder itself.
    Names are paths relative to the folder. Files are opened one at a time. From a surface `num_points` (2048 for None)
    points are drawn, uniform by area, with normals; the seed of a file depends on `seed` and its name alone.
    Files whose names begin with a dot are skipped, and .txt files that do not begin with numbers.

    Raises PointCloudError for a folder without such files, unknown classes, an empty split, and for a file that cannot
    be used when its turn comes.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: Split = "train",
        *,
        classes: Sequence[str] | None = None,
        num_points: int | None = 2048,
        seed: int = 0,
    ) -> None:
        self.folder = Path(folder)
        files = sorted(_files(self.folder))
        if not files:
            raise PointCloudError(f"{folder}: no file of a cloud or surface in it; known are {', '.join(READ)}")
        own_name = class_name(self.folder.resolve().name) or "all"
        entries = [_place(name, own_name) for name in files]
        loose = [name for name, (_, part) in zip(files, entries, strict=True) if not part]
        if len(loose) == len(files):
            entries = [(kind, split_by_name(name)) for (kind, _), name in zip(entries, files, strict=True)]
        elif loose and split != "all":
            warnings.warn(
                f"{folder}: {len(loose)} files outside train, val and test are left out ({loose[0]})", stacklevel=2
            )
        check_split(split, [part for _, part in entries if part], f"{folder} ({len(files)} files)")
        chosen = choose_classes(sorted({kind for kind, _ in entries}), classes, str(folder), SYNSETS)
        rows = [i for i, (kind, part) in enumerate(entries) if split in ("all", part) and kind in chosen]
        super().__init__(
            f"{folder} ({split})",
            chosen,
            [files[i] for i in rows],
            [chosen.index(entries[i][0]) for i in rows],
            num_points,
            seed,
        )

    def _read(self, index: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        found = read_geometry(self.folder / self.names[index])
        if isinstance(found, PointCloud):
            return found.points, found.normals
        try:
            return sample_surface(found, self.num_points or SURFACE_POINTS, seed)
        except PointCloudError as error:
            raise PointCloudError(f"{self.folder / self.names[index]}: {error}") from error


def _files(root: Path) -> Iterator[str]:
    """Paths of readable files relative to `root`, with forward slashes. Linked folders are followed, each once."""
    seen: set[str] = set()
    for folder, inner, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        inner[:] = sorted(name for name in inner if not name.startswith(".")) if real not in seen else []
        if real in seen:  # a link back up, which would never end
            continue
        seen.add(real)
        for name in files:
            if not name.startswith(".") and is_shape_file(Path(folder, name)):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _place(name: str, own_name: str) -> tuple[str, str]:
    """(class, split or "") of a path."""
    folders = list(PurePosixPath(name).parts[:-1])
    split = ""
    for level, folder in enumerate(folders[:2]):
        if folder.lower() in SPLIT_NAMES and not (level == 0 and len(folders) > 1 and folders[1] in SPLIT_NAMES):
            split = SPLIT_NAMES[folder.lower()]
            del folders[level]
            break
    return (class_name(folders[0]) if folders else own_name), split
