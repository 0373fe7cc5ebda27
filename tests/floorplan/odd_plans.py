"""Plans and diagrams that are well formed and make no sense: what a reader cannot refuse for its form."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from trifold.floorplan.plan import Plan
from trifold.floorplan.procedural import ProceduralConfig, generate_plan
from trifold.floorplan.rooms import RoomType, to_rplan_code

Outline = np.ndarray  # [K, 2] plan units
METRES = 18 / 256


@cache
def sketched_plan(number: int) -> Plan:
    """A small sound plan; a few numbers give a few plans."""
    return generate_plan(number, ProceduralConfig(num_rooms=(3, 4)))


@dataclass
class Sketch:
    """A plan without any check. `doors[d]` are the rooms of `door_outlines[d]`."""

    types: list[RoomType]
    rooms: list[Outline]
    doors: list[tuple[int, int | None]]
    door_outlines: list[Outline]

    @classmethod
    def of(cls, plan: Plan) -> Sketch:
        rooms, doors = ([node.polygon for node in nodes] for nodes in (plan.rooms, plan.door_nodes))
        return cls([node.type for node in plan.rooms], rooms, list(plan.doors), doors)

    def written(self, kind: str, name: str = "") -> dict[str, Any]:
        """As json of format `rplan`, `procthor`, or `own`, which is RPLAN's with more keys."""
        if kind == "procthor":
            return self._procthor()
        data = self._rplan()
        if kind == "own":
            outlines = [*self.rooms, *self.door_outlines]
            return {**data, "name": name, "room_name": [name] * len(outlines), "corners": [len(p) for p in outlines]}
        return data

    def _rplan(self) -> dict[str, Any]:
        kinds = [RoomType.FRONT_DOOR if b is None else RoomType.INTERIOR_DOOR for _, b in self.doors]
        codes = [to_rplan_code(kind) for kind in (*self.types, *kinds)]
        edges, owners = [], []
        for node, outline in enumerate((*self.rooms, *self.door_outlines)):
            # The first edges of a door say which rooms it joins.
            across = [] if node < len(self.rooms) else [r for r in self.doors[node - len(self.rooms)] if r is not None]
            for k, (start, end) in enumerate(zip(outline.tolist(), np.roll(outline, -1, axis=0).tolist(), strict=True)):
                other = across[k : k + 1]
                edges.append([*start, *end, codes[node], codes[other[0] % len(codes)] if other else 0])
                owners.append([node, *other])
        return {"room_type": codes, "boxes": [], "edges": edges, "ed_rm": owners}

    def _procthor(self) -> dict[str, Any]:
        kinds = ["LivingRoom", "Bedroom", "Kitchen", "Bathroom"]
        rooms = [{"type": kinds[i % 4], "poly": (METRES * p).tolist()} for i, p in enumerate(self.rooms)]
        doors = [
            {"rooms": [a, -1 if b is None else b], "seg": (METRES * _middle_line(p)).tolist()}
            for (a, b), p in zip(self.doors, self.door_outlines, strict=True)
        ]
        return {"seed": 5, "split": "val", "rooms": rooms, "doors": doors}


def _middle_line(outline: Outline) -> np.ndarray:
    """[2, 2] the longer middle line of a rectangle; something like it for other outlines."""
    p = np.resize(outline, (4, 2))
    lines = [np.array([p[i] + p[i - 1], p[i - 2] + p[i - 3]]) / 2 for i in (0, 1)]
    return max(lines, key=lambda line: float(np.hypot(*(line[1] - line[0]))))


# ---------------------------------------------------------------------------------------------------------- outlines


def _crossed(p: Outline, rng: random.Random) -> Outline:
    order = list(range(len(p)))
    a, b = rng.sample(order, 2) if len(p) > 1 else (0, 0)
    order[a], order[b] = b, a
    return p[order]


def _jagged(p: Outline, count: int, depth: float) -> Outline:
    """The outline with `count` corners, every other one `depth` off it."""
    at = np.linspace(0, len(p), count, endpoint=False)
    k = at.astype(int)
    along = np.roll(p, -1, axis=0)[k] - p[k]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(np.hypot(*along.T), 1e-9)[:, None]
    return p[k] + (at - k)[:, None] * along + depth * (np.arange(count) % 2)[:, None] * across


