"""Bubble diagrams: which rooms a plan should have and which of them doors join.

The json format is described by `bubble_diagram.schema.json` beside this file:

    {"rooms": [{"type": "living", "name": "living", "area": 20.5, "size": [4, 5], "corners": 4}, ...],
     "doors": [["living", "bed1"], [0, 2], ...],
     "front_door": "living"}

Doors and the front door refer to rooms by name or by index. Only `rooms` is required, and in a room only `type`.
"""

from __future__ import annotations

import difflib
import json
import math
import numbers
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

import networkx as nx

from .errors import DisconnectedDiagramWarning, FloorplanError, FloorplanWarning, shown
from .files import read_json, write_whole
from .rooms import RoomType, is_door, parse_room_type

_DIAGRAM_KEYS = ("rooms", "doors", "front_door", "name")
_ROOM_KEYS = ("type", "name", "area", "size", "corners")
_PACKAGE = __name__.rpartition(".")[0]
MOST_NAMES = 12  # that a message lists
MAX_CORNERS = 256  # a typing error more likely than a room; one-hot models refuse more than 32 themselves


@dataclass(frozen=True)
class RoomSpec:
    """One wanted room. `area` in m2, `size` = (width, height) of the bounding box in m, `corners` = wanted corner count
    (3..256); None leaves it to the model. Raises `FloorplanError` naming the field."""

    type: RoomType
    name: str = ""
    area: float | None = None
    size: tuple[float, float] | None = None
    corners: int | None = None

    def __post_init__(self) -> None:
        if is_door(self.type):
            raise FloorplanError(f"{self.type.name.lower()} is not a room; use `doors` or `front_door`", field="type")
        if not isinstance(self.name, str):
            raise FloorplanError(f"expected text, found {shown(self.name)}", field="name")
        if self.area is not None:
            _check_positive(self.area, "area", "m2")
        if self.size is not None:
            if not isinstance(self.size, tuple) or len(self.size) != 2:
                raise FloorplanError(f"expected [width, height] in m, found {shown(self.size)}", field="size")
            for side, value in enumerate(self.size):
                _check_positive(value, f"size[{side}]", "m")
        if self.corners is not None and (not _is_int(self.corners) or not 3 <= self.corners <= MAX_CORNERS):
            raise FloorplanError(
                f"expected a whole number from 3 to {MAX_CORNERS}, found {shown(self.corners)}", field="corners"
            )


