"""Finishing: cases worked by hand, what it promises of every plan, and what it does to plans that are right already."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, Point, Polygon, box
from trifold.floorplan.evaluation import asked_of, held_out_plans
from trifold.floorplan.finished import FinishedPlan
from trifold.floorplan.finishing import FinishSettings, clear_plan, finish
from trifold.floorplan.finishing_doors import place_doors, walls_of
from trifold.floorplan.finishing_rooms import is_cover
from trifold.floorplan.finishing_settings import Limits
from trifold.floorplan.finishing_walls import polygon_of
from trifold.floorplan.geometry_metrics import door_in_own_wall
from trifold.floorplan.metrics import door_connections, graph_errors, overlap_share, validity
from trifold.floorplan.model import HouseDiffusion
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.rooms import RoomType

METRE = 256 / 18  # plan units


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x0, y1], [x1, y1], [x1, y0]], dtype=np.float64)


def _plan(rooms: list[np.ndarray], doors: list[tuple[int, int | None]], drawn: list[np.ndarray]) -> Plan:
    kinds = [RoomType.FRONT_DOOR if b is None else RoomType.INTERIOR_DOOR for _, b in doors]
    nodes = [Node(RoomType.BEDROOM, p) for p in rooms] + [Node(k, p) for k, p in zip(kinds, drawn, strict=True)]
    return Plan(tuple(nodes), tuple(doors))


def _bounds(finished: FinishedPlan) -> list[tuple[float, ...]]:
    return [node.bounds for node in finished.plan.nodes]


def _check_sound(drawn: Plan, finished: FinishedPlan) -> None:
    """What holds for every finished plan none of whose rooms was reported."""
    plan = finished.plan
    assert plan.doors == drawn.doors
    assert plan.node_types() == drawn.node_types()
    shapes = [Polygon(node.polygon) for node in plan.rooms]
    assert is_cover(shapes)
    walls = finished.walls
    # Every piece of boundary is one wall, and walls are nothing else.
    assert sum(w.length * (1 if w.rooms[1] is None else 2) for w in walls) == pytest.approx(
        sum(s.length for s in shapes)
    )
    for wall in walls:
        middle = Point(np.add(wall.start, wall.end) / 2)
        assert {k for k, s in enumerate(shapes) if s.distance(middle) < 1e-6} == {
            k for k in wall.rooms if k is not None
        }
    taken: dict[int, list[LineString]] = {}
    for opening in finished.openings:
        wall = walls[opening.wall]
        assert opening.rooms == wall.rooms == plan.doors[opening.door]
        assert opening.width * plan.metres_per_unit >= FinishSettings().least_door
        half = opening.width / 2 * np.subtract(wall.end, wall.start) / wall.length
        span = LineString([np.subtract(opening.centre, half), np.add(opening.centre, half)])
        assert span.hausdorff_distance(LineString([wall.start, wall.end]).intersection(span.buffer(1e-6))) < 1e-5
        assert all(span.distance(other) > 0.1 for other in taken.setdefault(opening.wall, []))
        taken[opening.wall].append(span)
        area = opening.width * wall.thickness
        assert plan.door_nodes[opening.door].area == pytest.approx(area)
    without = set(range(len(plan.doors))) - {opening.door for opening in finished.openings}
    assert without == {d for d in range(len(plan.doors)) if any(f"door {d}:" in p for p in finished.report.problems)}


def test_two_rooms_meet_midway_and_the_door_lies_between_them() -> None:
    # Walls are drawn 4 thick, so every wall's centre line lies 2 outside the room.
    drawn = _plan(
        [_box(10, 10, 60, 60), _box(64, 10, 120, 60)],
        [(0, 1), (0, None)],
        [_box(58, 28, 61, 42), _box(4, 30, 8, 44)],
    )
    finished = finish(drawn)
    assert _bounds(finished)[:2] == [(8, 8, 62, 62), (62, 8, 122, 62)]
    door, front = finished.openings
    assert finished.walls[door.wall].rooms == (0, 1)
    assert door.centre == (62, 35)
    assert door.width == pytest.approx(0.85 * METRE)
    assert front.centre == (8, 37)
    assert front.width == pytest.approx(METRE)
    thickness = [0.12 * METRE if w.rooms[1] is not None else 0.28 * METRE for w in finished.walls]
    assert [w.thickness for w in finished.walls] == pytest.approx(thickness)
    assert _bounds(finished)[2] == pytest.approx(
        (62 - 0.06 * METRE, 35 - 0.425 * METRE, 62 + 0.06 * METRE, 35 + 0.425 * METRE)
    )
    assert finished.report.problems == ()
    # Corners go from (10, 10) to (8, 8).
    assert [m.distance for m in finished.report.moved][:2] == pytest.approx([8**0.5] * 2)
    _check_sound(drawn, finished)


def test_an_overlap_is_shared_and_slanted_walls_are_straightened() -> None:
    left = np.array([[10, 10], [11, 60], [66, 61], [65, 10]], dtype=np.float64)
    drawn = _plan([left, _box(60, 11, 120, 60)], [], [])
    finished = finish(drawn)
    (_, y0, x1, y1), (u0, v0, _, v1) = _bounds(finished)
    assert (x1, y0, y1) == (u0, v0, v1)
    assert x1 == pytest.approx((65.5 + 60) / 2, abs=0.01)
    assert all(len(node.polygon) == 4 for node in finished.plan.nodes)
    _check_sound(drawn, finished)


def test_doors_of_one_wall_keep_clear_of_each_other() -> None:
    doors: list[tuple[int, int | None]] = [(0, 1), (0, 1), (0, 1)]
    drawn = _plan([_box(0, 0, 60, 60), _box(60, 0, 120, 60)], doors, [_box(59, 20, 61, 34)] * 3)
    finished = finish(drawn)
    assert len(finished.openings) == 3
    _check_sound(drawn, finished)


def test_a_short_wall_takes_a_narrower_door_and_a_shorter_one_none() -> None:
    def shared(length: float, reach: float) -> FinishedPlan:
        rooms = [_box(0, 0, 60, 60), _box(60, 60 - length, 120, 120 - length)]
        return finish(_plan(rooms, [(0, 1)], [_box(59, 50, 61, 64)]), FinishSettings(reach=reach))

    narrow = shared(1.05 * METRE, 0.0)
    # 0.14 m of either end belong to the outer walls.
    assert narrow.openings[0].width / METRE == pytest.approx(0.77, abs=1e-3)
    none = shared(0.5 * METRE, 0.0)
    assert none.openings == ()
    assert none.report.problems == (
        "door 0: room 0 (bedroom) and room 1 (bedroom) share no wall that has a place for a door; it stands in no wall",
    )
    assert np.array_equal(none.plan.nodes[2].polygon, _box(59, 50, 61, 64))
    grown = shared(0.5 * METRE, 2.0)
    assert len(grown.openings) == 1
    assert grown.report.problems == ()


def test_rooms_too_far_apart_are_reported_and_near_ones_meet() -> None:
    def apart(metres: float) -> FinishedPlan:
        gap = metres * METRE
        return finish(_plan([_box(0, 0, 50, 60), _box(50 + gap, 0, 100 + gap, 60)], [(0, 1)], [_box(50, 20, 52, 34)]))

    assert apart(1.5).report.problems == ()
    far = apart(3.0)
    assert far.report.problems == ("door 0: room 0 (bedroom) and room 1 (bedroom) do not meet; it stands in no wall",)
    assert _bounds(far)[:2] == [(0, 0, 50, 60), (50 + 3 * METRE, 0, 100 + 3 * METRE, 60)]


def test_a_front_door_does_not_open_into_a_court() -> None:
    # Four rooms around a court of 40 x 40; the front door is drawn at the court.
    rooms = [_box(0, 0, 120, 40), _box(0, 80, 120, 120), _box(0, 40, 40, 80), _box(80, 40, 120, 80)]
    finished = finish(_plan(rooms, [(2, None)], [_box(39, 55, 41, 68)]))
    assert finished.openings[0].centre[0] == 0
    assert finished.report.problems == ()


def test_a_gap_in_the_middle_is_filled_and_a_court_is_kept() -> None:
    def around(side: float) -> float:
        far = 100 + side
        rooms = [_box(0, 0, far, 50), _box(0, 50 + side, far, far), _box(0, 50, 50, 50 + side)]
        rooms.append(_box(50 + side, 50, far, 50 + side))
        finished = finish(_plan(rooms, [], []))
        whole = shapely.union_all([Polygon(n.polygon) for n in finished.plan.rooms])
        return sum(Polygon(hole).area for hole in whole.interiors)

    assert around(0.5 * METRE) == 0
    assert around(40) == pytest.approx(1600)


def test_a_room_inside_another_gets_a_way_out_of_it() -> None:
    drawn = _plan([_box(10, 10, 200, 200), _box(30, 90, 55, 115)], [(0, 1)], [_box(54, 95, 56, 108)])
    finished = finish(drawn)
    assert _bounds(finished)[:2] == [(10, 10, 200, 200), (10, 90, 55, 115)]
    _check_sound(drawn, finished)


def test_rooms_on_top_of_each_other_share_the_floor() -> None:
    drawn = _plan([_box(10, 10, 100, 60), _box(30, 10, 120, 60)], [(0, 1)], [_box(60, 20, 62, 34)])
    finished = finish(drawn)
    assert _bounds(finished)[:2] == [(10, 10, 65, 60), (65, 10, 120, 60)]
    _check_sound(drawn, finished)


def test_a_room_without_floor_stays_and_is_reported() -> None:
    flat = np.array([[10, 10], [50, 50], [30, 30]], dtype=np.float64)
    drawn = _plan([_box(0, 0, 60, 60), flat], [(0, 1)], [_box(59, 50, 61, 64)])
    finished = finish(drawn)
    assert np.array_equal(finished.plan.nodes[1].polygon, flat)
    assert finished.report.problems == (
        "room 1 (bedroom) has too little floor to be a room; left as drawn",
        "door 0: room 0 (bedroom) and room 1 (bedroom) do not meet; it stands in no wall",
    )


def test_a_broken_door_without_wall_becomes_a_simple_box() -> None:
    bow_tie = np.array([[100, 100], [110, 104], [110, 100], [100, 104]], dtype=np.float64)
    finished = finish(_plan([_box(0, 0, 60, 60), _box(140, 140, 190, 190)], [(0, 1)], [bow_tie]))
    assert Polygon(finished.plan.nodes[2].polygon).is_valid
    assert np.allclose(finished.plan.nodes[2].polygon.mean(axis=0), (105, 102))
    told = "door 0: room 0 (bedroom) and room 1 (bedroom) do not meet; it stands in no wall"
    assert finished.report.problems == (told,)


def test_exact_plans_keep_their_measures_and_move_by_half_a_wall() -> None:
    for drawn in held_out_plans("procedural", 12):
        finished = finish(drawn)
        assert finished.report.problems == ()
        _check_sound(drawn, finished)
        clear = clear_plan(finished)
        assert graph_errors(clear).total == graph_errors(finished.plan).total == 0
        assert max(overlap_share(clear), overlap_share(finished.plan)) < 1e-12
        assert door_in_own_wall(clear) == validity(clear) == 1
        # Walls are 4 units thick: corners go out by 2 sqrt 2 at right angles, a little more at sharp ones.
        rooms = [m.distance for m in finished.report.moved if m.node < drawn.num_rooms]
        assert max(rooms) < 3.5


def test_drawn_plans_become_right() -> None:
    house = HouseDiffusion.from_pretrained("procedural")
    wanted = [asked_of(plan, sizes=False) for plan in held_out_plans("procedural", 8)]
    before, after = 0, 0
    for drawn, diagram in zip(house.generate(wanted, steps=20, seed=3), wanted, strict=True):
        finished = finish(drawn)
        _check_sound(drawn, finished)
        clear = clear_plan(finished)
        before += graph_errors(drawn, diagram).total
        after += graph_errors(clear, diagram).total
        assert validity(clear) == validity(finished.plan) == 1
        assert overlap_share(finished.plan) < 1e-12
        assert door_in_own_wall(clear) >= len(finished.openings) / len(drawn.doors)
        assert finished.report.problems or graph_errors(clear, diagram).total == 0
    assert after <= min(before, 2)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"gap": -0.1}, "gap"),
        ({"snap": float("nan")}, "snap"),
        ({"inner_wall": 0.0}, "inner_wall"),
        ({"least_door": 0.95}, "least_door"),
        ({"angle": 45.0}, "angle"),
    ],
)
def test_settings_name_what_is_wrong(changes: dict[str, float], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        FinishSettings(**changes)


def test_widths_follow_the_settings_and_the_scale() -> None:
    drawn = _plan([_box(0, 0, 60, 60), _box(60, 0, 120, 60)], [(0, 1)], [_box(59, 20, 61, 34)])
    settings = FinishSettings(inner_wall=0.2, interior_door=1.2)
    twice = replace(drawn, metres_per_unit=2 * drawn.metres_per_unit)
    for plan in (drawn, twice):
        finished = finish(plan, settings)
        opening = finished.openings[0]
        assert opening.width * plan.metres_per_unit == pytest.approx(1.2)
        assert finished.walls[opening.wall].thickness * plan.metres_per_unit == pytest.approx(0.2)


@pytest.mark.parametrize(("width", "fits"), [(0.2, False), (0.38, False), (0.45, True), (2.0, True)])
def test_no_door_opens_into_a_slit(width: float, fits: bool) -> None:
    plan = held_out_plans("procedural", 1)[0]
    limits, unit = Limits.of(plan, FinishSettings()), plan.metres_per_unit
    rooms = [box(40, 40, 90, 90), box(90, 40, 90 + width / unit, 90)]
    walls = walls_of(rooms, limits)
    door = np.array([[89, 60], [91, 60], [91, 72], [89, 72]], dtype=np.float64)
    openings, failed = place_doors(rooms, walls, [(0, 1)], [door], [True] * len(walls), limits)
    assert (len(openings), failed) == ((1, []) if fits else (0, [0]))


@pytest.mark.parametrize("dx", [4, 6, 8])
def test_a_front_door_does_not_open_against_another_room(dx: float) -> None:
    # The neck of the living room ends at an outer wall with a slit of dx behind its slanted side.
    living = [[90, 40], [90, 100], [60, 100], [60, 200], [150, 200], [150, 100], [111, 100], [111 - dx, 40]]
    rooms = [np.array(living, dtype=np.float64), _box(113, 40, 150, 98), _box(50, 40, 88, 98)]
    drawn = [_box(125, 98, 137, 100), _box(65, 98, 77, 100), _box(91, 36, 110 - dx, 38)]
    finished = finish(_plan(rooms, [(0, 1), (0, 2), (0, None)], drawn))
    assert door_connections(finished.plan) == [(0, 1), (0, 2), (0, None)]
    assert finished.report.problems == ()


@pytest.mark.parametrize("arm", [4.0, 5.0, 7.0])
@pytest.mark.parametrize("x", [52.0, 60.0, 95.0, 120.0])
def test_a_door_drawn_before_a_slit_moves_along_its_wall(arm: float, x: float) -> None:
    corners = [[100, 40], [100, 100 - arm], [50, 100 - arm], [50, 100], [160, 100], [160, 40]]
    plan = _plan([np.array(corners, dtype=np.float64), _box(50, 100, 160, 150)], [(0, 1)], [_box(x, 99, x + 12, 101)])
    finished = finish(plan)
    assert finished.report.problems == ()
    middle, half = finished.openings[0].centre[0], finished.openings[0].width / 2
    assert arm == 7 or middle - half >= 100
    assert finish(finished.plan).openings == finished.openings


def test_finishing_twice_is_finishing_once_where_two_places_are_nearly_as_good() -> None:
    corners = [[100, 40], [100, 95], [50, 95], [50, 100], [160, 100], [160, 112], [190, 112], [190, 40]]
    plan = _plan([np.array(corners, dtype=np.float64), _box(50, 100, 160, 150)], [(0, 1)], [_box(55, 99, 67, 101)])
    finished = finish(plan)
    assert finish(finished.plan).plan == finished.plan
    assert finished.openings[0].width * plan.metres_per_unit == pytest.approx(0.85)


def test_a_room_smaller_than_the_lattice_is_reported() -> None:
    plan = replace(_plan([_box(10, 10, 14, 14)], [], []), frame=1e6, metres_per_unit=1.0)
    assert "lost all its floor" in finish(plan).report.problems[0]


def test_corners_that_fall_together_are_one() -> None:
    points = np.array([[0, 0], [0, 5], [0, 5], [5, 5], [5, 0], [5, 0]], dtype=np.float64)
    assert list(polygon_of(points).exterior.coords)[:-1] == [(0, 0), (0, 5), (5, 5), (5, 0)]
    assert polygon_of(points[[0, 0, 3]]).is_empty
