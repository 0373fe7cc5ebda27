from __future__ import annotations

import json
import warnings
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trifold.floorplan.diagram import MAX_CORNERS, BubbleDiagram, RoomSpec, example_names
from trifold.floorplan.errors import DisconnectedDiagramWarning, FloorplanError, FloorplanWarning
from trifold.floorplan.rooms import ROOM_TYPES, RoomType

THREE = {
    "rooms": [
        {"type": "living", "name": "living", "area": 20.5, "size": [4, 5], "corners": 6},
        {"type": "bedroom", "name": "bed1"},
        {"type": "bathroom", "name": "bath"},
    ],
    "doors": [["living", "bed1"], [2, 0]],
    "front_door": "living",
}


def changed(path: str, value: object) -> dict:
    """THREE with one place replaced: "rooms.1.type"."""
    data = json.loads(json.dumps(THREE))
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = data
    for part in way:
        place = place[part]
    place[last] = value
    return data


def test_names_and_indices_mean_the_same():
    diagram = BubbleDiagram.from_dict(THREE)
    assert diagram.rooms[0] == RoomSpec(RoomType.LIVING, "living", 20.5, (4, 5), 6)
    assert diagram.rooms[1] == RoomSpec(RoomType.BEDROOM, "bed1")
    assert diagram.doors == ((0, 1), (0, 2))
    assert diagram.front_door == 0


def test_nodes_and_links_by_hand():
    diagram = BubbleDiagram.from_dict(THREE)
    door, front = RoomType.INTERIOR_DOOR, RoomType.FRONT_DOOR
    assert diagram.node_types() == [RoomType.LIVING, RoomType.BEDROOM, RoomType.BATHROOM, door, door, front]
    assert diagram.door_rooms() == ((0, 1), (0, 2), (0, None))
    assert diagram.links() == {(0, 1), (0, 2), (0, 3), (1, 3), (0, 4), (2, 4), (0, 5)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"expected an object with rooms, doors, front_door, name; found list"),
        ({"doors": []}, "rooms: required, but missing"),
        ({"rooms": []}, "rooms: no rooms"),
        ({"rooms": {"type": "living"}}, "rooms: expected a list, found dict"),
        ({"rooms": ["living"]}, r"rooms\[0\]: expected an object with type, name.*found str"),
        (changed("rooms.1", {"name": "bed1"}), r"rooms\[1\]\.type: required, but missing"),
        (changed("rooms.1.type", "bedrom"), r"rooms\[1\]\.type: unknown room type 'bedrom'; did you mean 'bedroom'"),
        (changed("rooms.1.type", "interior door"), r"rooms\[1\]\.type: interior_door is not a room"),
        (changed("rooms.1.colour", "red"), r"rooms\[1\]: unknown key 'colour' \(known keys: type, name, area"),
        (changed("rooms.1.aera", 3), r"rooms\[1\]: unknown key 'aera'; did you mean 'area'\?"),
        (changed("walls", []), r"unknown key 'walls'.*known keys: rooms, doors, front_door, name"),
        (changed("rooms.1.name", "living"), r"rooms\[1\]\.name: 'living' is already the name of rooms\[0\]"),
        (changed("rooms.1.name", 7), r"rooms\[1\]\.name: expected text, found 7"),
        (
            changed("rooms.1.area", float("nan")),
            r"rooms\[1\]\.area: expected a positive, finite number \(m2\).*nan",
        ),
        (changed("rooms.1.area", -3), r"rooms\[1\]\.area: expected a positive.*found -3"),
        (changed("rooms.1.area", 10**400), r"rooms\[1\]\.area: expected a positive, finite number \(m2\), found 10{3}"),
        (changed("rooms.1.area", "12"), r"rooms\[1\]\.area: expected a number \(m2\), found '12'"),
        (changed("rooms.1.area", True), r"rooms\[1\]\.area: expected a number"),
        (changed("rooms.0.size.1", 0), r"rooms\[0\]\.size\[1\]: expected a positive, finite number \(m\), found 0"),
        (changed("rooms.0.size", [4]), r"rooms\[0\]\.size: expected \[width, height\] in m"),
        (changed("rooms.0.size", 4), r"rooms\[0\]\.size: expected \[width, height\] in m"),
        (changed("rooms.0.corners", 2), r"rooms\[0\]\.corners: expected a whole number from 3 to 256, found 2"),
        (changed("rooms.0.corners", 4.5), r"rooms\[0\]\.corners: expected a whole number"),
        (changed("rooms.0.corners", MAX_CORNERS + 1), r"rooms\[0\]\.corners: expected a whole number"),
        (
            changed("doors.0.1", "bad1"),
            r"doors\[0\]: no room is named 'bad1'; did you mean 'bed1'\?.*'living', 'bed1', ",
        ),
        (changed("doors.0.1", 3), r"doors\[0\]: no room 3; rooms are numbered 0 to 2"),
        (changed("doors.0.1", -1), r"doors\[0\]: no room -1"),
        (changed("doors.0.1", 1.0), r"doors\[0\]: expected a room's name or index, found 1.0"),
        (changed("doors.0.1", True), r"doors\[0\]: expected a room's name or index, found True"),
        (changed("doors.0.1", 0), r"doors\[0\]: joins 'living' with itself"),
        (changed("doors.0", ["living"]), r"doors\[0\]: expected two rooms, found \['living'\]"),
        (changed("doors", "living-bed1"), "doors: expected a list, found str"),
        (changed("front_door", "hall"), "front_door: no room is named 'hall'"),
        (changed("front_door", 3), "front_door: no room 3"),
        (changed("name", 3), "name: expected text, found 3"),
    ],
)
def test_faults_are_named(data: object, message: str):
    with pytest.raises(FloorplanError, match=rf"^wish\.json: {message}"):
        BubbleDiagram.from_dict(data, source="wish.json")  # type: ignore[arg-type]


