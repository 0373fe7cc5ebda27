"""Drawings: a plan as SVG (architect's style and the original evaluation's style) and SVG as PNG.

SVG keeps plan units: the viewBox is a window of the plan, so every coordinate in the file is a coordinate of the plan.
Self-crossing and overlapping polygons are drawn as they are; a picture never repairs a plan.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import resvg_py
import shapely
from PIL import ImageFont
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from .areas import node_shape, polygons_of
from .errors import FloorplanError
from .plan import Node, Plan
from .rooms import COLOURS, RoomType, is_door
from .symbols import FONT, LINE, door_symbol, fmt, place_label, points, scale_bar, square_metres

SOFT = {
    RoomType.LIVING: "#f6e7d2",
    RoomType.KITCHEN: "#f3cfc1",
    RoomType.BEDROOM: "#f7dfa0",
    RoomType.BATHROOM: "#cfe3ec",
    RoomType.BALCONY: "#d7ead0",
    RoomType.ENTRANCE: "#e6e0d8",
    RoomType.DINING: "#f4d3da",
    RoomType.STUDY: "#dcd6ee",
    RoomType.STORAGE: "#dedede",
    RoomType.UNKNOWN: "#eeeeee",
    RoomType.FRONT_DOOR: "#c8553d",
    RoomType.INTERIOR_DOOR: "#ffffff",
}
WIDEST_LEAF = 1.45  # metres; wider doors are drawn as sliding panes
PALETTES: dict[str, dict[RoomType, str]] = {"house_diffusion": dict(COLOURS), "soft": SOFT}

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

View = tuple[float, float, float, float]  # x, y, width, height in plan units


def geometry(node: Node) -> BaseGeometry:
    """The node's polygon as a valid shapely geometry: a self-crossing one becomes its even-odd area; spikes and flat
    polygons, which have none, are left out."""
    shape = node_shape(node)
    return shape if isinstance(shape, (Polygon, MultiPolygon)) else polygons_of(shape)


def plan_view(plans: list[Plan], margin: float = 0.09) -> View:
    """The smallest square window, in plan units, around all nodes of all plans, with a margin (share of the side)."""
    xy = np.concatenate([node.polygon for plan in plans for node in plan.nodes])
    low, high = xy.min(0), xy.max(0)
    side = float((high - low).max()) * (1 + 2 * margin) or 1.0
    x, y = (low + high) / 2 - side / 2
    return (float(x), float(y), side, side)


def wall_gap(plan: Plan, shapes: list[BaseGeometry]) -> float:
    """The typical distance between rooms that a door joins, in plan units: how thick the data's walls are."""
    gaps = [
        float(shapely.distance(shapes[a], shapes[b]))
        for a, b in plan.doors
        if b is not None and not shapes[a].is_empty and not shapes[b].is_empty
    ]
    limit = plan.frame * 10 / 256  # farther apart than this, rooms are not joined by a wall at all
    gaps = [gap for gap in gaps if gap <= limit]
    return float(np.median(gaps)) if gaps else 0.0


def wall_body(shapes: list[BaseGeometry], thickness: float) -> BaseGeometry:
    """All rooms grown by the wall's thickness, without the small pockets that remain where three rooms meet."""
    body = shapely.union_all([shape.buffer(thickness, join_style="mitre") for shape in shapes if not shape.is_empty])
    parts = []
    for part in shapely.get_parts(body):
        rings = [ring for ring in part.interiors if Polygon(ring).area > (4 * thickness) ** 2]
        parts.append(Polygon(part.exterior, rings))
    return shapely.union_all(parts)


def _path(shape: BaseGeometry) -> str:
    rings = []
    for part in shapely.get_parts(shape):
        if isinstance(part, Polygon):
            rings += [part.exterior, *part.interiors]
    return " ".join("M" + points(np.asarray(ring.coords)[:-1]) + "Z" for ring in rings)


def type_title(room_type: RoomType) -> str:
    """A room type in words."""
    return "Living room" if room_type == RoomType.LIVING else room_type.name.replace("_", " ").capitalize()


def drawable(text: str) -> str:
    """`text` without the characters that XML cannot hold, escaped or not."""
    return _NOT_XML.sub("", text)


def room_title(node: Node) -> str:
    """What a label says: the room's own name, or its type in words."""
    return drawable(node.name) or type_title(node.type)


def _group(plan: Plan, index: int, prefix: str, area: float | None = None) -> str:
    node = plan.nodes[index]
    kind = "door" if is_door(node.type) else "room"
    measure = "" if area is None else f' data-area-m2="{area:.2f}"'
    return (
        f'<g id="{prefix}{kind}-{index}" data-type="{node.type.name.lower()}" '
        f"data-name={quoteattr(drawable(node.name))}{measure}>"
        f"<title>{escape(room_title(node))}</title>"
    )


