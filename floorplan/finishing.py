"""Finishing: from a sampled plan, which is a sketch, to one that can be built.

Walls are put in line and shared, overlaps and unwanted gaps go, doors move into the wall between the two rooms they
join. The room graph (`plan.doors`), types, names and order never change. What was moved is reported, and so is what
could not be put right. A finished plan is a fixed point: finishing it again changes nothing, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import shapely
from shapely.geometry import LineString, Polygon

from .finished import FinishedPlan, FinishReport, Move, Opening, Wall
from .finishing_doors import door_outline, place_doors, walls_of
from .finishing_joins import joined, shared_length
from .finishing_rooms import is_cover, parted, tiled
from .finishing_settings import FinishSettings, Limits
from .finishing_walls import aligned, main_angle, outline, polygon_of, ring, rounded
from .metrics import Connection, door_connections
from .plan import Node, Plan

__all__ = ["FinishSettings", "clear_plan", "finish"]

MAX_PASSES = 12
Doors = Sequence[tuple[int, int | None]]


def finish(plan: Plan, settings: FinishSettings | None = None) -> FinishedPlan:
    """Put a plan right; `settings` says how far walls may go (by default `FinishSettings()`).

    Rooms grow to the centre lines of their walls: where a plan leaves gaps for its walls, their usual thickness is
    measured and shared between both sides, outer walls included. Finished corners lie on a lattice of 2^-16 of the
    frame. A room without floor, or one that others swallow, stays as drawn and is reported; so do doors for which the
    rooms have no wall. A plan whose rooms are an exact cover already, with all doors exactly where finishing puts them,
    is left as it is. Raises nothing on a valid `Plan`, unless walls within their reach of the largest coordinates that
    a plan may have would lie beyond them (`FloorplanError`).
    """
    limits = Limits.of(plan, settings or FinishSettings())
    drawn = [outline(node.polygon) for node in plan.rooms]
    sound = [k for k, shape in enumerate(drawn) if shape.area >= limits.least_area]
    shapes = [shape if k in sound else Polygon() for k, shape in enumerate(drawn)]
    walls, openings, failed = _fitted(plan, shapes, limits)
    if not (is_cover([drawn[k] for k in sound]) and _in_place(plan, walls, openings)):
        for k, shape in zip(sound, _settled([drawn[k] for k in sound], plan, sound, limits), strict=True):
            shapes[k] = shape
        walls, openings, failed = _fitted(plan, shapes, limits)
    nodes = [
        node if shape.is_empty else _room_node(node, shape) for node, shape in zip(plan.rooms, shapes, strict=True)
    ]
    doors = list(plan.door_nodes)
    for door in failed:
        doors[door] = _sound_door(doors[door], limits)
    for opening in openings:
        points = door_outline(walls[opening.wall], opening)
        if not _same_corners(doors[opening.door].polygon, points):
            doors[opening.door] = replace(doors[opening.door], polygon=points)
    nodes += doors
    moved = [Move(k, _distance(a, b)) for k, (a, b) in enumerate(zip(plan.nodes, nodes, strict=True)) if a is not b]
    problems = [_no_floor(plan, k, k in sound) for k, shape in enumerate(shapes) if shape.is_empty]
    if not is_cover([shape for shape in shapes if not shape.is_empty]):
        problems.append("some rooms could not be parted; they still overlap")
    problems += [f"{_no_wall(plan, shapes, door)}; it stands in no wall" for door in failed]
    finished = replace(plan, nodes=tuple(nodes))
    problems += _misread(finished, openings)
    report = FinishReport(tuple(move for move in moved if move.distance > 0), tuple(problems))
    return FinishedPlan(finished, walls, openings, report)


def _fitted(
    plan: Plan, shapes: Sequence[Polygon], limits: Limits
) -> tuple[tuple[Wall, ...], tuple[Opening, ...], list[int]]:
    """(walls, openings, doors without one) for these rooms; an empty room has no walls."""
    walls = walls_of(shapes, limits)
    drawn = [node.polygon for node in plan.door_nodes]
    return walls, *place_doors(shapes, walls, plan.doors, drawn, _open_walls(shapes, walls), limits)


def _in_place(plan: Plan, walls: Sequence[Wall], openings: Sequence[Opening]) -> bool:
    """Whether there are openings, and every door that has one is drawn as just that."""
    drawn = plan.door_nodes
    same = [_same_corners(drawn[o.door].polygon, door_outline(walls[o.wall], o)) for o in openings]
    return bool(same) and all(same)


def _settled(drawn: list[Polygon], plan: Plan, kept: Sequence[int], limits: Limits) -> list[Polygon]:
    """Rooms `kept` of a plan, tidied until nothing moves any more. Those that vanished on the way are empty."""
    if not drawn:
        return []
    place = {k: i for i, k in enumerate(kept)}
    doors = [
        (place[a], None if b is None else place[b]) for a, b in plan.doors if a in place and (b is None or b in place)
    ]
    angle = main_angle([ring(s) for s in drawn], limits.slope)
    states = [drawn]
    for _ in range(MAX_PASSES):
        state, new = states[-1], _tidy(states[-1], doors, angle, plan.frame, limits)
        left = [i for i, s in enumerate(new) if not s.is_empty]
        if len(left) < len(new):
            # What vanished once is out; the others settle without it.
            rest = _settled([new[i] for i in left], plan, [kept[i] for i in left], limits)
            found = dict(zip(left, rest, strict=True))
            return [found.get(i, Polygon()) for i in range(len(new))]
        far = max(shapely.hausdorff_distance(a.exterior, b.exterior) for a, b in zip(state, new, strict=True))
        same_corners = all(len(a.exterior.coords) == len(b.exterior.coords) for a, b in zip(state, new, strict=True))
        if far <= (limits.creep if same_corners else limits.still) and is_cover(state):
            return state
        states.append(new)
    # Demands that pull walls two ways take turns for ever: of the later states, the best.
    return min(states[MAX_PASSES // 2 :], key=lambda state: _cost(state, doors, limits))


def _cost(shapes: Sequence[Polygon], doors: Doors, limits: Limits) -> tuple[bool, int, int]:
    """Whether it is no cover, doors without a wall, corners: the less the better."""
    missing = sum(shared_length(shapes, door, limits) < limits.door_wall for door in doors)
    return not is_cover(shapes), missing, sum(len(s.exterior.coords) for s in shapes)


def _tidy(state: Sequence[Polygon], doors: Doors, angle: float, frame: float, limits: Limits) -> list[Polygon]:
    """One round of all parts, in the directions that the plan mostly follows."""
    turned = [_turned(s, -angle, frame) for s in state] if angle else list(state)
    rooms = tiled(parted(aligned(turned, limits), limits), limits)
    rooms, changed = joined(rooms, doors, limits)
    if changed:
        rooms = tiled(rooms, limits)
    if not angle:
        return rooms
    back = [_turned(s, angle, frame) for s in rooms]
    return [s if s.is_empty else polygon_of(rounded(ring(s), limits)) for s in back]


def _turned(shape: Polygon, angle: float, frame: float) -> Polygon:
    """Turned about the middle of the frame, point by point."""
    cos, sin = math.cos(angle), math.sin(angle)
    middle = frame / 2
    return shapely.transform(shape, lambda xy: (xy - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle)


def _open_walls(shapes: Sequence[Polygon], walls: Sequence[Wall]) -> list[bool]:
    """Per wall: whether the ground beyond it is the open outside, not a room nor an enclosed court."""
    whole = shapely.union_all([s for s in shapes if not s.is_empty])
    outer = shapely.union_all([p.exterior for p in shapely.get_parts(whole) if isinstance(p, Polygon)])
    middles = [LineString([w.start, w.end]).interpolate(0.5, normalized=True) for w in walls]
    return [w.rooms[1] is None and outer.distance(m) < 1e-6 for w, m in zip(walls, middles, strict=True)]


def _room_node(node: Node, shape: Polygon) -> Node:
    """The node with its finished polygon; the node itself where that is what it has."""
    points = ring(shape)
    first = min(range(len(points)), key=lambda k: tuple(points[k]))
    points = np.roll(points, -first, axis=0)
    return node if _same_ring(node.polygon, points) else replace(node, polygon=points)


def _same_ring(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two rings have the same corners in the same cyclic order, either way round."""
    if len(one) != len(other):
        return False
    turns = [
        np.roll(way, -k, axis=0) for way in (one, one[::-1]) for k in np.flatnonzero((way == other[0]).all(axis=1))
    ]
    return any(np.array_equal(turn, other) for turn in turns)


