"""What whole plans cost, for `bench_floorplan.py`: few steps against many, and growth with rooms and corners.

An exponent e says that seconds (or pairs) grew as corners^e, from the plan with the next fewer corners to this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from bench_measure import Table, Timing, in_fresh_process, interleaved, memory, normal
from trifold.common.attention import SegmentLayout
from trifold.floorplan import HouseDiffusion
from trifold.floorplan.diagram import BubbleDiagram, RoomSpec
from trifold.floorplan.finished import FinishedPlan
from trifold.floorplan.finishing import finish
from trifold.floorplan.metrics import graph_errors, overlap_share
from trifold.floorplan.model import HouseDiffusionConfig, SamplerName
from trifold.floorplan.plan import RPLAN_FRAME, RPLAN_METRES_PER_UNIT, Node, Plan
from trifold.floorplan.procedural import HELD_OUT_START, ProceduralConfig, ProceduralPlans
from trifold.floorplan.rooms import RoomType

WALL = 4.0  # units between neighbouring rooms, as in the procedural plans
DOOR = 12.0
NOISE = 0.7  # units (5 cm) by which a drawn corner misses its place
PER_TILE = 5  # rooms of one flat
LEAST_GROWTH = 1.3  # of corners, for an exponent
TIME = 500
KINDS = (RoomType.BEDROOM, RoomType.BATHROOM, RoomType.STUDY, RoomType.KITCHEN, RoomType.STORAGE, RoomType.BALCONY)

# -------------------------------------------------------------------------------------------------- few steps or many


def plans_table(
    model: HouseDiffusion,
    wanted: Sequence[BubbleDiagram],
    few_steps: int,
    many_steps: int,
    *,
    run_steps: int,
    device: str,
) -> Table:
    """Seconds per plan, from noise to walls and doors, all diagrams in one batch; and graph errors per plan.

    Of the chain of `many_steps` only `run_steps` are run where these are fewer; its time is then scaled up, and its
    plans are not those of the whole chain.
    """
    rows: list[dict[str, Any]] = []
    model.generate(wanted, steps=2)  # the first use of a library costs extra
    chains: tuple[tuple[SamplerName, int], ...] = (
        ("sde-dpmsolver++", few_steps),
        ("ddpm", few_steps),
        ("dpmsolver++", few_steps),
        ("ddpm", many_steps),
    )
    for sampler, steps in chains:
        run = steps if steps == few_steps else min(run_steps, steps)
        drawing = _once(partial(model.generate, wanted, steps=run, sampler=sampler), device)
        finishing = _once(partial(_finished, drawing.result), "cpu")
        seconds = drawing.fastest * steps / run / len(wanted), finishing.fastest / len(wanted)
        whole = run == steps
        rows.append(
            {
                "sampler": sampler,
                "steps": steps,
                "time": "measured" if whole else f"from {run} steps",
                "s drawing": seconds[0],
                "s finishing": seconds[1],
                "s per finished plan": sum(seconds),
                "graph errors, drawn": _errors(drawing.result, wanted) if whole else None,
                "graph errors, finished": _errors(finishing.result, wanted) if whole else None,
            }
        )
    longest = rows[-1]["s per finished plan"]
    rows = [{**row, "times faster": longest / row["s per finished plan"]} for row in rows]
    title = f"Seconds per finished plan, {len(wanted)} in a batch, network {model.config.width} wide, {device}"
    return Table("plans", title, rows)


def _once(run: Callable[[], Any], device: str) -> Timing:
    return interleaved({"": run}, 1, device, warm_up=False)[""]


def _finished(plans: Sequence[Plan]) -> list[Plan]:
    return [finish(plan).plan for plan in plans]


def _errors(plans: Sequence[Plan], wanted: Sequence[BubbleDiagram]) -> float:
    return float(np.mean([graph_errors(plan, asked).total for plan, asked in zip(plans, wanted, strict=True)]))


# ------------------------------------------------------------------------------------------------------ large diagrams


def large_diagram(num_rooms: int) -> BubbleDiagram:
    """Rooms that doors join into a tree, each hub with three rooms of its own; the model chooses the corners."""
    kinds = [RoomType.LIVING, *(KINDS[i % len(KINDS)] for i in range(num_rooms - 1))]
    doors = tuple(((i - 1) // 3, i) for i in range(1, num_rooms))
    return BubbleDiagram(tuple(RoomSpec(kind) for kind in kinds), doors, 0, f"{num_rooms} rooms")


def cornered_diagram(corners: int) -> BubbleDiagram:
    """A tree of rooms with about 25 corners each: together with the doors' four just as many as asked for."""
    num_rooms = max(corners // 25, 1)
    of_rooms = corners - 4 * num_rooms
    least, more = divmod(of_rooms, num_rooms)
    plain = large_diagram(num_rooms)
    rooms = tuple(RoomSpec(room.type, corners=least + (i < more)) for i, room in enumerate(plain.rooms))
    return BubbleDiagram(rooms, plain.doors, 0, f"{corners} corners")


def pairs(layouts: Sequence[SegmentLayout]) -> int:
    """Pairs of tokens that read each other, over all layouts."""
    total = 0
    for layout in layouts:
        q, k = np.asarray(layout.q_lens), np.asarray(layout.k_lens)
        rows, runs = layout.edge_arrays
        total += int((q[rows] * k[runs]).sum())
    return total


def exponent(larger: float, smaller: float, corners: int, before: int) -> float | None:
    """e of larger / smaller = (corners / before)^e; None where a plan hardly grew, for e would be noise."""
    if corners < LEAST_GROWTH * before or min(larger, smaller) <= 0:
        return None
    return math.log(larger / smaller) / math.log(corners / before)


def step_of(
    shape: HouseDiffusionConfig, diagram: BubbleDiagram, counts: dict[str, list[int]], device: str
) -> Callable[[], Any]:
    """One denoising step of one plan by a network of this shape with random weights."""
    torch.manual_seed(0)
    model = HouseDiffusion(shape).to(device).eval()
    model.config.corner_counts.update(counts)
    with torch.no_grad():
        cond = model.pack([model.request(diagram, 0)])
    x, denoiser = normal(1, sum(cond.plan_lens), 2, seed=1, device=device).double(), model.denoiser()

    @torch.no_grad()
    def step() -> Any:
        return denoiser(x, TIME, cond)

    return step


def drawing_table(
    model: HouseDiffusion,
    shape: HouseDiffusionConfig,
    room_counts: Sequence[int],
    corners: int,
    *,
    steps: int,
    device: str,
    repeats: int,
    threads: int,
) -> Table:
    """One denoising step of one plan by a network of `shape`, and a whole plan by the model."""
    rows: list[dict[str, Any]] = []
    for diagram in [*(large_diagram(n) for n in room_counts), cornered_diagram(corners)]:
        cond = model.pack([model.request(diagram, 0)])
        make = partial(step_of, shape, diagram, model.config.corner_counts, device)
        step = interleaved({"": make()}, repeats, device)[""]
        whole = interleaved({"": partial(model.generate, diagram, steps=steps)}, 1, device)[""]
        row = {
            "diagram": diagram.name,
            "nodes": len(cond.node_lens),
            "corners": sum(cond.plan_lens),
            "pairs that attend": pairs(list(cond.layouts.values())),
            "exponent of pairs": None,
            "s per step": step.fastest,
            "exponent": None,
            f"s for a plan, {steps} steps": whole.fastest,
            "growth GiB": in_fresh_process(memory, make, device, threads)["growth GiB"],
        }
        rows.append(row)
    _add_exponents(rows[: len(room_counts)], {"pairs that attend": "exponent of pairs", "s per step": "exponent"})
    width = f"{shape.width} wide for a step, {model.config.width} wide for a plan"
    return Table("drawing", f"Drawing one plan, networks {width}, {device}", rows)


def _add_exponents(rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    """Fill the exponents from the row with the next fewer corners to each row."""
    ordered = sorted(rows, key=lambda row: row["corners"])
    for smaller, row in pairwise(ordered):
        for value, name in columns.items():
            row[name] = exponent(row[value], smaller[value], row["corners"], smaller["corners"])


# ------------------------------------------------------------------------------------------------- large finish inputs


def row_of_flats(num_rooms: int) -> Plan:
    """Procedural flats of five rooms side by side, a door between neighbours, every corner a little off.

    Each flat stands where its leftmost wall meets the rightmost wall of the one before.
    """
    config = ProceduralConfig(num_rooms=(PER_TILE, PER_TILE), non_manhattan=0.0)
    source = ProceduralPlans(config, HELD_OUT_START)
    rooms: list[Node] = []
    inner: list[tuple[Node, tuple[int, int | None]]] = []
    front: list[tuple[Node, tuple[int, int | None]]] = []
    last: tuple[int, np.ndarray] | None = None  # room and wall at the right end, [2, 2] from top to bottom
    for flat in range(math.ceil(num_rooms / PER_TILE)):
        tile = source[flat]
        first = len(rooms)
        room, wall = _end(tile, -1)
        shift = np.zeros(2)
        if last is not None:
            shift = last[1].mean(axis=0) - wall.mean(axis=0) + (WALL, 0.0)
            inner.append((_door_across(last[1]), (last[0], first + room)))
        rooms += [Node(n.type, n.polygon + shift) for n in tile.rooms]
        for node, (a, b) in zip(tile.door_nodes, tile.doors, strict=True):
            moved = Node(node.type, node.polygon + shift)
            if b is not None:
                inner.append((moved, (first + a, first + b)))
            elif not front:
                front.append((moved, (first + a, None)))
        room, wall = _end(tile, +1)
        last = first + room, wall + shift
    doors = [*inner, *front]
    nodes, joined = [*rooms, *(node for node, _ in doors)], [rooms for _, rooms in doors]
    return _drawn(nodes, joined, f"{len(rooms)} rooms in flats")


def _end(plan: Plan, side: int) -> tuple[int, np.ndarray]:
    """The room with the longest wall at the left (-1) or right (+1) end of a plan, and that wall from top to bottom."""
    found = []
    edge = max(side * node.polygon[:, 0].max() if side > 0 else -node.polygon[:, 0].min() for node in plan.rooms)
    for i, node in enumerate(plan.rooms):
        for a, b in zip(node.polygon, np.roll(node.polygon, -1, axis=0), strict=True):
            if side * a[0] == edge == side * b[0]:
                wall = np.array([a, b]) if a[1] < b[1] else np.array([b, a])
                found.append((float(wall[1, 1] - wall[0, 1]), i, wall))
    _, room, wall = max(found, key=lambda entry: entry[:2])
    return room, wall


def _door_across(wall: np.ndarray) -> Node:
    """A door in the gap to the right of a vertical wall, at its middle."""
    (x, _), y = wall[0], wall[:, 1].mean()
    half = min(DOOR, 0.8 * (wall[1, 1] - wall[0, 1])) / 2
    box = [[x, y - half], [x, y + half], [x + WALL, y + half], [x + WALL, y - half]]
    return Node(RoomType.INTERIOR_DOOR, np.array(box))


def toothed_rooms(corners: int, num_rooms: int = 6) -> Plan:
    """A row of rooms whose shared walls are toothed, every corner a little off: few rooms, about so many corners."""
    teeth = max(round((corners - 8 * num_rooms) / (4 * (num_rooms - 1))), 1)
    tall, deep, wide = 24.0, 24.0, 48.0
    height = teeth * tall
    y = np.repeat(np.arange(teeth + 1) * tall, 2)[1:-1]
    jog = np.repeat(np.arange(teeth) % 2 * deep, 2)
    straight = np.array([[0.0, 0.0], [0.0, height]])
    toothed = np.stack([jog, y], axis=1)
    nodes, doors = [], []
    for i in range(num_rooms):
        left = (straight if i == 0 else toothed) + [wide * i + WALL, 0.0]
        right = (straight if i == num_rooms - 1 else toothed) + [wide * (i + 1), 0.0]
        nodes.append(Node(RoomType.LIVING if i == 0 else KINDS[i % len(KINDS)], np.concatenate([left, right[::-1]])))
    for i in range(num_rooms - 1):
        nodes.append(_door_across(np.array([[wide * (i + 1), 0.0], [wide * (i + 1), tall]])))
        doors.append((i, i + 1))
    at = np.array([[0.0, height / 2 - DOOR / 2], [0.0, height / 2 + DOOR / 2]])
    nodes.append(Node(RoomType.FRONT_DOOR, _door_across(at).polygon))
    return _drawn(nodes, [*doors, (0, None)], f"{num_rooms} rooms, toothed walls")


def _drawn(nodes: list[Node], doors: list[tuple[int, int | None]], name: str) -> Plan:
    """The plan as a model might draw it: in the middle of a frame that holds it, corners missing their places."""
    rng = np.random.default_rng(0)
    points = np.concatenate([node.polygon for node in nodes])
    low, high = points.min(axis=0), points.max(axis=0)
    frame = RPLAN_FRAME * math.ceil((high - low).max() / RPLAN_FRAME)
    shift = frame / 2 - (low + high) / 2
    noisy = [Node(n.type, n.polygon + shift + rng.normal(scale=NOISE, size=n.polygon.shape)) for n in nodes]
    return Plan(tuple(noisy), tuple(doors), frame=frame, metres_per_unit=RPLAN_METRES_PER_UNIT, name=name)


def finishing_of(plan: Plan) -> Callable[[], FinishedPlan]:
    """A call that finishes the plan."""
    return partial(finish, plan)


def finishing_table(
    model: HouseDiffusion, room_counts: Sequence[int], corners: int, *, repeats: int, threads: int
) -> Table:
    """Seconds and memory to finish large plans: rows of real flats, toothed walls, and what the model draws for
    diagrams far larger than those it was trained on, which is a tangle."""
    flats = [row_of_flats(n) for n in room_counts]
    drawn = model.generate([*(large_diagram(n) for n in room_counts), cornered_diagram(corners)])
    rows: list[dict[str, Any]] = []
    for source, plans in (("flats", flats), ("toothed", [toothed_rooms(corners)]), ("drawn", drawn)):
        found = []
        for plan in plans:
            timing = interleaved({"": partial(finish, plan)}, min(repeats, 3), "cpu", warm_up=False)[""]
            done: FinishedPlan = timing.result
            found.append(
                {
                    "input": source,
                    "plan": plan.name,
                    "rooms": plan.num_rooms,
                    "corners": sum(len(node.polygon) for node in plan.nodes),
                    "s": timing.fastest,
                    "exponent": None,
                    "growth GiB": in_fresh_process(memory, partial(finishing_of, plan), "cpu", threads)["growth GiB"],
                    "graph errors": graph_errors(done.plan).total,
                    "overlap": overlap_share(done.plan),
                    "problems": len(done.report.problems),
                }
            )
        _add_exponents(found[: len(room_counts)], {"s": "exponent"})
        rows += found
    return Table("finishing", "Finishing one plan, cpu", rows)
