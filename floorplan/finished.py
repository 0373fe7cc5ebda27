"""What finishing gives: a plan with exact shared walls, those walls, the openings in them, and a report."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from .plan import Plan

Point = tuple[float, float]


@dataclass(frozen=True)
class Wall:
    """A straight piece of wall between the same two sides all along.

    `start`, `end`: its centre line in plan units. `thickness` in plan units. `rooms`: the rooms on its two sides, the
    smaller index first; the second is None where the other side is outside.
    """

    start: Point
    end: Point
    thickness: float
    rooms: tuple[int, int | None]

    @property
    def length(self) -> float:
        """Of the centre line, in plan units."""
        return float(np.hypot(self.end[0] - self.start[0], self.end[1] - self.start[1]))

    @property
    def middle(self) -> np.ndarray:
        """Of the centre line, [2]."""
        return np.add(self.start, self.end) / 2

    @property
    def along(self) -> np.ndarray:
        """Unit vector from start to end, [2]."""
        return np.subtract(self.end, self.start) / self.length


@dataclass(frozen=True)
class Opening:
    """Door `door` of `plan.doors`, cut into `walls[wall]`: `centre` lies on the wall's centre line, `width` is clear
    width along the wall in plan units, `rooms` are the wall's."""

    door: int
    wall: int
    centre: Point
    width: float
    rooms: tuple[int, int | None]


@dataclass(frozen=True)
class Move:
    """How far finishing moved node `node`: the largest distance in plan units from a corner of its outline, drawn or
    finished, to the other outline. 0 for a node that only gained corners where a neighbour's wall begins."""

    node: int
    distance: float


@dataclass(frozen=True)
class FinishReport:
    """What finishing did. `moved`: one entry per node that was moved, in order. `problems`: what could not be put
    right, in words; empty for a plan without faults."""

    moved: tuple[Move, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class FinishedPlan:
    """A plan that can be built.

    `plan`: its rooms are simple polygons to the centre lines of their walls, without overlap and without unwanted
    gaps; neighbours share whole boundary pieces with identical coordinates. A door node that has an opening is the
    thin rectangle of that opening (width along the wall, the wall's thickness across); a door that found no wall stays
    as it was drawn and `report.problems` says so. Types, names, order and `plan.doors` are those of the drawn plan.
    `walls`: each piece of room boundary once. `openings`: at most one per door, in the order of `plan.doors`.
    """

    plan: Plan
    walls: tuple[Wall, ...]
    openings: tuple[Opening, ...]
    report: FinishReport

    def summary(self, *, at_most: int = 4) -> str:
        """What finishing did in a line: nodes moved, by how much in metres, and the first problems in words."""
        furthest = max((move.distance for move in self.report.moved), default=0.0) * self.plan.metres_per_unit
        text = f"{len(self.report.moved)} of {len(self.plan.nodes)} rooms and doors moved, by at most {furthest:.2f} m"
        problems = self.report.problems
        if problems:
            text += "; not put right: " + "; ".join(problems[:at_most])
            text += f"; and {len(problems) - at_most} more" if len(problems) > at_most else ""
        return text

    def save(self, path: str | os.PathLike[str], *, width: int = 1024) -> None:
        """Write as `.json` (RPLAN schema), `.svg`, `.png` (`width` pixels wide), `.dxf`, `.geojson` or `.ifc`; see
        `output.save_plan`."""
        from .output import save_plan  # the writers import finished plans

        save_plan(self, path, width=width)
