"""Many clouds in one file: npz arrays by name, or one npy array [S, N, 3]."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .errors import PointCloudError
from .items import SPLITS, Split, StoredClouds, check_split, choose_classes, split_by_name

SPLIT_CODES: Mapping[int, str] = {0: "train", 1: "test", 2: "val"}


def array_names(path: Path) -> list[str]:
    """The names of the arrays in an npz, without reading them. Raises PointCloudError for a missing or damaged file."""
    with _reading(path), np.load(path, allow_pickle=False) as file:
        return list(file.files)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an npz, or `points` of an npy. Raises PointCloudError for a missing or damaged file."""
    if path.suffix.lower() == ".npy":
        return {"points": read_array(path)}
    with _reading(path), np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def read_array(path: Path) -> np.ndarray:
    """The array of an npy, in memory. Raises PointCloudError for a missing or damaged file."""
    with _reading(path):
        # Mapped first: a header that promises too much is caught by the size of the file, not of the memory. Copied,
        # because a mapped array changes with its file.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise PointCloudError(f"{path}: no such file")
    try:
        yield
    except Exception as error:  # numpy raises anything at all over damaged bytes, even TokenError
        raise PointCloudError(f"{path}: not a complete file of arrays ({type(error).__name__}: {error})") from error


def column(arrays: Mapping[str, np.ndarray], key: str, count: int, path: Path) -> np.ndarray | None:
    """An array with one entry a shape, or None. Raises PointCloudError where it has another length."""
    found = arrays.get(key)
    if found is not None and found.shape != (count,):
        raise PointCloudError(
            f"{path}: {key}: expected one entry for each of {count} shapes, found {list(found.shape)}"
        )
    return found


def split_names(stored: np.ndarray, codes: Mapping[int, str], path: Path) -> list[str]:
    """Splits of the rows as words, from words or from `codes`. Raises PointCloudError for any other value."""
    words = [codes.get(int(v), str(v)) if stored.dtype.kind in "iub" else str(v) for v in stored]
    if unknown := sorted(set(words) - set(SPLITS)):
        expected = ", ".join(f"{code} ({word})" for code, word in codes.items())
        raise PointCloudError(f"{path}: split: expected {expected} or the words, found {', '.join(unknown[:8])}")
    return words


class NpzClouds(StoredClouds):
    """Clouds of one npz (or npy) file, held in memory in the type they are stored in.

    points   [S, N, 3], or [sum of count, 3] with `count` [S] for clouds of different sizes
    normals  as points, optional
    split    [S] 0 train, 1 test, 2 val, or the words; without it `split_by_name` splits by the row's name
    label    [S] index into `classes` (names; by default the labels themselves); without it all clouds are of one
             class, named by `classes`, else by the one class asked for, else by the file
    unique   [S] bool; rows with False, near copies of others, are left out
    names    [S], by default the row numbers

    Raises PointCloudError for a damaged file, arrays that do not fit each other, unknown classes, a missing split.
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
        if "points" not in arrays:
            raise PointCloudError(f"{self.path}: expected the array 'points', found {', '.join(arrays) or 'nothing'}")
        self._points, self._normals = arrays["points"], arrays.get("normals")
        self._starts = _starts(self._points, arrays.get("count"), self.path)
        if self._normals is not None and self._normals.shape != self._points.shape:
            raise PointCloudError(
                f"{self.path}: normals: expected {list(self._points.shape)}, found {list(self._normals.shape)}"
            )
        count = len(self._starts) - 1
        stored = column(arrays, "names", count, self.path)
        names = [str(i) for i in range(count)] if stored is None else [str(name) for name in stored]
        keep = split_rows(arrays, names, split, SPLIT_CODES, self.path)
        labels, found = _labels(arrays, count, self.path)
        if classes is not None and len(classes) == 1 and not {"label", "classes"} & set(arrays):
            found = list(classes)
        chosen = choose_classes(found, classes, str(self.path))
        rank = {found.index(name): label for label, name in enumerate(chosen)}
        self._rows = [i for i in keep if int(labels[i]) in rank]
        super().__init__(
            f"{self.path} ({split})",
            chosen,
            [names[i] for i in self._rows],
            [rank[int(labels[i])] for i in self._rows],
            num_points,
            seed,
        )

    def _read(self, index: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        row = self._rows[index]
        if self._points.ndim == 3:
            return self._points[row], None if self._normals is None else self._normals[row]
        span = slice(int(self._starts[row]), int(self._starts[row + 1]))
        return self._points[span], None if self._normals is None else self._normals[span]


def split_rows(
    arrays: Mapping[str, np.ndarray], names: Sequence[str], split: str, codes: Mapping[int, str], path: Path
) -> list[int]:
    """The rows of a split, without those that `unique` marks as copies."""
    stored = column(arrays, "split", len(names), path)
    words = [split_by_name(name) for name in names] if stored is None else split_names(stored, codes, path)
    check_split(split, words, str(path))
    unique = column(arrays, "unique", len(names), path)
    return [i for i, word in enumerate(words) if split in ("all", word) and (unique is None or bool(unique[i]))]


def _starts(points: np.ndarray, count: np.ndarray | None, path: Path) -> np.ndarray:
    """Where each cloud begins, and the end [S + 1]; in clouds for [S, N, 3], in points for packed ones."""
    if points.dtype.kind not in "fiu" or points.shape[-1:] != (3,) or points.ndim != (3 if count is None else 2):
        expected = "[S, N, 3]" if count is None else "[sum of count, 3]"
        raise PointCloudError(f"{path}: points: expected numbers {expected}, found {points.dtype} {list(points.shape)}")
    if count is None:
        return np.arange(len(points) + 1)
    if count.ndim != 1 or count.dtype.kind not in "iu" or (count < 1).any() or count.sum(dtype=np.int64) != len(points):
        raise PointCloudError(f"{path}: count: expected positive whole numbers that add up to {len(points)} points")
    return np.concatenate([[0], np.cumsum(count, dtype=np.int64)])


def _labels(arrays: Mapping[str, np.ndarray], count: int, path: Path) -> tuple[np.ndarray, list[str]]:
    labels, names = column(arrays, "label", count, path), arrays.get("classes")
    if labels is None:
        if names is not None and names.size > 1:
            raise PointCloudError(f"{path}: {names.size} classes, but no array 'label' says which cloud is which")
        return np.zeros(count, dtype=np.int64), [path.stem if names is None else str(names.reshape(-1)[0])]
    if labels.dtype.kind not in "iu":
        raise PointCloudError(f"{path}: label: expected whole numbers, found {labels.dtype}")
    if names is None:
        values = np.unique(labels)
        return np.searchsorted(values, labels), [str(value) for value in values]
    if len(labels) and (labels.min() < 0 or labels.max() >= names.size):
        raise PointCloudError(f"{path}: label: expected 0 to {names.size - 1}, found {labels.min()} to {labels.max()}")
    return labels, [str(name) for name in names.reshape(-1)]
