"""Finishing, second part: rooms that overlap or leave gaps become an exact cover of the floor.

The edges of all rooms cut the plane into faces. Every face goes to one room, or to none where it is outside; rooms are
put together from their faces, so neighbours share whole boundary pieces with identical coordinates.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.geometry.base import BaseGeometry

from .areas import on_grid
from .finishing_settings import Limits
from .finishing_walls import polygon_of, ring, rounded

# Of two rooms that overlap by more than this share of the smaller one, each keeps its half of the common floor.
DEEP = 0.3
# A room keeps faces that others claim too while it holds less than this share of what was drawn for it.
KEPT = 0.55

Piece = tuple[tuple[float, float], tuple[float, float]]  # a boundary piece, its smaller end first


def pieces(points: np.ndarray) -> list[Piece]:
    """The edges of a ring [K,2] as undirected pieces."""
    ends = [(float(x), float(y)) for x, y in points]
    return [(min(a, b), max(a, b)) for a, b in zip(ends, ends[1:] + ends[:1], strict=True)]


def is_cover(shapes: Sequence[Polygon]) -> bool:
    """Whether all rooms are simple, none overlaps another, and shared boundary pieces are identical."""
    return all(s.is_valid and not s.interiors for s in shapes) and bool(shapely.coverage_is_valid(np.array(shapes)))


def parted(shapes: Sequence[Polygon], limits: Limits) -> list[Polygon]:
    """Rooms whose overlaps go deep are parted along the middle of the common floor; a room inside another grows a way
    out to that room's nearest side, since no room may have a hole."""
    rooms = list(shapes)
    for i, j in _overlapping(rooms):
        common = rooms[i].intersection(rooms[j])
        least = min(rooms[i].area, rooms[j].area)
        if common.area <= DEEP * least:
            continue
        small, large = sorted((i, j), key=lambda k: (round(rooms[k].area, 6), k))
        if common.area > 0.85 * least:
            rooms[small] = _with_way_out(rooms[small], rooms[large])
            continue
        (x0, y0), (x1, y1) = rounded(np.reshape(common.bounds, (2, 2)), limits)
        offset = np.subtract(rooms[j].centroid.coords[0], rooms[i].centroid.coords[0])
        axis = int(round(abs(offset[1]) / max(y1 - y0, 1e-9) - abs(offset[0]) / max(x1 - x0, 1e-9), 6) > 0)
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)[axis]
        cut = []
        for k, way in ((i, 1 if offset[axis] > 0 else -1), (j, -1 if offset[axis] > 0 else 1)):
            low, high = [x0, y0], [x1, y1]
            (low if way > 0 else high)[axis] = middle
            side = _floor(box(low[0], low[1], high[0], high[1]).intersection(common))
            # On the lattice, or slanted sides would leave slivers behind.
            cut.append(_largest(on_grid(shapely.difference, rooms[k], side, grid=limits.step)))
        if min(new.area / rooms[k].area for new, k in zip(cut, (i, j), strict=True)) > 0.25:
            rooms[i], rooms[j] = cut
    return rooms


def _overlapping(rooms: Sequence[Polygon]) -> list[tuple[int, int]]:
    tree = shapely.STRtree(list(rooms))
    return sorted((int(i), int(j)) for i, j in tree.query(rooms, predicate="intersects").T if i < j)


def _floor(shape: BaseGeometry) -> MultiPolygon:
    """What has area: where outlines also touch, intersections hold lines and points too."""
    return MultiPolygon([part for part in shapely.get_parts(shape) if isinstance(part, Polygon) and part.area > 0])


def _largest(shape: BaseGeometry) -> Polygon:
    """The largest part, without holes."""
    found = [p for p in shapely.get_parts(shape) if isinstance(p, Polygon)]
    return Polygon(max(found, key=lambda p: p.area).exterior) if found else Polygon()


def _with_way_out(small: Polygon, large: Polygon) -> Polygon:
    """`small`, grown to the nearest side of the `large` room that surrounds it."""
    if not large.contains_properly(small):
        return small
    x0, y0, x1, y1 = small.bounds
    u0, v0, u1, v1 = large.bounds
    ways = [box(u0, y0, x0, y1), box(x1, y0, u1, y1), box(x0, v0, x1, y0), box(x0, y1, x1, v1)]
    strips = [w for w in (_largest(way.intersection(large)) for way in ways) if w.touches(small) or w.intersects(small)]
    best = min(strips, key=lambda strip: round(strip.area, 6), default=Polygon())
    return _largest(small.union(best))