def plan_to_svg(
    plan: Plan,
    *,
    size: int = 512,
    labels: bool = True,
    palette: str = "soft",
    view: View | None = None,
    walls: bool = True,
    footer: bool = True,
    id_prefix: str = "",
) -> str:
    """The plan as a drawing: walls, coloured floors, doors with their swing, names with areas, a scale bar.

    size: side in pixels. palette: "house_diffusion" (the paper's colours) or "soft". view: window (x, y, width, height)
    in plan units, by default around the plan. walls=False leaves outlines only (for unfinished plans, where wall bodies
    would hide the rooms). id_prefix keeps ids apart when many drawings share one HTML page.
    Rooms and doors are groups `room-<i>` / `door-<i>` with data-type, data-name, data-area-m2. Names are escaped.
    """
    if palette not in PALETTES:
        raise FloorplanError(f"expected one of {sorted(PALETTES)}, found {palette!r}", field="palette")
    colours = PALETTES[palette]
    x, y, width, height = view or plan_view([plan])
    if footer and view is None:
        height += 0.07 * width
    shapes = [geometry(node) for node in plan.nodes]
    rooms = [i for i, node in enumerate(plan.nodes) if not is_door(node.type)]
    gap = wall_gap(plan, shapes)
    unit = plan.frame / 256
    stroke = max(1.3 * unit, 3.5 * unit - gap) if walls else 1.0 * unit
    outer = max(gap, 3.5 * unit)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{round(size * height / width)}" '
        f'viewBox="{fmt(x)} {fmt(y)} {fmt(width)} {fmt(height)}" font-family="{FONT}">',
        f"<title>{escape(drawable(plan.name) or 'floor plan')}</title>",
        f'<rect x="{fmt(x)}" y="{fmt(y)}" width="{fmt(width)}" height="{fmt(height)}" fill="#ffffff"/>',
    ]
    if walls and rooms:
        body = wall_body([shapes[i] for i in rooms], outer)
        out.append(f'<g id="{id_prefix}walls"><path d="{_path(body)}" fill="{LINE}" fill-rule="evenodd"/></g>')
    out.append(f'<g id="{id_prefix}rooms" stroke="{LINE}" stroke-width="{fmt(stroke)}" stroke-linejoin="miter">')
    for i in rooms:
        area = shapes[i].area * plan.metres_per_unit**2
        fill, alpha = colours[plan.nodes[i].type], "" if walls else ' fill-opacity="0.72"'
        shape = f'<polygon points="{points(plan.nodes[i].polygon)}" fill="{fill}"{alpha} fill-rule="evenodd"/>'
        out.append(f"{_group(plan, i, id_prefix, area)}{shape}</g>")
    out.append("</g>")
    out.append(f'<g id="{id_prefix}doors">')
    swept: list[BaseGeometry] = []
    for joined, i in zip(plan.doors, (i for i, node in enumerate(plan.nodes) if is_door(node.type)), strict=True):
        node = plan.nodes[i]
        neighbours = [shapes[k] for k in joined if k is not None]
        if walls:
            front = node.type == RoomType.FRONT_DOOR
            widest = WIDEST_LEAF / plan.metres_per_unit
            symbol, floor = door_symbol(node.polygon, neighbours, wall=outer, stroke=stroke, widest=widest, front=front)
            swept.append(floor)
        else:
            fill = colours[node.type]
            pen = f'fill="{fill}" fill-opacity="0.6" stroke="{LINE}" stroke-width="{fmt(stroke)}"'
            symbol = f'<polygon points="{points(node.polygon)}" {pen}/>'
        out.append(f"{_group(plan, i, id_prefix)}{symbol}</g>")
    out.append("</g>")
    if labels:
        out.append(f'<g id="{id_prefix}labels" text-anchor="middle">')
        taken = shapely.union_all(swept)
        for i in rooms:
            area = shapes[i].area * plan.metres_per_unit**2
            title, fill = room_title(plan.nodes[i]), colours[plan.nodes[i].type]
            out.append(place_label(shapes[i], taken, title, area, fill=fill, side=width, stroke=stroke))
        out.append("</g>")
    if footer:
        total = sum(shapes[i].area for i in rooms) * plan.metres_per_unit**2
        out.append(f'<g id="{id_prefix}scale">{scale_bar(x, y, width, height, plan.metres_per_unit)}')
        out.append(
            f'<text x="{fmt(x + 0.965 * width)}" y="{fmt(y + height - 0.032 * width)}" text-anchor="end" '
            f'font-size="{fmt(0.024 * width)}" fill="#4a4d55">{square_metres(total, 0.024 * width)}</text></g>'
        )
    out.append("</svg>")
    return "\n".join(line for line in out if line) + "\n"


def plan_to_original_svg(plan: Plan) -> str:
    """HouseDiffusion's evaluation picture: 256 x 256 on white, type colours, 1-px black outline, rooms then doors."""
    scale = 256.0 / plan.frame
    order = sorted(range(len(plan.nodes)), key=lambda i: is_door(plan.nodes[i].type))
    shapes = [
        f'<polygon points="{points(plan.nodes[i].polygon * scale)}" fill="{COLOURS[plan.nodes[i].type]}" '
        f'stroke="black" stroke-width="1"/>'
        for i in order
    ]
    body = "\n".join(shapes)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="256" height="256" viewBox="0 0 256 256">\n'
        f'<rect width="256" height="256" fill="white"/>\n{body}\n</svg>\n'
    )


def svg_to_png(svg: str, width: int | None = None) -> bytes:
    """SVG text to PNG bytes; `width` in pixels scales the picture, its own size by default.

    Latin text is set in Aileron, the font inside Pillow, so pictures are the same on machines without any fonts.
    Other scripts use the system's fonts, and show empty boxes where it has none.
    """
    font = ImageFont.load_default(size=16)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        if isinstance(font, ImageFont.FreeTypeFont):  # a Pillow built without FreeType has bitmap fonts only
            files = [str(Path(folder) / "aileron.ttf")]
            Path(files[0]).write_bytes(font.font_bytes)
        return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=width, font_files=files, sans_serif_family="Aileron"))
