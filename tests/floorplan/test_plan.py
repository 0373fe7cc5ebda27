from __future__ import annotations

import copy
import json
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.files import read_json, write_whole
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.render import plan_to_svg, svg_to_png
from trifold.floorplan.rooms import (
    COLOURS,
    ROOM_TYPES,
    RoomType,
    from_rplan_code,
    is_door,
    parse_room_type,
    to_rplan_code,
)

from .conftest import rectangle


def test_rplan_codes_are_a_bijection_with_the_three_moved_types():
    assert {to_rplan_code(t) for t in RoomType} == {1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 16, 17}
    assert all(from_rplan_code(to_rplan_code(t)) is t for t in RoomType)
    assert [to_rplan_code(t) for t in (RoomType.FRONT_DOOR, RoomType.UNKNOWN, RoomType.INTERIOR_DOOR)] == [15, 16, 17]
    with pytest.raises(FloorplanError, match="unknown RPLAN room type 9"):
        from_rplan_code(9)


def test_every_type_has_its_own_colour_and_doors_are_no_rooms():
    assert set(COLOURS) == set(RoomType)
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert {t for t in RoomType if is_door(t)} == {RoomType.FRONT_DOOR, RoomType.INTERIOR_DOOR}
    assert set(ROOM_TYPES) == {t for t in RoomType if not is_door(t)}


@pytest.mark.parametrize("text", ["living", "Living", "LIVING ROOM", "living-room", "livingroom", " living_room "])
def test_type_names_in_any_spelling(text: str):
    assert parse_room_type(text) is RoomType.LIVING


@pytest.mark.parametrize("kind", list(RoomType))
def test_types_are_parsed_from_name_code_and_themselves(kind: RoomType):
    assert parse_room_type(kind.name) is kind
    assert parse_room_type(int(kind)) is kind
    assert parse_room_type(kind) is kind


def test_a_misspelt_type_gets_a_suggestion_and_the_known_types():
    with pytest.raises(FloorplanError, match=r"'bedrom'; did you mean 'bedroom'.*known types: living, kitchen"):
        parse_room_type("bedrom")
    for bad in (9, 0, True, None, 2.5, ["living"]):
        with pytest.raises(FloorplanError, match="unknown room type"):
            parse_room_type(bad)  # type: ignore[arg-type]


def test_node_keeps_a_read_only_copy():
    corners = rectangle(0, 0, 4, 3)
    node = Node(RoomType.LIVING, corners)
    corners[0] = 99
    assert node.polygon[0].tolist() == [0, 0]
    with pytest.raises(ValueError, match="read-only"):
        node.polygon[0, 0] = 1
    for twin in (pickle.loads(pickle.dumps(node)), copy.deepcopy(node)):
        assert twin == node
        assert not twin.polygon.flags.writeable


def test_equality_and_hash_are_by_value():
    node = Node(RoomType.LIVING, rectangle(0, 0, 4, 3), "a")
    assert node == Node(RoomType.LIVING, rectangle(-0.0, 0, 4, 3), "a")
    assert hash(node) == hash(Node(RoomType.LIVING, rectangle(-0.0, 0, 4, 3), "a"))
    assert node != Node(RoomType.LIVING, rectangle(0, 0, 4, 3), "b")
    assert node != Node(RoomType.KITCHEN, rectangle(0, 0, 4, 3), "a")
    assert node != Node(RoomType.LIVING, rectangle(0, 0, 4, 3.5), "a")
    assert node != Node(RoomType.LIVING, rectangle(0, 0, 4, 3)[:3], "a")


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([[0, 0], [1, 0]], r"polygon: expected shape \[K, 2\] with K >= 3, found \[2, 2\]"),
        ([[0, 0, 0]] * 3, r"found \[3, 3\]"),
        ([[0, 0], [1, float("nan")], [1, 1]], "polygon: corner 1 is not finite"),
        ([[0, 0], [1, 0], [float("inf"), 1]], "polygon: corner 2 is not finite"),
        ([[0, 0], [1], [1, 1]], "polygon: expected"),
        ([["a", "b"]] * 3, "polygon: expected"),
        ([[0, 0], [10**400, 0], [1, 1]], r"polygon: expected \[K, 2\] numbers"),
        ([[0, 0], [1, 0], [1, -1e300]], r"polygon: corner 2 is beyond 1,000,000 units: \[1.0, -1e\+300\]"),
    ],
)
def test_polygons_that_cannot_be(polygon: list, message: str):
    with pytest.raises(FloorplanError, match=message):
        Node(RoomType.LIVING, polygon)  # type: ignore[arg-type]


