"""More measures of one plan by exact geometry, beside those of `metrics`: gaps, doors in their own walls, alignment.

Each is a pure function whose docstring is its definition. Lengths are in metres, areas in square metres, angles in
degrees, shares lie in [0, 1]. All stay finite for any polygons; self-crossing rooms count with their even-odd area.

Plans come in two conventions: rooms drawn to the faces of their walls, with the walls' thickness free between them
(RPLAN, this package's models), and rooms drawn to the centre lines of their walls, with nothing between them (finished
plans). `wall` is the widest strip between rooms that is taken for a wall: `WALL_METRES` for the first, 0 for the
second. Doors are judged alike in both.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import shapely
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from .areas import closed, filled, node_shape, on_grid, polygons_of
from .diagram import BubbleDiagram
from .errors import FloorplanError
from .metrics import connected_from_entrance, door_boxes, door_connections
from .plan import Plan

WALL_METRES = 0.5  # RPLAN's thickest walls are 6 to 7 of its 256 pixels
SLOT_METRES = 0.9  # nobody fits through less than a door: narrower outside space between rooms is a fault
TOLERANCE_METRES = 0.1
GRID_METRES = 1e-6  # of unions and differences
PROBES = 21  # points along a door
LEAST_LINE_METRES = 0.3  # shorter sides say little about the direction of a wall


def geometry_measures(plan: Plan, diagram: BubbleDiagram, *, wall: float = WALL_METRES) -> dict[str, float]:
    """Every measure of this file by name; one that does not exist is left out."""
    measured = {
        "overlapping_pairs": overlapping_pairs(plan),
        "gap_share": gap_share(plan, wall=wall),
        "parts": parts(plan, wall=wall),
        "door_in_own_wall": door_in_own_wall(plan),
        "all_reachable": connected_from_entrance(plan) == 1.0,
        "room_count_match": room_count_match(plan, diagram),
        "type_match": type_match(plan, diagram),
        "total_area_error": total_area_error(plan, diagram),
        "misalignment": misalignment(plan),
        "axis_deviation": axis_deviation(plan),
    }
    return {name: float(value) for name, value in measured.items() if not math.isnan(value)}


# ------------------------------------------------------------------------------------------------- overlaps and gaps


def overlapping_pairs(plan: Plan, *, tolerance: float = 0.01) -> int:
    """Pairs of rooms that share more than `tolerance` m2 of floor. 0 is right; `overlap_share` says how much."""
    shapes = np.array([node_shape(node) for node in plan.rooms], dtype=object)
    first, second = np.triu_indices(len(shapes), 1)
    shared = shapely.area(shapely.intersection(shapes[first], shapes[second]))
    return int((np.asarray(shared) * plan.metres_per_unit**2 > tolerance).sum())


def floor(plan: Plan) -> BaseGeometry:
    """The union of the rooms, plan units."""
    return polygons_of(shapely.union_all([node_shape(node) for node in plan.rooms]))


def gaps(plan: Plan, *, wall: float = WALL_METRES, slot: float = SLOT_METRES) -> BaseGeometry:
    """Space inside the outline that is neither room nor wall, plan units.

    Walls are what gaps up to `wall` metres wide between and around the rooms are filled with (`closed`). The outline
    is that of the rooms with gaps and notches up to `slot` metres wide filled too, and all its holes. With `wall` and
    `slot` 0: the holes of the union of the rooms.
    """
    return _built_and_gaps(plan, wall, slot)[1]


def gap_share(plan: Plan, *, wall: float = WALL_METRES, slot: float = SLOT_METRES) -> float:
    """Area of `gaps` / area of the outline: 1 - (rooms and walls) / filled outline. 0 is right, 1.0 if no room has
    area. A court counts as a gap."""
    built, missing = (shape.area for shape in _built_and_gaps(plan, wall, slot))
    return float(missing / (missing + built)) if built > 0 else 1.0


def _built_and_gaps(plan: Plan, wall: float, slot: float) -> tuple[BaseGeometry, BaseGeometry]:
    """Rooms and walls, and `gaps`."""
    unit = plan.metres_per_unit
    grid = GRID_METRES / unit
    built = closed(floor(plan), wall / unit, grid=grid)
    outline = filled(closed(built, slot / unit, grid=grid))
    return built, polygons_of(on_grid(shapely.difference, outline, built, grid=grid))


def coverage(plan: Plan, *, wall: float = WALL_METRES, slot: float = SLOT_METRES) -> float:
    """Share of the outline that rooms and walls cover: 1 - `gap_share`."""
    return 1.0 - gap_share(plan, wall=wall, slot=slot)


def parts(plan: Plan, *, wall: float = WALL_METRES) -> int:
    """Pieces of at least 0.01 m2 the building falls into: rooms belong together if a strip up to `wall` m wide lies
    between. 1 is right, 0 if no room has area."""
    unit = plan.metres_per_unit
    pieces = polygons_of(closed(floor(plan), wall / unit, grid=GRID_METRES / unit)).geoms
    return sum(piece.area * unit**2 >= 0.01 for piece in pieces)


# ------------------------------------------------------------------------------------------------------------- doors


def doors_in_own_walls(plan: Plan, *, wall: float = WALL_METRES, tolerance: float = TOLERANCE_METRES) -> list[bool]:
    """For every door, in the order of `plan.doors`: whether it lies in the wall between exactly the rooms it is for.

    It joins exactly those (`door_connections`; a front door its room and the outside), its narrowest box (`door_boxes`)
    is no thicker than `wall` m, and the middle line of that box lies in the middle of the wall up to `tolerance` m: at
    most `wall` / 2 + `tolerance` away from each of its rooms and at most `tolerance` deep in any room, at each of 21
    points along it.
    So it says the same of a door between two faces and of one on a common boundary. `wall` is metres in both.
    """
    unit = plan.metres_per_unit
    rooms = np.array([node_shape(node) for node in plan.rooms], dtype=object)
    edges = shapely.boundary(rooms)
    steps = (np.arange(PROBES) + 0.5) / PROBES - 0.5
    verdicts = []
    for node, wanted, found in zip(plan.door_nodes, plan.doors, door_connections(plan), strict=True):
        good = False
        for middle, along, length, thick in door_boxes(node) if found == wanted else []:
            points = np.asarray(shapely.points(middle + steps[:, None] * length * along))[None, :]
            away = np.asarray(shapely.distance(rooms[:, None], points)) * unit  # [R, PROBES]
            deep = np.where(away == 0, np.asarray(shapely.distance(edges[:, None], points)) * unit, 0.0)
            own = [room for room in wanted if room is not None]
            near = (away[own] <= wall / 2 + tolerance).all()
            good |= bool(near and (deep <= tolerance).all() and thick * unit <= wall)
        verdicts.append(good)
    return verdicts


def door_in_own_wall(plan: Plan, *, wall: float = WALL_METRES, tolerance: float = TOLERANCE_METRES) -> float:
    """Share of doors that lie in the wall between exactly their two rooms (`doors_in_own_walls`). 1.0 without doors."""
    verdicts = doors_in_own_walls(plan, wall=wall, tolerance=tolerance)
    return float(np.mean(verdicts)) if verdicts else 1.0


# ----------------------------------------------------------------------------------------------- what was asked for


def built_rooms(plan: Plan, *, min_area: float = 0.5) -> list[int]:
    """Rooms that are really there: of at least `min_area` m2 of floor that no earlier room of the list covers."""
    found: list[int] = []
    taken: BaseGeometry = Polygon()
    for room, node in enumerate(plan.rooms):
        shape = polygons_of(node_shape(node))
        if shapely.difference(shape, taken).area * plan.metres_per_unit**2 >= min_area:
            found.append(room)
            taken = shapely.union(taken, shape)
    return found


def room_count_match(plan: Plan, diagram: BubbleDiagram) -> bool:
    """Whether the plan has as many rooms (`built_rooms`) as were asked for."""
    return len(built_rooms(plan)) == diagram.num_rooms


def type_match(plan: Plan, diagram: BubbleDiagram) -> float:
    """Rooms (`built_rooms`) that can be paired with asked rooms of their type / the greater of the two numbers."""
    built = Counter(plan.rooms[room].type for room in built_rooms(plan))
    asked = Counter(room.type for room in diagram.rooms)
    return (built & asked).total() / max(built.total(), asked.total())


def total_area_error(plan: Plan, diagram: BubbleDiagram) -> float:
    """|sum of areas - sum of wanted areas| / sum of wanted areas, over the rooms that have a wanted one; NaN if none.

    `metrics.area_error` is the same room by room. Raises `FloorplanError` if the numbers of rooms differ.
    """
    if diagram.num_rooms != plan.num_rooms:
        text = f"the diagram has {diagram.num_rooms} rooms, the plan {plan.num_rooms}"
        raise FloorplanError(text, source=plan.name, field="rooms")
    pairs = [(node_shape(n).area, r.area) for n, r in zip(plan.rooms, diagram.rooms, strict=True) if r.area is not None]
    if not pairs:
        return math.nan
    drawn, wanted = np.sum(pairs, axis=0)
    return float(abs(drawn * plan.metres_per_unit**2 - wanted) / wanted)


# --------------------------------------------------------------------------------------------------------- alignment


def wall_sides(plan: Plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All sides of all rooms but those of length 0: starts [E,2] and ends [E,2] in plan units, room of each [E]."""
    start = np.concatenate([node.polygon for node in plan.rooms])
    end = np.concatenate([np.roll(node.polygon, -1, axis=0) for node in plan.rooms])
    room = np.repeat(np.arange(plan.num_rooms), [len(node.polygon) for node in plan.rooms])
    kept = (start != end).any(axis=1)
    return start[kept], end[kept], room[kept]


