"""What the model tests share: small random models and random plan specs."""

from __future__ import annotations

import numpy as np
import torch
from trifold.floorplan.model import HouseDiffusion, HouseDiffusionConfig
from trifold.floorplan.rooms import RoomType
from trifold.floorplan.tokens import PlanSpec

SMALL = {"width": 32, "num_layers": 2, "dropout": 0.0, "index_encoding": "sincos"}


def tiny_model(seed: int = 0, **changes: object) -> HouseDiffusion:
    """A random model of width 32, the same for the same seed, in eval mode; torch's own generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HouseDiffusion(HouseDiffusionConfig(**{**SMALL, **changes})).eval()  # type: ignore[arg-type]


def random_spec(
    seed: int, rooms: int = 5, *, corners: tuple[int, int] = (3, 9), living: bool = True, isolated: int = 0
) -> PlanSpec:
    """A living room and others, joined in a random tree by doors; the last `isolated` rooms have no door."""
    rng = np.random.default_rng(seed)
    choice = [RoomType.BEDROOM, RoomType.KITCHEN, RoomType.BATHROOM, RoomType.BALCONY]
    types = [RoomType.LIVING if living else RoomType.STUDY, *(choice[i] for i in rng.integers(4, size=rooms - 1))]
    links = []
    for door, room in enumerate(range(1, rooms - isolated), start=rooms):
        other = int(rng.integers(room))
        links += [(room, door), (other, door), (other, room)]
        types.append(RoomType.INTERIOR_DOOR)
    doors = len(types) - rooms
    counts = [int(n) for n in rng.integers(*corners, size=rooms)] + [4] * doors
    areas = np.where(rng.random(len(types)) < 0.5, rng.uniform(0.01, 0.2, len(types)), np.nan)
    sizes = np.where(rng.random((len(types), 1)) < 0.5, rng.uniform(0.1, 0.5, (len(types), 2)), np.nan)
    return PlanSpec.build(types, counts, links, areas=areas, sizes=sizes)