def _same_corners(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two door outlines have the same four corners to within rounding."""
    return len(one) == 4 and float(np.abs(one[:, None] - other).max(axis=2).min(axis=0).max()) < 1e-6


def _sound_door(node: Node, limits: Limits) -> Node:
    """A door without a wall: as drawn if that is a simple polygon with a door's area, else a box in its place."""
    least = limits.inner_wall * limits.least_door
    if Polygon(node.polygon).is_valid and node.area >= least / 2:
        return node
    frame = shapely.minimum_rotated_rectangle(shapely.MultiPoint(node.polygon))
    points = shapely.get_coordinates(frame)
    sides = np.diff(points[:3], axis=0) if len(points) > 2 else np.diff(points, axis=0)
    along = max(sides, key=lambda side: float(np.hypot(*side)), default=np.array([1.0, 0.0]))
    along = along / np.hypot(*along) if np.hypot(*along) > 0 else np.array([1.0, 0.0])
    half, across = along * limits.least_door / 2, np.array([-along[1], along[0]]) * limits.inner_wall / 2
    middle = np.asarray(frame.centroid.coords[0])
    corners = [middle - half - across, middle - half + across, middle + half + across, middle + half - across]
    return replace(node, polygon=np.array(corners))


def _distance(drawn: Node, finished: Node) -> float:
    """See `Move`."""
    a, b = (LineString([*n.polygon, n.polygon[0]]) for n in (drawn, finished))
    far = [
        shapely.distance(shapely.points(points), line).max()
        for points, line in ((drawn.polygon, b), (finished.polygon, a))
    ]
    return float(max(far))


def _label(plan: Plan, room: int) -> str:
    node = plan.nodes[room]
    return f"room {room} ({node.name or node.type.name.lower()})"


def _no_floor(plan: Plan, room: int, sound: bool) -> str:
    lost = "lost all its floor to other rooms" if sound else "has too little floor to be a room"
    return f"{_label(plan, room)} {lost}; left as drawn"


def _no_wall(plan: Plan, shapes: Sequence[Polygon], door: int) -> str:
    a, b = plan.doors[door]
    if b is None:
        return f"door {door}: {_label(plan, a)} has no outer wall that has a place for a front door"
    rooms = f"{_label(plan, a)} and {_label(plan, b)}"
    if shapes[a].is_empty or shapes[b].is_empty or shapes[a].distance(shapes[b]) > 0:
        return f"door {door}: {rooms} do not meet"
    return f"door {door}: {rooms} share no wall that has a place for a door"


def _misread(finished: Plan, openings: Sequence[Opening]) -> list[str]:
    """A problem for every placed door that `door_connections` reads as another."""
    read = door_connections(finished)
    problems = []
    for door in sorted(opening.door for opening in openings):
        a, b = finished.doors[door]
        wanted = (a, b) if b is None else (min(a, b), max(a, b))
        if read[door] != wanted:
            problems.append(f"door {door}: its sight lines join {_joined(read[door])} instead of {_joined(wanted)}")
    return problems


def _joined(connection: Connection | None) -> str:
    if connection is None:
        return "nothing"
    a, b = connection
    return f"room {a} and {'the outside' if b is None else f'room {b}'}"


def clear_plan(finished: FinishedPlan) -> Plan:
    """The plan of clear floor: rooms without the bodies of their walls, doors in the walls between them.

    This is the form in which plans are drawn for training and measured. A room that its walls
    fill stays as it is.
    """
    bodies = [LineString([w.start, w.end]).buffer(w.thickness / 2, cap_style="square") for w in finished.walls]
    tree = shapely.STRtree(bodies)
    nodes = list(finished.plan.nodes)
    for k, node in enumerate(finished.plan.rooms):
        shape = outline(node.polygon)
        mine = [bodies[w] for w in tree.query(shape, predicate="intersects") if k in finished.walls[w].rooms]
        parts = [p for p in shapely.get_parts(shape.difference(shapely.union_all(mine))) if isinstance(p, Polygon)]
        floor = max(parts, key=lambda p: p.area, default=Polygon())
        if floor.area > 0:
            nodes[k] = replace(node, polygon=ring(floor))
    return replace(finished.plan, nodes=tuple(nodes))
