"""Measures of a plan by exact geometry. Each is a pure function whose docstring is its definition.

Lengths are in the unit of the docstring (metres or plan units); shares lie in [0, 1]. Report what ground truth scores
beside every table: `summary_table` expects it as a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
import shapely
from shapely.geometry import LineString, Polygon
from shapely.geometry.base import BaseGeometry

from .compatibility import MAX_NODES, house_diffusion_compatibility
from .diagram import BubbleDiagram
from .errors import FloorplanError
from .lattice import on_lattice
from .plan import Node, Plan
from .rooms import RoomType

RAYS = 11  # sight lines per door side
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


def _shape(node: Node) -> BaseGeometry:
    return shapely.make_valid(Polygon(node.polygon))


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
    shapes = [_shape(node) for node in plan.rooms]
    total = sum(shape.area for shape in shapes)
    return max(0.0, 1.0 - float(shapely.union_all(shapes).area) / total) if total > 0 else 1.0


def _frames(door: Node) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, float, float]]:
    """Ways to see a door as a box in a wall: (middle, along, normal, length, thickness) of its tightest rectangle.

    A nearly square door may lie either way in its wall, so it has two.
    """
    box = shapely.minimum_rotated_rectangle(shapely.MultiPoint(door.polygon))
    if isinstance(box, Polygon):
        corner = np.asarray(box.exterior.coords)
        first, second = corner[1] - corner[0], corner[2] - corner[1]
    elif isinstance(box, LineString):
        corner = np.asarray(box.coords)
        first, second = corner[-1] - corner[0], np.zeros(2)
    else:
        return []
    middle = corner[0] + (first + second) / 2
    length, thick = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    if thick > length:
        first, length, thick = second, thick, length
    along = first / length
    normal = np.array([-along[1], along[0]])
    seen = [(middle, along, normal, length, thick)]
    return [*seen, (middle, normal, along, thick, length)] if thick > 0.8 * length else seen


def door_connections(plan: Plan, *, reach: float = REACH_METRES) -> list[Connection | None]:
    """What each door really joins, in the order of `plan.doors`; None if it joins nothing.

    From the line through the middle of the door, along the wall, sight lines go straight out through both faces, until
    `reach` metres behind the face. A side opens into the room that most of its sight lines meet, if at least half do.
    An interior door joins the two different rooms of its sides with the most sight lines together. A front door joins
    the room of one side with the outside if behind the other face no room meets half of the sight lines; else it joins
    two rooms as an interior door does.
    """
    rooms = np.array([[_shape(node)] for node in plan.rooms], dtype=object)  # [R, 1], against sight lines [RAYS]
    shapely.prepare(rooms)
    far = reach / plan.metres_per_unit
    result: list[Connection | None] = []
    for door in plan.door_nodes:
        options = []
        for middle, along, normal, length, thick in _frames(door):
            steps = (np.arange(RAYS) + 0.5) / RAYS - 0.5
            starts = middle + steps[:, None] * length * along
            through, beyond = [], []
            for side in (1, -1):
                ends = starts + side * (thick / 2 + far) * normal
                # Just behind the face: a face that lies exactly on a room's boundary is outside.
                faces = starts + side * (thick / 2 + 0.1 * far) * normal
                for begin, hits in ((starts, through), (faces, beyond)):
                    sight = shapely.linestrings(np.stack([begin, ends], axis=1))
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
    enough = math.ceil(RAYS / 2)
    if front:
        sides = [(through[0], beyond[1]), (through[1], beyond[0])]
        free = [(int(inside.max()), inside) for inside, outside in sides if inside.max() >= enough > outside.max()]
        if free:
            most, inside = max(free, key=lambda side: side[0])
            return most, (int(inside.argmax()), None)
    one, other = through[0][:, None], through[1][None, :]
    pairs = np.where((one >= enough) & (other >= enough), one + other, 0)
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


def door_in_wall(plan: Plan, *, most_inside: float = 0.5) -> float:
    """Share of doors that lie in a wall: they join something (`door_connections`; two rooms for an interior door, a
    room and the outside for a front door), and at most `most_inside` of their area lies inside rooms. 1.0 for a plan
    without doors."""
    if not plan.doors:
        return 1.0
    floor = shapely.union_all([_shape(node) for node in plan.rooms])
    good = []
    for node, joined in zip(plan.door_nodes, door_connections(plan), strict=True):
        fits = joined is not None and (joined[1] is None) == (node.type == RoomType.FRONT_DOOR)
        shape = _shape(node)
        good.append(fits and shape.area > 0 and shape.intersection(floor).area <= most_inside * shape.area)
    return float(np.mean(good))


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
        abs(_shape(node).area * plan.metres_per_unit**2 - room.area) / room.area
        for node, room in zip(plan.rooms, diagram.rooms, strict=True)
        if room.area is not None
    ]
    return float(np.mean(errors)) if errors else math.nan


@dataclass(frozen=True)
class Score:
    """Mean and standard deviation (over plans, divisor n) of a measure, and the number of plans it exists for."""

    mean: float
    std: float
    count: int


# name in tables -> (better direction, digits)
_COLUMNS = {
    "graph_errors": ("↓", 2),
    "missing": ("↓", 2),
    "extra": ("↓", 2),
    "validity": ("↑", 3),
    "overlap_share": ("↓", 3),
    "door_in_wall": ("↑", 3),
    "connected": ("↑", 3),
    "manhattan_share": ("", 3),
    "area_error": ("↓", 3),
    "compatibility": ("↓", 2),
    "compatibility_paper": ("↓", 2),
}


def evaluate_plans(
    plans: Sequence[Plan], diagrams: Sequence[BubbleDiagram] | None = None, *, lattice: bool = False
) -> dict[str, Score]:
    """Every measure over a set of plans; diagrams are what was asked for (default: each plan's own doors).

    Keys: graph_errors, missing, extra, validity, overlap_share, door_in_wall, connected, manhattan_share, area_error
    (where areas were asked for), compatibility (HouseDiffusion's estimate against all edges) and compatibility_paper
    (with its row bug). Those last two need doors that overlap their rooms: plans with exact walls must first go
    through the original's raster, which `lattice=True` does (needs OpenCV; a plan that loses a node there does not
    count). Plans for which a measure does not exist are left out of it, `count` says how many remain. Raises
    `FloorplanError` if there are no plans, or not one diagram per plan.
    """
    if not plans:
        raise FloorplanError("no plans; expected at least one", source="evaluation", field="plans")
    if diagrams is not None and len(diagrams) != len(plans):
        found = f"{len(diagrams)} diagrams for {len(plans)} plans; expected one each"
        raise FloorplanError(found, source="evaluation", field="diagrams")
    rows: dict[str, list[float]] = {name: [] for name in _COLUMNS}
    for i, plan in enumerate(plans):
        diagram = diagrams[i] if diagrams is not None else plan.diagram()
        for name, value in _measure(plan, diagram, lattice).items():
            rows[name].append(float(value))
    return {name: Score(float(np.mean(v)), float(np.std(v)), len(v)) for name, v in rows.items() if v}


def _measure(plan: Plan, diagram: BubbleDiagram, lattice: bool) -> dict[str, float]:
    errors = graph_errors(plan, diagram)
    measured = {
        "graph_errors": errors.total,
        "missing": errors.missing,
        "extra": errors.extra,
        "validity": validity(plan),
        "overlap_share": overlap_share(plan),
        "door_in_wall": door_in_wall(plan),
        "connected": connected_from_entrance(plan),
        "manhattan_share": manhattan_share(plan),
        "area_error": area_error(plan, diagram),
    }
    drawn: Plan | None = plan
    if lattice:
        try:
            drawn = on_lattice(plan)
        except FloorplanError:
            drawn = None
    if drawn is not None:
        measured["compatibility"] = house_diffusion_compatibility(drawn, row_bug=False)
        if len(plan.nodes) <= MAX_NODES:
            measured["compatibility_paper"] = house_diffusion_compatibility(drawn, row_bug=True)
    return {name: value for name, value in measured.items() if not math.isnan(value)}


def summary_table(rows: Mapping[str, Mapping[str, Score]]) -> str:
    """A Markdown table with one line per entry of `rows` (name -> `evaluate_plans`), ground truth's among them.

    Cells are `mean ± std`; arrows say which direction is better; measures that no row has are left out.
    """
    names = [name for name in _COLUMNS if any(name in scores for scores in rows.values())]
    head = ["", "plans", *(f"{name} {_COLUMNS[name][0]}".strip() for name in names)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for label, scores in rows.items():
        cells = [label, str(max((score.count for score in scores.values()), default=0))]
        for name in names:
            digits, score = _COLUMNS[name][1], scores.get(name)
            cells.append(f"{score.mean:.{digits}f} ± {score.std:.{digits}f}" if score else "-")
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
