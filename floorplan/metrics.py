"""Measures of a plan by exact geometry. Each is a pure function whose docstring is its definition.

Lengths are in the unit of the docstring (metres or plan units); shares lie in [0, 1]. `geometry_metrics` has more, and
`scores` makes tables of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
import shapely
from shapely.geometry import Polygon

from .areas import node_shape
from .diagram import BubbleDiagram
from .errors import FloorplanError
from .plan import Node, Plan
from .rooms import RoomType

RAYS = 11  # sight lines per door side
ENOUGH = math.ceil(RAYS / 2)  # of them, so that a side opens into a room
# How far behind a door's face its room may begin: 5 of RPLAN's 256 pixels, nearly the thickness of its walls.
REACH_METRES = 0.35

Connection = tuple[int, int | None]  # (room, room) with the smaller first, or (room, None): outside


@dataclass(frozen=True)
class GraphErrors:
    """Edges that differ between a plan and its diagram: wanted but not built, built but not wanted, and their sum."""

    missing: int
    extra: int

    @property
    def total(self) -> int:
        return self.missing + self.extra


def validity(plan: Plan, *, min_area: float = 0.02) -> float:
    """Share of nodes (rooms and doors) whose polygon is simple (does not touch or cross itself) and larger than
    `min_area` m2."""
    least = min_area / plan.metres_per_unit**2
    shapes = [Polygon(node.polygon) for node in plan.nodes]
    return float(np.mean([shape.is_valid and shape.area > least for shape in shapes]))


def overlap_share(plan: Plan) -> float:
    """Floor counted more than once: (sum of room areas - area of their union) / sum of room areas. 0 is right.

    Self-crossing rooms count with their even-odd area. 1.0 if the rooms have no area at all.
    """
    shapes = [node_shape(node) for node in plan.rooms]
    total = sum(shape.area for shape in shapes)
    return max(0.0, 1.0 - float(shapely.union_all(shapes).area) / total) if total > 0 else 1.0


def door_boxes(door: Node) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
    """The box around a door that is narrowest, as (middle [2], unit vector along it [2], length, thickness), plan
    units. A nearly square door may lie either way in its wall, so it has two. None if the door is a point.
    """
    # The narrowest strip around points always has a side of their hull on one of its edges.
    hull = shapely.get_coordinates(shapely.MultiPoint(door.polygon).convex_hull)
    sides = np.roll(hull, -1, axis=0) - hull
    lengths = np.linalg.norm(sides, axis=1)
    if not lengths.any():
        return []
    along = sides[lengths > 0] / lengths[lengths > 0, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    heights = door.polygon @ across.T  # [corners, directions]
    best = int(np.argmin(np.ptp(heights, axis=0)))
    axes = np.stack([along[best], across[best]])
    spans = door.polygon @ axes.T
    middle = (spans.max(axis=0) + spans.min(axis=0)) / 2 @ axes
    length, thick = (float(side) for side in np.ptp(spans, axis=0))
    boxes = [(middle, axes[0], length, thick), (middle, axes[1], thick, length)]
    return boxes if thick > 0.8 * length else boxes[:1]


def sight_lines(middle: np.ndarray, along: np.ndarray, length: float, near: float, far: float) -> np.ndarray:
    """[RAYS] lines straight out through a door, from `near` to `far` off the line along its middle; below 0 lies the
    other side. middle, along: of that line, a point [2] and a unit vector [2]; length: the door's."""
    steps = (np.arange(RAYS) + 0.5) / RAYS - 0.5
    starts = middle + steps[:, None] * length * along
    normal = np.array([-along[1], along[0]])
    return np.asarray(shapely.linestrings(np.stack([starts + near * normal, starts + far * normal], axis=1)))