def tiled(shapes: Sequence[Polygon], limits: Limits) -> list[Polygon]:
    """The rooms as a cover: `is_cover` holds for those that remain; a room that loses all its floor comes back empty.

    A face that several rooms claim goes to the one it has the longest boundary with, except that no room is left with
    less than about half of its floor while others can do without. Enclosed gaps narrower than `gap` go to the
    neighbour with the longest common boundary.
    """
    lines = on_grid(shapely.union_all, [s.exterior for s in shapes if not s.is_empty], grid=limits.step)
    faces = [f for f in shapely.get_parts(shapely.polygonize(list(shapely.get_parts(lines)))) if f.area > 0]
    claims = _claims(faces, shapes)
    beside = _neighbours(faces)
    owner: list[int | None] = [c[0] if len(c) == 1 else None for c in claims]
    wanted = [sum(faces[f].area for f, c in enumerate(claims) if room in c) for room in range(len(shapes))]
    held = [sum(faces[f].area for f, o in enumerate(owner) if o == room) for room in range(len(shapes))]
    open_faces = [f for f, c in enumerate(claims) if len(c) > 1]
    while open_faces:
        options = []
        for f in open_faces:
            for room in claims[f]:
                touch = sum(length for g, length in beside[f].items() if owner[g] == room)
                need = held[room] < KEPT * wanted[room]
                share = touch / faces[f].length
                options.append((not need, wanted[room] if need else 0.0, -round(share, 6), -faces[f].area, room, f))
        *_, room, f = min((*(round(float(k), 6) for k in o[:4]), o[4], o[5]) for o in options)
        owner[f] = room
        held[room] += faces[f].area
        open_faces.remove(f)
    for _ in range(3):
        _fill_gaps(faces, owner, beside, limits)
        if not _keep_whole(faces, owner, beside, len(shapes)):
            break
    return simplified(_united(faces, owner, len(shapes)), limits)


def _claims(faces: Sequence[Polygon], shapes: Sequence[Polygon]) -> list[list[int]]:
    """Per face: the rooms that cover it. Faces are cut by all edges, so one inner point speaks for a face."""
    points = shapely.point_on_surface(np.array(faces, dtype=object))
    claims: list[list[int]] = [[] for _ in faces]
    for face, room in shapely.STRtree(list(shapes)).query(points, predicate="intersects").T:
        claims[int(face)].append(int(room))
    return [sorted(c) for c in claims]


def _neighbours(faces: Sequence[Polygon]) -> list[dict[int, float]]:
    """Per face: length of the boundary it shares with every other face."""
    sides: dict[Piece, list[int]] = defaultdict(list)
    for f, face in enumerate(faces):
        for loop in (face.exterior, *face.interiors):
            for piece in pieces(np.asarray(loop.coords)[:-1]):
                sides[piece].append(f)
    beside: list[dict[int, float]] = [defaultdict(float) for _ in faces]
    for ((x0, y0), (x1, y1)), both in sides.items():
        if len(both) == 2:
            length = float(np.hypot(x1 - x0, y1 - y0))
            beside[both[0]][both[1]] += length
            beside[both[1]][both[0]] += length
    return beside


def _touching(f: int, owner: Sequence[int | None], beside: Sequence[dict[int, float]]) -> Counter[int]:
    """Length of boundary that face f shares with each room."""
    total: Counter[int] = Counter()
    for g, length in beside[f].items():
        room = owner[g]
        if room is not None:
            total[room] += length  # type: ignore[assignment]
    return total


def _longest(total: Counter[int]) -> int:
    return min(total, key=lambda room: (-round(total[room], 6), room))


def _fill_gaps(
    faces: Sequence[Polygon], owner: list[int | None], beside: Sequence[dict[int, float]], limits: Limits
) -> None:
    """Give enclosed gaps too narrow to be a court to a neighbour, in place."""
    empty = [f for f, o in enumerate(owner) if o is None]
    for part in shapely.get_parts(shapely.union_all([faces[f] for f in empty])):
        # A gap of many faces is one gap.
        if not part.buffer(-limits.gap / 2, join_style="mitre").is_empty:
            continue
        inside = [f for f in empty if part.covers(faces[f].representative_point())]
        while inside:
            found = [(f, _touching(f, owner, beside)) for f in inside]
            found = [(f, total) for f, total in found if total]
            if not found:
                break
            f, total = max(found, key=lambda item: round(max(item[1].values()), 6))
            owner[f] = _longest(total)
            inside.remove(f)


