"""Finishing, last part: the walls of finished rooms, and the doors in them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from .finished import Opening, Wall
from .finishing_rooms import Piece, pieces
from .finishing_settings import Limits
from .finishing_walls import ring
from .metrics import ENOUGH, RAYS

Span = tuple[float, float]  # along a wall, measured from its middle towards its end
MOST = (ENOUGH + 0.1) / RAYS  # a part of a door's width that holds the sight lines by which it joins a room


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


def clear_spans(walls: Sequence[Wall]) -> list[Span]:
    """Per wall: where a door may lie.

    The bodies of the walls that it meets are left out: half of the thickest at each end.
    """
    thickest: dict[tuple[float, float], float] = defaultdict(float)
    for wall in walls:
        for end in (wall.start, wall.end):
            thickest[end] = max(thickest[end], wall.thickness)
    return [(thickest[w.start] / 2 - w.length / 2, w.length / 2 - thickest[w.end] / 2) for w in walls]


@dataclass(frozen=True)
class Spot:
    """A place for a door: `at` from the middle of wall `wall`, how far from where the door was drawn, and whether there
    is floor before the whole of it."""

    wall: int
    at: float
    width: float
    moved: float
    whole: bool


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
    opens into a slit: its rooms, and for a front door the ground outside, are clear before it, before the whole of it
    wherever that can be. Which places there are does not depend on where it was drawn.
    """
    spans = clear_spans(walls)
    built = shapely.union_all([shape for shape in shapes if not shape.is_empty])
    taken: dict[int, list[Span]] = defaultdict(list)
    openings, failed = [], []
    for door, (a, b) in enumerate(doors):
        full = limits.front_door if b is None else limits.interior_door
        centre = np.asarray(shapely.MultiPoint(drawn[door]).convex_hull.centroid.coords[0])
        rooms = [shapes[room] for room in (a, b) if room is not None]
        spots: list[Spot] = []
        for k, wall in enumerate(walls):
            if wall.rooms == (a, b) and (b is not None or outside[k]) and spans[k][0] < spans[k][1]:
                clear = _clear(wall, spans[k], rooms, built if b is None else None, limits)
                for span in _without(spans[k], taken[k], limits.inner_wall):
                    spots += _spots(k, wall, span, clear, full, centre, limits)
        best = min(
            spots,
            key=lambda s: (not s.whole, -round(s.width, 6), round(s.moved, 6), walls[s.wall].start, s.at),
            default=None,
        )
        if best is None:
            failed.append(door)
            continue
        wall = walls[best.wall]
        x, y = wall.middle + best.at * wall.along
        taken[best.wall].append((best.at - best.width / 2, best.at + best.width / 2))
        openings.append(Opening(door, best.wall, (float(x), float(y)), best.width, wall.rooms))
    return tuple(openings), failed


def _without(span: Span, taken: Sequence[Span], apart: float = 0.0) -> list[Span]:
    """The parts of a span that are at least `apart` from every taken one."""
    parts = [span]
    for start, end in taken:
        cut = []
        for low, high in parts:
            cut += [(low, min(high, start - apart)), (max(low, end + apart), high)]
        parts = [(low, high) for low, high in cut if high > low]
    return parts


def _clear(wall: Wall, span: Span, rooms: Sequence[Polygon], built: BaseGeometry | None, limits: Limits) -> list[Span]:
    """The parts of a span of wall before which each room has floor as deep as `door_connections` looks, on one side of
    the wall. built: for a front door, all rooms; none of them is as near on the other side."""
    taken: list[Span] = []
    for room in rooms:
        side = 1 if shapely.contains_xy(room, *(wall.middle + limits.still * _normal(wall))) else -1
        taken += _shadows(wall, _strip(wall, span, side, limits).difference(room), limits)
        if built is not None:
            taken += _shadows(wall, _strip(wall, span, -side, limits).intersection(built), limits)
    return _without(span, taken)


def _normal(wall: Wall) -> np.ndarray:
    return np.array([-wall.along[1], wall.along[0]])


def _strip(wall: Wall, span: Span, side: int, limits: Limits) -> Polygon:
    """What lies before a span of wall on one side, from the wall's middle to where `door_connections` stops looking."""
    low, high = (wall.middle + u * wall.along for u in span)
    near, far = (
        side * depth * _normal(wall) for depth in (limits.still, wall.thickness / 2 + limits.floor - limits.still)
    )
    return Polygon([low + near, high + near, high + far, low + far])


def _shadows(wall: Wall, blocked: BaseGeometry, limits: Limits) -> list[Span]:
    """The parts of a wall behind the blocked parts of a strip before it."""
    parts = [shapely.get_coordinates(p) for p in shapely.get_parts(blocked) if p.area > limits.still**2]
    along = [(corners - wall.middle) @ wall.along for corners in parts]
    return [(float(u.min()), float(u.max())) for u in along]


def _spots(
    k: int, wall: Wall, span: Span, clear: Sequence[Span], full: float, centre: np.ndarray, limits: Limits
) -> list[Spot]:
    """The nearest places in a free span of wall k: before each clear part of it, and such that most of a door is."""
    found = []
    width = _width(span, full, limits)
    for part in clear:
        own = max(part[0], span[0]), min(part[1], span[1])
        found.append(_nearest(k, wall, own, _width(own, full, limits), centre, limits, whole=True))
        if part[1] - part[0] >= MOST * width:
            beyond = (1 - MOST) * width  # so much of the door may lie outside the clear part
            own = max(part[0] - beyond, span[0]), min(part[1] + beyond, span[1])
            found.append(_nearest(k, wall, own, width, centre, limits, whole=False))
    return [spot for spot in found if spot is not None]


def _width(span: Span, full: float, limits: Limits) -> float:
    length = span[1] - span[0]
    return full if length >= full + 2 * limits.step else length - 2 * limits.step


def _nearest(
    k: int, wall: Wall, span: Span, width: float, centre: np.ndarray, limits: Limits, *, whole: bool
) -> Spot | None:
    """The place of a door of this width within a span of wall k that is nearest to a point; None if there is none."""
    # Places are whole lattice steps from the middle of the wall, so that a placed door is found where it is.
    step = limits.step
    first, last = math.ceil((span[0] + width / 2) / step), math.floor((span[1] - width / 2) / step)
    if width < limits.least_door or first > last:
        return None
    wanted = round(float((centre - wall.middle) @ wall.along) / step)
    at = min(max(wanted, first), last) * step
    return Spot(k, at, width, float(np.hypot(*(centre - wall.middle - at * wall.along))), whole)


def door_outline(wall: Wall, opening: Opening) -> np.ndarray:
    """[4,2]: the rectangle of an opening, its width along the wall and the wall's thickness across."""
    half = opening.width / 2 * wall.along
    across = wall.thickness / 2 * _normal(wall)
    middle = np.asarray(opening.centre)
    return np.array([middle - half - across, middle - half + across, middle + half + across, middle + half - across])