def test_names_can_be_missing_but_then_not_referred_to():
    with pytest.raises(FloorplanError, match=r"doors\[0\]: no room is named 'living' \(named rooms: none; give"):
        BubbleDiagram.from_dict({"rooms": [{"type": "living"}, {"type": "bedroom"}], "doors": [["living", 1]]})


def test_truncated_file_tells_line_and_column(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(json.dumps(THREE, indent=1)[:60])
    with pytest.raises(FloorplanError, match=r"cut\.json: not valid json at line \d+ column \d+.*cut off"):
        BubbleDiagram.load(path)


def test_second_door_between_the_same_rooms_is_dropped_with_a_warning():
    data = changed("doors", [["living", "bed1"], ["bed1", "living"], ["living", "bath"]])
    with pytest.warns(FloorplanWarning, match=r"wish: doors\[1\]: a door between 'bed1' and 'living' is given twice"):
        diagram = BubbleDiagram.from_dict(data, source="wish")
    assert diagram.doors == ((0, 1), (0, 2))
    with pytest.raises(FloorplanError, match=r"doors\[1\]: 'bed1' and 'living' are already joined by doors\[0\]"):
        BubbleDiagram(diagram.rooms, ((0, 1), (1, 0)), None)


@pytest.mark.parametrize("data", [changed("front_door", None), {k: v for k, v in THREE.items() if k != "front_door"}])
def test_no_front_door_is_allowed_with_a_warning(data: dict):
    with pytest.warns(FloorplanWarning, match="front_door: none given"):
        diagram = BubbleDiagram.from_dict(data)
    assert diagram.front_door is None
    assert RoomType.FRONT_DOOR not in diagram.node_types()
    assert diagram.links() == {(0, 1), (0, 2), (0, 3), (1, 3), (0, 4), (2, 4)}


def test_rooms_no_doors_join_are_told():
    with pytest.warns(DisconnectedDiagramWarning, match="fall into 2 groups.*: 'living', 'bed1' | 'bath'"):
        diagram = BubbleDiagram.from_dict(changed("doors", [["living", "bed1"]]))
    assert diagram.components() == [{0, 1}, {2}]


def test_example_files_are_whole_connected_and_have_a_front_door():
    assert {"two_bedrooms", "family_eight_rooms", "bay_corner_studio"} <= set(example_names())
    for name in example_names():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            diagram = BubbleDiagram.example(name)
        hub = max(range(diagram.num_rooms), key=lambda room: sum(room in door for door in diagram.doors))
        assert diagram.rooms[hub].type == RoomType.LIVING
        assert BubbleDiagram.from_dict(diagram.to_dict()) == diagram
    assert BubbleDiagram.example("family_eight_rooms").num_rooms == 8
    assert any((room.corners or 4) % 2 for room in BubbleDiagram.example("bay_corner_studio").rooms)
    with pytest.raises(FloorplanError, match=r"no example diagram 'castle'; there are: .*two_bedrooms"):
        BubbleDiagram.example("castle")


def test_schema_file_says_what_the_reader_does():
    schema = json.loads((resources.files("trifold.floorplan") / "bubble_diagram.schema.json").read_text())
    room = schema["$defs"]["room"]
    rejected_key = {"rooms": [{"type": "living"}], "?": 0}
    with pytest.raises(FloorplanError, match="known keys: " + ", ".join(["rooms", "doors", "front_door", "name"])):
        BubbleDiagram.from_dict(rejected_key)
    assert set(schema["properties"]) == {"rooms", "doors", "front_door", "name"}
    assert set(room["properties"]) == {"type", "name", "area", "size", "corners"}
    assert (schema["required"], room["required"]) == (["rooms"], ["type"])
    assert not schema["additionalProperties"]
    assert not room["additionalProperties"]
    assert room["properties"]["corners"]["maximum"] == MAX_CORNERS
    listed = room["properties"]["type"]["enum"]
    assert [v for v in listed if isinstance(v, str)] == [t.name.lower() for t in ROOM_TYPES]
    assert [v for v in listed if isinstance(v, int)] == [int(t) for t in ROOM_TYPES]


sizes = st.floats(0.01, 1000)
names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=9, unique=True)


