"""RPLAN / House-GAN++ json files.

One plan is an object with `room_type[R]` (RPLAN codes, see `rooms.py`), `boxes[R][4]`, `edges[E][6]` = x0, y0, x1, y1,
type of the owning node, type across (0 = none), and `ed_rm[E]` = [owner] or [owner, node across]: for a door the room
it opens to, for a room the room behind the door in that edge. Coordinates are pixels of a 256 grid, y down.
Files hold one plan or a list of plans; boxes follow from the edges and are not read.
"""

from __future__ import annotations

import math
import os
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .diagram import is_finite_number
from .errors import FloorplanError, FloorplanWarning, shown
from .files import read_json
from .plan import RPLAN_FRAME, RPLAN_METRES_PER_UNIT, Node, Plan
from .rooms import RoomType, from_rplan_code, is_door, to_rplan_code

_Edge = tuple[float, float, float, float]


def read_rplan(path: str | os.PathLike[str], *, strict: bool = True) -> list[Plan]:
    """The plans of a `.json` or `.json.gz` file (one plan or a list), or of all such files in a folder, by name.

    With `strict=False` a plan, or a door of a plan, that cannot be used is left out with a `FloorplanWarning`.
    Raises `FloorplanError` naming file, plan and field; empty folders and lists raise too.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.name.endswith((".json", ".json.gz")))
        if not files:
            raise FloorplanError("no .json or .json.gz file in this folder", source=str(path))
        return [plan for file in files for plan in read_rplan(file, strict=strict)]
    return plans_from_rplan(read_json(path), str(path), strict=strict)


def plans_from_rplan(data: Any, source: str, *, strict: bool = True) -> list[Plan]:
    """As `read_rplan`, from parsed json: one plan or a list of plans."""
    entries = data if isinstance(data, list) else [data]
    if not entries:
        raise FloorplanError("an empty list; expected at least one plan", source=source)
    plans = []
    for i, entry in enumerate(entries):
        where = f"{source}[{i}]" if isinstance(data, list) else source
        try:
            plans.append(plan_from_rplan(entry, where, strict=strict))
        except FloorplanError as error:
            if strict:
                raise
            warnings.warn(f"{error}; the plan is left out", FloorplanWarning, stacklevel=2)
    return plans


def plan_from_rplan(data: Mapping[str, Any], source: str = "RPLAN plan", *, strict: bool = True) -> Plan:
    """One plan from its json object.

    A node's polygon is all of its edges where they form one closed chain in file order, however often it touches
    itself; else its first closed loop of edges, as in HouseDiffusion: further loops (holes, split rooms) are told in a
    `FloorplanWarning`, and so is a loop given twice, as the conversion does for doors it found twice. A front door that
    touches several rooms is given to the one it shares most length with. Extra keys of `plan_to_rplan` (name,
    room_name, corners, frame, metres_per_unit) are read back.
    Raises `FloorplanError` naming `source` and the field. A door that does not touch enough rooms raises, or with
    `strict=False` is left out with a warning.
    """
    try:
        return _Reader(data, source, strict).plan()
    except FloorplanError as error:
        raise FloorplanError(error.reason, source=source, field=error.field) from None


class _Reader:
    """The tables of one json plan, checked."""

    def __init__(self, data: Mapping[str, Any], source: str, strict: bool) -> None:
        if not isinstance(data, Mapping):
            raise FloorplanError(f"expected an object with room_type, edges and ed_rm, found {type(data).__name__}")
        self.data, self.source, self.strict = data, source, strict
        codes, edges, owners = (_list(data, key) for key in ("room_type", "edges", "ed_rm"))
        if len(edges) != len(owners):
            raise FloorplanError(f"{len(owners)} entries for {len(edges)} edges", field="ed_rm")
        if not codes:
            raise FloorplanError("no rooms", field="room_type")
        self.edges: list[_Edge] = [_edge(edge, f"edges[{e}]") for e, edge in enumerate(edges)]
        self.joins = [_indices(entry, f"ed_rm[{e}]", len(codes)) for e, entry in enumerate(owners)]
        self.owned: list[list[int]] = [[] for _ in codes]
        for e, entry in enumerate(self.joins):
            self.owned[entry[0]].append(e)
        self.types = self._types(codes, edges)
        self.corners = self._per_node("corners", None)

    def plan(self) -> Plan:
        polygons = [self._polygon(node) for node in range(len(self.types))]
        doors: dict[int, tuple[int, int | None]] = {}
        for node in (n for n, t in enumerate(self.types) if is_door(t)):
            try:
                doors[node] = self._rooms_of_door(node)
            except FloorplanError as error:
                if self.strict:
                    raise
                self._warn(f"{error}; the door is left out")
        # Rooms, interior doors, front doors: the order RPLAN promises, restored where a file departs from it.
        rank = {RoomType.INTERIOR_DOOR: 1, RoomType.FRONT_DOOR: 2}
        kept = [n for n, t in enumerate(self.types) if not is_door(t) or n in doors]
        order = sorted(kept, key=lambda n: rank.get(self.types[n], 0))
        new = {old: i for i, old in enumerate(order)}
        names = [_text(name, f"room_name[{i}]") for i, name in enumerate(self._per_node("room_name", ""))]
        return Plan(
            nodes=tuple(self._node(n, polygons[n], names[n]) for n in order),
            doors=tuple((new[a], None if b is None else new[b]) for a, b in (doors[n] for n in order if n in doors)),
            frame=self.data.get("frame", RPLAN_FRAME),
            metres_per_unit=self.data.get("metres_per_unit", RPLAN_METRES_PER_UNIT),
            name=_text(self.data.get("name", self.data.get("_source")), "name"),
        )

    def _per_node(self, key: str, default: Any) -> list[Any]:
        values = self.data.get(key, [default] * len(self.types))
        if not isinstance(values, list) or len(values) != len(self.types):
            raise FloorplanError(f"expected a list of {len(self.types)}, one entry per node", field=key)
        return values

    def _node(self, node: int, polygon: np.ndarray, name: str) -> Node:
        try:
            return Node(self.types[node], polygon, name)
        except FloorplanError as error:
            raise FloorplanError(f"{self._label(node)}: {error.reason}", field="edges") from None

    def _warn(self, text: str) -> None:
        told = text if text.startswith(self.source) else f"{self.source}: {text}"
        warnings.warn(told, FloorplanWarning, stacklevel=2)

    def _types(self, codes: Sequence[Any], edges: Sequence[Sequence[Any]]) -> list[RoomType]:
        types = [_type(code, f"room_type[{i}]") for i, code in enumerate(codes)]
        used = max((entry[0] for entry in self.joins), default=-1) + 1
        if used == len(types):
            return types
        # Known fault of the published conversion: a door found twice is one node in `edges` but two in `room_type`, so
        # all later types are off by one. The edges carry their owner's type too, which settles the matter. Where both
        # agree on the first types, the last nodes simply have no edges: that is a fault of its own.
        by_edges = [{edges[e][4] for e in owned} for owned in self.owned[:used]]
        single = [next(iter(kinds)) for kinds in by_edges if len(kinds) == 1]
        rest = iter(codes)
        if len(single) == used and single != codes[:used] and all(code in rest for code in single):
            text = f"{len(types)} types, but the edges describe {used} nodes; the types are taken from the edges"
            self._warn(f"room_type: {text}")
            del self.owned[used:]
            return [_type(code, "edges") for code in single]
        text = f"{len(types)} types, but only {used} nodes have edges; rooms without corners cannot be used"
        raise FloorplanError(text, field="room_type")

    def _label(self, node: int) -> str:
        return f"room_type[{node}] ({self.types[node].name.lower()})"

    def _polygon(self, node: int) -> np.ndarray:
        """[K,2] corners of a node: all of one closed chain, else the first closed loop, as `plan_from_rplan` says;
        equal coordinates join edges exactly."""
        unused = [self.edges[e] for e in self.owned[node]]
        if not unused:
            raise FloorplanError(f"{self._label(node)} has no edges, so no corners", field="ed_rm")
        chain = [edge[:2] for edge in unused]
        closed = all(edge[2:] == following for edge, following in zip(unused, chain[1:] + chain[:1], strict=True))
        if closed and len(chain) >= 3 and (self.corners[node] == len(chain) or not _repeats(chain)):
            return np.array(chain, dtype=np.float64)
        loops = []
        while unused:
            loops.append(self._loop(node, unused))
        polygon = np.array(loops[0], dtype=np.float64)
        distinct = [loop for loop in loops[1:] if set(loop) != set(loops[0])]
        if distinct:
            holes = f"{len(loops)} closed loops (a hole or a split room)"
            self._warn(f"edges: {self._label(node)} has {holes}; only the first is kept")
        elif len(loops) > 1:
            self._warn(f"edges: {self._label(node)} gives the same loop {len(loops)} times; it is read once")
        return polygon

    def _loop(self, node: int, unused: list[_Edge]) -> list[tuple[float, float]]:
        """Take one loop out of `unused`: from its first edge on, always to the next edge that starts where we are."""
        x, y, here_x, here_y = unused.pop(0)
        start, here = (x, y), (here_x, here_y)
        corners = [start]
        position = 0
        while here != start or len(set(corners)) < 3:
            # Search from the last edge on: files list a loop in order, and a corner passed twice is then kept in order.
            following = [*range(position, len(unused)), *range(position)]
            position = next((i for i in following if unused[i][:2] == here), -1)
            if position < 0:
                text = (
                    f"{self._label(node)}: the loop does not close; no edge goes on from {list(here)} to {list(start)}"
                )
                raise FloorplanError(text, field="edges")
            corners.append(here)
            here = unused.pop(position)[2:]
        while unused and position < len(unused) and unused[position] == (*start, *start):
            corners.append(unused.pop(position)[:2])
        return corners

    def _rooms_of_door(self, node: int) -> tuple[int, int | None]:
        """The room(s) a door's own edges name: two for an interior door, one for a front door."""
        length: dict[int, float] = defaultdict(float)
        for e in self.owned[node]:
            x0, y0, x1, y1 = self.edges[e]
            for room in self.joins[e][1:]:
                if not is_door(self.types[room]):
                    length[room] += math.hypot(x1 - x0, y1 - y0)
        front = self.types[node] == RoomType.FRONT_DOOR
        wanted = 1 if front else 2
        if len(length) < wanted:
            found = ", ".join(self._label(room) for room in length) or "none"
            text = f"{self._label(node)} must touch {'a room' if front else 'two rooms'}; its edges name: {found}"
            raise FloorplanError(text, source=self.source, field="ed_rm")
        best = sorted(length, key=lambda room: -length[room])[:wanted]
        if len(length) > wanted:
            names = ", ".join(self._label(room) for room in length)
            keep = ", ".join(self._label(room) for room in best)
            self._warn(f"ed_rm: {self._label(node)} touches {names}; it is taken to open to {keep}")
        return best[0], None if front else best[1]