@dataclass(frozen=True)
class BubbleDiagram:
    """Rooms and the doors between them.

    `doors` are pairs of room indices, each pair once, stored with the smaller index first since a door has no
    direction; `front_door` is the room the front door opens into, None for no front door. Raises `FloorplanError`
    naming the field. Building one never warns; `load` and `from_dict` do, through `check`.
    """

    rooms: tuple[RoomSpec, ...]
    doors: tuple[tuple[int, int], ...]
    front_door: int | None
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rooms", tuple(self.rooms))
        object.__setattr__(self, "doors", tuple((a, b) for a, b in self.doors))
        if not self.rooms:
            raise FloorplanError("no rooms; expected at least one", field="rooms")
        _numbers(self.rooms)
        seen: dict[tuple[int, int], int] = {}
        for d, (a, b) in enumerate(self.doors):
            self._check_room(a, f"doors[{d}]")
            self._check_room(b, f"doors[{d}]")
            if a == b:
                raise FloorplanError(f"joins {self.label(a)} with itself", field=f"doors[{d}]")
            if seen.setdefault(ordered_pair(a, b), d) != d:
                text = f"{self.label(a)} and {self.label(b)} are already joined by doors[{seen[ordered_pair(a, b)]}]"
                raise FloorplanError(text, field=f"doors[{d}]")
        if self.front_door is not None:
            self._check_room(self.front_door, "front_door")
        object.__setattr__(self, "doors", tuple(ordered_pair(a, b) for a, b in self.doors))

    @property
    def num_rooms(self) -> int:
        return len(self.rooms)

    def node_types(self) -> list[RoomType]:
        """Types of the nodes of a plan drawn from this diagram: rooms, then interior doors, then the front door."""
        front = [] if self.front_door is None else [RoomType.FRONT_DOOR]
        return [room.type for room in self.rooms] + [RoomType.INTERIOR_DOOR] * len(self.doors) + front

    def door_rooms(self) -> tuple[tuple[int, int | None], ...]:
        """The rooms each door node joins, in node order, as in `Plan.doors`: (a, b), the front door (room, None)."""
        return self.doors if self.front_door is None else (*self.doors, (self.front_door, None))

    def links(self) -> set[tuple[int, int]]:
        """Linked node pairs (k < l) as in `Plan.links`: each room with its doors, and two rooms with a door between."""
        return links_of(self.num_rooms, self.door_rooms())

    def components(self) -> list[set[int]]:
        """Rooms grouped by which can be reached from each other through doors, in order of their first room."""
        graph = nx.Graph(self.doors)
        graph.add_nodes_from(range(self.num_rooms))
        return sorted((set(c) for c in nx.connected_components(graph)), key=min)

    def label(self, room: int) -> str:
        """How messages speak of a room: its quoted name, or its index and type."""
        spec = self.rooms[room]
        return shown(spec.name) if spec.name else f"rooms[{room}] ({spec.type.name.lower()})"

    def check(self, source: str = "") -> None:
        """Warn about what is legal but probably not meant: no front door, rooms that no doors join to the others."""
        where = f"{source}: " if source else ""
        if self.front_door is None:
            warnings.warn(
                f"{where}front_door: none given; the plan will have no way in", FloorplanWarning, stacklevel=3
            )
        groups = self.components()
        if len(groups) > 1:
            text = _some([", ".join(map(self.label, sorted(group))) for group in groups], " | ")
            warnings.warn(
                f"{where}doors: the rooms fall into {len(groups)} groups that no doors join: {text}",
                DisconnectedDiagramWarning,
                stacklevel=3,
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BubbleDiagram:
        """Read a json file. Raises `FloorplanError` naming file and field; warns as `check` does."""
        return cls.from_dict(read_json(path), source=str(path))

    @classmethod
    def example(cls, name: str) -> BubbleDiagram:
        """One of the diagrams that come with the package, e.g. "two_bedrooms"; `example_names()` lists them."""
        known = example_names()
        if name not in known:
            raise FloorplanError(f"no example diagram {name!r}; there are: {', '.join(known)}")
        file = resources.files(_PACKAGE) / "examples" / f"{name}.json"
        return cls.from_dict(json.loads(file.read_text()), source=f"example {name}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "bubble diagram") -> BubbleDiagram:
        """Validate and convert the json form (module docstring); `source` is named in messages.

        A door given twice is dropped with a `FloorplanWarning`; all other faults raise `FloorplanError`.
        """
        try:
            diagram = _parse(data, source)
        except FloorplanError as error:
            raise error.within(source) from None
        diagram.check(source)
        return diagram

    def to_dict(self) -> dict[str, Any]:
        """The json form; rooms are referred to by name where all have one, else by index."""
        named = all(room.name for room in self.rooms)
        refer = [room.name if named else i for i, room in enumerate(self.rooms)]
        rooms = []
        for room in self.rooms:
            entry: dict[str, Any] = {"type": room.type.name.lower()}
            entry |= {key: value for key in ("name",) if (value := getattr(room, key))}
            entry |= {key: value for key in ("area", "corners") if (value := getattr(room, key)) is not None}
            entry |= {"size": list(room.size)} if room.size is not None else {}
            rooms.append(entry)
        return {
            **({"name": self.name} if self.name else {}),
            "rooms": rooms,
            "doors": [[refer[a], refer[b]] for a, b in self.doors],
            "front_door": None if self.front_door is None else refer[self.front_door],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the json form; the file appears whole or not at all."""
        write_whole(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")

    def _check_room(self, room: object, field: str) -> None:
        if not _is_int(room) or not 0 <= room < len(self.rooms):  # type: ignore[operator]
            raise FloorplanError(f"no room {shown(room)}; rooms are numbered 0 to {len(self.rooms) - 1}", field=field)


def links_of(num_rooms: int, door_rooms: Sequence[tuple[int, int | None]]) -> set[tuple[int, int]]:
    """Linked node pairs (k < l) where door node `num_rooms + d` joins the rooms `door_rooms[d]`.

    HouseDiffusion's rule: a door is linked to its rooms, and the two rooms of a door to each other.
    """
    links: set[tuple[int, int]] = set()
    for door, (a, b) in enumerate(door_rooms, start=num_rooms):
        links.add((a, door))
        if b is not None:
            links |= {(b, door), ordered_pair(a, b)}
    return links


_Room = TypeVar("_Room", int, int | None)


def ordered_pair(a: int, b: _Room) -> tuple[int, _Room]:
    """A door's rooms with the smaller index first; (room, None) stays."""
    return (b, a) if b is not None and b < a else (a, b)


def example_names() -> list[str]:
    """Names for `BubbleDiagram.example`."""
    folder = resources.files(_PACKAGE) / "examples"
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def _numbers(rooms: Sequence[RoomSpec]) -> dict[str, int]:
    """Room numbers by name, for the rooms that have one; raises where two share one."""
    numbers: dict[str, int] = {}
    for i, room in enumerate(rooms):
        if room.name and numbers.setdefault(room.name, i) != i:
            text = f"{shown(room.name)} is already the name of rooms[{numbers[room.name]}]; names must differ"
            raise FloorplanError(text, field=f"rooms[{i}].name")
    return numbers


def is_finite_number(value: object) -> bool:
    """Whether `value` is a real number (no bool) and finite as a float, for which json's integers can be too long."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _some(texts: Sequence[str], between: str = ", ") -> str:
    """The first `MOST_NAMES` of a list, in words."""
    return between.join([*texts[:MOST_NAMES], *(["..."] if len(texts) > MOST_NAMES else [])])


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_positive(value: object, field: str, unit: str) -> None:
    found = shown(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise FloorplanError(f"expected a number ({unit}), found {found}", field=field)
    if not is_finite_number(value) or value <= 0:
        raise FloorplanError(f"expected a positive, finite number ({unit}), found {found}", field=field)


def _check_keys(data: object, known: Sequence[str], required: str, field: str = "") -> None:
    if not isinstance(data, Mapping):
        raise FloorplanError(f"expected an object with {', '.join(known)}; found {type(data).__name__}", field=field)
    if required not in data:
        raise FloorplanError("required, but missing", field=f"{field}.{required}" if field else required)
    for key in data:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise FloorplanError(f"unknown key {shown(key)}{hint} (known keys: {', '.join(known)})", field=field)


def _parse_room(data: Any, field: str) -> RoomSpec:
    _check_keys(data, _ROOM_KEYS, "type", field)
    size = data.get("size")
    try:
        kind = parse_room_type(data["type"])
    except FloorplanError as error:
        raise FloorplanError(error.reason, field=f"{field}.type") from None
    try:
        return RoomSpec(
            type=kind,
            name=data.get("name", ""),
            area=data.get("area"),
            size=tuple(size) if isinstance(size, (list, tuple)) else size,  # type: ignore[arg-type]
            corners=data.get("corners"),
        )
    except FloorplanError as error:
        raise error.within(field=field) from None


def _items(data: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    values = data.get(key, [])
    if not isinstance(values, (list, tuple)):
        raise FloorplanError(f"expected a list, found {type(values).__name__}", field=key)
    return ((f"{key}[{i}]", value) for i, value in enumerate(values))


def _parse(data: Any, source: str) -> BubbleDiagram:
    _check_keys(data, _DIAGRAM_KEYS, "rooms")
    rooms = tuple(_parse_room(room, field) for field, room in _items(data, "rooms"))
    numbers = _numbers(rooms)

    def room_number(reference: Any, field: str) -> int:
        if isinstance(reference, str):
            if reference not in numbers:
                close = difflib.get_close_matches(reference, numbers, n=1)
                hint = f"; did you mean {shown(close[0])}?" if close else ""
                names = _some([shown(name) for name in numbers]) or "none; give rooms a name or use indices"
                raise FloorplanError(f"no room is named {shown(reference)}{hint} (named rooms: {names})", field=field)
            return numbers[reference]
        if not _is_int(reference):
            raise FloorplanError(f"expected a room's name or index, found {shown(reference)}", field=field)
        return reference

    doors: list[tuple[int, int]] = []
    for field, pair in _items(data, "doors"):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise FloorplanError(f"expected two rooms, found {shown(pair)}", field=field)
        door = (room_number(pair[0], field), room_number(pair[1], field))
        if door in doors or door[::-1] in doors:
            text = f"a door between {shown(pair[0])} and {shown(pair[1])} is given twice; the second is dropped"
            warnings.warn(f"{source}: {field}: {text}", FloorplanWarning, stacklevel=4)
            continue
        doors.append(door)
    front = data.get("front_door")
    name = data.get("name", "")
    if not isinstance(name, str):
        raise FloorplanError(f"expected text, found {shown(name)}", field="name")
    front_room = None if front is None else room_number(front, "front_door")
    return BubbleDiagram(rooms, tuple(doors), front_room, name)
