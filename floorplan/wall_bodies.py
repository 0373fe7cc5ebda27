"""Bodies of walls: from centre lines to joined outlines, the one place for this geometry.

Walls that meet in a point are joined as an architect draws them: neighbouring faces run on to where they cross (a
mitre). All lengths are plan units; nothing here depends on which way y points.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from .areas import on_grid, polygons_of
from .finished import Opening, Point, Wall

# Faces that meet at less than about 29 degrees would run on in a long spike; they are cut off straight, as SVG does.
MITRE_LIMIT = 4.0
# Faces closer to parallel than this (radians) do not cross anywhere useful.
PARALLEL = 1e-6
# Openings cut a little more than the wall's thickness, so that rounding leaves no film standing on a face.
OVERCUT = 0.01

End = tuple[int, bool]  # a wall's index, and whether the end meant is the wall's `end` rather than its `start`


def snap_grid(walls: Sequence[Wall]) -> float:
    """The grid that set operations snap corners to: a power of two, 2^-32 of the longest coordinate or a little less.

    Whole and half units stay what they are, and slivers between faces that differ by rounding alone disappear.
    """
    reach = max((abs(value) for wall in walls for value in (*wall.start, *wall.end, wall.thickness)), default=1.0)
    return float(2.0 ** (np.ceil(np.log2(max(reach, 1e-300))) - 32))


def wall_mass(walls: Sequence[Wall]) -> MultiPolygon:
    """All walls as one joined body, openings not yet cut; empty without walls.

    The union of `mitred_bodies`; where one of them had to stay a plain rectangle, the corners at its ends are filled.
    """
    bodies, plain = _bodies(walls)
    pieces: list[BaseGeometry] = list(bodies)
    for node, ends in junctions(walls).items():
        if any(index in plain for index, _ in ends):
            pieces += _wedges(walls, node, ends)
    grid = snap_grid(walls)
    body = on_grid(shapely.union_all, [piece for piece in pieces if piece.area > 0], grid=grid)
    return polygons_of(without_needless_corners(body, grid))


def without_openings(mass: MultiPolygon, walls: Sequence[Wall], openings: Sequence[Opening]) -> MultiPolygon:
    """`wall_mass` with its openings cut through."""
    cut = shapely.union_all([opening_cut(walls[opening.wall], opening) for opening in openings])
    return polygons_of(on_grid(shapely.difference, mass, cut, grid=snap_grid(walls)))


def mitred_bodies(walls: Sequence[Wall]) -> list[Polygon]:
    """One body per wall: walls that meet share the mitre between them, so that the bodies together are `wall_mass`.

    Faces run on to where they cross, unless that is beyond `MITRE_LIMIT`. A wall shorter than its neighbours are thick
    may leave no room for both mitres; it stays a plain rectangle then, and overlaps its neighbours.
    """
    return _bodies(walls)[0]


def _bodies(walls: Sequence[Wall]) -> tuple[list[Polygon], set[int]]:
    """The bodies, and which of them are plain rectangles for lack of room."""
    corners: dict[End, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for node, ends in junctions(walls).items():
        corners |= _end_corners(walls, node, ends)
    grid = snap_grid(walls)
    bodies: list[Polygon] = []
    plain: set[int] = set()
    for index, wall in enumerate(walls):
        along, normal = directions(wall)
        (left_start, right_start), (left_end, right_end) = corners[index, False], corners[index, True]
        # Left and right are seen looking away from each node, so they change places at the other end.
        low, high = [*right_start[::-1], *left_end], [*right_end[::-1], *left_start]
        body = Polygon([tuple(point) for point in (*low, wall.end, *high, wall.start)])
        faces_run_on = (left_end[0] - right_start[0]) @ along > 0 and (right_end[0] - left_start[0]) @ along > 0
        if faces_run_on and body.is_valid:
            bodies.append(shapely.simplify(body, grid))
        else:
            plain.add(index)
            bodies.append(rectangle(_middle(wall), along, normal, wall.length, wall.thickness))
    return bodies, plain


def opening_cut(wall: Wall, opening: Opening) -> Polygon:
    """What an opening takes out of its wall: its width along the wall, a little more than the thickness across."""
    along, normal = directions(wall)
    return rectangle(opening.centre, along, normal, opening.width, wall.thickness * (1 + OVERCUT))


def opening_rectangle(wall: Wall, opening: Opening) -> np.ndarray:
    """[4, 2] corners of an opening, exactly as wide as it is and as thick as its wall."""
    along, normal = directions(wall)
    return np.asarray(rectangle(opening.centre, along, normal, opening.width, wall.thickness).exterior.coords)[:4]


def directions(wall: Wall) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [2] along the wall and across it (a quarter turn from x to y), (1,0) and (0,1) for no length."""
    line = np.subtract(wall.end, wall.start)
    along = line / wall.length if wall.length > 0 else np.array([1.0, 0.0])
    return along, np.array([-along[1], along[0]])


def rectangle(
    centre: Point | np.ndarray, along: np.ndarray, normal: np.ndarray, length: float, width: float
) -> Polygon:
    """The rectangle around `centre`, `length` along and `width` across."""
    middle, a, n = np.asarray(centre), along * length / 2, normal * width / 2
    return Polygon([middle - a - n, middle + a - n, middle + a + n, middle - a + n])


