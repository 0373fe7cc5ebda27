"""DXF files read back by ezdxf: entities equal what was written, and its auditor finds nothing."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from trifold.floorplan.building import Building, clean_text, drawn_building
from trifold.floorplan.dxf import LAYERS, dxf_text, escape_mtext, save_dxf
from trifold.floorplan.finished import FinishedPlan
from trifold.floorplan.finishing import finish
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.procedural import generate_plan

from .hand_made import oblique, two_rooms

ezdxf = pytest.importorskip("ezdxf", reason="DXF needs ezdxf")
TOLERANCE = 1e-6  # metres

PLANS = [two_rooms(), oblique(), generate_plan(5), finish(generate_plan(1))]
each_plan = pytest.mark.parametrize("plan", PLANS, ids=["two", "oblique", "plain", "procedural"])


def _read(plan: Plan | FinishedPlan) -> tuple[Any, Building]:
    return ezdxf.read(io.StringIO(dxf_text(plan))), drawn_building(plan).in_metres()


def _loops(document: Any, layer: str) -> list[Any]:
    return [e for e in document.modelspace().query("LWPOLYLINE") if e.dxf.layer == layer]


def _corners(polyline: Any) -> np.ndarray:
    return np.array([point[:2] for point in polyline.get_points()])


@each_plan
def test_the_auditor_finds_nothing(plan: Plan | FinishedPlan, tmp_path: Path) -> None:
    save_dxf(plan, tmp_path / "plan.dxf")
    document = ezdxf.readfile(tmp_path / "plan.dxf")
    audit = document.audit()
    assert (audit.errors, audit.fixes) == ([], [])
    assert document.dxfversion == "AC1024"
    assert document.units == ezdxf.units.M
    assert document.header["$MEASUREMENT"] == 1
    for name, (colour, weight) in LAYERS.items():
        layer = document.layers.get(name)
        assert (layer.color, layer.dxf.lineweight) == (colour, weight)
    assert {e.dxf.layer for e in document.modelspace()} <= set(LAYERS)


@each_plan
def test_rooms_are_read_back(plan: Plan | FinishedPlan) -> None:
    document, building = _read(plan)
    outlines = _loops(document, "ROOMS")
    for room, outline in zip(building.rooms, outlines, strict=True):
        assert outline.closed
        assert np.abs(_corners(outline) - room.outline).max() < TOLERANCE
        index, kind, area = (tag.value for tag in outline.get_xdata("TRIFOLD"))
        assert (index, kind) == (room.index, room.type.name)
        assert area == pytest.approx(room.floor_area)
    labels = [e for e in document.modelspace().query("MTEXT") if e.dxf.layer == "LABELS"]
    for room, label in zip(building.rooms, labels, strict=True):
        assert label.plain_text() == f"{room.title}\n{room.floor_area:.1f} m²"
        assert room.floor.contains(shapely.Point(label.dxf.insert.vec2))


@each_plan
def test_walls_are_read_back_as_outlines_and_as_hatches(plan: Plan | FinishedPlan) -> None:
    document, building = _read(plan)
    rings = [ring for part in building.mass.geoms for ring in shapely.get_rings(part)]
    for ring, loop in zip(rings, _loops(document, "WALLS"), strict=True):
        assert loop.closed
        assert np.abs(_corners(loop) - shapely.get_coordinates(ring)[:-1]).max() < TOLERANCE
    hatches = list(document.modelspace().query("HATCH"))
    assert len(hatches) == len(building.mass.geoms)
    for part, hatch in zip(building.mass.geoms, hatches, strict=True):
        outer, *holes = [[v[:2] for v in path.vertices] for path in hatch.paths]
        filled = shapely.Polygon(outer, holes)
        assert hatch.dxf.solid_fill == 1
        assert filled.symmetric_difference(part).area < TOLERANCE * part.length


@each_plan
def test_doors_are_read_back_with_leaf_and_swing(plan: Plan | FinishedPlan) -> None:
    document, building = _read(plan)
    for door, outline in zip(building.doors, _loops(document, "DOORS"), strict=True):
        assert np.abs(_corners(outline) - door.outline).max() < TOLERANCE
        index, kind, a, b, width = (tag.value for tag in outline.get_xdata("TRIFOLD"))
        assert (index, kind) == (door.index, door.type.name)
        assert (a, None if b == -1 else b) == door.rooms
        assert width == pytest.approx(door.width)
        group = document.groups.get(f"DOOR_{door.index}")
        members = sorted(group, key=lambda entity: int(entity.dxf.handle, 16))
        assert members[0] is outline
        if door.leaf is None:
            assert [e.dxftype() for e in members[1:]] == (["LINE", "LINE"] if door.wall is not None else [])
            continue
        line, arc = members[1:]
        assert np.abs(np.array(line.dxf.start.vec2) - door.leaf.hinge).max() < TOLERANCE
        assert np.abs(np.array(line.dxf.end.vec2) - door.leaf.opened).max() < TOLERANCE
        assert arc.dxf.radius == pytest.approx(door.width)
        ends = {tuple(np.round(point.vec2, 6)) for point in (arc.start_point, arc.end_point)}
        assert ends == {tuple(np.round(point, 6)) for point in (door.leaf.closed, door.leaf.opened)}
        assert math.isclose((arc.dxf.end_angle - arc.dxf.start_angle) % 360, 90, abs_tol=1e-6)


def test_dimensions_measure_the_plan() -> None:
    document, building = _read(two_rooms())
    measured = [d.get_measurement() for d in document.modelspace().query("DIMENSION")]
    # 146 x 106 units overall; floors of 75 x 94 and 55 x 94; 5 cm a unit.
    assert np.round(measured[:4], 9).tolist() == [3.75, 4.7, 2.75, 4.7]
    assert np.round(measured[4:], 9).tolist() == [7.3, 5.3]
    texts = [
        e.plain_text()
        for d in document.modelspace().query("DIMENSION")
        for e in d.virtual_entities()
        if e.dxftype() == "MTEXT"
    ]
    assert texts == ["3.75", "4.70", "2.75", "4.70", "7.30", "5.30"]
    assert building.bounds == pytest.approx((1.85, 5.65, 9.15, 10.95))


@each_plan
def test_room_dimensions_run_from_face_to_face(plan: Plan | FinishedPlan) -> None:
    document, building = _read(plan)
    dimensions = list(document.modelspace().query("DIMENSION"))
    assert len(dimensions) == 2 * len(building.rooms) + 2
    for k, room in enumerate(building.rooms):
        for dimension in dimensions[2 * k : 2 * k + 2]:
            ends = [np.array(p.vec2) for p in (dimension.dxf.defpoint2, dimension.dxf.defpoint3)]
            line = shapely.LineString(ends)
            assert room.floor.buffer(TOLERANCE).contains(line)
            assert all(room.floor.boundary.distance(shapely.Point(p)) < TOLERANCE for p in ends)
            assert dimension.get_measurement() == pytest.approx(line.length)


@pytest.mark.parametrize(
    "name",
    [
        r"a\b{c}^d",
        "%%d %%%u 50%%",
        r"\U+0041 \M+1ABCD",
        "^I ^J ^",
        r"\P \A1; {\H3;x}",
        "漢字 😀 ü",
        "<&\"'>",
        "x" * 700,
    ],
)
def test_names_come_back_as_they_were(name: str) -> None:
    document, _ = _read(two_rooms((name, "bed")))
    label = document.modelspace().query("MTEXT[layer=='LABELS']").first
    assert label.plain_text().split("\n")[0] == name
    audit = document.audit()
    assert (audit.errors, audit.fixes) == ([], [])


@given(st.text(st.sampled_from("\\{}^%UuMm+0014Pdn; aé\x07\n")))
def test_escapes_survive_ezdxf_parser(name: str) -> None:
    from ezdxf.lldxf.encoding import decode_dxf_unicode
    from ezdxf.tools.text import fast_plain_mtext, plain_mtext

    clean = clean_text(name)
    escaped = escape_mtext(clean)
    assert decode_dxf_unicode(escaped) == escaped
    assert plain_mtext(escaped) == clean
    assert fast_plain_mtext(escaped) == clean


def test_without_ezdxf_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ezdxf", None)
    with pytest.raises(ImportError, match=r"trifold\[dxf\]"):
        dxf_text(two_rooms())


def test_collapsed_rooms_and_doors_are_drawn_as_they_are() -> None:
    plan = generate_plan(5)
    point, line = np.full((4, 2), 80.0), np.array([[10.0, 90], [20, 90], [30, 90]])
    nodes = list(plan.nodes)
    nodes[0] = Node(nodes[0].type, point)
    nodes[1] = Node(nodes[1].type, line)
    nodes[-1] = Node(nodes[-1].type, point)
    document, building = _read(Plan(tuple(nodes), plan.doors))
    audit = document.audit()
    assert (audit.errors, audit.fixes) == ([], [])
    assert building.rooms[0].floor_area == 0
    assert np.abs(_corners(_loops(document, "ROOMS")[1]) - building.rooms[1].outline).max() < TOLERANCE
    assert len(document.modelspace().query("DIMENSION")) == 2 * (len(building.rooms) - 2) + 2
