from __future__ import annotations

import copy
import gzip
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trifold.floorplan.errors import FloorplanError, FloorplanWarning
from trifold.floorplan.other_formats import load_plans
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.rooms import ROOM_TYPES, RoomType
from trifold.floorplan.rplan import plan_from_rplan, plan_to_rplan, read_rplan

from .conftest import rectangle


def edge_rows(*corners: tuple[float, float], kind: int, across: dict[int, int] | None = None) -> list[list[float]]:
    ends = [*corners[1:], corners[0]]
    return [[*a, *b, kind, (across or {}).get(i, 0)] for i, (a, b) in enumerate(zip(corners, ends, strict=True))]


def two_rooms() -> dict:
    """A living room (0), a bedroom (1) right of it, the door between (2), a front door (3) left of the living room."""
    living = edge_rows((10, 10), (10, 60), (60, 60), (60, 10), kind=1, across={2: 3})
    bedroom = edge_rows((64, 10), (64, 60), (90, 60), (90, 10), kind=3, across={0: 1})
    door = edge_rows((60, 20), (60, 30), (64, 30), (64, 20), kind=17, across={0: 1, 2: 3})
    front = edge_rows((6, 20), (6, 30), (10, 30), (10, 20), kind=15, across={2: 1})
    return {
        "room_type": [1, 3, 17, 15],
        "boxes": [[10, 10, 60, 60], [64, 10, 90, 60], [60, 20, 64, 30], [6, 20, 10, 30]],
        "edges": living + bedroom + door + front,
        "ed_rm": [[0], [0], [0, 1], [0], [1, 0], [1], [1], [1], [2, 0], [2], [2, 1], [2], [3], [3], [3, 0], [3]],
    }


def linked_by_entries(data: dict) -> set[tuple[int, int]]:
    """The original's rule: two nodes are linked iff some `ed_rm` entry holds both."""
    return {(a, b) for entry in data["ed_rm"] for a in entry for b in entry if a < b}


def test_reading_by_hand():
    plan = plan_from_rplan(two_rooms())
    assert [n.type for n in plan.nodes] == [1, 3, 12, 11]
    assert plan.nodes[0].polygon.tolist() == [[10, 10], [10, 60], [60, 60], [60, 10]]
    assert plan.doors == ((0, 1), (0, None))
    assert plan.links() == {(0, 1), (0, 2), (1, 2), (0, 3)} == linked_by_entries(two_rooms())
    assert (plan.frame, plan.metres_per_unit) == (256, 18 / 256)


def test_writing_gives_the_file_back():
    data = two_rooms()
    written = plan_to_rplan(plan_from_rplan(data))
    assert {key: written[key] for key in data} == data


def test_nodes_out_of_order_are_sorted_and_doors_follow():
    data = two_rooms()
    order = [3, 0, 2, 1]  # new index of old node: front door first, then living, ...
    where = {old: new for new, old in enumerate(order)}
    data["room_type"] = [data["room_type"][old] for old in order]
    data["ed_rm"] = [[where[n] for n in entry] for entry in data["ed_rm"]]
    assert plan_from_rplan(data) == plan_from_rplan(two_rooms())


def test_edges_of_a_room_may_stand_anywhere_in_the_file():
    data = two_rooms()
    order = [0, 9, 2, 14, 4, 1, 6, 3, 8, 5, 10, 7, 12, 13, 11, 15]
    shuffled = {**data, "edges": [data["edges"][e] for e in order], "ed_rm": [data["ed_rm"][e] for e in order]}
    plan = plan_from_rplan(shuffled)
    assert plan.doors == ((0, 1), (0, None))
    assert {frozenset(map(tuple, n.polygon.tolist())) for n in plan.nodes} == {
        frozenset(map(tuple, n.polygon.tolist())) for n in plan_from_rplan(data).nodes
    }
    assert [n.area for n in plan.nodes] == [n.area for n in plan_from_rplan(data).nodes]


def test_a_corner_passed_twice_keeps_the_order_of_the_file():
    # Two squares that touch in (2, 2): from there the next edge in the file is meant.
    corners = [(0, 0), (0, 2), (2, 2), (2, 4), (4, 4), (4, 2), (2, 2), (2, 0)]
    data = {"room_type": [1], "edges": edge_rows(*corners, kind=1), "ed_rm": [[0]] * 8}
    assert plan_from_rplan(data).nodes[0].polygon.tolist() == [list(c) for c in corners]


