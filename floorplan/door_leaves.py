"""Which way a door opens: the leaf and the floor it sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

WIDEST_LEAF = 1.45  # metres; wider doors slide
ARC_STEPS = 12  # chords of the polygon that stands for a quarter circle where floor is measured
# A leaf may touch a wall: this share of the floor that it sweeps, for rounding.
SLACK = 1e-6


@dataclass(frozen=True, eq=False)
class Leaf:
    """A hinged leaf: `hinge`, `closed` (its far end when shut) and `opened` (when open at a right angle), points [2]
    on the wall's face that it opens from; `into` is the room it opens into."""

    hinge: np.ndarray
    closed: np.ndarray
    opened: np.ndarray
    into: int

    @property
    def width(self) -> float:
        return float(np.hypot(*(self.closed - self.hinge)))

    @property
    def turns_positive(self) -> bool:
        """Whether the leaf turns from x towards y as it opens."""
        a, b = self.closed - self.hinge, self.opened - self.hinge
        return bool(a[0] * b[1] - a[1] * b[0] > 0)

    def sector(self) -> Polygon:
        """The floor that the leaf sweeps (the arc in `ARC_STEPS` chords)."""
        angles = np.linspace(0, np.pi / 2, ARC_STEPS + 1)[:, None]
        arc = self.hinge + np.cos(angles) * (self.closed - self.hinge) + np.sin(angles) * (self.opened - self.hinge)
        return Polygon([self.hinge, *arc])


def choose_leaf(rectangle: np.ndarray, rooms: Sequence[int], floors: Sequence[BaseGeometry]) -> Leaf | None:
    """The leaf of a door in the opening `rectangle` [4, 2] (its first side runs along the wall).

    rooms: the rooms it joins, a front door's one room. floors[i]: the floor of room i between its walls.
    It opens into the smallest room with space for it, hung so that it rests against the nearest wall. None where no
    room has the space: such a door slides.
    """
    middle = rectangle.mean(0)
    along, across = (rectangle[1] - rectangle[0]) / 2, (rectangle[3] - rectangle[0]) / 2
    for room in sorted(rooms, key=lambda i: (floors[i].area, i)):
        floor = floors[room]
        found: list[tuple[float, int, Leaf]] = []
        for k, (side, hand) in enumerate([(1, 1), (1, -1), (-1, 1), (-1, -1)]):
            face = middle + side * across
            out = side * across / np.hypot(*across) * 2 * np.hypot(*along)
            hinge = face - hand * along
            leaf = Leaf(hinge, face + hand * along, hinge + out, room)
            sector = leaf.sector()
            if sector.difference(floor).area <= SLACK * sector.area:
                gap = float(floor.boundary.distance(shapely.Point(leaf.opened)))
                found.append((round(gap / leaf.width, 6), k, leaf))
        if found:
            return min(found, key=lambda item: item[:2])[2]
    return None


def sliding_panes(rectangle: np.ndarray) -> np.ndarray:
    """[2, 2, 2] two panes (from, to) of a sliding door in the opening `rectangle` [4, 2]: each a little longer than
    half the opening, side by side in the wall."""
    middle = rectangle.mean(0)
    along, across = rectangle[1] - rectangle[0], rectangle[3] - rectangle[0]
    return np.array(
        [[middle - s * (along / 2 - across * 0.15), middle + s * (along * 0.05 + across * 0.15)] for s in (1, -1)]
    )
