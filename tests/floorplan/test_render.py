"""Pictures of plans: what is drawn, what a label may do, and files that appear whole."""

from __future__ import annotations

import builtins
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image, ImageFont
from trifold.floorplan.animate import save_animation
from trifold.floorplan.diagram import BubbleDiagram, RoomSpec
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.page import diagram_layout, diagram_to_svg, save_page
from trifold.floorplan.plan import Node, Plan
from trifold.floorplan.procedural import generate_plan
from trifold.floorplan.render import PALETTES, plan_to_original_svg, plan_to_svg, svg_to_png
from trifold.floorplan.rooms import COLOURS, RoomType
from trifold.floorplan.sheet import contact_sheet, save_picture
from trifold.floorplan.symbols import door_symbol, fmt, place_label, shortened, text_width

SVG = "{http://www.w3.org/2000/svg}"


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x0, y1], [x1, y1], [x1, y0]], dtype=np.float64)


def _pixels(svg: str, width: int | None = None) -> np.ndarray:
    with Image.open(io.BytesIO(svg_to_png(svg, width))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def _noisy(plan: Plan, scale: float, seed: int = 0) -> Plan:
    rng = np.random.default_rng(seed)
    nodes = tuple(replace(n, polygon=n.polygon + scale * rng.standard_normal(n.polygon.shape)) for n in plan.nodes)
    return replace(plan, nodes=nodes)


def test_rooms_and_doors_are_named_groups(small_plan: Plan) -> None:
    root = ET.fromstring(plan_to_svg(small_plan))
    groups = {g.get("id"): g for g in root.iter(f"{SVG}g")}
    assert {"walls", "rooms", "doors", "labels", "scale", "room-0", "room-1", "room-2", "door-3", "door-5"} <= set(
        groups
    )
    bed = groups["room-1"]
    assert (bed.get("data-type"), bed.get("data-name")) == ("bedroom", "bed")
    unit = small_plan.metres_per_unit
    assert float(bed.get("data-area-m2", "nan")) == pytest.approx(56 * 50 * unit**2, abs=0.005)
    polygon = bed.find(f"{SVG}polygon")
    assert polygon is not None
    assert polygon.get("points") == "40,40 40,90 96,90 96,40"  # plan units, untouched
    assert groups["door-5"].get("data-type") == "front_door"
    texts = ["".join(t.itertext()) for t in root.iter(f"{SVG}text")]
    assert {"living", "bed", "bath"} <= set(texts)
    assert f"{56 * 50 * unit**2:.1f} m2" in texts
    assert any(re.fullmatch(r"[\d.]+ m", text) for text in texts)  # the scale bar


def test_names_are_escaped_everywhere(small_plan: Plan, tmp_path: Path) -> None:
    evil = "<script>\"&'</script>"
    nodes = (replace(small_plan.nodes[0], name=evil), *small_plan.nodes[1:])
    plan = replace(small_plan, nodes=nodes, name=evil)
    diagram = BubbleDiagram((RoomSpec(RoomType.LIVING, evil),), (), 0, evil)
    for svg in (plan_to_svg(plan), contact_sheet([plan], titles=[evil]), diagram_to_svg(diagram)):
        assert "<script" not in svg
        assert evil in "".join(ET.fromstring(svg).itertext())
    save_page(tmp_path / "page.html", [(evil, evil, [plan], diagram)], title=evil)
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_options_change_the_drawing(small_plan: Plan) -> None:
    bare = plan_to_svg(small_plan, labels=False, footer=False, walls=False)
    assert "<text" not in bare
    assert 'id="walls"' not in bare
    assert all(set(palette) == set(RoomType) for palette in PALETTES.values())
    assert COLOURS[RoomType.LIVING] in plan_to_svg(small_plan, palette="house_diffusion")
    assert ET.fromstring(plan_to_svg(small_plan, size=300)).get("width") == "300"
    assert 'id="left-room-0"' in plan_to_svg(small_plan, id_prefix="left-")
    with pytest.raises(FloorplanError, match=r"palette: expected one of .*found 'neon'"):
        plan_to_svg(small_plan, palette="neon")


def test_picture_shows_rooms_walls_and_openings(small_plan: Plan) -> None:
    svg = plan_to_svg(small_plan, labels=False, footer=False, view=(0, 0, 256, 256), size=1024)
    pixels = _pixels(svg)

    def at(x: float, y: float) -> str:
        return "#" + "".join(f"{value:02x}" for value in pixels[int(4 * y), int(4 * x)])

    soft = PALETTES["soft"]
    assert at(150, 80) == soft[RoomType.LIVING]
    assert at(45, 85) == soft[RoomType.BEDROOM]
    assert at(98, 120) == "#383b42"  # the wall between living room and bathroom
    assert at(98, 57) == "#ffffff"  # the door's opening in the wall
    assert at(38, 60) == "#383b42"  # the outer wall
    assert at(10, 10) == "#ffffff"


def test_original_style_is_256_pixels_of_flat_colour(small_plan: Plan) -> None:
    pixels = _pixels(plan_to_original_svg(small_plan))
    assert pixels.shape == (256, 256, 3)
    assert pixels[80, 150].tolist() == [0xEE, 0x4D, 0x4D]
    assert pixels[57, 98].tolist() == [0xD3, 0xA2, 0xC7]
    assert pixels[5, 5].tolist() == [255, 255, 255]
    assert pixels[60, 40].max() < 200  # the outline


def test_original_style_scales_to_its_frame(small_plan: Plan) -> None:
    double = replace(small_plan, nodes=tuple(replace(n, polygon=2 * n.polygon) for n in small_plan.nodes), frame=512)
    assert plan_to_original_svg(double) == plan_to_original_svg(small_plan)


def test_text_is_drawn_without_system_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    import resvg_py

    render = resvg_py.svg_to_bytes
    monkeypatch.setattr(resvg_py, "svg_to_bytes", lambda **options: render(**options, skip_system_fonts=True))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="40"><rect width="200" height="40" fill="#fff"/>'
        '<text x="5" y="28" font-size="20" font-family="Helvetica, sans-serif">Living room</text></svg>'
    )
    assert (_pixels(svg) < 100).any()
    # And without a scalable font in Pillow the picture still comes, textless.
    monkeypatch.setattr(ImageFont, "load_default", lambda size=None: object())
    assert (_pixels(svg) == 255).all()