def plan_to_rplan(plan: Plan) -> dict[str, Any]:
    """The json object of a plan; `plan_from_rplan` gives the same plan back.

    A plan's name, node names, and a frame or scale other than RPLAN's are added under keys that other readers ignore;
    so are the corner counts where a polygon runs through the same corners twice, which reads like a loop given twice.
    """
    polygons = [node.polygon for node in plan.nodes]
    codes = [to_rplan_code(node.type) for node in plan.nodes]
    across = _across(plan)
    edges, owners = [], []
    for node, polygon in enumerate(polygons):
        for start, end, other in zip(
            polygon.tolist(), np.roll(polygon, -1, axis=0).tolist(), across[node], strict=True
        ):
            edges.append([*start, *end, codes[node], 0 if other is None else codes[other]])
            owners.append([node] if other is None else [node, other])
    result: dict[str, Any] = {
        "room_type": codes,
        "boxes": [list(node.bounds) for node in plan.nodes],
        "edges": edges,
        "ed_rm": owners,
    }
    if plan.name:
        result["name"] = plan.name
    if any(node.name for node in plan.nodes):
        result["room_name"] = [node.name for node in plan.nodes]
    if any(_repeats([(x, y) for x, y in polygon.tolist()]) for polygon in polygons):
        result["corners"] = [len(polygon) for polygon in polygons]
    if plan.frame != RPLAN_FRAME:
        result["frame"] = plan.frame
    if plan.metres_per_unit != RPLAN_METRES_PER_UNIT:
        result["metres_per_unit"] = plan.metres_per_unit
    return result