def _turned(p: Outline, degrees: float) -> Outline:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (p - p.mean(0)) @ np.array([[c, s], [-s, c]]) + p.mean(0)


def _scaled(p: Outline, factor: float) -> Outline:
    return p.mean(0) + factor * (p - p.mean(0))


def _star(p: Outline) -> Outline:
    angles = 2 * np.arange(5) * 2 * np.pi / 5
    return p.mean(0) + 30 * np.stack([np.sin(angles), np.cos(angles)], axis=1)


def _scattered(rng: random.Random) -> Outline:
    return np.random.default_rng(rng.randrange(99)).uniform(0, 256, (rng.choice([3, 8, 25]), 2))


OUTLINES: dict[str, Callable[[Outline, random.Random], Outline]] = {
    "point": lambda p, rng: np.repeat(p[:1], len(p), axis=0),
    "one corner twice": lambda p, rng: np.insert(p, 1, p[1], axis=0),
    "every corner twice": lambda p, rng: np.repeat(p, 2, axis=0),
    "backwards": lambda p, rng: p[::-1],
    "crossed": _crossed,
    "flat": lambda p, rng: p * [1, 0] + [0, 50],
    "flat and slanted": lambda p, rng: np.stack([p[:, 0], 0.3 * p[:, 0]], axis=1),
    "nearly flat": lambda p, rng: p * [1, 1e-7] + [0, 50],
    "spike": lambda p, rng: np.concatenate([p[:2], p[1:2] + np.array([rng.choice([3, 500]), 1e-4]), p[1:]]),
    "far": lambda p, rng: p + rng.choice([9e5, -9e5, 1e4]),
    "beyond all bounds": lambda p, rng: p + 1e7,
    "tiny": lambda p, rng: _scaled(p, 1e-9),
    "small": lambda p, rng: _scaled(p, 0.02),
    "large": lambda p, rng: _scaled(p, rng.choice([3, 50, 2000])),
    "twice round": lambda p, rng: np.concatenate([p, p]),
    "there and back": lambda p, rng: np.concatenate([p, p[::-1]]),
    "star": lambda p, rng: _star(p),
    "turned": lambda p, rng: _turned(p, rng.choice([10, 30, 45, 89.9999])),
    "many corners": lambda p, rng: _jagged(p, 500, 0.0),
    "comb": lambda p, rng: _jagged(p, rng.choice([30, 120]), 4.0),
    "noise": lambda p, rng: p + np.random.default_rng(rng.randrange(99)).normal(0, 20, p.shape),
    "scattered": lambda p, rng: _scattered(rng),
    "two corners": lambda p, rng: p[:2],
    "thirds": lambda p, rng: p / 3 + 1e-7,
}


# ------------------------------------------------------------------------------------------------------------ graphs


def _one_room(sketch: Sketch, rng: random.Random) -> None:
    kept = [d for d, pair in enumerate(sketch.doors) if pair == (0, None)]
    del sketch.rooms[1:], sketch.types[1:]
    sketch.door_outlines = [sketch.door_outlines[d] for d in kept]
    sketch.doors = [(0, None)] * len(kept)


def _no_doors(sketch: Sketch, rng: random.Random) -> None:
    sketch.doors, sketch.door_outlines = [], []


def _door_again(sketch: Sketch, rng: random.Random) -> None:
    for d in range(len(sketch.doors))[:1]:
        times = rng.choice([1, 12])
        sketch.doors[d:d] = [sketch.doors[d]] * times
        sketch.door_outlines[d:d] = [sketch.door_outlines[d]] * times


def _doors_elsewhere(sketch: Sketch, rng: random.Random) -> None:
    count = len(sketch.rooms)
    sketch.doors = [((a + 1) % count, None if b is None else (b + 1) % count) for a, b in sketch.doors]


def _door_to_nowhere(sketch: Sketch, rng: random.Random) -> None:
    if sketch.doors:
        sketch.doors[0] = (len(sketch.rooms) + rng.randrange(9), None if rng.random() < 0.5 else 0)


def _front_doors(sketch: Sketch, rng: random.Random) -> None:
    sketch.doors = [(a, None) for a, _ in sketch.doors]


