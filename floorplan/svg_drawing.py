"""SVG drawings of finished plans: rooms as named groups with their areas, joined walls, doors with their swing.

Coordinates are the plan's own (plan units, y down), so the file can be read back exactly; `data-metres-per-unit` of the
root says how long a unit is.
"""

from __future__ import annotations

import os
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import shapely
from shapely.geometry import MultiPolygon

from .building import Building, DoorShape, RoomShape, drawn_building
from .door_leaves import Leaf, sliding_panes
from .errors import FloorplanError
from .files import write_whole
from .finished import FinishedPlan
from .plan import Plan
from .render import PALETTES
from .symbols import FONT, LINE, fmt, place_label, scale_bar, square_metres

DIGITS = 6  # decimals of a coordinate; finer than a micrometre for any plan of rooms
MARGIN = 0.06  # of the longer side
Box = tuple[float, float, float, float]  # x, y, width, height


def svg_text(plan: Plan | FinishedPlan, *, size: int = 1024, palette: str = "soft", labels: bool = True) -> str:
    """The drawing as text. size: pixels of the longer side. palette: `soft` or `house_diffusion`.

    Groups: `rooms` holds one group `room-<i>` per room (`data-room` its name, or its type in words; `data-type`;
    `data-area` m2 of floor between the walls; `data-outline-area` m2 to the wall centre lines) with the outline to the
    centre lines as a path; `walls` holds the joined walls, openings cut out; `doors` one group `door-<d>` per door
    (`data-type`; `data-rooms`; `data-width` in m) with the opening's outline, leaf and arc; `labels`; `scale`.
    A plain `Plan` has no walls and no leaves: room and door outlines are drawn as they are.
    Names are escaped; control characters are dropped from them (`building.clean_text`).
    """
    if palette not in PALETTES:
        raise FloorplanError(f"expected one of {sorted(PALETTES)}, found {palette!r}", field="palette")
    building = drawn_building(plan)
    box = _window(building)
    x, y, width, height = box
    longest = max(width, height)
    pen = 0.0016 * longest
    scale = size / longest
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(1, round(width * scale))}" '
        f'height="{max(1, round(height * scale))}" viewBox="{fmt(x)} {fmt(y)} {fmt(width)} {fmt(height)}" '
        f'font-family="{FONT}" data-metres-per-unit="{building.metres!r}">',
        f"<title>{escape(building.name or 'floor plan')}</title>",
        f'<rect x="{fmt(x)}" y="{fmt(y)}" width="{fmt(width)}" height="{fmt(height)}" fill="#ffffff"/>',
        f'<g id="rooms" stroke="{LINE}" stroke-width="{fmt(pen, DIGITS)}" stroke-linejoin="round" fill-rule="evenodd">',
        *(_room_group(room, PALETTES[palette][room.type]) for room in building.rooms),
        "</g>",
    ]
    if building.walls:
        out.append(f'<g id="walls"><path d="{path_data(building.mass)}" fill="{LINE}" fill-rule="evenodd"/></g>')
    out.append(f'<g id="doors" fill="none" stroke="{LINE}" stroke-width="{fmt(pen, DIGITS)}">')
    out += [_door_group(door, building.metres) for door in building.doors]
    out.append("</g>")
    if labels:
        out.append('<g id="labels" text-anchor="middle">')
        for room in building.rooms:
            fill = PALETTES[palette][room.type]
            leaves = [door.leaf for door in building.doors if door.leaf is not None and door.leaf.into == room.index]
            taken = shapely.union_all([leaf.sector() for leaf in leaves])
            out.append(place_label(room.floor, taken, room.title, room.floor_area, fill=fill, side=longest, stroke=pen))
        out.append("</g>")
    out += [*_footer(building, box), "</svg>"]
    return "\n".join(line for line in out if line) + "\n"


def save_svg(
    plan: Plan | FinishedPlan,
    path: str | os.PathLike[str],
    *,
    size: int = 1024,
    palette: str = "soft",
    labels: bool = True,
) -> None:
    """Write `svg_text`; the file appears whole or not at all. A plain `Plan` is drawn without walls.

    Raises `FloorplanError` for an unknown palette or a path that cannot be written.
    """
    write_whole(path, svg_text(plan, size=size, palette=palette, labels=labels))


def path_data(shape: MultiPolygon | np.ndarray) -> str:
    """SVG path data: one closed subpath per ring of a shape, or of one outline [K, 2]."""
    if isinstance(shape, MultiPolygon):
        rings = [ring for part in shape.geoms for ring in (part.exterior, *part.interiors)]
        loops = [shapely.get_coordinates(ring)[:-1] for ring in rings]
    else:
        loops = [shape]
    return " ".join("M" + " L".join(_pair(point) for point in loop) + " Z" for loop in loops)


def _pair(point: np.ndarray) -> str:
    return f"{fmt(point[0], DIGITS)},{fmt(point[1], DIGITS)}"


def _room_group(room: RoomShape, fill: str) -> str:
    return (
        f'<g id="room-{room.index}" data-room={quoteattr(room.title)} data-type="{room.type.name.lower()}" '
        f'data-area="{room.floor_area:.4f}" data-outline-area="{room.area:.4f}">'
        f'<title>{escape(room.title)}</title><path d="{path_data(room.outline)}" fill="{fill}"/></g>'
    )


def _door_group(door: DoorShape, metres: float) -> str:
    joined = " ".join("outside" if room is None else str(room) for room in door.rooms)
    marks = [f'<path class="opening" d="{path_data(door.outline)}" fill="#ffffff"/>']
    if door.leaf is not None:
        marks += _leaf_paths(door.leaf)
    elif door.wall is not None:
        marks += [f'<path class="pane" d="M{_pair(a)} L{_pair(b)}"/>' for a, b in sliding_panes(door.outline)]
    return (
        f'<g id="door-{door.index}" data-type="{door.type.name.lower()}" data-rooms="{joined}" '
        f'data-width="{door.width * metres:.4f}">{"".join(marks)}</g>'
    )


def _leaf_paths(leaf: Leaf) -> list[str]:
    radius, sweep = fmt(leaf.width, DIGITS), int(leaf.turns_positive)
    return [
        f'<path class="leaf" d="M{_pair(leaf.hinge)} L{_pair(leaf.opened)}"/>',
        f'<path class="swing" d="M{_pair(leaf.closed)} A{radius},{radius} 0 0 {sweep} {_pair(leaf.opened)}" '
        f'stroke-opacity="0.55"/>',
    ]


def _window(building: Building) -> Box:
    """The window of the plan that is drawn, with a strip below for the scale."""
    x0, y0, x1, y1 = building.bounds
    longest = max(x1 - x0, y1 - y0) or 1.0
    edge = MARGIN * longest
    return x0 - edge, y0 - edge, x1 - x0 + 2 * edge, y1 - y0 + 2 * edge + 0.05 * longest


def _footer(building: Building, box: Box) -> list[str]:
    x, y, width, height = box
    font = 0.02 * max(width, height)
    total = sum(room.floor_area for room in building.rooms)
    return [
        f'<g id="scale">{scale_bar(x, y, width, height, building.metres)}',
        f'<text x="{fmt(x + 0.965 * width)}" y="{fmt(y + height - 0.032 * width)}" text-anchor="end" '
        f'font-size="{fmt(font)}" fill="#4a4d55">{square_metres(total, font)}</text></g>',
    ]
