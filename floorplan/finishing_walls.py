"""Finishing, first part: the walls of drawn rooms put in line.

Walls along the two main directions are lines with one coordinate each. Lines that belong together (two sides of one
wall, or walls that continue each other) become one line; corners are where lines cross. Oblique walls hang between
corners, and their corners are drawn together with near ones. Everything here treats x and y, and both ways along
them, alike: a turned or mirrored plan gives the turned or mirrored result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from .finishing_settings import Limits

# An edge rising more than this part of its length is oblique, however short it is.
STEEPEST = 0.35
# Least share of the wall length that has to follow a turned main direction before the plan is seen as turned.
TURNED_SHARE = 0.5


def outline(points: np.ndarray) -> Polygon:
    """A drawn polygon [K,2] as a simple shapely polygon, in shapely's normal form.

    Of a self-crossing or pinched outline the largest part remains, without holes; of corners that are drawn twice in a
    row, one. Empty if it has no area.
    """
    corners = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    shape: BaseGeometry = Polygon(corners) if len(corners) >= 3 else Polygon()
    if not shape.is_valid:
        shape = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    parts = [part for part in shapely.get_parts(shape) if isinstance(part, Polygon)]
    largest = max(parts, key=lambda part: part.area, default=Polygon())
    return shapely.normalize(Polygon(largest.exterior)) if largest.area > 0 else Polygon()


def ring(shape: Polygon) -> np.ndarray:
    """[K,2] corners of a simple polygon, counter-clockwise in x, y, without the repeated last."""
    return np.asarray(shapely.orient_polygons(shape).exterior.coords)[:-1]


def rounded(points: np.ndarray, limits: Limits) -> np.ndarray:
    """Points on the lattice of finished corners. What lies midway to within float noise goes to even steps: that is
    the same for a mirrored plan, and for one moved by even steps."""
    return np.round(np.round(points / limits.step, 6)) * limits.step


def polygon_of(points: np.ndarray) -> Polygon:
    """The polygon of a ring [K,2], corners that stand there twice in a row once; empty if fewer than three are left."""
    kept = [p for p, before in zip(points, np.roll(points, 1, axis=0), strict=True) if (p != before).any()]
    return Polygon(kept) if len(kept) >= 3 else Polygon()


def main_angle(rings: Iterable[np.ndarray], slope: float) -> float:
    """The turn of the plan's main directions against the axes, radians in (-pi/4, pi/4]; 0 within the tolerance.

    The length-weighted mean of all wall directions modulo a quarter turn, refined on those near to it. A plan of which
    half the wall length does not follow it is not turned.
    """
    sides = np.concatenate([np.roll(r, -1, axis=0) - r for r in rings])
    length = np.hypot(*sides.T)
    quarter = 4 * np.arctan2(sides[:, 1], sides[:, 0])
    mean, near = 0.0, np.ones(len(sides), dtype=bool)
    for _ in range(3):
        total = np.sum(length[near] * np.exp(1j * quarter[near]))
        mean = math.atan2(total.imag, total.real)
        near = np.abs(np.angle(np.exp(1j * (quarter - mean)))) < 4 * math.radians(10)
    angle = mean / 4
    if abs(math.tan(angle)) <= slope or length[near].sum() < TURNED_SHARE * length.sum():
        return 0.0
    straight = np.abs(np.angle(np.exp(1j * quarter))) < 4 * math.atan(slope)
    return angle if length[near].sum() > length[straight].sum() else 0.0


@dataclass
class Edge:
    """A room's edge along an axis: at `at` on axis `axis` (0: x is constant), over `low` to `high` on the other.

    `facing` is +1 where the outside lies towards larger `at`.
    """

    room: int
    axis: int
    facing: int
    at: float
    low: float
    high: float

    @property
    def length(self) -> float:
        return self.high - self.low


def axis_of(side: np.ndarray, limits: Limits) -> int | None:
    """0 for an edge [2] of constant x, 1 of constant y, None for an oblique one."""
    minor, major = np.sort(np.abs(side))
    if minor > max(limits.slope * major, min(0.75 * limits.snap, STEEPEST * major)):
        return None
    return int(abs(side[0]) > abs(side[1]))


def edges_of(rings: Sequence[np.ndarray], limits: Limits) -> list[list[Edge | None]]:
    """Per room (ring [K,2], counter-clockwise) and edge: the edge if it follows an axis, None if it is oblique."""
    found: list[list[Edge | None]] = []
    for room, points in enumerate(rings):
        row: list[Edge | None] = []
        for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
            axis = axis_of(end - start, limits)
            if axis is None:
                row.append(None)
                continue
            along = 1 - axis
            # Counter-clockwise in x, y the outside lies to the right: +x on a way along +y, -y on one along +x.
            forward = 1 if end[along] > start[along] else -1
            facing = forward if axis == 0 else -forward
            low, high = sorted((float(start[along]), float(end[along])))
            row.append(Edge(room, axis, facing, float((start[axis] + end[axis]) / 2), low, high))
        found.append(row)
    return found


def wall_gap(rows: Sequence[Sequence[Edge | None]], limits: Limits) -> float:
    """The thickness that walls were drawn with: the median gap between facing edges of neighbours, by length.

    0 where rooms are drawn to the centre lines of their walls, or have no neighbours.
    """
    gaps, weights = _facing_gaps([e for row in rows for e in row if e is not None], limits.gap)
    if not len(gaps):
        return 0.0
    order = np.argsort(gaps, kind="stable")
    value, total = gaps[order], np.cumsum(weights[order])
    half = total[-1] / 2
    # The lower and upper weighted medians differ on ties; their mean treats both ends alike.
    median = (
        value[np.searchsorted(total, half)] + value[min(np.searchsorted(total, half, "right"), len(value) - 1)]
    ) / 2
    return float(median) if median > 8 * limits.still else 0.0


def _facing_gaps(edges: Sequence[Edge], reach: float) -> tuple[np.ndarray, np.ndarray]:
    """(gap [N], common length [N]) of the pairs of edges of different rooms, on one axis, that face opposite ways over
    a common length, up to `reach` apart. A gap below 0 is an overlap."""
    gaps, weights = [np.empty(0)], [np.empty(0)]
    for axis in (0, 1):
        chosen = [e for e in edges if e.axis == axis]
        if not chosen:
            continue
        at, low, high = (np.array([getattr(e, k) for e in chosen]) for k in ("at", "low", "high"))
        room, facing = np.array([e.room for e in chosen]), np.array([e.facing for e in chosen])
        common = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
        near = (np.abs(at[:, None] - at) <= reach) & (common > 0)
        near &= (room[:, None] != room) & (facing[:, None] == 1) & (facing == -1)
        gaps.append((at - at[:, None])[near])
        weights.append(common[near])
    return np.concatenate(gaps), np.concatenate(weights)


def align(edges: Sequence[Edge], limits: Limits) -> None:
    """Give edges that belong to one wall line one `at`, in place.

    Two edges belong together if they face each other over a common length within `gap`, or lie end to end within
    `snap`. Nearest pairs come first; a line never takes two opposite sides of one room, nor edges further apart than
    `gap`. It comes to lie midway between the mean of its edges facing one way and that of those facing the other.
    """
    for axis in (0, 1):
        chosen = [e for e in edges if e.axis == axis]
        if not chosen:
            continue
        lines = [[e] for e in chosen]
        line_of = list(range(len(chosen)))
        for i, j in _related(chosen, limits):
            a, b = line_of[i], line_of[j]
            if a == b or not _may_join(lines[a], lines[b], limits):
                continue
            lines[a] += lines[b]
            lines[b] = []
            line_of = [a if k == b else k for k in line_of]
        for line in lines:
            if line:
                at = _middle(line)
                for edge in line:
                    edge.at = at


def _related(chosen: Sequence[Edge], limits: Limits) -> list[tuple[int, int]]:
    """Index pairs of edges of one axis that belong together, nearest first."""
    at, low, high = (np.array([getattr(e, k) for e in chosen]) for k in ("at", "low", "high"))
    room, facing = np.array([e.room for e in chosen]), np.array([e.facing for e in chosen])
    apart = np.abs(at[:, None] - at)
    common = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    opposite = facing[:, None] != facing
    facing_each = opposite & (common > limits.still) & (apart <= limits.gap)
    # Same-facing edges of two rooms over a common length overlap or are hidden; they are no continuation.
    end_to_end = (common > -limits.gap) & (apart <= limits.snap)
    related = np.triu(((room[:, None] != room) & facing_each) | end_to_end, 1)
    pairs = np.argwhere(related)
    # Rounding, so that float noise does not decide between equals; then what a turned plan has too.
    keys = [
        (round(float(apart[i, j]), 6), -round(float(common[i, j]), 6), *sorted((int(room[i]), int(room[j]))))
        for i, j in pairs
    ]
    order = sorted(range(len(pairs)), key=keys.__getitem__)
    return [(int(pairs[k][0]), int(pairs[k][1])) for k in order]


def _may_join(one: Sequence[Edge], other: Sequence[Edge], limits: Limits) -> bool:
    both = [*one, *other]
    if max(e.at for e in both) - min(e.at for e in both) > 1.5 * limits.gap:
        return False
    return not any(a.room == b.room and a.facing != b.facing for a in one for b in other)


def _middle(line: Sequence[Edge]) -> float:
    means = []
    for way in (1, -1):
        side = [e for e in line if e.facing == way]
        weight = sum(e.length for e in side)
        if weight > 0:
            means.append(sum(e.at * e.length for e in side) / weight)
    return sum(means) / len(means) if means else line[0].at


def rebuilt(points: np.ndarray, row: Sequence[Edge | None]) -> tuple[np.ndarray, np.ndarray]:
    """A ring from its edges' lines: (corners [N,2], fixed [N,2] bool: which coordinates a line gives).

    Where edges of one direction but different lines meet, a short step joins them.
    """
    corners, fixed = [], []
    for k in range(len(points)):
        before, after = row[k - 1], row[k]
        if before is not None and after is not None and before.axis == after.axis:
            for edge in (before, after):
                corner = points[k].copy()
                corner[edge.axis] = edge.at
                corners.append(corner)
                fixed.append([True, True])
            continue
        corner, held = points[k].copy(), [False, False]
        for edge in (before, after):
            if edge is not None:
                corner[edge.axis] = edge.at
                held[edge.axis] = True
        corners.append(corner)
        fixed.append(held)
    return np.array(corners), np.array(fixed)


def gather(rings: list[np.ndarray], fixed: Sequence[np.ndarray], limits: Limits) -> None:
    """Draw corners of oblique walls to other rooms' corners and oblique walls within `snap`, in place.

    Coordinates that a line gives stay; groups of corners take their mean elsewhere.
    """
    points, held = np.concatenate(rings), np.concatenate(list(fixed))
    room = np.repeat(np.arange(len(rings)), [len(r) for r in rings])
    free = held.sum(axis=1) < 2
    if not free.any():
        return
    apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    near = (apart <= limits.snap) & (room[:, None] != room) & (free[:, None] | free)
    pairs = np.argwhere(np.triu(near, 1))
    group = np.arange(len(points))
    keys = [(round(float(apart[i, j]), 6), *sorted((int(room[i]), int(room[j])))) for i, j in pairs]
    for k in sorted(range(len(pairs)), key=keys.__getitem__):
        i, j = pairs[k]
        members = (group == group[i]) | (group == group[j])
        spread = [
            np.ptp(points[members & held[:, axis], axis]) if (members & held[:, axis]).any() else 0 for axis in (0, 1)
        ]
        if group[i] != group[j] and max(spread) <= limits.still and len(set(room[members])) == members.sum():
            group[members] = min(group[i], group[j])
    moved = points.copy()
    for g in np.unique(group[free]):
        members = group == g
        if members.sum() < 2:
            continue
        for axis in (0, 1):
            known = members & held[:, axis]
            moved[members, axis] = points[known if known.any() else members, axis].mean()
    starts = np.cumsum([0, *(len(r) for r in rings)])
    for k in range(len(rings)):
        rings[k] = moved[starts[k] : starts[k + 1]]


def aligned(shapes: Sequence[Polygon], limits: Limits) -> list[Polygon]:
    """Rooms to the centre lines of their walls, and those walls in line. Rooms still may overlap and leave gaps.

    A room that would lose its shape stays as it was.
    """
    rings = [_plain(ring(shape), limits) for shape in shapes]
    rows = edges_of(rings, limits)
    thickness = wall_gap(rows, limits)
    if thickness > 0:
        shapes = [outline(np.asarray(s.buffer(thickness / 2, join_style="mitre").exterior.coords)) for s in shapes]
        rings = [_plain(ring(shape), limits) for shape in shapes]
        rows = edges_of(rings, limits)
    align([e for row in rows for e in row if e is not None], limits)
    built = [rebuilt(points, row) for points, row in zip(rings, rows, strict=True)]
    rings = [points for points, _ in built]
    gather(rings, [held for _, held in built], limits)
    found = [outline(rounded(points, limits)) for points in rings]
    return [new if new.area > 0.5 * old.area else old for new, old in zip(found, shapes, strict=True)]


def _plain(points: np.ndarray, limits: Limits) -> np.ndarray:
    """A ring without corners that lie on the straight way between their neighbours."""
    kept = points
    while len(kept) > 3:
        before, after = np.roll(kept, 1, axis=0) - kept, np.roll(kept, -1, axis=0) - kept
        across = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0])
        base = np.hypot(*(after - before).T)
        off = np.divide(across, base, out=np.zeros_like(base), where=base > 0)
        if off.min() > limits.still:
            break
        kept = np.delete(kept, int(off.argmin()), axis=0)
    return kept