def test_only_the_first_loop_is_kept_and_a_hole_is_told():
    data = two_rooms()
    data["edges"] += edge_rows((20, 20), (20, 30), (30, 30), (30, 20), kind=1)
    data["ed_rm"] += [[0]] * 4
    with pytest.warns(FloorplanWarning, match=r"house: edges: room_type\[0\] \(living\) has 2 closed loops \(a hole"):
        plan = plan_from_rplan(data, "house")
    assert plan == plan_from_rplan(two_rooms())


def test_a_door_merged_with_its_double_is_repaired_from_the_edge_types():
    # The conversion's known fault: door 2 is found twice, its edges are merged, the second type stays in room_type.
    data = two_rooms()
    data["room_type"] = [1, 3, 17, 17, 15]
    data["edges"][12:12] = data["edges"][8:12]
    data["ed_rm"][12:12] = data["ed_rm"][8:12]
    with pytest.warns(FloorplanWarning) as told:
        plan = plan_from_rplan(data, "house")
    assert plan == plan_from_rplan(two_rooms())
    texts = [str(w.message) for w in told]
    assert "house: room_type: 5 types, but the edges describe 4 nodes; the types are taken from the edges" in texts
    assert "house: edges: room_type[2] (interior_door) gives the same loop 2 times; it is read once" in texts


def test_a_front_door_touching_two_rooms_opens_to_the_one_it_shares_most_with():
    data = two_rooms()
    data["ed_rm"][13] = [3, 1]  # a 4-unit side; the side to room 0 is 10 units
    with pytest.warns(FloorplanWarning, match=r"front_door.*touches.*bedroom.*living.*taken to open to .*living"):
        assert plan_from_rplan(data).doors[1] == (0, None)


def test_doors_that_do_not_open():
    data = two_rooms()
    data["ed_rm"][8] = [2]
    message = r"house: ed_rm: room_type\[2\] \(interior_door\) must touch two rooms; its edges name: room_type\[1\]"
    with pytest.raises(FloorplanError, match=message):
        plan_from_rplan(data, "house")
    with pytest.warns(FloorplanWarning, match=message + ".*the door is left out"):
        plan = plan_from_rplan(data, "house", strict=False)
    assert [n.type for n in plan.nodes] == [1, 3, 11]
    assert plan.doors == ((0, None),)
    data = two_rooms()
    data["ed_rm"][14] = [3]
    with pytest.raises(FloorplanError, match=r"\(front_door\) must touch a room; its edges name: none"):
        plan_from_rplan(data)


@pytest.mark.parametrize(
    ("key", "index", "value", "message"),
    [
        ("room_type", None, 3, "room_type: expected a list, found int"),
        ("room_type", None, [], "room_type: no rooms"),
        ("room_type", 1, 9, r"room_type\[1\]: unknown RPLAN room type 9"),
        ("room_type", 1, "bedroom", r"room_type\[1\]: expected an RPLAN code"),
        ("room_type", 1, float("nan"), r"room_type\[1\]: unknown RPLAN room type nan"),
        ("room_type", None, [1, 3, 17], r"ed_rm\[12\]: no node 3; room_type has 3 entries"),
        ("room_type", None, [1, 3, 17, 15, 15], "room_type: 5 types, but only 4 nodes have edges"),
        ("edges", 3, [60, 10, 10, 10, 1], r"edges\[3\]: expected \[x0, y0, x1, y1, type, type across\]"),
        ("edges", 3, [60, 10, 10, float("nan"), 1, 0], r"edges\[3\]: expected six finite numbers"),
        ("edges", 3, [60, 10, 10, None, 1, 0], r"edges\[3\]: expected six finite numbers"),
        (
            "edges",
            3,
            [60, 10, 10, 10**400, 1, 0],
            r"edges\[3\]: expected six finite numbers, found \[60, 10, 10, 10{3}",
        ),
        ("frame", None, "abc", "frame: expected a positive, finite number up to 1,000,000, found 'abc'"),
        ("metres_per_unit", None, 0, "metres_per_unit: expected a positive, finite number"),
        ("room_name", None, ["a"], "room_name: expected a list of 4, one entry per node"),
        ("room_name", None, ["a", ["b"], "", None], r"room_name\[1\]: expected a name, found \['b'\]"),
        ("name", None, {}, "name: expected a name"),
        ("corners", None, 4, "corners: expected a list of 4, one entry per node"),
        (
            "edges",
            3,
            [60, 10, 11, 10, 1, 0],
            r"edges: room_type\[0\] \(living\): the loop does not close.*\[11.0, ",
        ),
        ("ed_rm", None, [[0]], "ed_rm: 1 entries for 16 edges"),
        ("ed_rm", 2, [0, 7], r"ed_rm\[2\]: no node 7; room_type has 4 entries"),
        ("ed_rm", 2, [-1], r"ed_rm\[2\]: no node -1"),
        ("ed_rm", 2, [], r"ed_rm\[2\]: expected \[owner\]"),
        ("ed_rm", 2, 0, r"ed_rm\[2\]: expected \[owner\]"),
    ],
)
def test_faults_are_named(key: str, index: int | None, value: object, message: str):
    data = two_rooms()
    if index is None:
        data[key] = value
    else:
        data[key][index] = value
    with pytest.raises(FloorplanError, match=f"^house: {message}"):
        plan_from_rplan(data, "house")


