"""Other sources of plans and diagrams: ProcTHOR's generated houses and CubiGraph5K's room graphs, as json."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from .diagram import BubbleDiagram, RoomSpec, is_finite_number
from .errors import FloorplanError, shown
from .files import read_json
from .plan import RPLAN_FRAME, RPLAN_METRES_PER_UNIT, Node, Plan
from .rooms import RoomType
from .rplan import plans_from_rplan

PROCTHOR_TYPES: Final[dict[str, RoomType]] = {
    "Bedroom": RoomType.BEDROOM,
    "Bathroom": RoomType.BATHROOM,
    "Kitchen": RoomType.KITCHEN,
    "LivingRoom": RoomType.LIVING,
}
CUBIGRAPH_TYPES: Final[dict[str, RoomType]] = {
    "Bath": RoomType.BATHROOM,
    "Bedroom": RoomType.BEDROOM,
    "Dining": RoomType.DINING,
    "Entry": RoomType.ENTRANCE,
    "Garage": RoomType.STORAGE,
    "Kitchen": RoomType.KITCHEN,
    "LivingRoom": RoomType.LIVING,
    "Other": RoomType.UNKNOWN,
    "Outdoor": RoomType.BALCONY,
    "Storage": RoomType.STORAGE,
}
DOOR_THICKNESS = 2.0  # plan units; the doors of most RPLAN plans are as thick
_FRAME_MARGIN = 1.05

T = TypeVar("T")


def load_plans(path: str | os.PathLike[str], *, strict: bool = True, split: str | None = None) -> list[Plan]:
    """The plans of a json file or folder, RPLAN (`room_type`) or ProcTHOR (`rooms` with `poly`), told apart by content.

    `strict` is as in `read_rplan`, `split` as in `read_procthor`; RPLAN's plans carry none. Of a folder's files some
    may have none of the split. Raises `FloorplanError` for anything else; diagrams, which have no geometry, too.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.name.endswith((".json", ".json.gz")))
        if not files:
            raise FloorplanError("no .json or .json.gz file in this folder", source=str(path))
        plans = [plan for file in files for plan in _plans_of(file, strict=strict, split=split)]
    else:
        plans = _plans_of(path, strict=strict, split=split)
    if not plans:
        raise FloorplanError(f"no house of split {split!r}", source=str(path))
    return plans


def _plans_of(path: Path, *, strict: bool, split: str | None) -> list[Plan]:
    """The plans of a file; none where none is of the split."""
    data = read_json(path)
    first = data[0] if isinstance(data, list) and data else data
    if isinstance(first, Mapping):
        if "room_type" in first:
            if split is not None:
                raise FloorplanError(f"RPLAN plans carry no split, so none is {split!r}", source=str(path))
            return plans_from_rplan(data, str(path), strict=strict)
        rooms = first.get("rooms")
        if isinstance(rooms, list) and rooms and isinstance(rooms[0], Mapping) and "poly" in rooms[0]:
            return _houses(data, str(path), split)
        if "rooms" in first:
            raise FloorplanError("a diagram without geometry, not a plan", source=str(path), field="rooms")
    raise FloorplanError("expected RPLAN plans (room_type) or ProcTHOR plans (rooms with poly)", source=str(path))


def read_procthor(path: str | os.PathLike[str], *, split: str | None = None) -> list[Plan]:
    """ProcTHOR houses: `{seed, rooms: [{type, poly[K,2]}], doors: [{rooms: [i, j], seg[2,2]}], split}`, one or a list.

    A door with room -1 is the front door. Metres become plan units at RPLAN's scale, so a house of more than 18 m gets
    a larger `frame` instead of another scale: max(256, 1.05 x longer side), with the house in its middle. Walls and
    doors have no thickness there; a door becomes a rectangle of `DOOR_THICKNESS` about its line. Corners start at the
    topmost, then leftmost one and go down first, as in RPLAN. `split` keeps only houses that carry it ("train", "val").
    Raises `FloorplanError` naming file and field.
    """
    return plans_from_procthor(read_json(path), str(path), split=split)


def plans_from_procthor(data: Any, source: str, *, split: str | None = None) -> list[Plan]:
    """As `read_procthor`, from parsed json."""
    houses = _houses(data, source, split)
    if not houses:
        raise FloorplanError(f"no house of split {split!r}" if split else "no houses", source=source)
    return houses


def _houses(data: Any, source: str, split: str | None) -> list[Plan]:
    entries = [(where, house) for where, house in _entries(data, source) if split in (None, house.get("split"))]
    return [_checked(_house, house, where) for where, house in entries]


def read_cubigraph(path: str | os.PathLike[str]) -> list[BubbleDiagram]:
    """CubiGraph5K's room graphs: `{id, rooms: [type], edges: [[i, j, w]]}`, one or a list.

    Edges with w = 2 are doors; those with w = 1 only say that rooms are adjacent and are left out. Types are mapped by
    `CUBIGRAPH_TYPES`; what we have no type for goes to the nearest one (Other -> unknown, Outdoor -> balcony,
    Garage -> storage). The front door opens to the first Entry; graphs without one have none. Many graphs are not
    connected through doors (`BubbleDiagram.components`); none is warned about here.
    Raises `FloorplanError` naming file and field.
    """
    return [_checked(_room_graph, graph, where) for where, graph in _entries(read_json(path), str(path))]