def test_labels_stay_inside_their_rooms() -> None:
    for seed in range(6):
        plan = generate_plan(seed)
        root = ET.fromstring(plan_to_svg(plan))
        labels = root.find(f".//{SVG}g[@id='labels']")
        assert labels is not None
        rooms = [shapely.Polygon(node.polygon) for node in plan.rooms]
        for text in labels.iter(f"{SVG}text"):
            x, y, size = (float(text.get(key, "nan")) for key in ("x", "y", "font-size"))
            half = text_width("".join(text.itertext()), size) / 2
            upright = shapely.box(x - 0.2 * size, y - half, x + 0.2 * size, y + half)
            level = shapely.box(x - half, y - 0.7 * size, x + half, y)
            assert any(room.contains(level) or room.contains(upright) for room in rooms), (
                seed,
                "".join(text.itertext()),
            )


def test_label_that_cannot_fit_is_left_out() -> None:
    args = {"fill": "#ffffff", "side": 200.0, "stroke": 1.0}
    empty = shapely.Polygon()
    assert "Storage" in place_label(shapely.box(0, 0, 50, 30), empty, "Storage", 3.0, **args)
    assert "rotate(-90" in place_label(shapely.box(0, 0, 12, 50), empty, "Storage", 3.0, **args)
    assert place_label(shapely.box(0, 0, 3, 3), empty, "Storage", 3.0, **args) == ""
    assert place_label(empty, empty, "Storage", 3.0, **args) == ""
    # Two words break over two lines where one line is too wide.
    assert place_label(shapely.box(0, 0, 24, 24), empty, "Guest bathroom", 3.0, **args).count("<text") == 3


def test_door_swings_into_a_room_with_space() -> None:
    left, right = shapely.box(0, 0, 46, 60), shapely.box(50, 0, 100, 60)
    door = _rectangle(46, 20, 50, 34)
    svg, swept = door_symbol(door, [left, right], wall=4, stroke=1, widest=20)
    assert " A14,14" in svg
    assert swept.area == pytest.approx(np.pi * 14**2 / 4, rel=0.02)
    assert left.buffer(1.01).contains(swept)  # the smaller room
    _, swept = door_symbol(door, [shapely.box(40, 0, 46, 60), right], wall=4, stroke=1, widest=20)
    assert right.buffer(1.01).contains(swept)  # six units are too few for a leaf of 14
    sliding, swept = door_symbol(door, [left, right], wall=4, stroke=1, widest=10)
    assert swept.is_empty
    assert sliding.count("<polyline") == 2