def test_coordinates_beyond_any_plan_name_the_room():
    data = two_rooms()
    data["edges"][4:8] = edge_rows((64, 10), (64, 1e300), (90, 1e300), (90, 10), kind=3)
    with pytest.raises(FloorplanError, match=r"^house: edges: room_type\[1\] \(bedroom\): corner 1 is beyond"):
        plan_from_rplan(data, "house")
    with pytest.raises(FloorplanError, match=r"^house: metres_per_unit: expected a positive.*found None"):
        plan_from_rplan({**two_rooms(), "metres_per_unit": None}, "house")


def test_a_room_without_corners_and_missing_keys():
    data = two_rooms()
    del data["edges"][4:8], data["ed_rm"][4:8]
    with pytest.raises(FloorplanError, match=r"ed_rm: room_type\[1\] \(bedroom\) has no edges, so no corners"):
        plan_from_rplan(data)
    for key in ("room_type", "edges", "ed_rm"):
        with pytest.raises(FloorplanError, match=f"{key}: required, but missing"):
            plan_from_rplan({k: v for k, v in two_rooms().items() if k != key})
    with pytest.raises(FloorplanError, match="expected an object with room_type, edges and ed_rm, found list"):
        plan_from_rplan([])  # type: ignore[arg-type]


def test_one_plan_a_list_gzip_and_a_folder(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps(two_rooms()))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(json.dumps([two_rooms(), two_rooms()]).encode()))
    (tmp_path / "notes.txt").write_text("no plan")
    plan = plan_from_rplan(two_rooms())
    assert read_rplan(tmp_path / "a.json") == [plan]
    assert read_rplan(tmp_path / "b.json.gz") == [plan, plan]
    assert read_rplan(tmp_path) == load_plans(tmp_path) == [plan] * 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(FloorplanError, match=r"empty: no \.json or \.json\.gz file"):
        read_rplan(tmp_path / "empty")


def test_a_broken_plan_in_a_list_is_named_or_left_out(tmp_path: Path):
    broken = two_rooms()
    broken["room_type"][0] = 99
    (tmp_path / "list.json").write_text(json.dumps([two_rooms(), broken]))
    with pytest.raises(FloorplanError, match=r"list\.json\[1\]: room_type\[0\]: unknown RPLAN room type 99"):
        read_rplan(tmp_path / "list.json")
    with pytest.warns(FloorplanWarning, match=r"list\.json\[1\].*99.*the plan is left out"):
        assert len(read_rplan(tmp_path / "list.json", strict=False)) == 1


def test_saved_plans_come_back(small_plan: Plan, tmp_path: Path):
    small_plan.save(tmp_path / "plan.json")
    assert read_rplan(tmp_path / "plan.json") == [small_plan]
    other = Plan(small_plan.nodes, small_plan.doors, frame=300.0, metres_per_unit=0.05, name="other")
    other.save(tmp_path / "other.json")
    assert read_rplan(tmp_path / "other.json") == [other]


coordinates = st.floats(-1000, 1000, allow_subnormal=False) | st.integers(0, 255).map(float)
polygons = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9, unique=True)
# What a model draws: rooms that touch themselves, pass through all corners twice, or collapse to a line or point.
spots = st.sampled_from([(0.0, 0.0), (0.0, 5.0), (5.0, 5.0), (0.1, 1e6)])
polygons |= st.lists(spots, min_size=3, max_size=8) | st.lists(spots, min_size=3, max_size=4).map(lambda c: c * 2)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    rooms = draw(
        st.lists(
            st.builds(Node, st.sampled_from(ROOM_TYPES), polygons.map(np.array), st.text(max_size=4)),
            min_size=1,
            max_size=6,
        )
    )
    pairs = [(a, b) for b in range(len(rooms)) for a in range(b)]
    doors = draw(st.lists(st.sampled_from(pairs), max_size=8)) if pairs else []
    fronts = [(room, None) for room in draw(st.lists(st.integers(0, len(rooms) - 1), max_size=2))]
    kinds = [RoomType.INTERIOR_DOOR] * len(doors) + [RoomType.FRONT_DOOR] * len(fronts)
    nodes = [Node(kind, np.array(draw(polygons))) for kind in kinds]
    frame, scale = draw(st.sampled_from([256.0, 512.5])), draw(st.sampled_from([18 / 256, 0.02]))
    return Plan((*rooms, *nodes), (*doors, *fronts), frame, scale, draw(st.text(max_size=4)))


