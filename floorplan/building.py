"""What every drawing of a finished plan is made from: rooms with their floors, joined walls, doors with their leaves.

`drawn_building` computes the geometry once, in plan units (y down); `Building.in_metres` turns it into a surveyor's
frame (metres, y up). DXF, GeoJSON, IFC and SVG only write down what stands here, so they cannot disagree.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon

from .areas import node_shape, on_grid, polygons_of
from .door_leaves import WIDEST_LEAF, Leaf, choose_leaf
from .errors import FloorplanError
from .finished import FinishedPlan, Wall
from .plan import Plan
from .render import type_title
from .rooms import RoomType
from .wall_bodies import (
    mitred_bodies,
    opening_cut,
    opening_rectangle,
    snap_grid,
    wall_mass,
    without_openings,
)


@dataclass(frozen=True, eq=False)
class RoomShape:
    """A room. `outline` [K, 2]: to the centre lines of its walls (as drawn, in a plan without walls). `floor`: what
    the walls leave of it; several parts, or none, where walls cut a narrow room. Areas in m2: `area` of the outline,
    `floor_area` of the floor, which is what labels say."""

    index: int
    type: RoomType
    name: str
    outline: np.ndarray
    floor: MultiPolygon
    area: float
    floor_area: float

    @property
    def title(self) -> str:
        """The room's own name, or its type in words; never empty."""
        return self.name or type_title(self.type)

    def label_point(self) -> np.ndarray:
        """[2] the middle of the largest circle on the floor (of the outline, where there is no floor)."""
        parts = self.floor.geoms or polygons_of(shapely.make_valid(Polygon(self.outline))).geoms
        if not parts:
            return self.outline.mean(0)
        largest = max(parts, key=lambda part: part.area)
        spot = shapely.maximum_inscribed_circle(largest, tolerance=np.sqrt(largest.area) / 200)
        return np.asarray(spot.coords[0])


@dataclass(frozen=True, eq=False)
class WallShape:
    """One wall of the plan. `start`, `end` [2]: its centre line. `whole`: its body with mitred ends; `solid`: the same
    without the openings. `rooms`: on its two sides, None is outside."""

    index: int
    start: np.ndarray
    end: np.ndarray
    thickness: float
    rooms: tuple[int, int | None]
    whole: Polygon
    solid: MultiPolygon

    @property
    def length(self) -> float:
        return float(np.hypot(*(self.end - self.start)))


@dataclass(frozen=True, eq=False)
class DoorShape:
    """Door `index` of the plan. `wall` holds its opening; None for a door that no wall holds, which has no leaf either.

    `outline` [K, 2]: the opening's rectangle, its first side along the wall (the door node's polygon where there is no
    opening). `width` along the wall. `leaf`: how it swings; None slides, or has no wall.
    """

    index: int
    type: RoomType
    rooms: tuple[int, int | None]
    wall: int | None
    outline: np.ndarray
    width: float
    leaf: Leaf | None

    @property
    def centre(self) -> np.ndarray:
        return self.outline.mean(0)


@dataclass(frozen=True, eq=False)
class Building:
    """A plan worked out for drawing. `mass`: all walls joined, openings cut out. `metres`: the length of one unit of
    the coordinates in metres. `extent`: the side of the plan's frame, in the same units."""

    name: str
    rooms: tuple[RoomShape, ...]
    walls: tuple[WallShape, ...]
    doors: tuple[DoorShape, ...]
    mass: MultiPolygon
    metres: float
    extent: float

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(x_min, y_min, x_max, y_max) of rooms, walls and doors."""
        corners = [r.outline for r in self.rooms] + [d.outline for d in self.doors]
        corners += [shapely.get_coordinates(self.mass)]
        xy = np.concatenate(corners)
        return (*map(float, xy.min(0)), *map(float, xy.max(0)))  # type: ignore[return-value]

    def in_metres(self) -> Building:
        """The same in metres, x to the right and y up, the origin in the lower left corner of the plan's frame."""
        scale, height = self.metres, self.extent

        def place(xy: np.ndarray) -> np.ndarray:
            return np.stack([xy[..., 0] * scale, (height - xy[..., 1]) * scale], -1)

        return replace(
            self,
            rooms=tuple(
                replace(r, outline=place(r.outline), floor=shapely.transform(r.floor, place)) for r in self.rooms
            ),
            walls=tuple(_placed_wall(w, place, scale) for w in self.walls),
            doors=tuple(
                replace(d, outline=place(d.outline), width=d.width * scale, leaf=_placed_leaf(d.leaf, place))
                for d in self.doors
            ),
            mass=shapely.transform(self.mass, place),
            metres=1.0,
            extent=height * scale,
        )