def _repeats(corners: Sequence[tuple[float, float]]) -> bool:
    """Whether corners come back to the first one after a loop of 3 or more, and then pass only through that loop's."""
    for n in range(3, len(corners)):
        if corners[n] == corners[0] and len(set(corners[:n])) >= 3:
            return set(corners[n:]) == set(corners[:n])
    return False


def _across(plan: Plan) -> list[list[int | None]]:
    """The node across each edge of each node: a door's rooms on the door's edges nearest to them, the room behind a
    door on the room's edge nearest to that door. An edge holds one entry, so a second door in it is told by the other
    room, or if that is taken too by the nearest free edge."""
    polygons = [node.polygon for node in plan.nodes]
    across: list[list[int | None]] = [[None] * len(polygon) for polygon in polygons]

    def note(node: int, order: np.ndarray, other: int) -> bool:
        edge = next((k for k in order.tolist() if across[node][k] is None), None)
        if edge is not None:
            across[node][edge] = other
        return edge is not None

    for door, (a, b) in enumerate(plan.doors, start=plan.num_rooms):
        middles = 0.5 * (polygons[door] + np.roll(polygons[door], -1, axis=0))
        for room in (a,) if b is None else (a, b):
            note(door, np.argsort(_edge_distances(middles, polygons[room]).min(axis=1), kind="stable"), room)
        if b is None or b in across[a] or a in across[b]:
            continue
        centre = polygons[door].mean(axis=0, keepdims=True)
        order_a, order_b = (np.argsort(_edge_distances(centre, polygons[r])[0], kind="stable") for r in (a, b))
        told = [note(a, order_a[:1], b), note(b, order_b[:1], a)]
        if not any(told) and not note(a, order_a, b) and not note(b, order_b, a):
            text = f"ed_rm: no free edge of rooms {a} and {b} to note their link on; only their door tells it"
            warnings.warn(f"{plan.name or 'plan'}: {text}", FloorplanWarning, stacklevel=3)
    return across