@given(plans())
def test_any_plan_round_trips(plan: Plan):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FloorplanWarning)  # a small room may have more doors than edges
        data = plan_to_rplan(plan)
    before = copy.deepcopy(data)
    assert plan_from_rplan(json.loads(json.dumps(data))) == plan
    assert data == before


@given(plans())
def test_written_entries_link_what_the_plan_links(plan: Plan):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", FloorplanWarning)
        data = plan_to_rplan(plan)
    linked = linked_by_entries(data)
    assert linked <= plan.links()
    missing = plan.links() - linked
    assert bool(missing) == bool(told)
    assert all(b < plan.num_rooms for _, b in missing), "door links are never lost"


def test_a_room_with_more_doors_than_edges_is_told():
    rooms = [Node(RoomType.LIVING, rectangle(10 * i, 0, 10 * i + 8, 8)[:3]) for i in range(8)]
    pairs = tuple((a, b) for b in range(8) for a in range(b))
    doors = [Node(RoomType.INTERIOR_DOOR, rectangle(a, b, a + 1, b + 1)) for a, b in pairs]
    with pytest.warns(FloorplanWarning, match="ed_rm: no free edge of rooms"):
        data = plan_to_rplan(Plan((*rooms, *doors), pairs))
    assert plan_from_rplan(data).doors == pairs


@pytest.mark.parametrize(
    "path", ["aabbcda", "aaa", "aba", "abab", "abcadea", "abcabc", "abcacb", "aabcaabc", "abcaabc"]
)
def test_polygons_a_model_may_draw_come_back_whole(path: str):
    spots = {"a": (0, 0), "b": (0, 5), "c": (5, 5), "d": (5, 0), "e": (2, 9)}
    polygon = np.array([spots[corner] for corner in path], dtype=np.float64)
    plan = Plan((Node(RoomType.LIVING, polygon), Node(RoomType.FRONT_DOOR, polygon)), ((0, None),))
    data = plan_to_rplan(plan)
    assert plan_from_rplan(data) == plan
    assert ("corners" in data) == (path in ("abcabc", "abcacb", "aabcaabc", "abcaabc"))


def test_a_loop_given_twice_by_another_program_is_read_once():
    data = two_rooms()
    data["edges"][12:12], data["ed_rm"][12:12] = data["edges"][8:12], data["ed_rm"][8:12]
    with pytest.warns(FloorplanWarning, match=r"room_type\[2\] \(interior_door\) gives the same loop 2 times"):
        assert plan_from_rplan(data) == plan_from_rplan(two_rooms())


def test_real_rplan_plans_load_and_round_trip(floorplan_data):
    path = floorplan_data("rplan_samples.json.gz")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loaded = load_plans(path)
    assert len(loaded) == 30
    # Two files have a merged double door (told twice each), one a front door that touches two rooms.
    assert sorted(str(w.message).split("]: ")[1].split(":")[0] for w in told) == [
        "ed_rm",
        *["edges"] * 2,
        *["room_type"] * 2,
    ]
    raw = json.loads(gzip.decompress(path.read_bytes()))
    for plan, data in zip(loaded, raw, strict=True):
        written = plan_to_rplan(plan)
        assert plan_from_rplan(json.loads(json.dumps(written))) == plan
        assert written["boxes"] == data["boxes"]
        assert linked_by_entries(written) == plan.links()
    same = [linked_by_entries(data) == plan.links() for plan, data in zip(loaded, raw, strict=True)]
    assert same.count(False) == 1, "the graph is the original's, but for the front door that touches two rooms"


def test_names_that_are_null_are_none():
    plan = plan_from_rplan({**two_rooms(), "name": None, "room_name": [None, "hall", 7, None]}, "house")
    assert plan.name == ""
    assert [node.name for node in plan.nodes] == ["", "hall", "7", ""]