def drawn_building(plan: Plan | FinishedPlan) -> Building:
    """The geometry of a plan in plan units. A plain `Plan` has no walls: its rooms and doors are taken as drawn.

    Raises `FloorplanError` for a wall without length or thickness.
    """
    walls, openings = (), ()
    if isinstance(plan, FinishedPlan):
        plan, walls, openings = plan.plan, plan.walls, plan.openings
        for index, wall in enumerate(walls):
            if not (wall.length > 0 and wall.thickness > 0):
                found = f"length {wall.length!r}, thickness {wall.thickness!r}"
                raise FloorplanError(
                    f"expected a positive length and thickness, found {found}", field=f"walls[{index}]"
                )
    square = plan.metres_per_unit**2
    blocks = wall_mass(walls)
    grid = snap_grid(walls)
    rooms = []
    for index, node in enumerate(plan.rooms):
        whole = polygons_of(node_shape(node))
        floor = polygons_of(on_grid(shapely.difference, whole, blocks, grid=grid) if walls else whole)
        name = clean_text(node.name)
        rooms.append(RoomShape(index, node.type, name, node.polygon, floor, whole.area * square, floor.area * square))

    floors = [room.floor for room in rooms]
    opening_of = {opening.door: opening for opening in openings}
    doors = []
    for index, (node, joined) in enumerate(zip(plan.door_nodes, plan.doors, strict=True)):
        opening = opening_of.get(index)
        if opening is None:
            doors.append(DoorShape(index, node.type, joined, None, node.polygon, _long_side(node.polygon), None))
            continue
        outline = opening_rectangle(walls[opening.wall], opening)
        slides = opening.width * plan.metres_per_unit > WIDEST_LEAF
        leaf = None if slides else choose_leaf(outline, [i for i in joined if i is not None], floors)
        doors.append(DoorShape(index, node.type, joined, opening.wall, outline, opening.width, leaf))

    bodies = mitred_bodies(walls)
    shapes = []
    for index, (wall, body) in enumerate(zip(walls, bodies, strict=True)):
        cuts = shapely.union_all([opening_cut(wall, o) for o in openings if o.wall == index])
        solid = polygons_of(shapely.difference(body, cuts))
        shapes.append(_wall_shape(index, wall, body, solid))
    mass = without_openings(blocks, walls, openings)
    name = clean_text(plan.name)
    return Building(name, tuple(rooms), tuple(shapes), tuple(doors), mass, plan.metres_per_unit, plan.frame)


def clean_text(text: str) -> str:
    """A name as all drawings write it: white space of any kind becomes single spaces, and what no file format can hold
    is dropped (control characters, halves of surrogate pairs, code points that are no characters)."""
    kept = [c for c in text if c.isspace() or (unicodedata.category(c) not in ("Cc", "Cs") and not _no_character(c))]
    return " ".join("".join(kept).split())


def rooms_in_words(building: Building, rooms: Sequence[int | None]) -> str:
    """`kitchen - living`, with `outside` for None."""
    return " - ".join("outside" if i is None else building.rooms[i].title for i in rooms)


def _no_character(c: str) -> bool:
    return ord(c) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(c) <= 0xFDEF


def _long_side(polygon: np.ndarray) -> float:
    box = shapely.minimum_rotated_rectangle(shapely.MultiPoint(polygon))
    corners = shapely.get_coordinates(box)
    return float(np.hypot(*np.diff(corners, axis=0).T).max(initial=0.0))  # a single point has no side


def _wall_shape(index: int, wall: Wall, body: Polygon, solid: MultiPolygon) -> WallShape:
    return WallShape(index, np.asarray(wall.start), np.asarray(wall.end), wall.thickness, wall.rooms, body, solid)


def _placed_wall(wall: WallShape, place: Callable[[np.ndarray], np.ndarray], scale: float) -> WallShape:
    return replace(
        wall,
        start=place(wall.start),
        end=place(wall.end),
        thickness=wall.thickness * scale,
        whole=shapely.transform(wall.whole, place),
        solid=shapely.transform(wall.solid, place),
    )


def _placed_leaf(leaf: Leaf | None, place: Callable[[np.ndarray], np.ndarray]) -> Leaf | None:
    if leaf is None:
        return None
    return replace(leaf, hinge=place(leaf.hinge), closed=place(leaf.closed), opened=place(leaf.opened))
