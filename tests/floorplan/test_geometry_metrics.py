"""Gaps, doors in their own walls, types, alignment: cases worked by hand, symmetries, what ground truth scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from shapely.geometry import Polygon
from trifold.floorplan.areas import on_grid
from trifold.floorplan.diagram import BubbleDiagram, RoomSpec
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.geometry_metrics import (
    axis_deviation,
    built_rooms,
    closed,
    corner_counts,
    coverage,
    door_boxes,
    door_in_own_wall,
    doors_in_own_walls,
    gap_share,
    gaps,
    geometry_measures,
    main_direction,
    misalignment,
    overlapping_pairs,
    parts,
    room_count_match,
    total_area_error,
    type_match,
)
from trifold.floorplan.metrics import door_connections
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.procedural import ProceduralConfig, generate_plan
from trifold.floorplan.rooms import RoomType
from trifold.floorplan.scores import COLUMNS

from .conftest import rectangle


def _rooms(*polygons: np.ndarray, kind: RoomType = RoomType.BEDROOM) -> Plan:
    """Rooms without doors; a unit is a metre."""
    return Plan(tuple(Node(kind, polygon) for polygon in polygons), (), metres_per_unit=1.0)


def _moved(plan: Plan, matrix: np.ndarray, shift: tuple[float, float] = (0.0, 0.0), scale: float = 1.0) -> Plan:
    """The plan after p -> scale * matrix @ p + shift, with units that keep its size in metres."""
    nodes = tuple(replace(n, polygon=scale * n.polygon @ matrix.T + np.array(shift)) for n in plan.nodes)
    return replace(plan, nodes=nodes, metres_per_unit=plan.metres_per_unit / scale)


def _turn(degrees: float, *, mirror: bool = False) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])


def _shaken(plan: Plan, size: float, seed: int) -> Plan:
    """The plan with every corner moved by normal noise of `size` units, as a sampler leaves it."""
    rng = np.random.default_rng(seed)
    nodes = tuple(replace(n, polygon=n.polygon + size * rng.standard_normal(n.polygon.shape)) for n in plan.nodes)
    return replace(plan, nodes=nodes)


def test_overlapping_pairs_by_hand() -> None:
    first = rectangle(0, 0, 1, 1)
    assert overlapping_pairs(_rooms(first, rectangle(0.5, 0, 1.5, 1))) == 1
    assert overlapping_pairs(_rooms(first, rectangle(1, 0, 2, 1))) == 0  # a common wall is no floor
    assert overlapping_pairs(_rooms(first, first, first)) == 3
    assert overlapping_pairs(_rooms(first, rectangle(0.995, 0, 2, 1))) == 0  # 50 cm2
    assert overlapping_pairs(_rooms(first, rectangle(0.995, 0, 2, 1)), tolerance=0.004) == 1


def test_a_ring_of_unit_squares_has_a_gap_of_a_ninth() -> None:
    ring = _rooms(*[rectangle(x, y, x + 1, y + 1) for x in range(3) for y in range(3) if (x, y) != (1, 1)])
    for wall, slot in ((0.0, 0.0), (0.5, 0.9)):
        assert gap_share(ring, wall=wall, slot=slot) == pytest.approx(1 / 9)
        assert coverage(ring, wall=wall, slot=slot) == pytest.approx(8 / 9)
        assert gaps(ring, wall=wall, slot=slot).equals(Polygon(rectangle(1, 1, 2, 2)))
    assert gap_share(ring, wall=1.01) == 0.0  # a hole narrower than a wall is a wall


@given(st.floats(0.51, 0.89), st.floats(1.0, 5.0))
def test_an_open_slot_is_a_gap_unless_it_is_a_wall_or_a_passage(width: float, depth: float) -> None:
    # Two rooms of 3 m x depth, `width` apart, on top of one that joins them.
    plan = _rooms(
        rectangle(0, 0, 3, depth), rectangle(3 + width, 0, 6 + width, depth), rectangle(0, depth, 6 + width, depth + 2)
    )
    whole = (6 + width) * (depth + 2)
    expected = pytest.approx(width * depth / whole, rel=1e-5)  # areas are on a grid
    assert gap_share(plan) == expected
    assert gap_share(plan, wall=0.0) == expected  # finished plans have the same gap
    assert gap_share(plan, wall=0.9) == pytest.approx(0.0, abs=1e-12)
    assert gap_share(plan, slot=0.5) == pytest.approx(0.0, abs=1e-12)


@given(st.floats(0.05, 0.49), st.floats(0.0, 360.0))
def test_walls_between_rooms_are_no_gap_even_where_four_meet(wall: float, degrees: float) -> None:
    far = 3 + wall
    four = _rooms(*[rectangle(x, y, x + 3, y + 3) for x in (0.0, far) for y in (0.0, far)])
    turned = _moved(four, _turn(degrees))
    assert gap_share(turned) == pytest.approx(0.0, abs=1e-6)
    assert parts(turned) == 1
    assert parts(turned, wall=0.9 * wall) == 4
    shape = closed(shapely.union_all([Polygon(n.polygon) for n in turned.rooms]), 0.5)
    assert shape.area == pytest.approx((6 + wall) ** 2)


@given(st.floats(0.0, 360.0), st.floats(0.6, 2.0), st.floats(0.6, 2.0))
def test_closing_keeps_shapes_without_narrow_gaps(degrees: float, a: float, b: float) -> None:
    corners = np.array(
        [[0, 0], [0, 3], [a, 3], [a, 2.5], [a + b, 2.5], [a + b, 3], [5, 3], [5, 1], [4, 0]], dtype=float
    )
    shape = Polygon(corners @ _turn(degrees).T)
    assert closed(shape, 0.5).symmetric_difference(shape).area < 1e-4
    assert closed(shape, 0.5, grid=1e-9).symmetric_difference(shape).area < 1e-7
    assert closed(shape, 0.0) is shape


def test_what_snap_rounding_gives_up_on_is_found_on_another_grid():
    left = Polygon([(178.4624, 71.253), (187.0, 99.0), (179.0, 39.0)])
    right = Polygon([(179.0, 39.0000000000002), (179.91532063050724, 75.9747920491486), (187.0, 99.00000000000003)])
    grid = 1.4222222222222222e-05
    with pytest.raises(shapely.errors.GEOSException, match="side location conflict"):
        shapely.union(left, right, grid_size=grid)
    apart = shapely.difference(left, right).area + right.area
    assert on_grid(shapely.union, left, right, grid=grid).area == pytest.approx(apart, abs=1e-3)


def test_parts_by_hand() -> None:
    assert parts(_rooms(rectangle(0, 0, 3, 3), rectangle(3.4, 0, 6, 3), rectangle(7, 0, 9, 3))) == 2
    assert parts(_rooms(rectangle(0, 0, 3, 3), rectangle(3, 0, 6, 3)), wall=0.0) == 1
    assert parts(_rooms(np.zeros((4, 2)))) == 0
    assert gap_share(_rooms(np.zeros((4, 2)))) == 1.0


def _two_rooms(door: np.ndarray, *, wall: float = 0.0, front: np.ndarray | None = None) -> Plan:
    """Rooms of 5 m x 4 m left and right of the line x = 5, `wall` m apart, a door for both, and a front door on y = 4.

    A third room lies below the second.
    """
    half = wall / 2
    nodes = [
        Node(RoomType.LIVING, rectangle(0, 0, 5 - half, 4)),
        Node(RoomType.BEDROOM, rectangle(5 + half, 0, 10, 4)),
        Node(RoomType.BATHROOM, rectangle(5 + half, 4 + wall, 10, 8)),
        Node(RoomType.INTERIOR_DOOR, door),
        Node(RoomType.FRONT_DOOR, rectangle(1, 3.9, 2, 4.1) if front is None else front),
    ]
    return Plan(tuple(nodes), ((0, 1), (0, None)), metres_per_unit=1.0)


@pytest.mark.parametrize("wall", [0.0, 0.1, 0.3, 0.4])
@pytest.mark.parametrize("thick", [0.02, 0.1, 0.3])
def test_a_door_in_its_wall_is_right_in_both_conventions(wall: float, thick: float) -> None:
    def door(x: float, y: float) -> np.ndarray:
        return rectangle(x - thick / 2, y, x + thick / 2, y + 0.9)

    assert doors_in_own_walls(_two_rooms(door(5, 1), wall=wall)) == [True, True]
    assert doors_in_own_walls(_two_rooms(door(5.09, 1), wall=wall)) == [True, True]
    assert not doors_in_own_walls(_two_rooms(door(5 + wall / 2 + 0.12, 1), wall=wall))[0]
    assert not doors_in_own_walls(_two_rooms(door(2, 1), wall=wall))[0]  # in the middle of a room
    assert not doors_in_own_walls(_two_rooms(door(-2, 1), wall=wall))[0]  # out in the garden
    assert not doors_in_own_walls(_two_rooms(door(5, 3.6), wall=wall))[0]  # over the end of the wall


def test_a_door_in_a_wrong_wall_lies_in_a_wall_but_not_in_its_own() -> None:
    wrong = _two_rooms(rectangle(7, 3.9, 8, 4.1))  # between bedroom and bathroom
    assert door_connections(wrong)[0] == (1, 2)
    assert doors_in_own_walls(wrong) == [False, True]
    assert door_in_own_wall(wrong) == 0.5
    assert doors_in_own_walls(replace(wrong, doors=((1, 2), (0, None)))) == [True, True]
    assert door_in_own_wall(_rooms(rectangle(0, 0, 1, 1))) == 1.0


def test_front_doors_lead_outside() -> None:
    door = rectangle(4.9, 1, 5.1, 2)
    assert doors_in_own_walls(_two_rooms(door, front=rectangle(4.9, 2.5, 5.1, 3.5))) == [True, False]  # into a room
    assert doors_in_own_walls(_two_rooms(door, front=rectangle(6, -0.1, 7, 0.1))) == [True, False]  # another room's
    assert doors_in_own_walls(_two_rooms(door, front=rectangle(1, 4.2, 2, 4.4))) == [True, True]  # in a wall of 0.5 m
    assert doors_in_own_walls(_two_rooms(door, front=rectangle(1, 4.3, 2, 4.5))) == [True, False]  # before the wall
    assert doors_in_own_walls(_two_rooms(rectangle(4.7, 1, 5.3, 2)))[0] is False  # thicker than a wall


def test_door_boxes_by_hand() -> None:
    def box(polygon: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
        return door_boxes(Node(RoomType.INTERIOR_DOOR, polygon))

    ((middle, along, length, thick),) = box(rectangle(1, 2, 1.9, 2.1) @ _turn(30).T)
    assert middle == pytest.approx(_turn(30) @ [1.45, 2.05])
    assert abs(along @ _turn(30) @ [1, 0]) == pytest.approx(1)
    assert (length, thick) == pytest.approx((0.9, 0.1))
    # All boxes on the sides of an acute triangle have the same area; the narrowest lies on its longest side.
    ((_, along, length, thick),) = box(np.array([[0, 0], [4, 0], [2, 2.5], [2, 1]], dtype=float))
    assert np.abs(along) == pytest.approx([1, 0])
    assert (length, thick) == pytest.approx((4, 2.5))
    assert len(box(rectangle(0, 0, 1, 0.9))) == 2
    assert box(np.ones((4, 2))) == []


def test_a_crooked_door_must_lie_in_the_wall_along_all_its_length() -> None:
    for degrees, good in ((0.0, True), (8.0, True), (20.0, False)):
        # Ends 0.5 m from the middle leave the wall's line by 0.5 sin: 7 cm, then 17 cm.
        door = np.array([5, 1.5]) + rectangle(-0.05, -0.5, 0.05, 0.5) @ _turn(degrees).T
        assert doors_in_own_walls(_two_rooms(door))[0] is good, degrees


def _asked(*types: RoomType) -> BubbleDiagram:
    return BubbleDiagram(tuple(RoomSpec(kind) for kind in types), (), None)


def test_rooms_and_types_by_hand() -> None:
    kinds = (RoomType.LIVING, RoomType.BEDROOM, RoomType.BEDROOM)
    boxes = (rectangle(0, 0, 4, 4), rectangle(4, 0, 8, 4), rectangle(8, 0, 12, 4))
    plan = Plan(tuple(Node(k, box) for k, box in zip(kinds, boxes, strict=True)), (), metres_per_unit=1.0)
    assert built_rooms(plan) == [0, 1, 2]
    assert room_count_match(plan, _asked(*kinds))
    assert type_match(plan, _asked(*kinds)) == 1.0
    assert type_match(plan, _asked(RoomType.LIVING, RoomType.BEDROOM, RoomType.KITCHEN)) == pytest.approx(2 / 3)
    assert type_match(plan, _asked(RoomType.LIVING, RoomType.BEDROOM)) == pytest.approx(2 / 3)  # one too many
    assert type_match(plan, _asked(*kinds, RoomType.BATHROOM)) == pytest.approx(3 / 4)  # one missing
    assert type_match(plan, _asked(RoomType.STUDY)) == 0.0
    # The second bedroom lies inside the living room: nobody would count it.
    swallowed = replace(plan, nodes=(*plan.nodes[:2], replace(plan.nodes[2], polygon=rectangle(1, 1, 3, 3))))
    assert built_rooms(swallowed) == [0, 1]
    assert not room_count_match(swallowed, _asked(*kinds))
    assert type_match(swallowed, _asked(*kinds)) == pytest.approx(2 / 3)
    assert type_match(_rooms(np.zeros((3, 2))), _asked(RoomType.BEDROOM)) == 0.0


def test_total_area_error_by_hand() -> None:
    plan = _rooms(rectangle(0, 0, 4, 5), rectangle(10, 0, 13, 4), rectangle(20, 0, 29, 9))  # 20, 12, 81 m2
    specs = [RoomSpec(RoomType.BEDROOM, area=area) for area in (16.0, 24.0, None)]
    assert total_area_error(plan, BubbleDiagram(tuple(specs), (), None)) == pytest.approx(8 / 40)
    assert math.isnan(total_area_error(plan, _asked(*[RoomType.BEDROOM] * 3)))
    with pytest.raises(FloorplanError, match="the diagram has 1 rooms, the plan 3"):
        total_area_error(plan, _asked(RoomType.BEDROOM))


def test_misalignment_by_hand() -> None:
    # The second square stands 5 cm lower: half of all wall length is 5 cm off; the facing walls, 30 cm apart, are not.
    off = _rooms(rectangle(0, 0, 4, 4), rectangle(4.3, 0.05, 8.3, 4.05))
    assert misalignment(off) == pytest.approx(0.05 / 2)
    assert misalignment(off, reach=0.04) == 0.0
    assert misalignment(_rooms(rectangle(0, 0, 4, 4), rectangle(4.3, 0, 8.3, 4))) == 0.0
    # A third square in line with the first leaves only the second without a line of its own.
    three = _rooms(*[node.polygon for node in off.rooms], rectangle(8.6, 0, 12.6, 4))
    assert misalignment(three) == pytest.approx(0.05 * 8 / 48)
    assert misalignment(_rooms(rectangle(0, 0, 4, 4))) == 0.0


def test_misalignment_of_a_sloping_wall_is_the_mean_of_its_ends() -> None:
    # One room's top drops from y = 0 to y = 0.1 over its 4 m; the other's top is y = 0 over 1 m, far to the left.
    slope = np.array([[0, 0], [0, 3], [4, 3], [4, 0.1]], dtype=float)
    plan = _rooms(slope, rectangle(-2, 0, -1, 2.5))
    length = math.hypot(4, 0.1)
    # The slope's line passes the other top's ends, x = -2 and -1, at 2 and 1 times 0.1 / length.
    expected = (length * 0.05 + 1 * 1.5 * 0.1 / length) / (length + 4 + 3 + 2.9 + 7)
    assert misalignment(plan) == pytest.approx(expected)
    assert misalignment(plan, degrees=1.0) == 0.0  # it slopes by 1.4 degrees


@given(st.floats(-44.0, 44.0))
def test_axes_of_a_turned_rectangle(degrees: float) -> None:
    plan = _rooms(rectangle(0, 0, 4, 3) @ _turn(degrees).T)
    assert main_direction(plan) == pytest.approx(degrees, abs=1e-9)
    assert axis_deviation(plan) == pytest.approx(abs(degrees), abs=1e-9)
    assert axis_deviation(plan, own_axes=True) == pytest.approx(0, abs=1e-9)


def test_axis_deviation_by_hand() -> None:
    triangle = np.array([[0, 0], [0, 3], [4, 3]], dtype=float)  # sides 3, 4 and a slanted 5 at asin(3/5) to an axis
    assert axis_deviation(_rooms(triangle)) == pytest.approx(5 / 12 * math.degrees(math.asin(0.6)))
    octagon = np.array([[math.cos(a), math.sin(a)] for a in np.arange(8) * math.pi / 4])
    assert main_direction(_rooms(octagon)) == 0.0  # four directions against four


def test_corners_that_turn_nothing_do_not_count() -> None:
    straight = np.array([[0, 0], [0, 2], [0, 4], [0, 4], [4, 4], [4, 0], [1, 0.001]], dtype=float)
    assert corner_counts(_rooms(rectangle(0, 0, 1, 1), straight)).tolist() == [4, 4]


@given(
    st.integers(0, 10_000),
    st.floats(0.0, 3.0),
    st.floats(-180.0, 180.0),
    st.booleans(),
    st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    st.floats(0.1, 10.0),
)
@example(693, 2.326171875, 0.0, True, (0.0, 0.0), 1.0)
def test_measures_do_not_depend_on_place_angle_mirror_or_units(
    seed: int, noise: float, degrees: float, mirror: bool, shift: tuple[float, float], scale: float
) -> None:
    plan = _shaken(generate_plan(seed % 50), noise, seed)
    moved = _moved(plan, _turn(degrees, mirror=mirror), shift, scale)
    diagram = plan.diagram()
    before, after = geometry_measures(plan, diagram), geometry_measures(moved, diagram)
    assert before.pop("axis_deviation") <= 45
    after.pop("axis_deviation")
    # Closing is exact only to dents of a hundredth of a wall's width.
    assert after.pop("gap_share") == pytest.approx(before.pop("gap_share"), abs=5e-4)
    assert after == pytest.approx(before, abs=1e-6)
    assert axis_deviation(moved, own_axes=True) == pytest.approx(axis_deviation(plan, own_axes=True), abs=1e-6)
    assert corner_counts(moved).tolist() == corner_counts(plan).tolist()


PERFECT = {"overlapping_pairs": 0, "parts": 1, "door_in_own_wall": 1, "all_reachable": 1}
PERFECT |= {"room_count_match": 1, "type_match": 1, "total_area_error": 0}


def test_procedural_ground_truth_is_faultless() -> None:
    for seed in range(40):
        plan = generate_plan(seed, ProceduralConfig(non_manhattan=0.0))
        scores = geometry_measures(plan, plan.diagram())
        assert scores == pytest.approx({**PERFECT, "gap_share": 0, "misalignment": 0, "axis_deviation": 0}, abs=1e-6), (
            seed
        )


def test_oblique_ground_truth_differs_only_where_it_should() -> None:
    scores = []
    for seed in range(40):
        plan = generate_plan(seed, ProceduralConfig(non_manhattan=1.0))
        scores.append(geometry_measures(plan, plan.diagram()))
    for name, perfect in PERFECT.items():
        assert [s[name] for s in scores] == pytest.approx([perfect] * 40, abs=1e-9), name
    # A wall turned by a few degrees no longer lies on the line of the wall it continues, and leaves a wedge against a
    # straight one that is a slot near its tip.
    assert max(s["gap_share"] for s in scores) < 1e-3
    assert max(s["misalignment"] for s in scores) < 0.02
    assert 0.1 < np.mean([s["axis_deviation"] for s in scores]) < 5


def test_measures_survive_any_polygons(small_plan: Plan) -> None:
    rng = np.random.default_rng(0)
    wild = [
        replace(
            small_plan, nodes=tuple(replace(n, polygon=rng.uniform(0, 256, n.polygon.shape)) for n in small_plan.nodes)
        )
        for _ in range(30)
    ]
    wild.append(replace(small_plan, nodes=tuple(replace(n, polygon=0 * n.polygon) for n in small_plan.nodes)))
    for plan in wild:
        measured = geometry_measures(plan, small_plan.diagram())
        assert set(measured) < set(COLUMNS)
        assert len(measured) == 10 - ("total_area_error" not in measured)
        assert all(math.isfinite(value) and value >= 0 for value in measured.values()), measured
        shares = ("gap_share", "door_in_own_wall", "all_reachable", "room_count_match", "type_match")
        assert all(measured[name] <= 1 for name in shares), measured