def _house(house: Mapping[str, Any]) -> Plan:
    rooms = [
        (_type(room, f"rooms[{i}].type", PROCTHOR_TYPES), _points(room, "poly", f"rooms[{i}].poly"))
        for i, room in enumerate(_get(house, "rooms"))
    ]
    if not rooms:
        raise FloorplanError("no rooms", field="rooms")
    inner, front = [], []
    for d, door in enumerate(_get(house, "doors")):
        pair, line = _get(door, "rooms", f"doors[{d}]."), _points(door, "seg", f"doors[{d}].seg")
        if len(pair) != 2 or any(not isinstance(r, int) or not -1 <= r < len(rooms) for r in pair) or max(pair) < 0:
            text = f"expected two rooms from 0 to {len(rooms) - 1}, or one and -1 for outside; found {shown(pair)}"
            raise FloorplanError(text, field=f"doors[{d}].rooms")
        if line.shape != (2, 2) or not (line[0] != line[1]).any():
            raise FloorplanError("expected two different points", field=f"doors[{d}].seg")
        if min(pair) < 0:
            front.append(((max(pair), None), line))
        else:
            inner.append(((pair[0], pair[1]), line))
    corners = np.concatenate([points for _, points in rooms]) / RPLAN_METRES_PER_UNIT
    low, high = corners.min(axis=0), corners.max(axis=0)
    frame = max(RPLAN_FRAME, float((high - low).max()) * _FRAME_MARGIN)
    shift = frame / 2 - (low + high) / 2

    def placed(metres: np.ndarray) -> np.ndarray:
        return metres / RPLAN_METRES_PER_UNIT + shift

    nodes = [Node(kind, _from_top(placed(points))) for kind, points in rooms]
    nodes += [Node(RoomType.INTERIOR_DOOR, _from_top(_thick(placed(line)))) for _, line in inner]
    nodes += [Node(RoomType.FRONT_DOOR, _from_top(_thick(placed(line)))) for _, line in front]
    name = f"procthor-{house['seed']}" if "seed" in house else ""
    return Plan(tuple(nodes), tuple(pair for pair, _ in inner + front), frame, RPLAN_METRES_PER_UNIT, name)


def _room_graph(graph: Mapping[str, Any]) -> BubbleDiagram:
    rooms = tuple(
        RoomSpec(_type({"type": kind}, f"rooms[{i}]", CUBIGRAPH_TYPES)) for i, kind in enumerate(_get(graph, "rooms"))
    )
    doors: dict[tuple[int, int], None] = {}
    for e, edge in enumerate(_get(graph, "edges")):
        if not isinstance(edge, list) or len(edge) != 3 or edge[2] not in (1, 2):
            raise FloorplanError(f"expected [room, room, 1 or 2], found {shown(edge)}", field=f"edges[{e}]")
        for room in edge[:2]:
            if isinstance(room, bool) or not isinstance(room, int) or not 0 <= room < len(rooms):
                text = f"no room {shown(room)}; rooms are numbered 0 to {len(rooms) - 1}"
                raise FloorplanError(text, field=f"edges[{e}]")
        if edge[2] == 2:
            doors[edge[0], edge[1]] = None
    front = next((i for i, room in enumerate(rooms) if room.type == RoomType.ENTRANCE), None)
    return BubbleDiagram(rooms, tuple(doors), front, f"cubigraph-{graph['id']}" if "id" in graph else "")


def _thick(line: np.ndarray) -> np.ndarray:
    """[4,2] rectangle of `DOOR_THICKNESS` about a line [2,2]."""
    along = line[1] - line[0]
    aside = np.array([-along[1], along[0]]) * (0.5 * DOOR_THICKNESS / np.hypot(*along))
    return np.stack([line[0] - aside, line[1] - aside, line[1] + aside, line[0] + aside])


def _from_top(polygon: np.ndarray) -> np.ndarray:
    """The same polygon [K,2] from its topmost, then leftmost corner on, going down first (y points down)."""
    x, y = polygon.T
    if float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) > 0:
        polygon = polygon[::-1]
    return np.roll(polygon, -int(np.lexsort(polygon.T)[0]), axis=0)


def _entries(data: Any, source: str) -> list[tuple[str, Mapping[str, Any]]]:
    listed = isinstance(data, list)
    entries = data if listed else [data]
    for i, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            text = f"expected an object, found {type(entry).__name__}"
            raise FloorplanError(text, source=source, field=f"[{i}]" if listed else "")
    return [(f"{source}[{i}]" if listed else source, entry) for i, entry in enumerate(entries)]


def _checked(read: Callable[[Mapping[str, Any]], T], entry: Mapping[str, Any], where: str) -> T:
    try:
        return read(entry)
    except FloorplanError as error:
        raise FloorplanError(error.reason, source=where, field=error.field) from None


def _get(data: Any, key: str, prefix: str = "") -> list[Any]:
    if not isinstance(data, Mapping) or key not in data:
        raise FloorplanError("required, but missing", field=prefix + key)
    if not isinstance(data[key], list):
        raise FloorplanError(f"expected a list, found {type(data[key]).__name__}", field=prefix + key)
    return data[key]


def _points(data: Any, key: str, field: str) -> np.ndarray:
    values = _get(data, key, field.removesuffix(key))
    pairs = [point for point in values if isinstance(point, list) and len(point) == 2]
    if len(values) < 2 or len(pairs) < len(values) or not all(is_finite_number(x) for point in pairs for x in point):
        raise FloorplanError(f"expected finite points [K, 2], found {shown(values)}", field=field)
    return np.array(values, dtype=np.float64)


def _type(room: Any, field: str, table: Mapping[str, RoomType]) -> RoomType:
    kind = room.get("type") if isinstance(room, Mapping) else None
    if not isinstance(kind, str) or kind not in table:
        raise FloorplanError(f"unknown type {shown(kind)}; known: {', '.join(table)}", field=field)
    return table[kind]
