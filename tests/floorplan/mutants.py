"""Valid inputs of every json format that the head reads, and deterministic ways to spoil them."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from trifold.floorplan.diagram import BubbleDiagram, example_names
from trifold.floorplan.rplan import plan_to_rplan

from .odd_plans import Sketch, odd_diagram, odd_sketch, sketched_plan

FORMATS = ("diagram", "cubigraph", "rplan", "own", "procthor")


@dataclass(frozen=True)
class Mutant:
    """A spoilt file. `name` says how it was made, and finds it again."""

    name: str
    data: bytes


def mutants(kind: str, family: str, count: int) -> Iterator[Mutant]:
    """`count` spoilt files of a format of `FORMATS`; family: a key of `FAMILIES`."""
    for number in range(count):
        rng = random.Random(f"{kind} {family} {number}")
        how, data = FAMILIES[family](kind, rng)
        yield Mutant(f"{kind}-{family}-{number} ({how})", data)


def valid(kind: str, number: int) -> Any:
    """The parsed json of a valid input, one of a few for every format."""
    if kind == "diagram":
        return BubbleDiagram.example(example_names()[number % 4]).to_dict()
    plan = sketched_plan(number)
    if kind == "cubigraph":
        types = {"living": "LivingRoom", "kitchen": "Kitchen", "bedroom": "Bedroom", "bathroom": "Bath"}
        doors = [[a, b, 2] for a, b in plan.doors if b is not None]
        names = [types.get(node.type.name.lower(), "Entry") for node in plan.rooms]
        return {"id": number, "rooms": names, "edges": [*doors, [0, 1, 1]]}
    if kind == "own":
        # Everything that only this package writes: names, another frame and scale, an outline that runs twice round.
        nodes = [replace(node, name=f"room {i}") for i, node in enumerate(plan.nodes)]
        if number % 3 == 0:
            nodes[0] = replace(nodes[0], polygon=np.concatenate([nodes[0].polygon] * 2))
        return plan_to_rplan(replace(plan, nodes=tuple(nodes), frame=300.0, metres_per_unit=0.06, name="own"))
    return listed(Sketch.of(plan).written(kind), kind, number)


def listed(data: Any, kind: str, number: int) -> Any:
    """Every other time a file with a list: of two plans, the second one sound."""
    return [data, Sketch.of(sketched_plan(0)).written(kind)] if number % 2 else data


# ------------------------------------------------------------------------------------------------------------- bytes


NOTHING = [b"", b" \n", b"null", b"true", b"0", b'""', b"[]", b"{}", b"[[]]", b"[null]", b'{"rooms": [{}]}']


def _spoilt_bytes(kind: str, rng: random.Random) -> tuple[str, bytes]:
    base = valid(kind, rng.randrange(6))
    text = json.dumps(base, indent=rng.choice([None, 1])).encode()
    at, length = rng.randrange(len(text)), rng.randrange(1, 6)
    ways: dict[str, Callable[[], bytes]] = {
        "truncated": lambda: text[:at],
        "flipped": lambda: text[:at] + bytes([text[at] ^ (1 << rng.randrange(8))]) + text[at + 1 :],
        "inserted": lambda: text[:at] + rng.randbytes(length) + text[at:],
        "deleted": lambda: text[:at] + text[at + length :],
        "doubled": lambda: text[: at + length] + text[at:],
        "bom": lambda: b"\xef\xbb\xbf" + text,
        "two boms": lambda: b"\xef\xbb\xbf" * 2 + text,
        "utf-16": lambda: json.dumps(base).encode("utf-16"),
        "not utf-8": lambda: text[:at] + b"\xc3\x28" + text[at:],
        "nul": lambda: text[:at] + b"\0" + text[at:],
        "all nul": lambda: bytes(len(text)),
        "gzipped": lambda: gzip.compress(text, mtime=0),
        "cut gzip": lambda: gzip.compress(text, mtime=0)[: -1 - at % 40],
        "broken gzip": lambda: gzip.compress(text, mtime=0)[:10] + rng.randbytes(50),
        "gzip of noise": lambda: gzip.compress(rng.randbytes(50), mtime=0),
        "two documents": lambda: text + text,
        "deep": lambda: b"[" * 100_000,
        "deep objects": lambda: b'{"rooms":' * 20_000 + b"1" + b"}" * 20_000,
        "long integer": lambda: text.replace(b"1", b"1" * 5000, 1),
        "long float": lambda: text.replace(b"1", b"1" * 400 + b".5", 1),
        "no content": lambda: rng.choice(
            [b"", b" \n", b"null", b"true", b"0", b'""', b"[]", b"{}", b"[[]]", b"[null]"]
        ),
        "literal": lambda: text.replace(b"1", rng.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0"]), 1),
        "repeated key": lambda: text.replace(b"{", b'{"rooms": [], "room_type": [], ', 1),
        "last key wins": lambda: text.rstrip()[:-1] + b', "rooms": 7, "edges": {}}',
    }
    how = rng.choice(list(ways))
    return how, ways[how]()


# --------------------------------------------------------------------------------------------------------- structure


DEEP = "a list in a list, and so on"  # written as such last, too deep for the copying before
NAMES = [
    "<b>&\"'</b>]]>",
    "a\x00b\x1b[31m",
    "\ud800",
    "\u202e\u05d0\ufffe",
    "line\nbreak\r\u2028",
    "x" * 5000,
    "%%c\\P{}",
]
ODD: list[Any] = [None, True, False, "", "text", "1", *NAMES, 0, -1, 1, 2, 7, 0.5, 1e308, 5e-324, -0.0, 10**20, 10**400]
ODD += [float("nan"), float("inf"), -float("inf"), [], {}, [[]], [None], {"a": {}}, [0, 0], [1, 2, 3], ["a", "a"]]
ODD += [DEEP, [[[[[[0]]]]]], [0] * 3000, {"type": "living"}]


def _spoilt_structure(kind: str, rng: random.Random) -> tuple[str, bytes]:
    tree, done = valid(kind, rng.randrange(6)), []
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        holder = {"": tree}  # so that the whole document can be replaced like any part of it
        parent, key = holder, ""
        while (
            isinstance(parent[key], (list, dict)) and parent[key] and rng.random() < (1.0 if parent is holder else 0.7)
        ):
            parent = parent[key]
            key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        done.append(f"{_spoil_value(parent, key, rng)} at {key!r}")
        tree = holder.get("")
    depth = rng.choice([70, 600, 5000])
    return "; ".join(done), json.dumps(tree).replace(json.dumps(DEEP), "[" * depth + "]" * depth).encode()


def _spoil_value(parent: Any, key: Any, rng: random.Random) -> str:
    """Change one entry of a list or dict in place; returns what was done."""
    value = parent[key]
    how = rng.choice(
        ["odd", "odd", "odd", "number", "delete", "again", "rename", "wrap", "swap", "other type", "shuffle"]
    )
    if how == "delete":
        del parent[key]
    elif how == "again" and isinstance(parent, list):
        parent[key:key] = [copy.deepcopy(value)] * rng.choice([1, 1, 2, 30])
    elif how == "rename" and isinstance(parent, dict):
        parent[rng.choice([str(key).upper(), f"{key}s", "", "x" * 3000, *NAMES])] = parent.pop(key)
    elif how == "wrap":
        parent[key] = rng.choice([[value], [value, value], {"value": value}, str(value)])
    elif how == "swap":
        other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[key], parent[other] = parent[other], value
    elif how == "shuffle" and isinstance(value, list):
        rng.shuffle(value)
    elif how == "other type" and isinstance(value, list):
        parent[key] = dict(enumerate(value)) if rng.random() < 0.5 else value[: len(value) // 2]
    elif how == "number" and isinstance(value, (int, float)):
        parent[key] = rng.choice([-value, value + 1, value * 1000, value + 0.5, float(value), value * 1e-9, str(value)])
    else:
        how, parent[key] = "odd", copy.deepcopy(rng.choice(ODD))
    return how


# ---------------------------------------------------------------------------------------------------------- drawings


def _odd_drawing(kind: str, rng: random.Random) -> tuple[str, bytes]:
    if kind in ("diagram", "cubigraph"):
        how, data = odd_diagram(kind, rng)
    else:
        how, sketch = odd_sketch(rng)
        data = sketch.written(kind, name=rng.choice(NAMES))
    return how, json.dumps(listed(data, kind, rng.randrange(4)) if kind in ("rplan", "procthor") else data).encode()


# What is spoilt: the text, the tree it stands for, or what the tree means.
FAMILIES = {"bytes": _spoilt_bytes, "structure": _spoilt_structure, "meaning": _odd_drawing}
