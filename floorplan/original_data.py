"""A plan as the padded arrays of HouseDiffusion's own dataset, bit for bit: for parity tests and for its checkpoints.

Legend: S = 100 corners (padded), R nodes (rooms and doors). Our own training packs plans instead (`tokens.py`); what
the two share is the order of corners and nodes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import shapely
from shapely.geometry import Polygon

from .errors import FloorplanError
from .lattice import RASTER, lattice_polygons
from .plan import Plan
from .rooms import RoomType

MAX_CORNERS = 100
MAX_INDEX = 32  # width of the corner and node one-hots; nodes count from 1
TYPE_WIDTH = 25
GRAPH_ROWS = 200


def rotate_corners(x: np.ndarray, rotation: int) -> np.ndarray:
    """The original's augmentation of [2, S]: 0 nothing, 1 (x,y) -> (-y,x), 2 (x,y) -> (-y,-x), 3 (x,y) -> (y,-x).

    2 is a reflection, not a half turn; and as the original writes back into its data, draws add up over epochs.
    """
    if rotation not in (0, 1, 2, 3):
        raise ValueError(f"rotation {rotation!r}; expected 0, 1, 2 or 3")
    a, b = x
    return np.stack([(a, b), (-b, a), (-b, -a), (b, -a)][rotation])


def analog_bits(x: np.ndarray) -> np.ndarray:
    """[2, S] in [-1, 1) -> [16, S] int8 of +-1: 8 bits of int((x + 1) * 128), first of x, then of y, high bit first.

    Raises `FloorplanError` at +1.0 and beyond, where the original makes 9-bit strings and fails.
    """
    value = ((x + 1) * (RASTER / 2)).astype(np.int64)
    if value.min() < 0 or value.max() > 255:
        raise FloorplanError(f"coordinates from {x.min():g} to {x.max():g}; 8 bits hold -1 to just below 1")
    bits = value[:, None, :] >> np.arange(7, -1, -1)[None, :, None] & 1
    return (bits * 2 - 1).reshape(16, -1).astype(np.int8)


def corner_histogram(plans: Iterable[Plan]) -> dict[int, list[int]]:
    """Corner counts on the lattice of all nodes of each type, in the order of the plans: what evaluation draws from."""
    counts: dict[int, list[int]] = {}
    for plan in plans:
        for node, polygon in zip(plan.nodes, lattice_polygons(plan), strict=True):
            counts.setdefault(int(node.type), []).append(len(polygon))
    return counts


def draw_corner_counts(plan: Plan, histogram: Mapping[int, Sequence[int]], rng: random.Random) -> list[int]:
    """A corner count per node, uniformly from those seen for its type; `random.Random(seed)` gives the original's
    draws."""
    missing = {node.type for node in plan.nodes} - {RoomType(kind) for kind in histogram}
    if missing:
        names = ", ".join(sorted(kind.name.lower() for kind in missing))
        raise FloorplanError(f"no corner counts for {names}", source=plan.name, field="histogram")
    return [rng.choice(histogram[node.type]) for node in plan.nodes]


def non_manhattan_polygons(
    polygons: Sequence[np.ndarray], doors: Sequence[bool], rng: np.random.RandomState
) -> list[np.ndarray]:
    """The original's `non_manhattan=True`: some rooms of four corners get a bay of two more corners on one side.

    polygons: from `lattice_polygons`; doors [R]: which nodes are doors. For each room of four corners, draws from
    `rng` decide whether it changes (1 in 2), the bay's width (2/3 .. 2/6 of the side) and its depth (1/2 .. 1/4 of
    the room) to the side and up or down. Of the four possible bays, the one that lies most outside the rooms (least
    IoU with their union) is taken. `np.random.RandomState(seed)` gives the original's draws. The rule was recovered
    from recorded plans; all of them agree with it.
    """
    house = shapely.union_all([Polygon(p) for p, door in zip(polygons, doors, strict=True) if not door])
    result = []
    for polygon, door in zip(polygons, doors, strict=True):
        if not door and len(polygon) == 4 and rng.randint(0, 2) == 0:
            width, depth_x, depth_y = rng.randint(3, 7), rng.randint(2, 5), rng.randint(2, 5)
            bays = _bays(polygon, width, depth_x, depth_y)
            shapes = [Polygon(bay) for bay in bays]
            overlap = [shape.intersection(house).area / shape.union(house).area for shape in shapes]
            # Equal overlaps of different sides may differ in the last bits: the order of the sides decides then.
            polygon = bays[int(np.argmin(np.round(overlap, 9)))]
        result.append(polygon)
    return result


def _bays(polygon: np.ndarray, width: int, depth_x: int, depth_y: int) -> list[np.ndarray]:
    """A rectangle with a bay at the top, bottom, left, right: [6, 2] each, in the order of the lattice's corners.

    The bay is 2 / width of the side wide, 1 / depth of the room deep.
    """
    (x0, y0), (x1, y1) = polygon.min(axis=0), polygon.max(axis=0)
    x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / width, (y1 - y0) / width
    above, below = y0 - (y1 - y0) / depth_y, y1 + (y1 - y0) / depth_y
    left, right = x0 - (x1 - x0) / depth_x, x1 + (x1 - x0) / depth_x
    return [
        np.array([(x0, y0), (x0, y1), (x1, y1), (x1, y0), (x + w, above), (x - w, above)]),
        np.array([(x0, y0), (x0, y1), (x - w, below), (x + w, below), (x1, y1), (x1, y0)]),
        np.array([(x0, y0), (left, y - h), (left, y + h), (x0, y1), (x1, y1), (x1, y0)]),
        np.array([(x0, y0), (x0, y1), (x1, y1), (right, y + h), (right, y - h), (x1, y0)]),
    ]


def original_item(
    plan: Plan,
    *,
    rotation: int = 0,
    corner_counts: Sequence[int] | None = None,
    polygons: Sequence[np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """One sample of the original's dataset.

    Training (corner_counts None): `arr` [2, S] float64, the lattice corners in [-1, 1] under `rotation`
    (`rotate_corners`), 0 as padding, and the condition. Evaluation: the condition for the given corner count of each
    node (R integers), without `arr`; a node without links then reads the living room, one way. polygons (pixels of
    256) replace `lattice_polygons`.

    Condition: room_types [S, 25], corner_indices [S, 32], room_indices [S, 32] (from 1), src_key_padding_mask [S] (1
    = padding), door_mask, self_mask, gen_mask [S, S] (0 = may read), uint8; connections [S, 2] (corner, next corner)
    and graph [200, 3] (k, +1 linked or -1, l), int16. Raises `FloorplanError` where the original's limits are passed:
    100 corners, 32 corners of a node, 20 nodes.
    """
    arrays: dict[str, np.ndarray] = {}
    if corner_counts is None:
        corners = lattice_polygons(plan) if polygons is None else list(polygons)
        counts = [len(polygon) for polygon in corners]
        _check_limits(plan, counts)
        points = (np.concatenate(corners) / RASTER - 0.5) * 2
        x = np.zeros((2, MAX_CORNERS))
        x[:, : len(points)] = points.T
        arrays["arr"] = rotate_corners(x, rotation)
    else:
        counts = [int(count) for count in corner_counts]
        _check_limits(plan, counts)
    return arrays | _condition(plan, counts, isolated_read_living=corner_counts is not None)


def _check_limits(plan: Plan, counts: Sequence[int]) -> None:
    triples = len(plan.nodes) * (len(plan.nodes) - 1) // 2
    if len(counts) != len(plan.nodes):
        raise FloorplanError(
            f"{len(counts)} corner counts for {len(plan.nodes)} nodes", source=plan.name, field="nodes"
        )
    if sum(counts) > MAX_CORNERS:
        raise FloorplanError(f"{sum(counts)} corners; the original holds {MAX_CORNERS}", source=plan.name)
    if max(counts) > MAX_INDEX:
        raise FloorplanError(f"a node of {max(counts)} corners; the original holds {MAX_INDEX}", source=plan.name)
    if triples > GRAPH_ROWS:
        raise FloorplanError(f"{len(plan.nodes)} nodes; the original holds 20", source=plan.name, field="nodes")


def _condition(plan: Plan, counts: Sequence[int], *, isolated_read_living: bool) -> dict[str, np.ndarray]:
    total, triples = sum(counts), plan.graph()
    node = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum([0, *counts[:-1]])[node]
    token = np.arange(total)

    reads = np.zeros((len(counts), len(counts)), dtype=np.bool_)
    for a, sign, b in triples:
        reads[a, b] = reads[b, a] = sign > 0
    living = next((i for i, kind in enumerate(plan.node_types()) if kind == RoomType.LIVING), None)
    if isolated_read_living and living is not None:
        alone = ~np.any(reads, axis=1) & (np.arange(len(counts)) != living)
        reads[alone, living] = True

    def one_hot(index: np.ndarray, width: int) -> np.ndarray:
        table = np.zeros((MAX_CORNERS, width), dtype=np.uint8)
        table[token, index] = 1
        return table

    def blocked(allowed: np.ndarray) -> np.ndarray:
        mask = np.ones((MAX_CORNERS, MAX_CORNERS), dtype=np.uint8)
        mask[:total, :total] = ~allowed
        return mask

    padding = np.ones(MAX_CORNERS, dtype=np.uint8)
    padding[:total] = 0
    connections = np.zeros((MAX_CORNERS, 2), dtype=np.int16)
    connections[:total] = np.stack([token, first + (token - first + 1) % np.asarray(counts)[node]], axis=1)
    graph = np.zeros((GRAPH_ROWS, 3), dtype=np.int16)
    graph[: len(triples)] = np.array(triples, dtype=np.int16).reshape(-1, 3)
    return {
        "room_types": one_hot(np.array([int(kind) for kind in plan.node_types()])[node], TYPE_WIDTH),
        "corner_indices": one_hot(token - first, MAX_INDEX),
        "room_indices": one_hot(node + 1, MAX_INDEX),
        "src_key_padding_mask": padding,
        "connections": connections,
        "door_mask": blocked(reads[node][:, node]),
        "self_mask": blocked(node[:, None] == node[None, :]),
        "gen_mask": blocked(np.ones((total, total), dtype=bool)),
        "graph": graph,
    }