def _keep_whole(
    faces: Sequence[Polygon], owner: list[int | None], beside: Sequence[dict[int, float]], rooms: int
) -> bool:
    """Leave every room its largest part, give other parts and empty holes to those around; whether anything changed."""
    changed = False
    for room in range(rooms):
        own = [f for f, o in enumerate(owner) if o == room]
        whole = shapely.get_parts(shapely.union_all([faces[f] for f in own]))
        if len(whole) > 1:
            largest = max(whole, key=lambda part: part.area)
            for f in own:
                if not largest.covers(faces[f].representative_point()):
                    owner[f] = None
                    total = _touching(f, owner, beside)
                    total.pop(room, None)
                    owner[f] = _longest(total) if total else None
                    changed = True
        for part in whole:
            for hole in getattr(part, "interiors", ()):
                court = Polygon(hole)
                inside = [f for f, face in enumerate(faces) if court.covers(face.representative_point())]
                if inside and all(owner[f] is None for f in inside):
                    for f in inside:
                        owner[f] = room
                    changed = True
    return changed


def _united(faces: Sequence[Polygon], owner: Sequence[int | None], rooms: int) -> list[Polygon]:
    """Rooms from their faces, by cancelling the pieces that two faces of one room share: coordinates stay untouched."""
    own: list[list[Polygon]] = [[] for _ in range(rooms)]
    for face, room in zip(faces, owner, strict=True):
        if room is not None:
            own[room].append(face)
    return [_largest(shapely.coverage_union_all(np.array(f, dtype=object))) if f else Polygon() for f in own]


def simplified(shapes: Sequence[Polygon], limits: Limits) -> list[Polygon]:
    """A cover without needless corners, still a cover.

    A corner stays where walls meet or a wall bends; where only two pieces of wall meet in line it goes, in all rooms.
    Corners that a neighbour has on one's edge are added, so that shared pieces are identical.
    """
    rings = [ring(s) if not s.is_empty else np.empty((0, 2)) for s in shapes]
    corners = np.unique(np.concatenate(rings), axis=0)
    rings = [_with_corners(points, corners, limits) for points in rings]
    beside: dict[tuple[float, float], set[tuple[float, float]]] = defaultdict(set)
    for points in rings:
        for a, b in pieces(points):
            beside[a].add(b)
            beside[b].add(a)
    gone: set[tuple[float, float]] = set()
    for corner in sorted(beside, key=lambda c: (_bend(c, beside[c]), c)):
        ends = beside[corner]
        if len(ends) != 2 or _bend(corner, ends) > limits.still / 2:
            continue
        a, b = ends
        if b in beside[a]:  # a triangle's last corners
            continue
        gone.add(corner)
        for end, other in ((a, b), (b, a)):
            beside[end].discard(corner)
            beside[end].add(other)
        del beside[corner]
    kept = [np.array([p for p in map(tuple, points.tolist()) if p not in gone]) for points in rings]
    return [polygon_of(points) for points in kept]


def _with_corners(points: np.ndarray, corners: np.ndarray, limits: Limits) -> np.ndarray:
    """A ring with those of `corners` [N,2] that lie on its edges."""
    if not len(points):
        return points
    out = []
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        out.append(start)
        way = end - start
        length = float(np.hypot(*way))
        along = (corners - start) @ way / length
        across = np.abs((corners - start) @ np.array([-way[1], way[0]])) / length
        on = np.flatnonzero(
            (across <= limits.step / 4) & (along > limits.step / 4) & (along < length - limits.step / 4)
        )
        out.extend(corners[on[np.argsort(along[on])]])
    return np.array(out)


def _bend(corner: tuple[float, float], ends: Iterable[tuple[float, float]]) -> float:
    """How far a corner lies off the straight line between its two ends; infinite if it has not two."""
    both = sorted(ends)
    if len(both) != 2:
        return float("inf")
    (ax, ay), (bx, by) = both
    ux, uy, vx, vy = ax - corner[0], ay - corner[1], bx - corner[0], by - corner[1]
    if ux * vx + uy * vy >= 0:
        return float("inf")
    return abs(ux * vy - uy * vx) / float(np.hypot(bx - ax, by - ay))
