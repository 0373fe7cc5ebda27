"""Finishing, last part: the walls of finished rooms, and the doors in them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Polygon

from .finished import Opening, Wall
from .finishing_rooms import Piece, pieces
from .finishing_settings import Limits
from .finishing_walls import ring
from .metrics import ENOUGH, sight_lines


def walls_of(shapes: Sequence[Polygon], limits: Limits) -> tuple[Wall, ...]:
    """Every piece of room boundary once, ordered by its ends. An empty room has none."""
    rooms: dict[Piece, list[int]] = defaultdict(list)
    for room, shape in enumerate(shapes):
        if not shape.is_empty:
            for piece in pieces(ring(shape)):
                rooms[piece].append(room)
    walls = []
    for (start, end), sides in sorted(rooms.items()):
        inner = len(sides) > 1
        thickness = limits.inner_wall if inner else limits.outer_wall
        walls.append(Wall(start, end, thickness, (sides[0], sides[1] if inner else None)))
    return tuple(walls)


def clear_spans(walls: Sequence[Wall]) -> list[tuple[float, float]]:
    """Per wall: where a door may lie, from and to, measured from the middle of the wall towards its `end`.

    The bodies of the walls that it meets are left out: half of the thickest at each end.
    """
    thickest: dict[tuple[float, float], float] = defaultdict(float)
    for wall in walls:
        for end in (wall.start, wall.end):
            thickest[end] = max(thickest[end], wall.thickness)
    return [(thickest[w.start] / 2 - w.length / 2, w.length / 2 - thickest[w.end] / 2) for w in walls]


@dataclass
class Spot:
    """A place for a door: `at` from the middle of wall `wall`, and how far from where the door was drawn."""

    wall: int
    at: float
    width: float
    moved: float


def place_doors(
    shapes: Sequence[Polygon],
    walls: Sequence[Wall],
    doors: Sequence[tuple[int, int | None]],
    drawn: Sequence[np.ndarray],
    outside: Sequence[bool],
    limits: Limits,
) -> tuple[tuple[Opening, ...], list[int]]:
    """(openings, doors without one). shapes: rooms. drawn: [K,2] polygon per door. outside: per wall, whether open
    ground lies beyond.

    A door goes to the nearest place in a wall between its two rooms that has the length for its full width; if none
    has, to the middle of what is longest, narrower but at least `least_door`. Doors keep clear of each other, and none
    opens into a slit: its rooms have floor before it.
    """
    spans = clear_spans(walls)
    taken: dict[int, list[tuple[float, float]]] = defaultdict(list)
    openings, failed = [], []
    for door, (a, b) in enumerate(doors):
        full = limits.front_door if b is None else limits.interior_door
        centre = np.asarray(shapely.MultiPoint(drawn[door]).convex_hull.centroid.coords[0])
        spots = []
        for k, wall in enumerate(walls):
            if wall.rooms == (a, b) and (b is not None or outside[k]):
                for low, high in _free(spans[k], taken[k], limits.inner_wall):
                    spot = _spot(k, wall, low, high, full, centre, limits)
                    if spot is not None:
                        spots.append(spot)
        spots.sort(key=lambda s: (-round(s.width, 6), round(s.moved, 6), walls[s.wall].start, s.at))
        rooms = [shapes[room] for room in (a, b) if room is not None]
        best = next((s for s in spots if all(_has_floor(room, walls[s.wall], s, limits) for room in rooms)), None)
        if best is None:
            failed.append(door)
            continue
        wall = walls[best.wall]
        x, y = wall.middle + best.at * wall.along
        taken[best.wall].append((best.at - best.width / 2, best.at + best.width / 2))
        openings.append(Opening(door, best.wall, (float(x), float(y)), best.width, wall.rooms))
    return tuple(openings), failed


def _free(span: tuple[float, float], taken: Sequence[tuple[float, float]], apart: float) -> list[tuple[float, float]]:
    """The parts of a span that are at least `apart` from every taken one."""
    parts = [span]
    for start, end in taken:
        cut = []
        for low, high in parts:
            cut += [(low, min(high, start - apart)), (max(low, end + apart), high)]
        parts = [(low, high) for low, high in cut if high > low]
    return parts


def _spot(k: int, wall: Wall, low: float, high: float, full: float, centre: np.ndarray, limits: Limits) -> Spot | None:
    # Places are whole lattice steps from the middle of the wall, so that a placed door is found where it is.
    step = limits.step
    width = full if high - low >= full + 2 * step else high - low - 2 * step
    if width < limits.least_door:
        return None
    first, last = math.ceil((low + width / 2) / step), math.floor((high - width / 2) / step)
    wanted = round(float((centre - wall.middle) @ wall.along) / step)
    at = min(max(wanted, first), last) * step
    return Spot(k, at, width, float(np.hypot(*(centre - wall.middle - at * wall.along))))


def _has_floor(room: Polygon, wall: Wall, spot: Spot, limits: Limits) -> bool:
    """Whether on one side of the wall most sight lines through the door stay in the room as far as `door_connections`
    looks."""
    far = wall.thickness / 2 + limits.floor
    for side in (1, -1):
        lines = sight_lines(wall.middle + spot.at * wall.along, wall.along, spot.width, 0.0, side * far)
        inside = shapely.length(shapely.intersection(lines, room)) > far - limits.still
        if int(inside.sum()) >= ENOUGH:
            return True
    return False


def door_outline(wall: Wall, opening: Opening) -> np.ndarray:
    """[4,2]: the rectangle of an opening, its width along the wall and the wall's thickness across."""
    half = opening.width / 2 * wall.along
    across = wall.thickness / 2 * np.array([-wall.along[1], wall.along[0]])
    middle = np.asarray(opening.centre)
    return np.array([middle - half - across, middle - half + across, middle + half + across, middle + half - across])