def test_broken_doors_are_drawn_as_they_are() -> None:
    room = [shapely.box(0, 0, 46, 60)]
    for polygon in (np.array([[46, 20], [60, 50], [50, 20.0]]), np.full((4, 2), 46.0)):
        svg, swept = door_symbol(polygon, room, wall=4, stroke=1, widest=20)
        assert svg.count("<polygon") == 1
        assert swept.is_empty


@pytest.mark.parametrize("scale", [3.0, 60.0])
def test_any_polygons_can_be_drawn(small_plan: Plan, scale: float) -> None:
    for seed in range(5):
        for walls in (True, False):
            svg = plan_to_svg(_noisy(small_plan, scale, seed), walls=walls)
            assert len(list(ET.fromstring(svg).iter(f"{SVG}polygon"))) >= len(small_plan.nodes)
            svg_to_png(svg, 64)
    point = replace(small_plan, nodes=tuple(replace(n, polygon=0 * n.polygon + 7) for n in small_plan.nodes))
    assert svg_to_png(plan_to_svg(point), 64)


def test_formatting_and_shortening() -> None:
    assert [fmt(value) for value in (1.0, -0.001, 2.345, 100.0, 0.5)] == ["1", "0", "2.35", "100", "0.5"]
    assert shortened("short", 10, 200) == "short"
    long = shortened("a very long name of a plan.json", 10, 60)
    assert "..." in long
    assert long.endswith("n")
    assert text_width(long, 10) <= 60
    endless = shortened("name " * 20_000, 10, 60)  # in the time of a few measurements, not of one per letter
    assert text_width(endless, 10) <= 60 < text_width(endless + "na", 10)
    assert shortened("name", 10, 0) == "..."


def test_contact_sheet_lays_out_a_grid(small_plan: Plan, tmp_path: Path) -> None:
    root = ET.fromstring(sheet := contact_sheet([small_plan] * 5, columns=3, titles=list("abcde"), cell=100))
    cells = [(float(s.get("x", "nan")), float(s.get("y", "nan"))) for s in root.findall(f"{SVG}svg")]
    assert len(cells) == 5
    assert len({x for x, _ in cells}) == 3
    assert len({y for _, y in cells}) == 2
    ids = [g.get("id") for g in root.iter(f"{SVG}g") if g.get("id")]
    assert len(ids) == len(set(ids))
    assert float(root.get("width", "nan")) == pytest.approx(3 * 105 + 5)
    save_picture(sheet, tmp_path / "sheet.png", width=200)
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width == 200
    save_picture(sheet, tmp_path / "sheet.svg")
    assert (tmp_path / "sheet.svg").read_text() == sheet
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sheet.png", "sheet.svg"]
    with pytest.raises(FloorplanError, match=r"use \.svg or \.png"):
        save_picture(sheet, tmp_path / "sheet.jpg")


def test_contact_sheet_at_one_scale(small_plan: Plan) -> None:
    small = replace(small_plan, nodes=tuple(replace(n, polygon=0.5 * n.polygon) for n in small_plan.nodes))
    root = ET.fromstring(contact_sheet([small_plan, small], same_scale=True))
    widths = {s.get("viewBox", "").split()[2] for s in root.findall(f"{SVG}svg")}
    assert len(widths) == 1


def test_contact_sheet_refuses_nonsense(small_plan: Plan) -> None:
    with pytest.raises(FloorplanError, match="plans: no plans"):
        contact_sheet([])
    with pytest.raises(FloorplanError, match="titles: expected one title per plan, found 1 for 2"):
        contact_sheet([small_plan] * 2, titles=["one"])
    with pytest.raises(FloorplanError, match="columns: expected at least 1"):
        contact_sheet([small_plan], columns=0)


def test_gif_holds_its_last_frame(small_plan: Plan, tmp_path: Path) -> None:
    frames = [_noisy(small_plan, scale) for scale in (40, 10, 0)]
    save_animation(frames, tmp_path / "steps.gif", fps=10, size=96)
    with Image.open(tmp_path / "steps.gif") as gif:
        assert gif.size == (96, 96)
        assert gif.n_frames == 3
        durations = []
        for k in range(3):
            gif.seek(k)
            durations.append(gif.info["duration"])
    assert durations == [100, 100, 1500]
    save_animation([small_plan] * 13, tmp_path / "steps.gif", fps=12, size=32, hold=0.5)
    with Image.open(tmp_path / "steps.gif") as gif:  # equal frames are one
        lasting = [(gif.seek(k), gif.info["duration"])[1] for k in range(gif.n_frames)]
    assert sum(lasting) == 1000 + 500
    assert [p.name for p in tmp_path.iterdir()] == ["steps.gif"]


