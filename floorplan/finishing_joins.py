"""Finishing, third part: rooms that a door joins must meet along a wall that can hold it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from shapely.geometry import Polygon, box

from .areas import on_grid
from .finishing_settings import Limits
from .finishing_walls import edges_of, ring

# Share of its floor that a room keeps when another grows at its cost.
KEPT_BY_OTHERS = 0.75

Door = tuple[int, int | None]


def joined(shapes: Sequence[Polygon], doors: Sequence[Door], limits: Limits) -> tuple[list[Polygon], bool]:
    """Rooms of a cover grown so that rooms with a door between them meet, and whether any grew.

    Where two such rooms share no wall long enough for a door, one of them takes a rectangle next to one of its sides,
    at most `reach` deep: of free ground if that is enough, else also of other rooms, as long as these keep their shape,
    most of their floor and a wall for each of their doors. What takes least from others is chosen, then what needs the
    fewest corners, then the least ground. Where nothing fits, the rooms stay.
    """
    rooms, changed = list(shapes), False
    need = limits.door_wall
    wanted = [door for door in dict.fromkeys(doors) if not any(k is not None and rooms[k].is_empty for k in door)]
    held = {door for door in wanted if shared_length(rooms, door, limits) >= need}
    for a, b in wanted:
        if b is None or (a, b) in held:
            continue
        options = []
        for number, (room, strip) in enumerate(_strips(rooms, a, b, need, limits)):
            found = _grown(rooms, room, strip)
            if found is None or shared_length(found[0], (a, b), limits) < need:
                continue
            new, touched, cost = found
            at_risk = [door for door in held if touched & set(door)]
            if all(shared_length(new, door, limits) >= need for door in at_risk):
                corners = sum(len(s.exterior.coords) for s in new)
                # Equals are told apart by what a turned plan has too: how near to the other's middle they are.
                far = round(strip.centroid.distance(rooms[b if room == a else a].centroid), 6)
                options.append((round(cost, 6), corners, round(strip.area, 6), far, room, number, new))
        if options:
            rooms, changed = min(options, key=lambda option: option[:6])[-1], True
            held.add((a, b))
    return rooms, changed


def shared_length(rooms: Sequence[Polygon], door: Door, limits: Limits) -> float:
    """Length of the longest straight piece on which two outlines lie, also where their corners differ; for a front
    door, of the room's outline that no other room touches."""
    a, b = door
    if b is None:
        others = [s.exterior for k, s in enumerate(rooms) if k != a and not s.is_empty]
        common = on_grid(shapely.difference, rooms[a].exterior, shapely.union_all(others), grid=limits.step)
    else:
        common = on_grid(shapely.intersection, rooms[a].exterior, rooms[b].exterior, grid=limits.step)
    # Outlines start and end anywhere, and a straight wall may have corners of others on it.
    straight = shapely.simplify(shapely.line_merge(shapely.MultiLineString(_lines(common))), limits.still)
    lengths = [0.0]
    for line in _lines(straight):
        at = shapely.get_coordinates(line)
        lengths += np.hypot(*np.diff(at, axis=0).T).tolist()
    return max(lengths)


def _lines(shape: shapely.Geometry) -> list[shapely.LineString]:
    return [part for part in shapely.get_parts(shape) if isinstance(part, shapely.LineString) and not part.is_empty]


def _strips(rooms: Sequence[Polygon], a: int, b: int, need: float, limits: Limits) -> list[tuple[int, Polygon]]:
    """Ground that room a or b could take to meet the other: (room, rectangle).

    Either up to a side of the other that faces it, or a widening along a side of the other that is too short so far.
    """
    both = {a: edges_of([ring(rooms[a])], limits)[0], b: edges_of([ring(rooms[b])], limits)[0]}
    # A little more than what is asked for, which rounding and the next look at the walls may take away.
    need += limits.creep
    sides = {room: [edge for edge in row if edge is not None] for room, row in both.items()}
    strips = []
    for room, other in ((a, b), (b, a)):
        for e in sides[room]:
            depths = {need}
            for f in sides[other]:
                low, high = max(e.low, f.low), min(e.high, f.high)
                apart = e.facing * (f.at - e.at)
                if e.axis == f.axis and e.facing != f.facing and high - low >= need and 0 < apart <= limits.reach:
                    depths.add(apart)
                    strips.append((room, _strip(e.axis, e.at, e.facing * apart, low, high)))
                elif e.axis != f.axis:
                    # A side of the other that runs on beyond e: with so much depth e's room lies along it for `need`.
                    start = f.low if e.facing > 0 else f.high
                    depths.add(need - e.facing * (e.at - start))
            wide = e.high - e.low >= limits.inner_wall / 2 + limits.floor  # else the room would grow a slit
            for depth in sorted(depths):
                if wide and limits.still < depth <= limits.reach:
                    strips.append((room, _strip(e.axis, e.at, e.facing * depth, e.low, e.high)))
    return strips


def _strip(axis: int, at: float, depth: float, low: float, high: float) -> Polygon:
    across = sorted((at, at + depth))
    return box(across[0], low, across[1], high) if axis == 0 else box(low, across[0], high, across[1])


def _grown(rooms: Sequence[Polygon], room: int, strip: Polygon) -> tuple[list[Polygon], set[int], float] | None:
    """All rooms after one took a strip, those that changed, and the floor that others lost; None if that breaks one."""
    new, touched, cost = list(rooms), {room}, 0.0
    whole = rooms[room].union(strip)
    if not isinstance(whole, Polygon) or whole.interiors:
        return None
    new[room] = whole
    for k, other in enumerate(rooms):
        if k == room or other.is_empty or not other.intersects(strip):
            continue
        lost = other.intersection(strip).area
        # Neighbours change even where they lose no floor: a side may become shared.
        touched.add(k)
        if lost <= 1e-9 * other.area:
            continue
        rest = other.difference(strip)
        if not isinstance(rest, Polygon) or rest.interiors or rest.area < KEPT_BY_OTHERS * other.area:
            return None
        new[k] = rest
        cost += lost
    return new, touched, cost
