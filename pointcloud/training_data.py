"""Training clouds, read once, normalised, and kept in memory in half precision.

Shape letters: S clouds, P points kept of each.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..common.train import DataOrder
from ..common.weights import replaced_file
from .errors import PointCloudError
from .items import CloudItem, CloudSource
from .normalise import Normalisation, NormalisationMode

FORMAT = 1


@dataclass(frozen=True, eq=False)
class TrainingClouds:
    """A dataset of (points float16 [P, 3], label long), with what a model must know of it.

    Half precision rounds a normalised coordinate by 1/2048 of itself at most, far less than points are apart.
    """

    points: Tensor
    """Float16 [S, P, 3], normalised, the points of a cloud in random order."""
    labels: Tensor
    """Long [S]."""
    classes: tuple[str, ...]
    normalisation: Normalisation

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        return self.points[index], self.labels[index]

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Clouds of each class."""
        return tuple(torch.bincount(self.labels, minlength=len(self.classes)).tolist())

    def labelled_as(self, names: Sequence[str]) -> TrainingClouds:
        """The same clouds with the labels that their classes have among `names`. Raises PointCloudError for a class
        that is not there."""
        unknown = [name for name in self.classes if name not in names]
        if unknown:
            text = f"the data has {', '.join(unknown)}, but the model knows {', '.join(names) or 'no class'}"
            raise PointCloudError(f"classes: {text}")
        places = torch.tensor([names.index(name) for name in self.classes])
        return dataclasses.replace(self, labels=places[self.labels], classes=tuple(names))

    def save(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write one npz file. `facts`: plain values that say what the clouds were made from."""
        with replaced_file(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                points=self.points.numpy(),
                labels=self.labels.numpy(),
                classes=np.array(self.classes, dtype=np.str_),
                normalisation=np.array([*self.normalisation.shift, self.normalisation.scale]),
                facts=np.array(_text(self.normalisation.mode, facts)),
            )

    @classmethod
    def load(cls, path: Path, mode: NormalisationMode, facts: Mapping[str, Any]) -> TrainingClouds:
        """Read a file that `save` wrote. Raises PointCloudError where it is damaged or was made from other facts."""
        try:
            with np.load(path, allow_pickle=False) as file:
                found = str(file["facts"])
                if found != _text(mode, facts):
                    text = f"{path}: holds clouds made from {found}, expected {_text(mode, facts)}"
                    raise PointCloudError(f"{text}; delete the file or name another")
                x, y, z, scale = file["normalisation"].tolist()
                points, labels = torch.from_numpy(file["points"]), torch.from_numpy(file["labels"])
                classes = tuple(str(name) for name in file["classes"])
        except PointCloudError:
            raise
        except Exception as error:  # numpy raises anything at all over damaged bytes
            raise PointCloudError(f"{path}: not a file of prepared clouds ({error})") from error
        return cls(points, labels, classes, Normalisation(mode, (x, y, z), scale))


def _text(mode: NormalisationMode, facts: Mapping[str, Any]) -> str:
    return json.dumps({"format": FORMAT, "normalisation": mode, **facts}, sort_keys=True)


def prepare_clouds(
    source: CloudSource,
    rule: NormalisationMode | Normalisation,
    *,
    num_clouds: int | None = None,
    in_order: bool = False,
    num_workers: int = 0,
    seed: int = 0,
) -> TrainingClouds:
    """Read clouds of a source and normalise them.

    Args:
        rule: a mode, whose statistics are those of these clouds, or a normalisation as it is.
        num_clouds: how many, None for all; fewer than there are are chosen by `seed`, or the first with `in_order`.
        num_workers: processes that read; 0 reads in this one.
    Raises PointCloudError for a source without end and no `num_clouds`, clouds of different sizes (open the source
    with num_points), and coordinates beyond half precision.
    """
    total = len(source)
    if num_clouds is None and total >= 2**24:
        raise PointCloudError("num_clouds: this data has no end; say how many clouds to prepare")
    indices = chosen_indices(total, num_clouds, in_order=in_order, seed=seed)
    count = len(indices)
    items = list(tqdm(_read(source, indices, num_workers), "preparing clouds", count, file=sys.stderr, mininterval=1))
    sizes = {len(item.points) for item in items}
    if len(sizes) != 1:
        raise PointCloudError(f"clouds: expected one size, found {min(sizes)} to {max(sizes)} points")
    normalisation = Normalisation.fit(rule, [item.points for item in items]) if isinstance(rule, str) else rule
    points = torch.empty(count, sizes.pop(), 3, dtype=torch.float16)
    for i, item in enumerate(items):
        rows = np.random.default_rng([seed, indices[i]]).permutation(len(item.points))
        points[i] = torch.from_numpy(normalisation.apply(item.points[rows])[0]).half()
        if not bool(points[i].isfinite().all()):
            raise PointCloudError(f"{item.name}: normalised by {normalisation.mode} it has coordinates beyond 65504")
    labels = torch.tensor([item.label for item in items])
    return TrainingClouds(points, labels, tuple(source.classes), normalisation)


def chosen_indices(total: int, num_clouds: int | None, *, in_order: bool, seed: int) -> list[int]:
    """Which of `total` clouds to read: all for None or as many as there are, else the first with `in_order`, else a
    choice by `seed`, since data sets list their clouds class after class."""
    count = total if num_clouds is None else min(num_clouds, total)
    if in_order or count == total:
        return list(range(count))
    order = DataOrder(total, seed)
    return [order[i] for i in range(count)]


class _Chosen(Dataset):
    def __init__(self, source: CloudSource, indices: list[int]) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> CloudItem:
        return self.source[self.indices[place]]


def _same(item: Any) -> Any:
    return item


def _read(source: CloudSource, indices: list[int], num_workers: int) -> Iterator[CloudItem]:
    # The loader keeps the order, whatever the number of processes.
    loader = DataLoader(_Chosen(source, indices), batch_size=None, num_workers=num_workers, collate_fn=_same)
    yield from loader