def without_needless_corners(shape: BaseGeometry, tolerance: float) -> BaseGeometry:
    """The same outline without corners on straight stretches (within `tolerance`), each ring's first corner included.

    Douglas-Peucker keeps the corner a ring begins with, so every ring is begun at another corner and done again.
    """
    once = shapely.simplify(shape, 2 * tolerance)
    parts = []
    for part in polygons_of(once).geoms:
        rings = [np.roll(np.asarray(ring.coords)[:-1], -1, axis=0) for ring in (part.exterior, *part.interiors)]
        parts.append(shapely.simplify(Polygon(rings[0], rings[1:]), 2 * tolerance))
    return MultiPolygon([part for part in parts if isinstance(part, Polygon)])


def junctions(walls: Sequence[Wall]) -> dict[Point, list[End]]:
    """The wall ends that meet in each point, in order of their direction (by angle, -pi to pi)."""
    found: dict[Point, list[End]] = defaultdict(list)
    for index, wall in enumerate(walls):
        found[wall.start].append((index, False))
        found[wall.end].append((index, True))
    for ends in found.values():
        ends.sort(key=lambda end: float(np.arctan2(*_outward(walls, end)[::-1])))
    return dict(found)


def _middle(wall: Wall) -> np.ndarray:
    return (np.asarray(wall.start) + wall.end) / 2


def _outward(walls: Sequence[Wall], end: End) -> np.ndarray:
    """Direction from the junction into the wall."""
    along, _ = directions(walls[end[0]])
    return -along if end[1] else along


def _faces(walls: Sequence[Wall], end: End) -> tuple[np.ndarray, np.ndarray]:
    """Offsets [2] from the node to the left and the right face (left: a quarter turn from x to y)."""
    direction = _outward(walls, end)
    left = np.array([-direction[1], direction[0]]) * walls[end[0]].thickness / 2
    return left, -left


@dataclass(frozen=True, eq=False)
class _Joint:
    """How the left face of a wall end meets the right face of the next one by angle, as offsets [2] from their node.

    `left`, `right`: the outline of the first and of the second wall from the face towards the node. `fill`: the rest
    of the outline of a wedge that has a corner in the node and that neither rectangle covers; empty if there is none.
    """

    left: list[np.ndarray]
    right: list[np.ndarray]
    fill: list[np.ndarray]


def _joint(walls: Sequence[Wall], first: End, second: End) -> _Joint:
    u, v = _outward(walls, first), _outward(walls, second)
    p, q = _faces(walls, first)[0], _faces(walls, second)[1]
    sine = _cross(u, v)
    if first == second or abs(sine) < PARALLEL:
        return _Joint([p], [q], [])
    ahead, ahead_second = _cross(q - p, v) / sine, _cross(q - p, u) / sine
    tip = p + u * ahead
    if ahead >= 0 and ahead_second >= 0:
        return _Joint([tip], [tip], [])
    thickest = max(walls[first[0]].thickness, walls[second[0]].thickness)
    if np.hypot(*tip) <= MITRE_LIMIT * thickest / 2:
        return _Joint([tip], [tip], [p, tip, q])
    if ahead < 0 and ahead_second < 0:
        bevel = (p + q) / 2  # each wall gets the half beside it
        return _Joint([p, bevel], [q, bevel], [p, q])
    # Nearly straight on, from thick to thin: the thick wall ends square, the thin one runs up to that end.
    if walls[first[0]].thickness > walls[second[0]].thickness:
        stop = q - v * (q @ u) / (v @ u)
        return _Joint([p], [stop], [stop, q])
    stop = p - u * (p @ v) / (u @ v)
    return _Joint([stop], [q], [p, stop])


def _cross(a: np.ndarray, b: np.ndarray) -> float:
    return float(a[0] * b[1] - a[1] * b[0])


def _wedges(walls: Sequence[Wall], node: Point, ends: list[End]) -> list[BaseGeometry]:
    """What the rectangles of walls that meet leave open around their node."""
    wedges: list[BaseGeometry] = []
    for first, second in zip(ends, ends[1:] + ends[:1], strict=True):
        fill = _joint(walls, first, second).fill
        if fill:
            wedges.append(shapely.make_valid(Polygon([np.asarray(node), *(node + offset for offset in fill)])))
    return wedges


def _end_corners(
    walls: Sequence[Wall], node: Point, ends: list[End]
) -> dict[End, tuple[list[np.ndarray], list[np.ndarray]]]:
    """The outline of every wall end at a node, left and right of it looking into the wall: points [2] from the face
    towards the node, which itself is left out."""
    left: dict[End, list[np.ndarray]] = {}
    right: dict[End, list[np.ndarray]] = {}
    for first, second in zip(ends, ends[1:] + ends[:1], strict=True):
        joint = _joint(walls, first, second)
        left[first] = [node + offset for offset in joint.left]
        right[second] = [node + offset for offset in joint.right]
    return {end: (left[end], right[end]) for end in ends}