def test_area_and_bounds_by_hand(small_plan: Plan):
    living = small_plan.nodes[0]
    assert living.area == 120 * 60 + 80 * 40
    assert living.bounds == (100, 40, 220, 140)
    assert small_plan.bounds == (40, 40, 220, 144)
    assert Node(RoomType.LIVING, living.polygon[::-1]).area == living.area


def test_links_and_graph_by_hand(small_plan: Plan):
    # Rooms through doors 0-1 and 1-2; doors 3 (0,1), 4 (1,2), 5 (0, outside). Bath (2) and living (0) are not linked.
    linked = {(0, 1), (1, 2), (0, 3), (1, 3), (1, 4), (2, 4), (0, 5)}
    assert small_plan.links() == linked
    triples = small_plan.graph()
    assert len(triples) == 6 * 5 // 2
    assert [(k, m) for k, _, m in triples] == [(k, m) for k in range(6) for m in range(k + 1, 6)]
    assert {(k, m) for k, sign, m in triples if sign == 1} == linked
    assert {sign for _, sign, _ in triples} == {1, -1}


def test_diagram_of_a_plan(small_plan: Plan):
    diagram = small_plan.diagram()
    assert diagram.doors == ((0, 1), (1, 2))
    assert diagram.front_door == 0
    assert diagram.node_types() == small_plan.node_types()
    assert diagram.links() == small_plan.links()
    unit = 18 / 256
    assert diagram.rooms[1].area == pytest.approx(56 * 50 * unit**2)
    assert diagram.rooms[1].size == pytest.approx((56 * unit, 50 * unit))
    assert diagram.rooms[0].corners is None
    assert [room.corners for room in small_plan.diagram(corners=True).rooms] == [6, 4, 4]


def test_diagram_tells_two_doors_between_the_same_rooms_once(small_plan: Plan):
    second = Node(RoomType.INTERIOR_DOOR, rectangle(96, 70, 100, 84))
    nodes = (*small_plan.nodes[:4], second, *small_plan.nodes[4:])
    plan = Plan(nodes, ((0, 1), (1, 0), (1, 2), (0, None)))
    assert plan.doors[1] == (0, 1)
    assert plan.diagram().doors == ((0, 1), (1, 2))


def test_a_flat_room_has_no_area_to_ask_for(small_plan: Plan):
    flat = Node(RoomType.STORAGE, np.array([[0, 0], [5, 0], [9, 0]]))
    room = Plan((flat,), ()).diagram().rooms[0]
    assert room.area is None
    assert room.size is None


@pytest.mark.parametrize(
    ("order", "doors", "message"),
    [
        ((0, 3, 1, 2, 4, 5), ((0, 1), (1, 2), (0, None)), "nodes: expected rooms, then interior doors"),
        ((0, 1, 2, 5, 3, 4), ((0, None), (0, 1), (1, 2)), "nodes: expected rooms, then interior doors"),
        ((3, 4, 5), ((0, 1), (1, 2), (0, None)), "nodes: no rooms"),
        ((0, 1, 2, 3, 4, 5), ((0, 1), (1, 2)), "doors: expected one entry per door node, found 2 entries for 3"),
        ((0, 1, 2, 3, 4, 5), ((0, 3), (1, 2), (0, None)), r"doors\[0\]: no room 3; rooms are 0 to 2"),
        ((0, 1, 2, 3, 4, 5), ((0, None), (1, 2), (0, None)), r"doors\[0\]: no room None"),
        ((0, 1, 2, 3, 4, 5), ((0, 1), (1, 1), (0, None)), r"doors\[1\]: joins room 1 with itself"),
        ((0, 1, 2, 3, 4, 5), ((0, 1), (1, 2), (0, 1)), r"doors\[2\]: a front door is \(room, None\)"),
        ((0, 1, 2, 3, 4, 5), ((0, 1), (1, 2), (-1, None)), r"doors\[2\]: no room -1"),
    ],
)
def test_plans_that_cannot_be(small_plan: Plan, order: tuple, doors: tuple, message: str):
    with pytest.raises(FloorplanError, match=f"^plan test: {message}"):
        Plan(tuple(small_plan.nodes[i] for i in order), doors, name="test")