def _one_on_another(sketch: Sketch, rng: random.Random) -> None:
    sketch.rooms[-1] = sketch.rooms[0]


def _one_inside_another(sketch: Sketch, rng: random.Random) -> None:
    sketch.rooms[-1] = _scaled(sketch.rooms[0], 0.3)


def _all_on_one(sketch: Sketch, rng: random.Random) -> None:
    sketch.rooms = [sketch.rooms[0]] * len(sketch.rooms)


def _many_on_one(sketch: Sketch, rng: random.Random) -> None:
    sketch.rooms += [_scaled(sketch.rooms[0], 1 - 0.02 * i) for i in range(5)]
    sketch.types += [RoomType.BATHROOM] * 5


def _apart(sketch: Sketch, rng: random.Random) -> None:
    sketch.rooms = [p + 300.0 * i for i, p in enumerate(sketch.rooms)]


GRAPHS: dict[str, Callable[[Sketch, random.Random], None]] = {
    "one room": _one_room,
    "no doors": _no_doors,
    "door again": _door_again,
    "doors elsewhere": _doors_elsewhere,
    "door to nowhere": _door_to_nowhere,
    "front doors only": _front_doors,
    "one on another": _one_on_another,
    "one inside another": _one_inside_another,
    "all on one": _all_on_one,
    "many on one": _many_on_one,
    "apart": _apart,
}


def odd_sketch(rng: random.Random) -> tuple[str, Sketch]:
    """A plan with one to four faults, and their names."""
    sketch, done = Sketch.of(sketched_plan(rng.randrange(6))), []
    for _ in range(rng.choice([1, 1, 2, 4])):
        way = rng.choice([*OUTLINES, *OUTLINES, *GRAPHS])
        done.append(way)
        if way in GRAPHS:
            GRAPHS[way](sketch, rng)
            continue
        chosen = sketch.door_outlines if sketch.doors and rng.random() < 0.35 else sketch.rooms
        for k in range(len(chosen)) if rng.random() < 0.25 else [rng.randrange(len(chosen))]:
            chosen[k] = OUTLINES[way](chosen[k], rng)
    return ", ".join(done), sketch


# ---------------------------------------------------------------------------------------------------------- diagrams


def odd_diagram(kind: str, rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A diagram (or, for `cubigraph`, a room graph) that is too much, too little, or contradicts itself."""
    count = rng.choice([1, 2, 6, 40])
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    graphs = {
        "no doors": [],
        "all doors": [(a, b) for a, b in pairs if a < b and b < 12],
        "all doors, both ways": [(a, b) for a, b in pairs if b < 8],
        "a chain": [(a, a + 1) for a in range(count - 1)],
        "a ring": [(a, (a + 1) % count) for a in range(count)],
        "two parts": [(a, a + 2) for a in range(count - 2)],
        "one door again": [(0, count - 1)] * 3,
        "beyond the last room": [(0, count)],
        "before the first room": [(-1, 0)],
    }
    how = rng.choice(list(graphs))
    if kind == "cubigraph":
        types = [rng.choice(["Bath", "Entry", "Other", "LivingRoom"]) for _ in range(count)]
        return f"{count} rooms, {how}", {"id": how, "rooms": types, "edges": [[a, b, 2] for a, b in graphs[how]]}
    rooms: list[dict[str, Any]] = [{"type": rng.choice(["bedroom", "living", 2, "WC"])} for _ in range(count)]
    asked = {
        "nothing": {},
        "256 corners": {"corners": 256},
        "3 corners": {"corners": 3},
        "no floor": {"area": 1e-300},
        "a country": {"area": 4e10},
        "beyond floats": {"area": 1e308, "size": [1e308, 1e308]},
        "a line": {"size": [1e-9, 17]},
        "area and size at odds": {"area": 50, "size": [1, 1]},
        "nulls": {"area": None, "size": None, "corners": None},
    }
    wish = rng.choice(list(asked))
    for room in rooms[: rng.choice([1, 40])]:
        room.update(asked[wish])
    front = rng.choice([None, 0, count - 1, count])
    doors = [list(pair) for pair in graphs[how]]
    return f"{count} rooms, {how}, {wish}", {"rooms": rooms, "doors": doors, "front_door": front}
