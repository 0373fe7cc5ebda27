"""SVG of finished plans, read back by svgpathtools and by an XML parser, drawn by resvg."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image, ImageColor
from trifold.floorplan.building import drawn_building
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.finished import FinishedPlan
from trifold.floorplan.plan import Plan
from trifold.floorplan.procedural import generate_plan
from trifold.floorplan.render import SOFT, svg_to_png
from trifold.floorplan.rooms import RoomType
from trifold.floorplan.svg_drawing import DIGITS, save_svg, svg_text
from trifold.floorplan.symbols import LINE, fmt

from .hand_made import UNIT, oblique, two_rooms

SVG = "{http://www.w3.org/2000/svg}"


def _groups(plan: Plan | FinishedPlan) -> dict[str, ET.Element]:
    return {g.get("id", ""): g for g in ET.fromstring(svg_text(plan)).iter(f"{SVG}g")}


def _read_paths(file: Path) -> dict[str, list[Any]]:
    """svgpathtools' paths of each group id."""
    svgpathtools = pytest.importorskip("svgpathtools", reason="svgpathtools reads the drawing back")
    found: dict[str, list[Any]] = {}
    for group in ET.parse(file).iter(f"{SVG}g"):
        paths = [svgpathtools.parse_path(p.get("d")) for p in group.findall(f"{SVG}path")]
        found[group.get("id", "")] = paths
    return found


def _loops(path: Any) -> list[np.ndarray]:
    return [np.array([[s.start.real, s.start.imag] for s in part]) for part in path.continuous_subpaths()]


@pytest.mark.parametrize("plan", [two_rooms(), oblique()], ids=["two", "oblique"])
def test_paths_are_read_back_by_svgpathtools(plan: FinishedPlan, tmp_path: Path) -> None:
    save_svg(plan, tmp_path / "plan.svg")
    paths = _read_paths(tmp_path / "plan.svg")
    building = drawn_building(plan)
    tolerance = 1e-6 / UNIT  # a micrometre
    for room in building.rooms:
        (loop,) = _loops(paths[f"room-{room.index}"][0])
        assert np.abs(loop - room.outline).max() < tolerance
    rings = [ring for part in building.mass.geoms for ring in shapely.get_rings(part)]
    for ring, loop in zip(rings, _loops(paths["walls"][0]), strict=True):
        assert np.abs(loop - shapely.get_coordinates(ring)[:-1]).max() < tolerance
    for door in building.doors:
        opening, *marks = paths[f"door-{door.index}"]
        assert np.abs(_loops(opening)[0] - door.outline).max() < tolerance
        if door.leaf is None:
            assert len(marks) == 2  # panes
            continue
        line, arc = marks
        assert abs(line[0].end - complex(*door.leaf.opened)) < tolerance
        assert abs(line[0].start - complex(*door.leaf.hinge)) < tolerance
        assert abs(arc[0].center - complex(*door.leaf.hinge)) < 1e-3  # the arc turns around the hinge, not across it
        assert abs(arc[0].start - complex(*door.leaf.closed)) < tolerance
        assert arc[0].length() == pytest.approx(door.leaf.width * np.pi / 2, rel=1e-4)


def test_rooms_and_doors_are_named_groups() -> None:
    groups = _groups(two_rooms())
    parlour = groups["room-0"]
    assert parlour.get("data-room") == "parlour"
    assert parlour.get("data-type") == "living"
    assert float(parlour.get("data-area", "nan")) == pytest.approx(75 * 94 * UNIT**2, abs=5e-5)
    assert float(parlour.get("data-outline-area", "nan")) == pytest.approx(20.0)
    assert parlour.find(f"{SVG}title").text == "parlour"  # type: ignore[union-attr]
    assert groups["door-0"].get("data-rooms") == "0 1"
    assert groups["door-1"].get("data-rooms") == "0 outside"
    assert float(groups["door-0"].get("data-width", "nan")) == pytest.approx(0.9)
    assert groups["room-0"] in list(groups["rooms"])
    assert groups["door-0"] in list(groups["doors"])
    texts = ["".join(t.itertext()) for t in groups["labels"].iter(f"{SVG}text")]
    assert texts == ["parlour", "17.6 m2", "bed", "12.9 m2"]
    unnamed = _groups(oblique())["room-1"]
    assert unnamed.get("data-room") == "Living room"


@pytest.mark.parametrize("name", ["<&\"'>", "</title><script>", "a\x00b\x1b\ud800\ufffe", "漢字\t\n  x", "]]>", "&#0;"])
def test_any_name_gives_xml_that_says_it(name: str, tmp_path: Path) -> None:
    save_svg(two_rooms((name, "bed")), tmp_path / "plan.svg")
    root = ET.parse(tmp_path / "plan.svg").getroot()
    group = next(g for g in root.iter(f"{SVG}g") if g.get("id") == "room-0")
    shown = drawn_building(two_rooms((name, "bed"))).rooms[0].title
    assert group.get("data-room") == shown
    assert group.find(f"{SVG}title").text == shown  # type: ignore[union-attr]
    assert root.find(f".//{SVG}script") is None


def test_resvg_draws_walls_floors_and_openings() -> None:
    plan = two_rooms()
    root = ET.fromstring(svg_text(plan, labels=False))
    x, y, width, _ = map(float, root.get("viewBox", "").split())
    with Image.open(io.BytesIO(svg_to_png(svg_text(plan, labels=False), 800))) as image:
        picture = np.asarray(image.convert("RGB"))

    def colour(at_x: float, at_y: float) -> tuple[int, ...]:
        column, row = (np.array([at_x - x, at_y - y]) * 800 / width).astype(int)
        return tuple(int(v) for v in picture[row, column])

    line = ImageColor.getrgb(LINE)
    assert colour(80, 90) == ImageColor.getrgb(SOFT[RoomType.LIVING])
    assert colour(150, 110) == ImageColor.getrgb(SOFT[RoomType.BEDROOM])
    assert colour(120, 110) == line  # the wall between them
    assert colour(40, 90) == line
    assert colour(38, 38) == line  # a mitred corner is full
    assert colour(120, 60) == (255, 255, 255)  # the opening
    assert colour(70, 141) == (255, 255, 255)
    assert colour(186, 90) == (255, 255, 255)


def test_a_plain_plan_is_drawn_without_walls(tmp_path: Path) -> None:
    plan = generate_plan(3)
    save_svg(plan, tmp_path / "plain.svg")
    groups = _groups(plan)
    assert "walls" not in groups
    assert sum(key.startswith("room-") for key in groups) == plan.num_rooms
    assert len(svg_to_png(svg_text(plan), 300)) > 1000


def test_options_and_faults() -> None:
    with pytest.raises(FloorplanError, match="palette: expected one of"):
        svg_text(two_rooms(), palette="loud")
    assert "#EE4D4D" in svg_text(two_rooms(), palette="house_diffusion")
    assert not list(ET.fromstring(svg_text(two_rooms(), labels=False)).iter("labels"))
    root = ET.fromstring(svg_text(two_rooms(), size=500))
    assert max(int(root.get("width", "0")), int(root.get("height", "0"))) == 500
    assert float(root.get("data-metres-per-unit", "nan")) == UNIT


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (-0.0, "0"), (1 / 3, "0.333333"), (-1e-9, "0"), (120.5, "120.5")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert fmt(value, DIGITS) == text
