"""Finishing, properties: a fixed point, the symmetries of the square, any node order, any input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon
from trifold.floorplan.finished import FinishedPlan
from trifold.floorplan.finishing import finish
from trifold.floorplan.finishing_rooms import is_cover
from trifold.floorplan.metrics import door_connections, graph_errors
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.procedural import HELD_OUT_START, ProceduralConfig, generate_plan
from trifold.floorplan.rooms import RoomType

FRAME = 256.0
UNITS_PER_METRE = 256 / 18
SYMMETRIES: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda p: np.stack([FRAME - p[:, 0], p[:, 1]], axis=1),
    lambda p: np.stack([p[:, 0], FRAME - p[:, 1]], axis=1),
    lambda p: FRAME - p,
    lambda p: p[:, ::-1],
    lambda p: FRAME - p[:, ::-1],
    lambda p: np.stack([FRAME - p[:, 1], p[:, 0]], axis=1),
    lambda p: np.stack([p[:, 1], FRAME - p[:, 0]], axis=1),
    lambda p: p + np.array([5.0, -3.0]),
]
# The same examples every time: what noise of some decimetres does to ties between floats is not what is tested here.
slow = settings(deadline=None, derandomize=True, max_examples=15, suppress_health_check=[HealthCheck.too_slow])


def _mapped(plan: Plan, change: Callable[[np.ndarray], np.ndarray]) -> Plan:
    return replace(plan, nodes=tuple(replace(node, polygon=change(node.polygon)) for node in plan.nodes))


def _jittered(seed: int, sigma: float, oblique: float) -> Plan:
    """A held-out plan with every corner of every node moved by its own noise, sigma in metres."""
    rng = np.random.default_rng(seed)
    plan = generate_plan(HELD_OUT_START + seed, ProceduralConfig(non_manhattan=oblique))
    return _mapped(plan, lambda p: p + rng.normal(0, sigma * UNITS_PER_METRE, p.shape))


def _assert_same(one: Plan, other: Plan, tolerance: float = 1e-9) -> None:
    """Equal nodes, wherever outlines start and whichever way they go."""
    for a, b in zip(one.nodes, other.nodes, strict=True):
        assert len(a.polygon) == len(b.polygon)
        apart = np.abs(a.polygon[:, None] - b.polygon).max(axis=2)
        assert max(apart.min(axis=0).max(), apart.min(axis=1).max()) <= tolerance


def _assert_fixed(finished: FinishedPlan) -> None:
    again = finish(finished.plan)
    assert again.plan == finished.plan
    assert (again.walls, again.openings) == (finished.walls, finished.openings)
    assert again.report.problems == finished.report.problems
    assert again.report.moved == ()


def jittered(*sigmas: float) -> st.SearchStrategy[Plan]:
    return st.builds(_jittered, st.integers(0, 500), st.sampled_from(sigmas), st.sampled_from([0.0, 1.0]))


@slow
@given(jittered(0.0, 0.05, 0.15, 0.3))
def test_finishing_a_finished_plan_changes_nothing(plan: Plan) -> None:
    finished = finish(plan)
    assert finished.plan.doors == plan.doors
    assert is_cover([Polygon(node.polygon) for node in finished.plan.rooms])
    _assert_fixed(finished)


@slow
@given(jittered(0.0, 0.05), st.sampled_from(SYMMETRIES))
def test_a_turned_mirrored_or_shifted_plan_finishes_alike(plan: Plan, change: Callable) -> None:
    one, other = finish(_mapped(plan, change)), finish(plan)
    _assert_same(one.plan, _mapped(other.plan, change))
    assert one.report.problems == other.report.problems
    assert [m.node for m in one.report.moved] == [m.node for m in other.report.moved]


@slow
@given(jittered(0.0, 0.05, 0.15), st.randoms(use_true_random=False))
def test_the_order_of_rooms_does_not_matter(plan: Plan, random: object) -> None:
    order = list(range(plan.num_rooms))
    random.shuffle(order)  # type: ignore[attr-defined]
    place = {old: new for new, old in enumerate(order)}
    nodes = [plan.nodes[old] for old in order] + list(plan.door_nodes)
    doors = [(place[a], None if b is None else place[b]) for a, b in plan.doors]
    finished = finish(Plan(tuple(nodes), tuple(doors))).plan
    back = [finished.nodes[place[k]] for k in range(plan.num_rooms)] + list(finished.door_nodes)
    _assert_same(replace(plan, nodes=tuple(back)), finish(plan).plan)


@pytest.mark.parametrize("degrees", [10, 30, 45])
def test_a_plan_turned_by_any_angle_finishes_as_the_straight_one(degrees: float) -> None:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[cos, sin], [-sin, cos]])
    for seed in range(4):
        plan = generate_plan(HELD_OUT_START + seed, ProceduralConfig(non_manhattan=0))
        turned = finish(_mapped(plan, lambda p: (p - 128) @ turn + 128))
        _assert_same(turned.plan, _mapped(finish(plan).plan, lambda p: (p - 128) @ turn + 128), tolerance=0.01)
        assert turned.report.problems == ()
        _assert_fixed(turned)


def test_noise_up_to_a_wall_is_undone() -> None:
    for seed in range(8):
        finished = finish(_jittered(seed, 0.05, 0.5))
        assert finished.report.problems == ()
        assert graph_errors(finished.plan).total == 0


@slow
@given(jittered(0.3))
def test_a_graph_that_is_not_kept_is_told(plan: Plan) -> None:
    finished = finish(plan)
    assert graph_errors(finished.plan).total == 0 or finished.report.problems
    told = [f"door {door}: its sight lines" in " ".join(finished.report.problems) for door in range(len(plan.doors))]
    assert not any(told)


def _boxes(corners: list[tuple[float, float, float, float]]) -> list[np.ndarray]:
    return [np.array([[x, y], [x, y + h], [x + w, y + h], [x + w, y]]) for x, y, w, h in corners]


coordinate = st.floats(0, 250, width=32)
size = st.floats(0, 90, width=32)
boxes = st.lists(st.tuples(coordinate, coordinate, size, size), min_size=1, max_size=4).map(_boxes)
# Whole multiples make edges and corners of different rooms coincide.
coarse = st.tuples(*[st.integers(0, 6).map(lambda k: 32.0 * k)] * 2, *[st.integers(1, 3).map(lambda k: 32.0 * k)] * 2)
grids = st.lists(coarse, min_size=1, max_size=5).map(_boxes)
tangles = st.lists(
    st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=8).map(np.array), min_size=1, max_size=4
)


@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(boxes, grids, tangles, st.builds(lambda a, b: a + b, boxes, tangles)), tangles)
def test_any_plan_gives_a_sound_one_or_says_why_not(rooms: list[np.ndarray], doors: list[np.ndarray]) -> None:
    pairs: list[tuple[int, int | None]] = [(k // 2, k) for k in range(1, len(rooms))] + [(0, None)]
    drawn = [doors[k % len(doors)] for k in range(len(pairs))]
    kinds = [RoomType.INTERIOR_DOOR] * (len(pairs) - 1) + [RoomType.FRONT_DOOR]
    nodes = [Node(RoomType.STUDY, p) for p in rooms]
    nodes += [Node(kind, p) for kind, p in zip(kinds, drawn, strict=True)]
    plan = Plan(tuple(nodes), tuple(pairs))
    finished = finish(plan)
    problems = " ".join(finished.report.problems)
    whole = [Polygon(n.polygon) for k, n in enumerate(finished.plan.rooms) if f"room {k} (study) " not in problems]
    assert is_cover(whole) or "could not be parted" in problems
    assert finished.plan.doors == plan.doors
    without = [p for p in finished.report.problems if p.startswith("door ") and "sight lines" not in p]
    assert len(finished.openings) + len(without) == len(pairs)
    read = door_connections(finished.plan)
    for opening in finished.openings:
        a, b = pairs[opening.door]
        assert read[opening.door] == (a, b) or f"door {opening.door}: its sight lines join" in problems
    assert all(Polygon(n.polygon).is_valid for n in finished.plan.door_nodes)
    # Rooms that others swallowed stay where they were drawn, and so would be seen again.
    assume("all its floor" not in problems and "could not be parted" not in problems and finished.openings)
    _assert_fixed(finished)
