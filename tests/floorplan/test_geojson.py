"""GeoJSON read back by shapely."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.geometry import shape
from trifold.floorplan.building import drawn_building
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.finished import FinishedPlan
from trifold.floorplan.finishing import finish
from trifold.floorplan.geojson import geojson_document, geojson_text, save_geojson
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.procedural import generate_plan
from trifold.floorplan.rooms import RoomType

from .hand_made import UNIT, oblique, two_rooms


def _features(plan: Plan | FinishedPlan, kind: str) -> list[dict[str, Any]]:
    features = json.loads(geojson_text(plan))["features"]
    return [f for f in features if f["properties"]["kind"] == kind]


@pytest.mark.parametrize("plan", [two_rooms(), oblique()], ids=["two", "oblique"])
def test_geometry_is_read_back_by_shapely(plan: FinishedPlan, tmp_path: Path) -> None:
    save_geojson(plan, tmp_path / "plan.geojson")
    text = (tmp_path / "plan.geojson").read_text()
    assert len(shapely.get_parts(shapely.from_geojson(text))) == len(plan.plan.nodes) + len(plan.walls)
    building = drawn_building(plan).in_metres()
    for room, feature in zip(building.rooms, _features(plan, "room"), strict=True):
        assert shapely.equals_exact(
            shape(feature["geometry"]).normalize(), shapely.Polygon(room.outline).normalize(), 1e-8
        )
        assert feature["properties"]["area_m2"] == pytest.approx(shape(feature["geometry"]).area)
        assert feature["properties"]["floor_area_m2"] == pytest.approx(room.floor_area)
    walls = [shape(feature["geometry"]) for feature in _features(plan, "wall")]
    assert shapely.union_all(walls).symmetric_difference(building.mass).area < 1e-6
    for door, feature in zip(building.doors, _features(plan, "door"), strict=True):
        assert shapely.equals_exact(
            shape(feature["geometry"]).normalize(), shapely.Polygon(door.outline).normalize(), 1e-8
        )


def test_properties_by_hand() -> None:
    plan = two_rooms(("Wohnen <&>", "bed"))
    room = _features(plan, "room")[0]
    assert room["properties"] == {
        "kind": "room",
        "index": 0,
        "name": "Wohnen <&>",
        "type": "living",
        "area_m2": 20.0,
        "floor_area_m2": 17.625,
        "valid": True,
    }
    # The plan's upper left corner (40, 40) in a frame of 256 units of 5 cm, y up.
    assert [2.0, 10.8] in room["geometry"]["coordinates"][0]
    door, front = _features(plan, "door")
    assert door["properties"] == {
        "kind": "door",
        "index": 0,
        "type": "interior_door",
        "rooms": [0, 1],
        "width_m": 0.9,
        "wall": 2,
        "opens_into": 1,
    }
    assert front["properties"]["rooms"] == [0, None]
    wall = _features(plan, "wall")[2]["properties"]
    assert (wall["rooms"], wall["thickness_m"], wall["length_m"]) == ([0, 1], pytest.approx(0.2), pytest.approx(5.0))


@pytest.mark.parametrize("plan", [two_rooms(), oblique(), generate_plan(5)], ids=["two", "oblique", "plain"])
def test_rings_follow_the_right_hand_rule(plan: Plan | FinishedPlan) -> None:
    count = 0
    for feature in geojson_document(plan)["features"]:
        geometry = feature["geometry"]
        parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        for rings in parts:
            for k, ring in enumerate(rings):
                assert ring[0] == ring[-1]
                assert shapely.is_ccw(shapely.LinearRing(ring)) == (k == 0)
                count += 1
    assert count >= len(geojson_document(plan)["features"])


def test_the_reference_is_stated_as_local() -> None:
    document = json.loads(geojson_text(two_rooms()))
    assert document["crs"] is None
    frame = document["coordinate_frame"]
    assert not {"coordinates", "geometries", "geometry", "properties"} & set(document)  # RFC 7946, section 7.1
    assert (frame["reference"], frame["unit"]) == ("local", "metre")
    assert frame["frame_m"] == pytest.approx(256 * UNIT)
    assert document == geojson_document(two_rooms())


def test_plain_plans_have_rooms_and_doors_alone() -> None:
    plan = generate_plan(5)
    assert _features(plan, "wall") == []
    assert len(_features(plan, "room")) == plan.num_rooms
    assert all(f["properties"]["wall"] is None for f in _features(plan, "door"))


def test_an_outline_that_crosses_itself_is_written_and_marked() -> None:
    bow = np.array([[0, 0], [10, 10], [10, 0], [0, 10]], dtype=float)
    feature = _features(Plan((Node(RoomType.LIVING, bow),), (), metres_per_unit=1.0), "room")[0]
    assert feature["properties"]["valid"] is False
    assert len(feature["geometry"]["coordinates"][0]) == 5


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FloorplanError, match=r"nowhere.*cannot write"):
        save_geojson(two_rooms(), tmp_path / "nowhere" / "plan.geojson")


def test_features_have_ids_of_their_own() -> None:
    features = geojson_document(finish(generate_plan(3)))["features"]
    ids = [feature["id"] for feature in features]
    assert len(set(ids)) == len(ids)
    assert all(f["id"] == f"{f['properties']['kind']}-{f['properties']['index']}" for f in features)
