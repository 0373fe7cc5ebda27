"""Oblique walls on straight-walled plans: chamfers, slanted sides, bay windows, cut corners inside.

Points are integer (x, y) in plan units, y down; every polygon given and left here is in the standard order.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import shapely

from .procedural_layout import CELL, FREE, MIN_CELLS, WALL, Wall, overlap
from .procedural_polygon import Point, Polygon, doubled_area, normalised, sign
from .procedural_programme import Stream

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in units

MAX_SHARPNESS = 0.55  # cosine of the sharpest corner that an oblique wall may make, 57 degrees
CLOSING = 6.75  # units that the walls of a room must be able to close in: it is 13.5 (0.95 m) wide everywhere
MIN_KEPT = 0.6  # share of a room that a cut must leave
MIN_EDGE = 5  # units; shorter edges are noise to a model on a 256 grid


class Oblique:
    """Adds oblique walls to the polygons of one grid, in place. Every method returns whether it changed them."""

    def __init__(
        self,
        stream: Stream,
        grid: np.ndarray,
        walls: list[Wall],
        polygons: list[Polygon],
        doors: list[Box],
        min_areas: list[float],
        windowed: list[bool],
    ) -> None:
        """polygons: one per label. doors: boxes that must stay in straight wall. min_areas: square units per label.
        windowed: per label, whether the room's outer walls may bulge or slant outwards."""
        self.stream, self.grid, self.walls = stream, grid, walls
        self.polygons, self.doors, self.min_areas, self.windowed = polygons, doors, min_areas, windowed

    def any_of(self, tries: int = 3) -> bool:
        """One oblique feature of a random kind; other kinds are tried when one does not fit."""
        kinds = self.stream.shuffled(
            [self.chamfer, self.chamfer, self.slant, self.slant, self.bay, self.skew, self.inner]
        )
        return any(kind() for kind in kinds for _ in range(tries))

    def chamfer(self) -> bool:
        """Cut an outer corner of the whole plan at 45 degrees."""
        a, b = self.stream.choice([-1, 1]), self.stream.choice([-1, 1])
        reach = max(a * x + b * y for polygon in self.polygons for x, y in polygon)
        return self._cut(a, b, reach - self.stream.integer(14, 34))

    def slant(self) -> bool:
        """Cut along a gently sloping line over a whole side of the plan."""
        length, rise = 20, self.stream.integer(2, 7) * self.stream.choice([-1, 1])
        side = self.stream.choice([-1, 1])
        a, b = (side * length, rise) if self.stream.chance(0.5) else (rise, side * length)
        reach = max(a * x + b * y for polygon in self.polygons for x, y in polygon)
        return self._cut(a, b, reach - length * self.stream.integer(6, 26))

    def _cut(self, a: int, b: int, c: int) -> bool:
        """Keep a x + b y <= c of every room, unless a room, a door or an edge would become too small."""
        margin = 4 * (abs(a) + abs(b))
        for x0, y0, x1, y1 in self.doors:
            if max(a * x0, a * x1) + max(b * y0, b * y1) + margin > c:
                return False
        cut: list[Polygon] = []
        for polygon, least in zip(self.polygons, self.min_areas, strict=True):
            clipped = _clip(polygon, a, b, c)
            if clipped is None or (clipped is not polygon and not _usable(clipped, least)):
                return False
            if doubled_area(clipped) > MIN_KEPT * doubled_area(polygon):  # both negative
                return False
            cut.append(clipped)
        if all(new is old for new, old in zip(cut, self.polygons, strict=True)):
            return False
        self.polygons[:] = cut
        return True

    def bay(self) -> bool:
        """Push a trapezoid bay window out of an outer wall."""
        width, depth = self.stream.integer(20, 36), self.stream.integer(6, 10)
        wall = self._outer_wall((width + 12) // CELL + 2)
        if wall is None or not self._room_in_front(wall, depth):
            return False
        label, way = (wall.before, 1) if wall.after == FREE else (wall.after, -1)
        low, high = wall.start * CELL + WALL + 6, wall.end * CELL - WALL - 6 - width
        start = self.stream.integer(low, high) if high >= low else low
        face = wall.line * CELL - way * WALL
        lean = self.stream.integer(5, 8)
        flat = [(start, 0), (start + lean, depth), (start + width - lean, depth), (start + width, 0)]
        points = [(face + way * d, s) if wall.vertical else (s, face + way * d) for s, d in flat]
        return self._insert(label, points)

    def _insert(self, label: int, points: Polygon) -> bool:
        """Insert points into the straight edge of polygon `label` that contains both the first and the last."""
        polygon = self.polygons[label]
        for i, (p, q) in enumerate(zip(polygon, [*polygon[1:], polygon[0]], strict=True)):
            if _inside_edge(p, q, points[0]) and _inside_edge(p, q, points[-1]):
                forward = abs(p[0] - points[0][0]) + abs(p[1] - points[0][1])
                backward = abs(p[0] - points[-1][0]) + abs(p[1] - points[-1][1])
                self.polygons[label] = (
                    polygon[: i + 1] + (points if forward < backward else points[::-1]) + polygon[i + 1 :]
                )
                return True
        return False

    def skew(self) -> bool:
        """Move one corner of a rectangular room outwards, so that its outer wall slants."""
        depth = self.stream.integer(6, 18)
        wall = self._outer_wall(MIN_CELLS)
        if wall is None or not self._room_in_front(wall, depth):
            return False
        label, way = (wall.before, 1) if wall.after == FREE else (wall.after, -1)
        polygon = self.polygons[label]
        face = wall.line * CELL - way * WALL
        spans = (wall.start * CELL + WALL, wall.end * CELL - WALL)
        corners = [(face, s) if wall.vertical else (s, face) for s in spans]
        if len(polygon) != 4 or any(c not in polygon for c in corners):
            return False
        moved = self.stream.choice(corners)
        x, y = moved
        target = (x + way * depth, y) if wall.vertical else (x, y + way * depth)
        skewed = [target if p == moved else p for p in polygon]
        if not _usable(skewed, self.min_areas[label]):
            return False
        self.polygons[label] = skewed
        return True

    def inner(self) -> bool:
        """Chamfer a room's corner towards the one other room around it, which gains what the room loses."""
        size = self.stream.integer(10, 20)
        corners: list[tuple[int, int, Point]] = []
        for label, polygon in enumerate(self.polygons):
            if len(polygon) != 4:
                continue
            for x, y in polygon:
                lx, ly = round(x / CELL), round(y / CELL)
                around = self.grid[ly - 1 : ly + 1, lx - 1 : lx + 1].ravel().tolist()
                others = [k for k in around if k != label]
                if around.count(label) == 1 and len(set(others)) == 1 and others[0] != FREE:
                    corners.append((label, others[0], (x, y)))
        if not corners:
            return False
        label, host, (x, y) = self.stream.choice(corners)
        lx, ly = round(x / CELL) * CELL, round(y / CELL) * CELL
        sx, sy = sign(lx - x), sign(ly - y)  # from the room towards its corner
        around = (lx - size - 5, ly - size - 5, lx + size + 5, ly + size + 5)
        if any(overlap(around, door) for door in self.doors):
            return False
        # Faces of the 45-degree wall stand 3 units off its line (2 sqrt 2 along the normal, rounded up).
        own = [(x, ly - sy * (size + 1)), (lx - sx * (size + 1), y)]
        far = (lx + sx * WALL, ly + sy * WALL)
        theirs = [(far[0], ly - sy * (size - 1)), (lx - sx * (size - 1), far[1])]
        new_room = _replace(self.polygons[label], (x, y), own)
        new_host = _replace(self.polygons[host], far, theirs)
        if (
            new_room is None
            or new_host is None
            or not _usable(new_room, self.min_areas[label])
            or not _usable(new_host, 0)
        ):
            return False
        self.polygons[label], self.polygons[host] = new_room, new_host
        return True

    def _outer_wall(self, least: int) -> Wall | None:
        """A random outer wall of at least `least` cells of a windowed room, without a front door."""
        found = [
            w
            for w in self.walls
            if FREE in (w.before, w.after)
            and self.windowed[w.before if w.after == FREE else w.after]
            and w.end - w.start >= least
            and not self._has_door(w)
        ]
        return self.stream.choice(found) if found else None

    def _has_door(self, wall: Wall) -> bool:
        line, start, end = wall.line * CELL, wall.start * CELL, wall.end * CELL
        for x0, y0, x1, y1 in self.doors:
            across, along = ((x0 + x1) / 2, (y0, y1)) if wall.vertical else ((y0 + y1) / 2, (x0, x1))
            if across == line and along[0] < end and along[1] > start:
                return True
        return False

    def _room_in_front(self, wall: Wall, depth: int) -> bool:
        """Whether the ground in front of an outer wall is free `depth` units deep, with space to either side."""
        cells = math.ceil(depth / CELL) + 2
        grid = self.grid if wall.vertical else self.grid.T
        rows = slice(max(0, wall.start - 2), wall.end + 2)
        front = (
            slice(wall.line, wall.line + cells) if wall.after == FREE else slice(max(0, wall.line - cells), wall.line)
        )
        return bool((grid[rows, front] == FREE).all())


def _clip(polygon: Polygon, a: int, b: int, c: int) -> Polygon | None:
    """The part of `polygon` with a x + b y <= c, rounded; the same object if all of it, None if it falls apart."""
    depths = [c - a * x - b * y for x, y in polygon]
    if min(depths) >= 0:
        return polygon
    out: Polygon = []
    crossings = 0
    for i, (x1, y1) in enumerate(polygon):
        (x0, y0), d0, d1 = polygon[i - 1], depths[i - 1], depths[i]
        if (d0 >= 0) != (d1 >= 0):
            crossings += 1
            t = d0 / (d0 - d1)
            out.append((round(x0 + (x1 - x0) * t), round(y0 + (y1 - y0) * t)))
        if d1 >= 0:
            out.append((x1, y1))
    return normalised(out) if crossings == 2 else None


def _usable(polygon: Polygon, least: float) -> bool:
    """Whether a changed room is still large enough, wide enough and without tiny edges or sharp corners."""
    if len(polygon) < 4 or -doubled_area(polygon) < 2 * least:
        return False
    if any((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 < MIN_EDGE**2 for p, q in pairwise([*polygon, polygon[0]])):
        return False
    if max(map(_sharpness, [polygon[-1], *polygon[:-1]], polygon, [*polygon[1:], polygon[0]])) > MAX_SHARPNESS:
        return False
    # A room that falls apart or vanishes when its walls close in has a passage too narrow to walk through.
    core = shapely.Polygon(polygon).buffer(-CLOSING, join_style="mitre")
    return core.geom_type == "Polygon" and not core.is_empty


def _sharpness(a: Point, b: Point, c: Point) -> float:
    """Cosine of the angle at b: 0 for a right angle, 1 for a spike."""
    (ux, uy), (vx, vy) = (a[0] - b[0], a[1] - b[1]), (c[0] - b[0], c[1] - b[1])
    return (ux * vx + uy * vy) / math.sqrt((ux * ux + uy * uy) * (vx * vx + vy * vy))


def _inside_edge(p: Point, q: Point, point: Point) -> bool:
    """Whether `point` lies on the axis-parallel edge p-q and at least MIN_EDGE from its ends."""
    for axis in (0, 1):
        if p[axis] == q[axis] == point[axis]:
            low, high = sorted((p[1 - axis], q[1 - axis]))
            return low + MIN_EDGE <= point[1 - axis] <= high - MIN_EDGE
    return False


def _replace(polygon: Polygon, corner: Point, points: Polygon) -> Polygon | None:
    """`polygon` with one corner replaced by two points, in the order that keeps it simple; None if it is not there."""
    if corner not in polygon:
        return None
    i = polygon.index(corner)
    before = polygon[i - 1]
    first, last = points
    # Each point lies on one of the two edges at the corner: the one on the incoming edge comes first.
    on_incoming = first[0] == before[0] == corner[0] or first[1] == before[1] == corner[1]
    return polygon[:i] + ([first, last] if on_incoming else [last, first]) + polygon[i + 1 :]