@st.composite
def diagrams(draw: st.DrawFn) -> BubbleDiagram:
    labels = draw(names)
    if draw(st.booleans()):
        labels[draw(st.integers(0, len(labels) - 1))] = ""
    rooms = tuple(
        RoomSpec(
            draw(st.sampled_from(ROOM_TYPES)),
            label,
            draw(st.none() | sizes),
            draw(st.none() | st.tuples(sizes, sizes)),
            draw(st.none() | st.integers(3, MAX_CORNERS)),
        )
        for label in labels
    )
    pairs = [(a, b) for b in range(len(rooms)) for a in range(b)]
    doors = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    front = draw(st.none() | st.integers(0, len(rooms) - 1))
    return BubbleDiagram(rooms, tuple(doors), front, draw(st.text(max_size=5)))


@given(diagrams())
@pytest.mark.filterwarnings("ignore::trifold.floorplan.errors.FloorplanWarning")
def test_dict_and_json_round_trip(diagram: BubbleDiagram):
    assert BubbleDiagram.from_dict(diagram.to_dict()) == diagram
    assert BubbleDiagram.from_dict(json.loads(json.dumps(diagram.to_dict()))) == diagram


def test_file_round_trip(tmp_path):
    diagram = BubbleDiagram.from_dict(THREE)
    diagram.save(tmp_path / "diagram.json")
    assert BubbleDiagram.load(tmp_path / "diagram.json") == diagram
    with pytest.raises(FloorplanError, match=r"cannot write: No such file"):
        diagram.save(tmp_path / "missing" / "diagram.json")


@given(diagrams())
def test_components_partition_the_rooms_and_no_door_leaves_one(diagram: BubbleDiagram):
    groups = diagram.components()
    assert sorted(room for group in groups for room in group) == list(range(diagram.num_rooms))
    assert all((a in group) == (b in group) for group in groups for a, b in diagram.doors)


@given(diagrams())
def test_links_count(diagram: BubbleDiagram):
    # Each interior door gives two room-door links and one room-room link; the front door one.
    assert len(diagram.links()) == 3 * len(diagram.doors) + (diagram.front_door is not None)
    assert all(0 <= k < m < len(diagram.node_types()) for k, m in diagram.links())