def test_frame_and_scale_must_be_positive(small_plan: Plan):
    for bad in (0.0, -1.0, float("nan"), float("inf"), 1e300, 10**400, "abc", None, True, [256]):
        with pytest.raises(FloorplanError, match="frame: expected a positive"):
            Plan(small_plan.nodes, small_plan.doors, frame=bad)  # type: ignore[arg-type]
        with pytest.raises(FloorplanError, match="metres_per_unit: expected a positive"):
            Plan(small_plan.nodes, small_plan.doors, metres_per_unit=bad)  # type: ignore[arg-type]
    plan = Plan(small_plan.nodes, small_plan.doors, frame=np.float32(300), metres_per_unit=1)  # type: ignore[arg-type]
    assert json.dumps([plan.frame, plan.metres_per_unit]) == "[300.0, 1.0]"


def test_the_largest_plan_still_draws():
    for unit in (1e-300, 1e6):
        plan = Plan((Node(RoomType.LIVING, rectangle(-1e6, -1e6, 1e6, 1e6), "all"),), (), 1e6, unit)
        assert svg_to_png(plan_to_svg(plan), 40).startswith(b"\x89PNG")
        assert (plan.diagram().rooms[0].area is None) == (unit < 1)


@given(st.floats(0.25, 4.0), st.integers(0, 3), st.booleans())
def test_areas_scale_and_do_not_turn(factor: float, turns: int, mirror: bool):
    corners = np.array([[0, 0], [0, 5], [3, 5], [3, 2], [7, 2], [7, 0]], dtype=np.float64)
    rotation = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), turns)
    moved = (corners * factor) @ rotation * ([-1, 1] if mirror else [1, 1])
    assert Node(RoomType.LIVING, moved).area == pytest.approx(23 * factor**2)


def test_save_by_suffix(small_plan: Plan, tmp_path):
    small_plan.save(tmp_path / "plan.json")
    small_plan.save(tmp_path / "plan.SVG")
    small_plan.save(tmp_path / "plan.png", width=200)
    assert json.loads((tmp_path / "plan.json").read_text())["room_type"] == [1, 3, 4, 17, 17, 15]
    assert "<svg" in (tmp_path / "plan.SVG").read_text()
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan.SVG", "plan.json", "plan.png"]


def test_save_refuses_what_it_cannot_write(small_plan: Plan, tmp_path):
    with pytest.raises(
        FloorplanError, match=r"plan\.docx: cannot write a \.docx file; use \.json, \.svg, \.png, \.dxf, "
    ):
        small_plan.save(tmp_path / "plan.docx")
    with pytest.raises(FloorplanError, match=r"plan: cannot write a file without suffix"):
        small_plan.save(tmp_path / "plan")
    with pytest.raises(FloorplanError, match=r"missing/plan\.json: cannot write: No such file or directory"):
        small_plan.save(tmp_path / "missing" / "plan.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(FloorplanError, match=r"folder\.json: cannot write: Is a directory"):
        small_plan.save(tmp_path / "folder.json")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.json"], "a failed save leaves nothing behind"


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_half_a_surrogate_pair_in_a_name_is_told_with_the_file(small_plan: Plan, tmp_path, suffix: str):
    room = Node(RoomType.LIVING, small_plan.nodes[0].polygon, json.loads('"bad \\ud800"'))
    with pytest.raises(FloorplanError, match=rf"plan\.{suffix}: cannot write: no valid text at .*bad \\ud800"):
        Plan((room,), ()).save(tmp_path / f"plan.{suffix}")
    with pytest.raises(FloorplanError, match=r"diagram\.json: cannot write: no valid text"):
        Plan((room,), ()).diagram().save(tmp_path / "diagram.json")
    assert not list(tmp_path.iterdir())


def test_written_files_have_ordinary_permissions(tmp_path):
    write_whole(tmp_path / "a.txt", "text")
    (tmp_path / "b.txt").write_text("text")
    assert os.stat(tmp_path / "a.txt").st_mode == os.stat(tmp_path / "b.txt").st_mode


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"rooms": [\n  {"type": "liv', r"line 2 column 12.*cut off"),
        (b'{"rooms": [1,, 2]}', "line 1 column 14"),
        (b"", "line 1 column 1.*cut off"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"\x1f\x8b\x08\x00broken", "broken gzip data"),
        (b"[1, -" + b"7" * 4301 + b"]", "a whole number of more than 4300 digits"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_json_is_told_with_its_place(tmp_path, content: bytes, message: str):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(FloorplanError, match=rf"broken\.json: (?s:.)*{message}"):
        read_json(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FloorplanError, match=r"nothing\.json: cannot read: No such file"):
        read_json(tmp_path / "nothing.json")
