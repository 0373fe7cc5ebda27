"""Plans as training samples: exact corners in [-1, 1], augmented, packed into batches."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .plan import Plan
from .tokens import IndexEncoding, PlanCondition, PlanSpec, pack

CornerCounts = Mapping[str, Sequence[int]]


class PlanSource(Protocol):
    """Anything that hands out plans by number: a list, a folder reader, the procedural generator."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Plan: ...


@dataclass(frozen=True)
class PlanSample:
    """One plan for training: its spec and its corners [n, 2] float64 in [-1, 1], node after node."""

    spec: PlanSpec
    x0: np.ndarray


@dataclass(frozen=True)
class PlanBatch:
    """Packed samples: corners [1, M, 2] float64 and the condition they are denoised under."""

    x0: Tensor
    cond: PlanCondition

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PlanBatch:
        """The same batch on `device`."""
        return PlanBatch(self.x0.to(device, non_blocking=non_blocking), self.cond.to(device))


def frame_units(plan: Plan, frame_metres: float | None) -> float:
    """Side of the square that maps to [-1, 1], in plan units: of `frame_metres`, or the plan's own frame."""
    return plan.frame if frame_metres is None else frame_metres / plan.metres_per_unit


def centred(plan: Plan, frame_metres: float | None = None) -> np.ndarray:
    """Corners of all nodes [n, 2] in [-1, 1], the plan's bounding box in the middle of the frame.

    The frame says which length maps to [-1, 1]: `frame_metres`, so that plans of several sources are at one scale,
    or else the plan's own. The shift is a whole number of units, so corners on the 256 grid stay on it. Raises
    ValueError for a plan larger than the frame.
    """
    frame = frame_units(plan, frame_metres)
    points = np.concatenate([node.polygon for node in plan.nodes])
    low, high = points.min(axis=0), points.max(axis=0)
    if float((high - low).max()) > frame * (1 + 1e-9):
        raise ValueError(f"plan {plan.name!r} is {(high - low).max():g} units wide but its frame is {frame:g}")
    shift = np.round(frame / 2 - (low + high) / 2)
    return (points + shift) / frame * 2 - 1


def plan_spec(plan: Plan, frame_metres: float | None = None) -> PlanSpec:
    """What a net may be told of a plan: types, corner counts, links, areas and sizes (as shares of the frame)."""
    frame = frame_units(plan, frame_metres)
    polygons = [node.polygon / frame for node in plan.nodes]
    areas = [abs(_signed_area(p)) for p in polygons]
    sizes = [p.max(axis=0) - p.min(axis=0) for p in polygons]
    rooms = plan.num_rooms
    areas[rooms:] = [float("nan")] * (len(polygons) - rooms)
    sizes[rooms:] = [np.full(2, np.nan)] * (len(polygons) - rooms)
    return PlanSpec.build(
        [node.type for node in plan.nodes], [len(p) for p in polygons], plan.links(), areas=areas, sizes=np.array(sizes)
    )


def _signed_area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


@dataclass(frozen=True)
class Augmentation:
    """What may be changed in a plan without making it another plan."""

    symmetries: bool = True
    """Draw one of the 8 symmetries of the square (quarter turns and mirrors)."""
    shuffle_rooms: bool = True
    """Number the rooms, and the doors, in random order."""
    drop_sizes: float = 0.6
    """Chance that areas and sizes are all hidden; otherwise each room hides its own with chance one half."""