def corner_counts(plan: Plan) -> np.ndarray:
    """Real corners of every room [R]: those where its outline turns by more than a degree. A corner that only marks
    where a neighbour's wall begins does not count."""
    counts = []
    for node in plan.rooms:
        sides = np.roll(node.polygon, -1, axis=0) - node.polygon
        z = (sides @ np.array([1, 1j]))[(sides != 0).any(axis=1)]
        counts.append(int((np.abs(np.angle(z * np.roll(z, 1).conj())) > math.radians(1)).sum()))
    return np.array(counts)


def misalignment(plan: Plan, *, reach: float = 0.15, degrees: float = 10.0) -> float:
    """Metres by which walls miss each other: mean over the rooms' wall length of the distance to the nearest line.

    The line of a side is drawn through it and goes on for ever. The distance of a side to a line is the mean of its
    two ends'. Lines are those of other rooms' sides of at least 0.3 m that run within `degrees` of parallel. A line
    further than `reach` is meant to be another wall (walls are thicker than that), so a side with no line within
    `reach` counts 0, as one exactly on a line does.
    """
    start, end, room = wall_sides(plan)
    if not len(start):
        return 0.0
    unit, along = plan.metres_per_unit, end - start
    lengths = np.linalg.norm(along, axis=1)
    along = along / lengths[:, None]
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    offset = (normal * start).sum(axis=1)
    away = (np.abs(start @ normal.T - offset) + np.abs(end @ normal.T - offset)) / 2 * unit  # [side, line]
    usable = (np.abs(along @ normal.T) <= math.sin(math.radians(degrees))) & (room[:, None] != room[None, :])
    usable &= (lengths * unit >= LEAST_LINE_METRES)[None, :] & (away <= reach)
    nearest = np.where(usable, away, np.inf).min(axis=1)
    return float((lengths * np.where(np.isfinite(nearest), nearest, 0.0)).sum() / lengths.sum())


def main_direction(plan: Plan) -> float:
    """The direction that most walls run along or across, degrees in (-45, 45]: a quarter of the angle of
    sum length * exp(4i angle) over the rooms' sides. 0 where no direction is preferred."""
    start, end, _ = wall_sides(plan)
    z = (end - start) @ np.array([1, 1j])
    total = (np.abs(z) * np.exp(4j * np.angle(z))).sum()
    return math.degrees(np.angle(total)) / 4 if abs(total) > 1e-9 * np.abs(z).sum() else 0.0


def axis_deviation(plan: Plan, *, own_axes: bool = False) -> float:
    """Mean over the rooms' wall length of the angle to the nearest axis, 0 to 45 degrees.

    own_axes: axes along and across the plan's `main_direction`, so that a turned plan scores as before it was turned.
    """
    start, end, _ = wall_sides(plan)
    sides = end - start
    lengths = np.linalg.norm(sides, axis=1)
    if not len(sides):
        return 0.0
    angles = np.degrees(np.arctan2(sides[:, 1], sides[:, 0])) - (main_direction(plan) if own_axes else 0.0)
    away = np.abs((angles + 45.0) % 90.0 - 45.0)
    return float((lengths * away).sum() / lengths.sum())
