"""Procedural plans: every geometric promise is checked with shapely, independently of how the plans are built."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from shapely import Polygon, box
from shapely.ops import unary_union
from trifold.floorplan.plan import Plan
from trifold.floorplan.procedural import HELD_OUT_START, ProceduralConfig, ProceduralPlans, generate_plan, try_plan
from trifold.floorplan.procedural_programme import AREAS, MAX_ROOMS, MIN_ROOMS, Stream
from trifold.floorplan.rooms import RoomType

SEEDS = [*range(280), *range(HELD_OUT_START, HELD_OUT_START + 20)]


@cache
def plans() -> list[Plan]:
    return [generate_plan(seed) for seed in SEEDS]


@cache
def shapes() -> list[tuple[list[Polygon], list[Polygon]]]:
    """(rooms, doors) of every plan."""
    every = []
    for plan in plans():
        polygons = [Polygon(node.polygon) for node in plan.nodes]
        every.append((polygons[: plan.num_rooms], polygons[plan.num_rooms :]))
    return every


def digest(many: list[Plan]) -> str:
    text = repr([(p.name, p.doors, [(int(n.type), n.polygon.tolist()) for n in p.nodes]) for p in many])
    return hashlib.sha256(text.encode()).hexdigest()


def signed_area(points: np.ndarray) -> float:
    x, y = points.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2


def turns(points: np.ndarray) -> np.ndarray:
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    return before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]


def is_manhattan(plan: Plan) -> bool:
    return all(((np.roll(n.polygon, -1, 0) == n.polygon).any(1)).all() for n in plan.nodes)


def test_programme_rules() -> None:
    for plan in plans():
        kinds = Counter(node.type for node in plan.rooms)
        assert 4 <= plan.num_rooms <= 9
        assert kinds[RoomType.LIVING] == 1
        assert kinds[RoomType.KITCHEN] == 1
        assert 1 <= kinds[RoomType.BEDROOM] <= 4
        assert 1 <= kinds[RoomType.BATHROOM] <= 3
        assert kinds[RoomType.BATHROOM] <= kinds[RoomType.BEDROOM]
        doors = [node.type for node in plan.door_nodes]
        assert doors == [RoomType.INTERIOR_DOOR] * (len(doors) - 1) + [RoomType.FRONT_DOOR]
        assert plan.num_rooms - 1 <= len(doors) - 1 <= plan.num_rooms


def test_coordinates_are_whole_and_centred_in_the_frame() -> None:
    for plan in plans():
        points = np.concatenate([node.polygon for node in plan.nodes])
        assert points.dtype == np.float64
        assert (points == np.round(points)).all()
        low, high = points.min(0), points.max(0)
        assert (low >= 0).all()
        assert (high <= 255).all()
        assert np.abs((low + high) / 2 - 128).max() <= 7
        long, short = max(high - low), min(high - low)
        assert 110 <= long <= 235
        assert long / short <= 1.7


def test_polygons_are_simple_ordered_and_have_true_corners_only() -> None:
    for plan, (rooms, doors) in zip(plans(), shapes(), strict=True):
        for node, shape in zip(plan.nodes, rooms + doors, strict=True):
            points = node.polygon
            assert shape.is_valid
            assert 4 <= len(points) <= 16
            assert signed_area(points) < 0  # down first: TL, BL, BR, TR in image axes
            assert (turns(points) != 0).all()
            assert tuple(points[0]) == min(map(tuple, points), key=lambda p: (p[1], p[0]))
            sides = np.linalg.norm(np.roll(points, -1, 0) - points, axis=1)
            assert sides.min() >= (2 if node.type in (RoomType.INTERIOR_DOOR, RoomType.FRONT_DOOR) else 4)


def test_rooms_keep_a_wall_between_them_and_are_wide_enough() -> None:
    for rooms, _ in shapes():
        for i, a in enumerate(rooms):
            for b in rooms[:i]:
                assert a.intersection(b).area == 0
                assert a.distance(b) > 3.2  # 4 across straight walls; oblique ones are rounded to whole units
            core = a.buffer(-6.5)
            assert core.geom_type == "Polygon"
            assert not core.is_empty


def test_straight_walls_are_four_thick() -> None:
    # Manhattan plans stand on one lattice: every room edge is a wall line plus or minus 2, lines 4 apart.
    for plan in plans():
        if is_manhattan(plan):
            points = np.concatenate([node.polygon for node in plan.rooms])
            assert (len(np.unique(points[:, 0] % 4)), len(np.unique(points[:, 1] % 4))) == (1, 1)


def test_areas_suit_the_types() -> None:
    for plan, (rooms, _) in zip(plans(), shapes(), strict=True):
        for node, shape in zip(plan.rooms, rooms, strict=True):
            low, high = AREAS[node.type]
            area = shape.area * plan.metres_per_unit**2
            # Bays and slanted walls move a straight-walled room's area by less than 15 %.
            assert 0.85 * low <= area <= 1.15 * high + 0.5, (plan.name, node.type, area)


def test_interior_doors_fill_the_wall_between_exactly_their_rooms() -> None:
    for plan, (rooms, doors) in zip(plans(), shapes(), strict=True):
        everything = unary_union(rooms)
        for door, (a, b) in zip(doors[:-1], plan.doors[:-1], strict=True):
            assert b is not None
            assert a < b
            x0, y0, x1, y1 = door.bounds
            thick, long = sorted((x1 - x0, y1 - y0))
            assert thick == 2
            assert 10 <= long <= 14
            assert door.area == thick * long
            assert door.intersection(everything).area == 0
            along = (x0, y0, x1, y1) if x1 - x0 > y1 - y0 else (y0, x0, y1, x1)
            horizontal = x1 - x0 > y1 - y0
            # Both long sides face a room over their whole length plus 2 at either end, 1 unit away.
            for side, sign in ((along[1], -1), (along[3], 1)):
                lo, hi = sorted((side, side + sign * 1.5))
                probe = (along[0] - 2, lo, along[2] + 2, hi)
                strip = box(*probe) if horizontal else box(probe[1], probe[0], probe[3], probe[2])
                facing = [i for i, r in enumerate(rooms) if strip.intersection(r).area > 0]
                assert len(facing) == 1
                assert facing[0] in (a, b)
                assert strip.intersection(rooms[facing[0]]).area == pytest.approx(0.5 * (long + 4))
            near = {i for i, r in enumerate(rooms) if r.distance(door) <= 2}
            assert near == {a, b}
            assert all(r.distance(door) > 4 for i, r in enumerate(rooms) if i not in (a, b))


def test_front_door_is_outside_on_an_outer_wall() -> None:
    for plan, (rooms, doors) in zip(plans(), shapes(), strict=True):
        room, outside = plan.doors[-1]
        assert outside is None
        entrances = [i for i, node in enumerate(plan.rooms) if node.type == RoomType.ENTRANCE]
        assert room == (entrances[0] if entrances else [n.type for n in plan.rooms].index(RoomType.LIVING))
        door = doors[-1]
        assert rooms[room].distance(door) == 1
        assert all(r.distance(door) > 4 for i, r in enumerate(rooms) if i != room)
        assert all(r.intersection(door).area == 0 for r in rooms)
        assert all(d.distance(door) > 2 for d in doors[:-1])
        # One can walk straight out: a corridor the width of the door meets no room on the far side.
        x0, y0, x1, y1 = door.bounds
        ways = (
            [box(x0, -300, x1, y0), box(x0, y1, x1, 600)]
            if x1 - x0 > y1 - y0
            else [box(-300, y0, x0, y1), box(x1, y0, 600, y1)]
        )
        assert any(all(r.intersection(way).area == 0 for r in rooms) for way in ways)


def test_every_room_is_reached_through_doors_and_the_living_room_is_the_hub() -> None:
    hub_share = []
    for plan in plans():
        reached, frontier = set(), [plan.doors[-1][0]]
        while frontier:
            room = frontier.pop()
            if room not in reached:
                reached.add(room)
                frontier += [b if a == room else a for a, b in plan.doors if b is not None and room in (a, b)]
        assert reached == set(range(plan.num_rooms))
        pairs = [pair for pair in plan.doors if pair[1] is not None]
        assert len(set(pairs)) == len(pairs)
        living = [n.type for n in plan.rooms].index(RoomType.LIVING)
        hub_share.append(sum(living in pair for pair in pairs) / len(pairs))
        by_type = {frozenset((plan.rooms[a].type, plan.rooms[b].type)) for a, b in pairs}
        assert frozenset((RoomType.BATHROOM, RoomType.KITCHEN)) not in by_type
        assert frozenset((RoomType.BATHROOM,)) not in by_type
    assert 0.7 < np.mean(hub_share) < 0.95


def test_no_holes_inside_the_flat() -> None:
    for rooms, _ in shapes():
        flat = unary_union([r.buffer(2.5, join_style="mitre") for r in rooms])
        assert flat.geom_type == "Polygon"
        assert not flat.interiors


def test_bedrooms_and_living_rooms_have_an_outer_wall() -> None:
    for plan, (rooms, _) in zip(plans(), shapes(), strict=True):
        for i, node in enumerate(plan.rooms):
            if node.type in (RoomType.LIVING, RoomType.BEDROOM, RoomType.STUDY):
                others = [r for j, r in enumerate(rooms) if j != i and plan.rooms[j].type != RoomType.BALCONY]
                blind = rooms[i].boundary.intersection(unary_union([r.buffer(5) for r in others]))
                assert rooms[i].length - blind.length >= 10, plan.name


def test_same_seed_same_plan_here_and_in_another_process() -> None:
    seeds = [0, 7, 12345, HELD_OUT_START + 3]
    here = digest([generate_plan(s) for s in seeds])
    assert here == digest([generate_plan(s) for s in seeds])
    code = (
        "from test_procedural import digest; from trifold.floorplan.procedural import generate_plan;"
        f"print(digest([generate_plan(s) for s in {seeds}]))"
    )
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {code}"],
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == here
    assert digest([generate_plan(1)]) != digest([generate_plan(2)])


def test_share_of_oblique_plans_follows_the_config() -> None:
    share = np.mean([not is_manhattan(plan) for plan in plans()])
    assert 0.17 < share < 0.33
    assert all(is_manhattan(generate_plan(s, ProceduralConfig(non_manhattan=0.0))) for s in range(20))
    assert not any(is_manhattan(generate_plan(s, ProceduralConfig(non_manhattan=1.0))) for s in range(20))


def test_all_orientations_occur() -> None:
    # The plan is turned and mirrored at random: the front door is met on all four sides.
    sides: Counter[str] = Counter()
    for plan, (rooms, doors) in zip(plans(), shapes(), strict=True):
        x0, y0, x1, y1 = doors[-1].bounds
        cx, cy = rooms[plan.doors[-1][0]].centroid.coords[0]
        if x1 - x0 > y1 - y0:
            sides["north" if y1 < cy else "south"] += 1
        else:
            sides["west" if x1 < cx else "east"] += 1
    assert len(sides) == 4
    assert min(sides.values()) > len(plans()) / 8


@pytest.mark.parametrize("count", range(MIN_ROOMS, MAX_ROOMS + 1))
def test_every_room_count_can_be_built_in_few_tries(count: int) -> None:
    stream, tries = Stream(count), []
    for _ in range(12):
        tries.append(1)
        while (plan := try_plan(stream, ProceduralConfig(num_rooms=(count, count)), count, False, "")) is None:
            tries[-1] += 1
        assert plan.num_rooms == count
    assert np.mean(tries) < 6


def test_counts_can_be_left_out() -> None:
    config = ProceduralConfig(num_rooms=(5, 8), exclude_num_rooms=(6,))
    assert {generate_plan(s, config).num_rooms for s in range(60)} == {5, 7, 8}


def test_dataset_indexing() -> None:
    data = ProceduralPlans(start=HELD_OUT_START)
    assert len(data) == 2**31 - 1
    assert len(ProceduralPlans()) == HELD_OUT_START
    with pytest.raises(IndexError):
        ProceduralPlans(start=5)[HELD_OUT_START - 5]
    assert digest([data[4]]) == digest([generate_plan(HELD_OUT_START + 4)])
    with pytest.raises(IndexError):
        data[-1]
    with pytest.raises(ValueError, match="start"):
        ProceduralPlans(start=-1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_rooms", (2, 5)),
        ("num_rooms", (6, 5)),
        ("num_rooms", (4, 11)),
        ("exclude_num_rooms", tuple(range(4, 10))),
        ("non_manhattan", 1.5),
        ("max_extra_doors", -1),
        ("extent", (150, 235)),
        ("max_aspect", 1.1),
        ("max_corners", 6),
        ("jitter", 40),
    ],
)
def test_impossible_configs_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        ProceduralConfig(**{field: value})  # type: ignore[arg-type]


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed"):
        generate_plan(-1)


def test_speed() -> None:
    start = time.process_time()
    for seed in range(100):
        generate_plan(seed)
    assert (time.process_time() - start) / 100 < 0.010