def sample_from_plan(
    plan: Plan, augmentation: Augmentation | None, rng: np.random.Generator, frame_metres: float | None = None
) -> PlanSample:
    """A plan as a training sample; `augmentation=None` leaves it as it is."""
    spec, x0 = plan_spec(plan, frame_metres), centred(plan, frame_metres)
    if augmentation is None:
        return PlanSample(spec, x0)
    areas, sizes = spec.areas.copy(), spec.sizes.copy()
    if augmentation.symmetries:
        turn = int(rng.integers(8))
        x0 = x0 if turn < 4 else x0 * np.array([-1.0, 1.0])
        for _ in range(turn % 4):
            x0 = np.stack([-x0[:, 1], x0[:, 0]], axis=1)
        if turn % 2:
            sizes = sizes[:, ::-1].copy()
    if rng.random() < augmentation.drop_sizes:
        areas[:], sizes[:] = np.nan, np.nan
    else:
        areas[rng.random(len(areas)) < 0.5] = np.nan
        sizes[rng.random(len(sizes)) < 0.5] = np.nan
    indices = np.arange(1, len(spec.types) + 1)
    if augmentation.shuffle_rooms:
        rooms = plan.num_rooms
        indices = np.concatenate([rng.permutation(indices[:rooms]), rng.permutation(indices[rooms:])])
    links = spec.links
    spec = PlanSpec.build(spec.types, spec.corners, links, indices=[int(i) for i in indices], areas=areas, sizes=sizes)
    return PlanSample(spec, x0)


class FloorplanDataset(torch.utils.data.Dataset[PlanSample]):
    """Samples by number; the augmentation of a sample is a function of its number and the seed alone.

    An unlimited source gives every sample its own plan. A finite one is repeated: number i is plan
    i mod len(source) under the augmentation of number i.
    """

    def __init__(
        self,
        source: PlanSource,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        repeat: bool = False,
        frame_metres: float | None = None,
    ) -> None:
        if len(source) == 0:
            raise ValueError("the data set holds no plans")
        self.source, self.augmentation, self.seed, self.frame_metres = source, augmentation, seed, frame_metres
        self.length = 2**31 - 1 if repeat else len(source)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> PlanSample:
        if not 0 <= index < self.length:  # else a loop over the data set would never end
            raise IndexError(f"sample {index} of {self.length}")
        rng = np.random.default_rng([self.seed, index])
        return sample_from_plan(self.source[index % len(self.source)], self.augmentation, rng, self.frame_metres)


def collate(
    samples: Sequence[PlanSample], *, index_encoding: IndexEncoding = "one_hot", with_sizes: bool = False
) -> PlanBatch:
    """Pack samples into one row."""
    x0 = torch.from_numpy(np.concatenate([s.x0 for s in samples]))[None]
    return PlanBatch(x0, pack([s.spec for s in samples], index_encoding=index_encoding, with_sizes=with_sizes))


def corner_key(node_type: int, degree: int) -> str:
    """Under which name corner counts are kept: type, and number of linked doors up to 6."""
    return f"{int(node_type)}:{min(degree, 6)}"


def count_corners(plans: Sequence[Plan], *, keep: int = 100) -> dict[str, list[int]]:
    """Corner counts seen per (type, number of doors), and per type alone, to draw from when a user names none.

    Returns:
        `{"3:1": [4, 4, 6, ...], "3": [...]}`, at most `keep` evenly spaced values of each sorted list, so that a
        draw from the list follows the data's own distribution.
    """
    seen: defaultdict[str, list[int]] = defaultdict(list)
    for plan in plans:
        degrees = Counter(room for pair in plan.doors for room in pair if room is not None)
        for i, node in enumerate(plan.nodes):
            for key in (corner_key(node.type, degrees[i]), str(int(node.type))):
                seen[key].append(len(node.polygon))
    out = {}
    for key, counts in sorted(seen.items()):
        counts.sort()
        picks = np.linspace(0, len(counts) - 1, min(keep, len(counts))).round().astype(int)
        out[key] = [counts[i] for i in picks]
    return out


def draw_corners(
    types: Sequence[int], degrees: Sequence[int], counts: CornerCounts, rng: np.random.Generator
) -> list[int]:
    """Corner counts for nodes that name none: from the lists of their type and door count, else type, else 4."""
    out = []
    for node_type, degree in zip(types, degrees, strict=True):
        choices = counts.get(corner_key(node_type, degree)) or counts.get(str(int(node_type))) or (4,)
        out.append(int(rng.choice(np.asarray(choices))))
    return out
