"""Vector floorplans: rooms and doors as polygons, and which rooms each door joins."""

from __future__ import annotations

import os
import reprlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from .diagram import BubbleDiagram, RoomSpec, is_finite_number, links_of, ordered_pair
from .errors import FloorplanError
from .rooms import RoomType, is_door

RPLAN_FRAME = 256.0  # RPLAN plans live on 256 x 256 pixels
RPLAN_METRES_PER_UNIT = 18.0 / 256  # and that square is 18 m wide
# Far beyond any building, and so small that squares and their sums are exact enough and never overflow when drawing.
MAX_UNITS = 1e6


@dataclass(frozen=True, eq=False)
class Node:
    """A room or a door. `polygon` [K,2] float64 with K >= 3, plan units, y down, closed implicitly; kept as a
    read-only copy. Raises `FloorplanError` on another shape, or values not finite or beyond `MAX_UNITS` (1e6)."""

    type: RoomType
    polygon: np.ndarray
    name: str = ""

    def __post_init__(self) -> None:
        try:
            polygon = np.array(self.polygon, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise FloorplanError(f"expected [K, 2] numbers: {error}", field="polygon") from error
        if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3:
            raise FloorplanError(f"expected shape [K, 2] with K >= 3, found {list(polygon.shape)}", field="polygon")
        if not np.isfinite(polygon).all():
            bad = int(np.flatnonzero(~np.isfinite(polygon).all(axis=1))[0])
            raise FloorplanError(f"corner {bad} is not finite: {polygon[bad].tolist()}", field="polygon")
        if np.abs(polygon).max() > MAX_UNITS:
            bad = int(np.flatnonzero((np.abs(polygon) > MAX_UNITS).any(axis=1))[0])
            text = f"corner {bad} is beyond {MAX_UNITS:,.0f} units: {polygon[bad].tolist()}"
            raise FloorplanError(text, field="polygon")
        polygon.setflags(write=False)
        object.__setattr__(self, "polygon", polygon)
        object.__setattr__(self, "type", RoomType(self.type))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Node):
            return NotImplemented
        return self.type == other.type and self.name == other.name and np.array_equal(self.polygon, other.polygon)

    def __hash__(self) -> int:
        # Adding 0.0 turns -0.0 into 0.0: equal arrays must hash equally.
        return hash((self.type, self.name, (self.polygon + 0.0).tobytes()))

    def __setstate__(self, state: dict[str, Any]) -> None:
        # numpy does not pickle the read-only flag, and worker processes must see the same immutable value.
        state["polygon"].setflags(write=False)
        self.__dict__.update(state)

    @property
    def area(self) -> float:
        """Enclosed area in square plan units, by the shoelace formula (a self-crossing polygon counts signed parts)."""
        x, y = self.polygon.T
        return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(x_min, y_min, x_max, y_max) in plan units."""
        (x0, y0), (x1, y1) = self.polygon.min(axis=0), self.polygon.max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)


@dataclass(frozen=True)
class Plan:
    """A floorplan: `nodes` are rooms, then interior doors, then front doors (RPLAN's order).

    `doors` has one entry per door node, in order: (room_a, room_b) for an interior door, stored with the smaller index
    first since a door has no direction, and (room, None) for a front door.
    `frame` is the side of the square that maps to [-1,1], in plan units; `metres_per_unit` scales to metres. Both are
    kept as floats, positive and at most `MAX_UNITS`.
    Raises `FloorplanError` naming the field.
    """

    nodes: tuple[Node, ...]
    doors: tuple[tuple[int, int | None], ...]
    frame: float = RPLAN_FRAME
    metres_per_unit: float = RPLAN_METRES_PER_UNIT
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "doors", tuple((a, b) for a, b in self.doors))
        try:
            self._check()
        except FloorplanError as error:
            raise error.within(f"plan {self.name}" if self.name else "plan") from None
        object.__setattr__(self, "doors", tuple(ordered_pair(a, b) for a, b in self.doors))
        object.__setattr__(self, "frame", float(self.frame))
        object.__setattr__(self, "metres_per_unit", float(self.metres_per_unit))

    def _check(self) -> None:
        order = [1 if n.type == RoomType.INTERIOR_DOOR else 2 if is_door(n.type) else 0 for n in self.nodes]
        if order != sorted(order):
            names = ", ".join(n.type.name.lower() for n in self.nodes)
            raise FloorplanError(f"expected rooms, then interior doors, then front doors; found {names}", field="nodes")
        if 0 not in order:
            raise FloorplanError("no rooms; expected at least one", field="nodes")
        if len(self.doors) != len(self.door_nodes):
            found = f"{len(self.doors)} entries for {len(self.door_nodes)} door nodes"
            raise FloorplanError(f"expected one entry per door node, found {found}", field="doors")
        for d, (node, (a, b)) in enumerate(zip(self.door_nodes, self.doors, strict=True)):
            front = node.type == RoomType.FRONT_DOOR
            for room in (a,) if front else (a, b):
                if not isinstance(room, (int, np.integer)) or not 0 <= room < self.num_rooms:
                    raise FloorplanError(f"no room {room!r}; rooms are 0 to {self.num_rooms - 1}", field=f"doors[{d}]")
            if front and b is not None:
                raise FloorplanError(f"a front door is (room, None), found {(a, b)}", field=f"doors[{d}]")
            if a == b:
                raise FloorplanError(f"joins room {a} with itself", field=f"doors[{d}]")
        for field, value in (("frame", self.frame), ("metres_per_unit", self.metres_per_unit)):
            if not is_finite_number(value) or not 0 < value <= MAX_UNITS:
                text = f"expected a positive, finite number up to {MAX_UNITS:,.0f}, found {reprlib.repr(value)}"
                raise FloorplanError(text, field=field)

    @property
    def rooms(self) -> tuple[Node, ...]:
        """Nodes that are rooms; room i is `nodes[i]`."""
        return tuple(n for n in self.nodes if not is_door(n.type))

    @property
    def door_nodes(self) -> tuple[Node, ...]:
        """Nodes that are doors, interior ones first; door d is `nodes[num_rooms + d]` and joins `doors[d]`."""
        return tuple(n for n in self.nodes if is_door(n.type))

    @property
    def num_rooms(self) -> int:
        return len(self.rooms)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(x_min, y_min, x_max, y_max) of all nodes in plan units."""
        boxes = np.array([n.bounds for n in self.nodes])
        x0, y0, x1, y1 = (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))
        return float(x0), float(y0), float(x1), float(y1)

    def node_types(self) -> list[RoomType]:
        """The type of every node, in order."""
        return [n.type for n in self.nodes]

    def links(self) -> set[tuple[int, int]]:
        """Linked node pairs (k < l): each room with its doors, and two rooms with an interior door between them."""
        return links_of(self.num_rooms, self.doors)

    def graph(self) -> list[tuple[int, int, int]]:
        """HouseDiffusion's graph: a triple (k, +1 if linked else -1, l) for every node pair k < l, in lexical order."""
        links, count = self.links(), len(self.nodes)
        return [(k, 1 if (k, m) in links else -1, m) for k in range(count) for m in range(k + 1, count)]

    def diagram(self, *, corners: bool = False) -> BubbleDiagram:
        """The bubble diagram, with each room's area (m2) and bounding box (m) and, if asked, corner count.

        A diagram says which rooms are joined, so a second door between the same two rooms, or a second front door, is
        left out. So is a room's name that an earlier room has: a diagram refers to rooms by name.
        """
        unit = self.metres_per_unit
        rooms: list[RoomSpec] = []
        for node in self.rooms:
            taken = {room.name for room in rooms}
            x0, y0, x1, y1 = node.bounds
            # Drawn plans can hold flat rooms; a diagram states only sizes that can be asked for.
            area = node.area * unit**2
            size = ((x1 - x0) * unit, (y1 - y0) * unit)
            rooms.append(
                RoomSpec(
                    node.type,
                    "" if node.name in taken else node.name,
                    area=area if area > 0 else None,
                    size=size if min(size) > 0 else None,
                    corners=len(node.polygon) if corners else None,
                )
            )
        doors = tuple(dict.fromkeys((a, b) for a, b in self.doors if b is not None))
        front = next((a for a, b in self.doors if b is None), None)
        return BubbleDiagram(tuple(rooms), doors, front, self.name)

    def save(self, path: str | os.PathLike[str], *, width: int = 1024) -> None:
        """Write as `.json` (RPLAN schema), `.svg`, `.png` (`width` pixels wide), `.dxf`, `.geojson` or `.ifc`; see
        `output.save_plan`."""
        from .output import save_plan  # the writers import plans

        save_plan(self, path, width=width)