def _edge_distances(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """[P,K] squared distances from points [P,2] to the edges of polygon [K,2]."""
    along = np.roll(polygon, -1, axis=0) - polygon
    squared = (along**2).sum(axis=1)
    offset = points[:, None] - polygon
    # A zero-length edge is its start point: any position along it is right.
    position = np.clip((offset * along).sum(axis=2) / np.where(squared > 0, squared, 1.0), 0.0, 1.0)
    return ((offset - position[..., None] * along) ** 2).sum(axis=2)


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    if key not in data:
        raise FloorplanError("required, but missing", field=key)
    if not isinstance(data[key], list):
        raise FloorplanError(f"expected a list, found {type(data[key]).__name__}", field=key)
    return data[key]


def _text(value: Any, field: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise FloorplanError(f"expected a name, found {shown(value)}", field=field)
    return "" if value is None else str(value)


def _type(code: Any, field: str) -> RoomType:
    if isinstance(code, bool) or not isinstance(code, (int, float)):
        raise FloorplanError(f"expected an RPLAN code, found {shown(code)}", field=field)
    try:
        return from_rplan_code(int(code) if code == code // 1 else code)  # type: ignore[arg-type]
    except FloorplanError as error:
        raise error.within(field=field) from None


def _edge(edge: Any, field: str) -> _Edge:
    if not isinstance(edge, list) or len(edge) != 6:
        raise FloorplanError(f"expected [x0, y0, x1, y1, type, type across], found {shown(edge)}", field=field)
    for value in edge:
        if not is_finite_number(value):
            raise FloorplanError(f"expected six finite numbers, found {shown(edge)}", field=field)
    x0, y0, x1, y1 = map(float, edge[:4])
    return x0, y0, x1, y1


def _indices(entry: Any, field: str, count: int) -> list[int]:
    if not isinstance(entry, list) or not entry:
        raise FloorplanError(f"expected [owner] or [owner, node across], found {shown(entry)}", field=field)
    for index in entry:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
            raise FloorplanError(f"no node {shown(index)}; room_type has {count} entries", field=field)
    return entry
