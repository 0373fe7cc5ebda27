"""What a procedural flat contains: its rooms, how large they are, and which room opens into which.

Areas are net floor areas in square metres at RPLAN's scale (18 m across 256 units).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .rooms import RoomType

T = TypeVar("T")

UNITS_PER_METRE = 256 / 18

# Net area (m2) and side ratio of each room; the living room's ratio is that of its main rectangle.
AREAS: dict[RoomType, tuple[float, float]] = {
    RoomType.LIVING: (15.0, 40.0),
    RoomType.KITCHEN: (5.0, 12.0),
    RoomType.BEDROOM: (8.0, 18.0),
    RoomType.BATHROOM: (3.0, 7.0),
    RoomType.BALCONY: (2.5, 7.0),
    RoomType.ENTRANCE: (2.5, 6.0),
    RoomType.DINING: (7.0, 14.0),
    RoomType.STUDY: (6.0, 12.0),
    RoomType.STORAGE: (1.5, 4.0),
    RoomType.UNKNOWN: (3.0, 8.0),
}
RATIOS: dict[RoomType, tuple[float, float]] = {
    RoomType.LIVING: (1.0, 1.6),
    RoomType.KITCHEN: (1.0, 1.9),
    RoomType.BEDROOM: (1.0, 1.45),
    RoomType.BATHROOM: (1.0, 1.8),
    RoomType.BALCONY: (1.7, 3.6),
    RoomType.ENTRANCE: (1.0, 1.8),
    RoomType.DINING: (1.0, 1.4),
    RoomType.STUDY: (1.0, 1.4),
    RoomType.STORAGE: (1.0, 1.5),
    RoomType.UNKNOWN: (1.0, 1.6),
}
# Relative frequency of the rooms beyond living, bedroom, bathroom and kitchen, and how many a flat may have in all.
EXTRAS: dict[RoomType, tuple[float, int]] = {
    RoomType.BEDROOM: (3.4, 4),
    RoomType.BALCONY: (2.2, 2),
    RoomType.BATHROOM: (1.3, 3),
    RoomType.STUDY: (0.7, 1),
    RoomType.STORAGE: (0.7, 2),
    RoomType.ENTRANCE: (0.7, 1),
    RoomType.DINING: (0.6, 1),
    RoomType.UNKNOWN: (0.045, 1),
}
MIN_ROOMS, MAX_ROOMS = 3, 10


class Stream:
    """Uniform draws from the raw words of PCG64.

    numpy promises that a bit generator's raw words never change, and makes no such promise for `Generator`'s
    distributions; plans must be the same on every machine and version, so everything is derived from raw words
    with exactly rounded arithmetic.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)
        self._words: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A float in [low, high)."""
        if not self._words:
            self._words = ((self._bits.random_raw(256) >> np.uint64(11)) * 2.0**-53).tolist()
        return low + (high - low) * self._words.pop()

    def uniforms(self, count: int) -> np.ndarray:
        """float64 [count] in [0, 1)."""
        return (self._bits.random_raw(count) >> np.uint64(11)) * 2.0**-53

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + int(self.uniform() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def choice(self, items: list[T]) -> T:
        return items[int(self.uniform() * len(items))]

    def weighted(self, items: list[T], weights: list[float]) -> T:
        mark = self.uniform() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            mark -= weight
            if mark < 0:
                return item
        return items[-1]

    def shuffled(self, items: list[T]) -> list[T]:
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.integer(0, i)
            items[i], items[j] = items[j], items[i]
        return items


@dataclass(frozen=True)
class RoomPlan:
    """A room to be placed: `parent` is the index of the room it opens into (None for the living room, which is 0)."""

    type: RoomType
    parent: int | None
    area: float
    ratio: float


def draw_programme(stream: Stream, num_rooms: int) -> list[RoomPlan]:
    """Rooms in the order in which they are placed: every parent stands before its children, the living room first."""
    types = _draw_types(stream, num_rooms)
    # Small flats of few rooms would be tiny; large ones of many rooms would not fit the frame.
    generosity = stream.uniform(0.45, 0.95) - 0.05 * max(0, num_rooms - 5)
    parents = _draw_parents(stream, types)
    rooms: list[RoomPlan] = []
    for kind, parent in zip(types, parents, strict=True):
        low, high = AREAS[kind]
        share = min(0.95, max(0.06, 0.6 * generosity + 0.55 * (stream.uniform() - 0.25)))
        if kind == RoomType.LIVING:
            share = min(0.95, max(0.06, 0.06 * (num_rooms - 3) + 0.5 * generosity + 0.4 * (stream.uniform() - 0.5)))
        ratio_low, ratio_high = RATIOS[kind]
        rooms.append(RoomPlan(kind, parent, low + (high - low) * share, stream.uniform(ratio_low, ratio_high)))
    return rooms


def _draw_types(stream: Stream, num_rooms: int) -> list[RoomType]:
    types = [RoomType.LIVING, RoomType.BEDROOM, RoomType.BATHROOM]
    if num_rooms > 3:
        types.append(RoomType.KITCHEN)
    while len(types) < num_rooms:
        kinds = list(EXTRAS)
        weights = [w if types.count(kind) < cap else 0.0 for kind, (w, cap) in EXTRAS.items()]
        if types.count(RoomType.BATHROOM) >= types.count(RoomType.BEDROOM):
            weights[kinds.index(RoomType.BATHROOM)] = 0.0
        types.append(stream.weighted(kinds, weights))
    # Order of placement: hub rooms in random order first, then what hangs on other rooms, balconies last.
    early = [t for t in types[1:] if t in (RoomType.BEDROOM, RoomType.KITCHEN, RoomType.DINING, RoomType.STUDY)]
    middle = [t for t in types[1:] if t not in early and t != RoomType.BALCONY]
    late = [t for t in types[1:] if t == RoomType.BALCONY]
    return [RoomType.LIVING, *stream.shuffled(early), *stream.shuffled(middle), *late]


def _draw_parents(stream: Stream, types: list[RoomType]) -> list[int | None]:
    bedrooms = [i for i, t in enumerate(types) if t == RoomType.BEDROOM]
    kitchens = [i for i, t in enumerate(types) if t == RoomType.KITCHEN]
    dinings = [i for i, t in enumerate(types) if t == RoomType.DINING]
    with_bath: set[int] = set()
    with_balcony: set[int] = set()
    seen_bath = False
    parents: list[int | None] = []
    for i, kind in enumerate(types):
        parent = 0
        free_beds = [b for b in bedrooms if b not in with_bath]
        if kind == RoomType.BATHROOM:
            # The first bathroom is the one everybody reaches from the hub.
            if seen_bath and free_beds and stream.chance(0.75):
                parent = stream.choice(free_beds)
                with_bath.add(parent)
            seen_bath = True
        elif kind == RoomType.BALCONY:
            hosts = [h for h in [0, *bedrooms, *kitchens] if h not in with_balcony]
            parent = stream.weighted(hosts, [3.0 if h == 0 else 0.6 if h in kitchens else 1.0 for h in hosts])
            with_balcony.add(parent)
        elif kind == RoomType.STORAGE:
            parent = stream.weighted(
                [0, *kitchens, *bedrooms], [2.0] + [2.0 for _ in kitchens] + [0.5 for _ in bedrooms]
            )
        elif kind == RoomType.KITCHEN and dinings and dinings[0] < i:
            parent = dinings[0] if stream.chance(0.35) else 0
        elif kind == RoomType.UNKNOWN and kitchens:
            parent = stream.weighted([0, kitchens[0]], [2.0, 1.0])
        parents.append(None if i == 0 else parent)
    return parents


def rectangle_cells(area: float, ratio: float, cell: int, wall: int, minimum: int) -> tuple[int, int]:
    """Whole cells (short, long) of a rectangle of `area` m2 whose inner faces stand `wall` units off its wall lines."""
    units = area * UNITS_PER_METRE**2
    short = math.sqrt(units / ratio)
    sides = short, units / short
    cells = [max(minimum, round((side + 2 * wall) / cell)) for side in sides]
    return cells[0], cells[1]