def test_mp4_has_every_frame(small_plan: Plan, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="MP4 needs PyAV")
    frames = [_noisy(small_plan, scale) for scale in (40, 10, 0)]
    save_animation(frames, tmp_path / "steps.mp4", fps=10, size=96, hold=0.5)
    with av.open(str(tmp_path / "steps.mp4")) as container:
        video = container.streams.video[0]
        assert (video.width, video.height) == (96, 96)
        assert float(video.average_rate) == 10
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]
    assert len(decoded) == 3 + 5
    assert np.abs(decoded[0].astype(int) - decoded[-1]).mean() > 5


def test_animation_refuses_nonsense(small_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FloorplanError, match=r"a\.avi: cannot write \.avi; use \.gif or \.mp4"):
        save_animation([small_plan], tmp_path / "a.avi")
    with pytest.raises(FloorplanError, match="frames: no frames"):
        save_animation([], tmp_path / "a.gif")
    with pytest.raises(FloorplanError, match="fps: expected a positive number"):
        save_animation([small_plan], tmp_path / "a.gif", fps=0)
    with pytest.raises(FloorplanError, match="size: expected an even number"):
        save_animation([small_plan], tmp_path / "a.gif", size=95)
    original = builtins.__import__

    def without_av(name: str, *args: object, **kwargs: object) -> object:
        if name == "av":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(ImportError, match=r"pip install 'trifold\[video\]'"):
        save_animation([small_plan], tmp_path / "a.mp4", size=32)
    assert list(tmp_path.iterdir()) == []


def test_bubbles_do_not_touch_and_layout_is_seeded() -> None:
    diagram = generate_plan(5).diagram()
    radii = np.linspace(0.3, 0.6, len(diagram.rooms))
    centre = diagram_layout(diagram, radii, seed=3)
    np.testing.assert_array_equal(centre, diagram_layout(diagram, radii, seed=3))
    distance = np.linalg.norm(centre[:, None] - centre[None], axis=-1) - radii[:, None] - radii[None]
    assert distance[~np.eye(len(radii), dtype=bool)].min() > 0


def test_diagram_shows_rooms_doors_and_entrance() -> None:
    plan = generate_plan(5)
    diagram = plan.diagram()
    root = ET.fromstring(diagram_to_svg(diagram))
    assert len(list(root.iter(f"{SVG}circle"))) == len(diagram.rooms)
    assert len(list(root.iter(f"{SVG}line"))) == len(diagram.doors) + 1  # and the arrow's shaft
    for count in (1, 6):
        crowd = BubbleDiagram(tuple(RoomSpec(RoomType.BEDROOM) for _ in range(count)), (), 0)
        assert diagram_to_svg(crowd).count("<circle") == count


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_one_file_without_links(small_plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    plans = [generate_plan(1), small_plan]
    save_page(path, [("First", "A brief.", plans, plans[0].diagram()), ("Second", "", plans, None)])
    tags = _Tags()
    tags.feed(path.read_text())
    assert tags.open == []
    kinds = [tag for tag, _ in tags.seen]
    assert kinds.count("section") == 2
    assert kinds.count("svg") == 5
    assert not {"script", "link", "img", "iframe"} & set(kinds)
    assert not any(key in ("href", "src") for _, attributes in tags.seen for key in attributes)
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("name", [" ", "_", "_ _"])
def test_a_name_without_words_gives_way_to_the_type(name: str, tmp_path: Path) -> None:
    diagram = BubbleDiagram((RoomSpec(RoomType.LIVING, name), RoomSpec(RoomType.STUDY)), ((0, 1),), 0)
    save_page(tmp_path / "page.html", [("One", "", [generate_plan(1)], diagram)])
    assert "Living room" in (tmp_path / "page.html").read_text()


def test_room_without_name_is_labelled_by_type() -> None:
    plan = Plan((Node(RoomType.LIVING, _rectangle(0, 0, 90, 90)), Node(RoomType.STUDY, _rectangle(94, 0, 150, 90))), ())
    texts = ["".join(t.itertext()) for t in ET.fromstring(plan_to_svg(plan)).iter(f"{SVG}text")]
    assert {"Living room", "Study"} <= set(texts)
