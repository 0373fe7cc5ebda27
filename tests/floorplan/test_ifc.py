"""IFC files read back by ifcopenshell: its validator is silent, and solids from its geometry kernel measure right."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.geometry import Polygon
from trifold.floorplan.building import Building, drawn_building
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.finished import FinishedPlan
from trifold.floorplan.finishing import finish
from trifold.floorplan.ifc import IfcHeights, ifc_model, ifc_text, save_ifc
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.procedural import generate_plan
from trifold.floorplan.rooms import RoomType

from .hand_made import oblique, two_rooms

ifcopenshell = pytest.importorskip("ifcopenshell", reason="IFC needs ifcopenshell: pip install 'trifold[ifc]'")
TOLERANCE = 1e-6  # metres

PLANS = [two_rooms(("Küche <&\"'> 漢字 \\X\\", "bed")), oblique(), generate_plan(5), finish(generate_plan(1))]
each_plan = pytest.mark.parametrize("plan", PLANS, ids=["two", "oblique", "plain", "procedural"])


def _messages(file: Path, *, rules: bool = False) -> list[Any]:
    from ifcopenshell.validate import json_logger, validate

    logger = json_logger()
    validate(str(file), logger, express_rules=rules)
    return logger.statements


def _read(plan: Plan | FinishedPlan, folder: Path) -> tuple[Any, Building]:
    save_ifc(plan, folder / "plan.ifc")
    return ifcopenshell.open(str(folder / "plan.ifc")), drawn_building(plan).in_metres()


def _matrix(product: Any) -> np.ndarray:
    from ifcopenshell.util.placement import get_local_placement

    return get_local_placement(product.ObjectPlacement)


def _body(product: Any) -> list[Polygon]:
    """The ground outline of each extruded solid of a product, in the world."""
    found = []
    for representation in product.Representation.Representations:
        if representation.RepresentationIdentifier != "Body":
            continue
        for solid in representation.Items:
            curve = solid.SweptArea.OuterCurve
            xy = np.array([point.Coordinates for point in curve.Points])
            homogeneous = np.concatenate([xy, np.zeros((len(xy), 1)), np.ones((len(xy), 1))], 1)
            found.append(Polygon((homogeneous @ _matrix(product).T)[:, :2]))
    return found


def _volume(product: Any) -> float:
    """Volume of a product by the geometry kernel, its openings subtracted."""
    import ifcopenshell.geom

    shape = ifcopenshell.geom.create_shape(ifcopenshell.geom.settings(), product).geometry
    corners = np.array(shape.verts).reshape(-1, 3)[np.array(shape.faces).reshape(-1, 3)]
    return abs(float((corners[:, 0] * np.cross(corners[:, 1], corners[:, 2])).sum() / 6))


def _sets(product: Any) -> dict[str, dict[str, Any]]:
    from ifcopenshell.util.element import get_psets

    return get_psets(product)


@each_plan
def test_the_validator_is_silent(plan: Plan | FinishedPlan, tmp_path: Path) -> None:
    save_ifc(plan, tmp_path / "plan.ifc")
    assert _messages(tmp_path / "plan.ifc") == []


@pytest.mark.slow
def test_the_schema_rules_hold(tmp_path: Path) -> None:
    """Where-rules of the EXPRESS schema, on the plan that uses every entity (slow: the validator compiles them)."""
    save_ifc(oblique(), tmp_path / "plan.ifc")
    assert _messages(tmp_path / "plan.ifc", rules=True) == []


@each_plan
def test_spaces_are_read_back(plan: Plan | FinishedPlan, tmp_path: Path) -> None:
    model, building = _read(plan, tmp_path)
    assert model.schema == "IFC4"
    spaces = model.by_type("IfcSpace")
    for room, space in zip(building.rooms, spaces, strict=True):
        assert (space.Name, space.LongName, space.ObjectType) == (str(room.index + 1), room.title, room.type.name)
        (outline,) = _body(space)
        assert outline.symmetric_difference(room.floor).area < TOLERANCE * outline.length
        sizes = _sets(space)["Qto_SpaceBaseQuantities"]
        assert sizes["NetFloorArea"] == pytest.approx(room.floor_area)
        assert sizes["GrossFloorArea"] == pytest.approx(room.area)
        assert sizes["NetVolume"] == pytest.approx(_volume(space))
        storey = space.Decomposes[0].RelatingObject
        assert storey.is_a("IfcBuildingStorey")
    from ifcopenshell.util.unit import calculate_unit_scale

    assert calculate_unit_scale(model) == 1.0
    chain = [storey.Decomposes[0].RelatingObject]
    chain += [chain[0].Decomposes[0].RelatingObject]
    chain += [chain[1].Decomposes[0].RelatingObject]
    assert [part.is_a() for part in chain] == ["IfcBuilding", "IfcSite", "IfcProject"]


@pytest.mark.parametrize("plan", [*PLANS[:2], PLANS[3]], ids=["two", "oblique", "procedural"])
def test_walls_are_read_back(plan: FinishedPlan, tmp_path: Path) -> None:
    model, building = _read(plan, tmp_path)
    spaces = {space: int(space.Name) - 1 for space in model.by_type("IfcSpace")}
    bodies = []
    for wall, entity in zip(building.walls, model.by_type("IfcWall"), strict=True):
        (outline,) = _body(entity)
        bodies.append(outline)
        assert outline.symmetric_difference(wall.whole).area < TOLERANCE * outline.length
        sizes = _sets(entity)["Qto_WallBaseQuantities"]
        assert (sizes["Length"], sizes["Width"]) == pytest.approx((wall.length, wall.thickness))
        assert sizes["NetVolume"] == pytest.approx(_volume(entity), rel=1e-6)  # the kernel cuts the openings itself
        assert sizes["GrossVolume"] == pytest.approx(wall.whole.area * IfcHeights().ceiling)
        assert _sets(entity)["Pset_WallCommon"]["IsExternal"] == (wall.rooms[1] is None)
        bounded = sorted(spaces[b.RelatingSpace] for b in entity.ProvidesBoundaries)
        assert bounded == [room for room in wall.rooms if room is not None]
        axis = entity.Representation.Representations[0]
        assert axis.RepresentationIdentifier == "Axis"
        ends = np.array([[*point.Coordinates, 0, 1] for point in axis.Items[0].Points]) @ _matrix(entity).T
        assert np.abs(ends[:, :2] - [wall.start, wall.end]).max() < TOLERANCE
    assert shapely.union_all(bodies).area == pytest.approx(sum(body.area for body in bodies), abs=1e-5)


@pytest.mark.parametrize("plan", [*PLANS[:2], PLANS[3]], ids=["two", "oblique", "procedural"])
def test_doors_fill_openings_of_their_walls(plan: FinishedPlan, tmp_path: Path) -> None:
    model, building = _read(plan, tmp_path)
    walls, spaces = list(model.by_type("IfcWall")), {s: int(s.Name) - 1 for s in model.by_type("IfcSpace")}
    for door, entity in zip(building.doors, model.by_type("IfcDoor"), strict=True):
        opening = entity.FillsVoids[0].RelatingOpeningElement
        assert walls.index(opening.VoidsElements[0].RelatingBuildingElement) == door.wall
        assert np.abs(_matrix(opening)[:2, 3] - door.centre).max() < TOLERANCE
        profile = opening.Representation.Representations[0].Items[0].SweptArea
        assert pytest.approx(door.width) == profile.XDim == entity.OverallWidth
        assert sorted(spaces[b.RelatingSpace] for b in entity.ProvidesBoundaries) == [
            room for room in door.rooms if room is not None
        ]
        world = _matrix(entity)
        if door.leaf is None:
            assert entity.OperationType == "DOUBLE_DOOR_SLIDING"
            continue
        assert world[:2, 1] @ (door.leaf.opened - door.leaf.hinge) > 0.99 * door.width  # y points where it opens
        left = {True: "SINGLE_SWING_LEFT", False: "SINGLE_SWING_RIGHT"}
        hinge_at_origin = (door.leaf.hinge - world[:2, 3]) @ world[:2, 0] < door.width / 2
        assert entity.OperationType == left[bool(hinge_at_origin)]
        sign = entity.Representation.Representations[1].Items[0]
        points = np.array([[*xy, 0, 1] for xy in sign.Points.CoordList]) @ world.T
        wanted = [door.leaf.closed, door.leaf.opened, door.leaf.hinge]
        assert np.abs(points[[0, 2, 3], :2] - wanted).max() < TOLERANCE
        assert np.hypot(*(points[1, :2] - door.leaf.hinge)) == pytest.approx(door.width)


def test_a_plain_plan_is_spaces_alone(tmp_path: Path) -> None:
    model, building = _read(generate_plan(5), tmp_path)
    assert len(model.by_type("IfcSpace")) == len(building.rooms)
    assert not model.by_type("IfcWall")
    assert not model.by_type("IfcDoor")


def test_identities_follow_from_the_plan() -> None:
    first, again = (ifc_model(two_rooms()) for _ in range(2))
    identities = [root.GlobalId for root in first.by_type("IfcRoot")]
    assert identities == [root.GlobalId for root in again.by_type("IfcRoot")]
    assert len(set(identities)) == len(identities)
    other = {root.GlobalId for root in ifc_model(oblique()).by_type("IfcRoot")}
    assert not other & set(identities)


def test_names_of_any_length_and_rooms_without_floor(tmp_path: Path) -> None:
    plan = two_rooms(("x" * 300 + "\x00", "bed"))
    thick = tuple(replace(wall, thickness=90.0) if wall.rooms == (0, 1) else wall for wall in plan.walls)
    save_ifc(replace(plan, walls=thick, openings=()), tmp_path / "plan.ifc")
    assert _messages(tmp_path / "plan.ifc") == []
    first = ifcopenshell.open(str(tmp_path / "plan.ifc")).by_type("IfcSpace")[0]
    assert first.LongName == "x" * 252 + "..."


@pytest.mark.parametrize(("ceiling", "door"), [(2.0, 2.1), (2.6, 0.0), (float("inf"), 2.0), (float("nan"), 2.0)])
def test_heights_must_make_sense(ceiling: float, door: float) -> None:
    with pytest.raises(FloorplanError, match="heights: expected 0 < door < ceiling"):
        IfcHeights(ceiling, door)


def test_heights_are_used(tmp_path: Path) -> None:
    save_ifc(two_rooms(), tmp_path / "plan.ifc", IfcHeights(ceiling=3.0, door=2.0))
    model = ifcopenshell.open(str(tmp_path / "plan.ifc"))
    assert {door.OverallHeight for door in model.by_type("IfcDoor")} == {2.0}
    assert {_sets(space)["Qto_SpaceBaseQuantities"]["Height"] for space in model.by_type("IfcSpace")} == {3.0}


def test_a_crossed_outline_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    bow = Node(RoomType.LIVING, np.array([[0, 0], [10, 10], [10, 0], [0, 10]], dtype=float))
    with pytest.raises(FloorplanError, match=r"plan\.ifc: nodes\[0\]: outline crosses"):
        save_ifc(Plan((bow,), ()), tmp_path / "plan.ifc")
    assert list(tmp_path.iterdir()) == []


def test_a_room_left_as_drawn_is_a_space_without_a_body(tmp_path: Path) -> None:
    plan = two_rooms()
    flat = Node(RoomType.STORAGE, np.array([[300, 0], [300, 20], [300, 40]], dtype=float))
    nodes = (*plan.plan.rooms, flat, *plan.plan.door_nodes)
    finished = finish(replace(plan.plan, nodes=nodes, frame=400.0))
    assert "room 2 (storage) has too little floor" in finished.report.problems[0]
    save_ifc(finished, tmp_path / "plan.ifc")
    assert _messages(tmp_path / "plan.ifc") == []
    spaces = ifcopenshell.open(str(tmp_path / "plan.ifc")).by_type("IfcSpace")
    assert [space.Representation is not None for space in spaces] == [True, True, False]


def test_without_ifcopenshell_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ifcopenshell", None)
    with pytest.raises(ImportError, match=r"trifold\[ifc\]"):
        ifc_text(two_rooms())