def door_connections(plan: Plan, *, reach: float = REACH_METRES) -> list[Connection | None]:
    """What each door really joins, in the order of `plan.doors`; None if it joins nothing.

    From the line through the middle of the door, along the wall, sight lines go straight out through both faces, until
    `reach` metres behind the face. A side opens into the room that most of its sight lines meet, if at least half do.
    An interior door joins the two different rooms of its sides with the most sight lines together. A front door joins
    the room of one side with the outside if behind the other face no room meets half of the sight lines; else it joins
    two rooms as an interior door does.
    """
    rooms = np.array([[node_shape(node)] for node in plan.rooms], dtype=object)  # [R, 1], against sight lines [RAYS]
    shapely.prepare(rooms)
    far = reach / plan.metres_per_unit
    result: list[Connection | None] = []
    for door in plan.door_nodes:
        options = []
        for middle, along, length, thick in door_boxes(door):
            through, beyond = [], []
            for side in (1, -1):
                # Just behind the face: a face that lies exactly on a room's boundary is outside.
                for near, hits in ((0.0, through), (thick / 2 + 0.1 * far, beyond)):
                    sight = sight_lines(middle, along, length, side * near, side * (thick / 2 + far))
                    hits.append(np.asarray(shapely.intersects(rooms, sight)).sum(axis=1))
            options.append(_best_connection(through, beyond, front=door.type == RoomType.FRONT_DOOR))
        result.append(max(options, key=lambda option: option[0], default=(0, None))[1])
    return result


def _best_connection(
    through: Sequence[np.ndarray], beyond: Sequence[np.ndarray], *, front: bool
) -> tuple[int, Connection | None]:
    """(sight lines, connection) from the number of sight lines [R] that meet each room on either side.

    through: counted from the middle of the door; beyond: from its faces.
    """
    if front:
        sides = [(through[0], beyond[1]), (through[1], beyond[0])]
        free = [(int(inside.max()), inside) for inside, outside in sides if inside.max() >= ENOUGH > outside.max()]
        if free:
            most, inside = max(free, key=lambda side: side[0])
            return most, (int(inside.argmax()), None)
    one, other = through[0][:, None], through[1][None, :]
    pairs = np.where((one >= ENOUGH) & (other >= ENOUGH), one + other, 0)
    np.fill_diagonal(pairs, 0)
    if pairs.max() == 0:
        return 0, None
    a, b = (int(k) for k in np.unravel_index(int(pairs.argmax()), pairs.shape))
    return int(pairs.max()), (min(a, b), max(a, b))


def graph_errors(plan: Plan, diagram: BubbleDiagram | None = None) -> GraphErrors:
    """Edit distance between the graph the doors build (`door_connections`) and the diagram's doors and entrance.

    diagram: what was asked for, by default the plan's own `doors`; room i of the diagram is room i of the plan. Edges
    are sets: two doors between the same rooms count once. Raises `FloorplanError` if the numbers of rooms differ.
    """
    diagram = diagram or plan.diagram()
    if len(diagram.rooms) != plan.num_rooms:
        raise FloorplanError(
            f"the diagram has {len(diagram.rooms)} rooms, the plan {plan.num_rooms}", source=plan.name, field="rooms"
        )
    wanted: set[Connection] = {(min(a, b), max(a, b)) for a, b in diagram.doors}
    if diagram.front_door is not None:
        wanted.add((diagram.front_door, None))
    built = {connection for connection in door_connections(plan) if connection is not None}
    return GraphErrors(missing=len(wanted - built), extra=len(built - wanted))


def connected_from_entrance(plan: Plan) -> float:
    """Share of rooms that a person can walk to from outside, through doors that really join (`door_connections`)."""
    graph = nx.Graph()
    outside = -1  # networkx does not take None for a node
    graph.add_node(outside)
    for edge in door_connections(plan):
        if edge is not None:
            graph.add_edge(edge[0], outside if edge[1] is None else edge[1])
    return (len(nx.node_connected_component(graph, outside)) - 1) / plan.num_rooms


def manhattan_share(plan: Plan, *, degrees: float = 1.0) -> float:
    """Share of the rooms' wall length that runs along an axis to within `degrees`. 1.0 if there is no wall length."""
    sides = np.concatenate([np.roll(node.polygon, -1, axis=0) - node.polygon for node in plan.rooms])
    lengths = np.linalg.norm(sides, axis=1)
    angles = np.degrees(np.arctan2(np.abs(sides).min(axis=1), np.abs(sides).max(axis=1)))
    return float(lengths[angles <= degrees].sum() / lengths.sum()) if lengths.sum() > 0 else 1.0


def area_error(plan: Plan, diagram: BubbleDiagram) -> float:
    """Mean over rooms with a wanted area of |area - wanted| / wanted; NaN if the diagram wants no areas."""
    errors = [
        abs(node_shape(node).area * plan.metres_per_unit**2 - room.area) / room.area
        for node, room in zip(plan.rooms, diagram.rooms, strict=True)
        if room.area is not None
    ]
    return float(np.mean(errors)) if errors else math.nan
