"""DXF drawings of plans: metres, y up, layers an architect expects. Needs ezdxf (`pip install 'trifold[dxf]'`)."""

from __future__ import annotations

import importlib
import io
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from shapely.geometry import LineString

from .building import Building, DoorShape, RoomShape, drawn_building
from .door_leaves import sliding_panes
from .files import write_whole
from .finished import FinishedPlan
from .plan import Plan
from .symbols import text_width

VERSION = "R2010"
APP = "TRIFOLD"  # under this name entities carry their numbers as extended data
STYLE = "PLAN"
# name: (colour by AutoCAD's index, line weight in 1/100 mm); 7 is black on white and white on black
LAYERS: dict[str, tuple[int, int]] = {
    "WALLS": (7, 50),
    "DOORS": (30, 25),
    "ROOMS": (150, 13),
    "LABELS": (7, 18),
    "DIMENSIONS": (8, 13),
}
FILL = 253  # light grey for the bodies of walls
TEXT = (0.1, 0.3)  # metres: the smallest and the largest lettering
ENOUGH = 0.98  # lines at least this share of the longest one show a room's width as well, and may stand nearer the wall


def dxf_document(plan: Plan | FinishedPlan) -> Any:
    """The drawing as an `ezdxf.document.Drawing`, R2010, in metres, the origin in the frame's lower left corner, y up.

    WALLS: the joined walls with openings cut out, closed polylines over solid hatches. DOORS: each opening's rectangle,
    its leaf and swing arc (two panes if it slides), grouped as DOOR_0, DOOR_1, ... ROOMS: closed outlines to the wall
    centre lines. LABELS: name and floor area between the walls. DIMENSIONS: overall, and two clear widths per room.
    Outlines of rooms and doors carry their number, type and rooms as extended data of `TRIFOLD`.
    A plain `Plan` has no walls and no leaves: outlines of rooms and doors are drawn as they are. Names lose control
    characters (`building.clean_text`). Raises `ImportError` without ezdxf.
    """
    try:
        ezdxf = importlib.import_module("ezdxf")
    except ModuleNotFoundError as error:
        raise ImportError("DXF needs ezdxf: pip install 'trifold[dxf]'") from error
    building = drawn_building(plan).in_metres()
    x0, y0, x1, y1 = building.bounds
    side = max(x1 - x0, y1 - y0) or 1.0
    lettering = min(float(np.clip(0.015 * side, *TEXT)), 0.04 * side)

    document = ezdxf.new(VERSION, units=ezdxf.units.M)
    document.header["$LUNITS"], document.header["$LUPREC"] = 2, 3
    document.appids.add(APP)
    for name, (colour, weight) in LAYERS.items():
        document.layers.add(name, color=colour, lineweight=weight)
    document.styles.add(STYLE, font="arial.ttf")
    _dimension_style(document, lettering)
    space = document.modelspace()
    _draw_walls(space, building)
    for room in building.rooms:
        _draw_room(space, room, lettering)
    for door in building.doors:
        _draw_door(document, space, door)
    _dimension(space, (x0, y0), (x1, y0), (x0, y0 - 6 * lettering), 0.0)
    _dimension(space, (x0, y0), (x0, y1), (x0 - 6 * lettering, y0), 90.0)
    document.set_modelspace_vport(height=1.3 * side, center=((x0 + x1) / 2, (y0 + y1) / 2))
    return document


def dxf_text(plan: Plan | FinishedPlan) -> str:
    """`dxf_document` as the text of a file (UTF-8 from R2007 on)."""
    stream = io.StringIO()
    dxf_document(plan).write(stream)
    return stream.getvalue()


def save_dxf(plan: Plan | FinishedPlan, path: str | os.PathLike[str]) -> None:
    """Write `dxf_document`; the file appears whole or not at all. A plain `Plan` is drawn without walls.

    Raises `FloorplanError` when it cannot be written and `ImportError` without ezdxf.
    """
    write_whole(path, dxf_text(plan))


def escape_mtext(text: str) -> str:
    """A line of text for MTEXT, in which `\\`, `{`, `}`, `^`, `%%x` and `\\U+xxxx` mean something else."""
    escaped = text.replace("\\", "\\\\").replace("{", "\\{").replace("}", "\\}").replace("^", "^ ")
    # Readers look for %%x and \U+xxxx before anything else; an empty group breaks the spell.
    escaped = re.sub(r"%(?=%)", "%{}", escaped)
    return re.sub(r"\\\\(?=[UuMm]\+)", r"\\\\{}", escaped)


def _dimension_style(document: Any, lettering: float) -> None:
    style = document.dimstyles.add(STYLE)
    settings = {
        "dimtxsty": STYLE,
        "dimtxt": lettering,
        "dimtsz": lettering / 2,  # oblique ticks instead of arrows
        "dimexo": lettering,
        "dimexe": lettering / 2,
        "dimgap": lettering / 3,
        "dimtad": 1,
        "dimtih": 0,
        "dimtoh": 0,
        "dimdec": 2,
        "dimzin": 0,
        "dimlunit": 2,
        "dimdsep": ord("."),
        **{name: 256 for name in ("dimclrd", "dimclre", "dimclrt")},  # the layer's colour
    }
    for name, value in settings.items():
        style.set_dxf_attrib(name, value)


def _draw_walls(space: Any, building: Building) -> None:
    for part in building.mass.geoms:
        rings = [shapely.get_coordinates(ring)[:-1] for ring in (part.exterior, *part.interiors)]
        hatch = space.add_hatch(color=FILL, dxfattribs={"layer": "WALLS"})
        for k, ring in enumerate(rings):
            # Bits of DXF's boundary path type: 1 for the outer ring, 16 for the rings next inside.
            hatch.paths.add_polyline_path(ring.tolist(), is_closed=True, flags=1 if k == 0 else 16)
        for ring in rings:
            _closed(space, "WALLS", ring)


def _draw_room(space: Any, room: RoomShape, lettering: float) -> None:
    outline = _closed(space, "ROOMS", room.outline)
    outline.set_xdata(APP, [(1070, room.index), (1000, room.type.name), (1040, room.floor_area)])
    spot = room.label_point()
    chord = _chord(room, spot, np.array([1.0, 0.0]))
    free = float(np.hypot(*(chord[1] - chord[0]))) if chord is not None else 0.0
    area = f"{room.floor_area:.1f} m²"
    widest = max(text_width(room.title, 1.0), text_width(area, 1.0))
    height = float(np.clip(0.9 * free / widest, 0.4 * lettering, 1.1 * lettering))
    label = space.add_mtext(
        f"{escape_mtext(room.title)}\\P{area}",
        dxfattribs={"layer": "LABELS", "style": STYLE, "char_height": height, "attachment_point": 5},
    )
    label.dxf.width = max(free, 4 * height)
    label.set_location(tuple(spot))
    label.set_xdata(APP, [(1070, room.index)])
    half_label = height * np.array([0.6 * widest, 1.5])  # readers set the text in fonts of their own
    for direction in _axes(room):
        measured = _clear_width(room, spot, direction, half_label, lettering)
        if measured is not None:
            start, end = measured
            angle = math.degrees(math.atan2(*(end - start)[::-1]))
            _dimension(space, start, end, start, angle, extensions=False)


def _draw_door(document: Any, space: Any, door: DoorShape) -> None:
    outline = _closed(space, "DOORS", door.outline)
    joined = [(1071, -1 if room is None else room) for room in door.rooms]
    outline.set_xdata(APP, [(1070, door.index), (1000, door.type.name), *joined, (1040, door.width)])
    parts = [outline]
    if door.leaf is not None:
        leaf = door.leaf
        first, last = (leaf.closed, leaf.opened) if leaf.turns_positive else (leaf.opened, leaf.closed)
        angles = [math.degrees(math.atan2(*(end - leaf.hinge)[::-1])) for end in (first, last)]
        parts.append(space.add_line(tuple(leaf.hinge), tuple(leaf.opened), {"layer": "DOORS"}))
        parts.append(space.add_arc(tuple(leaf.hinge), leaf.width, *angles, dxfattribs={"layer": "DOORS"}))
    elif door.wall is not None:
        parts += [space.add_line(tuple(a), tuple(b), {"layer": "DOORS"}) for a, b in sliding_panes(door.outline)]
    document.groups.new(f"DOOR_{door.index}").extend(parts)


def _closed(space: Any, layer: str, ring: np.ndarray) -> Any:
    return space.add_lwpolyline(ring.tolist(), close=True, dxfattribs={"layer": layer})


def _dimension(
    space: Any,
    start: Sequence[float] | np.ndarray,
    end: Sequence[float] | np.ndarray,
    base: Sequence[float] | np.ndarray,
    angle: float,
    *,
    extensions: bool = True,
) -> None:
    dimension = space.add_linear_dim(
        base=tuple(base),
        p1=tuple(start),
        p2=tuple(end),
        angle=angle,
        dimstyle=STYLE,
        override={} if extensions else {"dimse1": 1, "dimse2": 1},
        dxfattribs={"layer": "DIMENSIONS"},
    )
    dimension.render()


def _axes(room: RoomShape) -> list[np.ndarray]:
    """The directions a room is measured in: the one most of its outline runs along, and across it; to the right and
    up, so that figures stand upright."""
    sides = np.roll(room.outline, -1, axis=0) - room.outline
    lengths = np.hypot(*sides.T)
    angles = np.mod(np.arctan2(sides[:, 1], sides[:, 0]), np.pi / 2)
    share = [lengths[np.abs(np.sin(2 * (angles - angle))) < 0.02].sum() for angle in angles]
    turn = float(angles[int(np.argmax(np.round(share, 9)))])
    turn = turn - np.pi / 2 if turn > np.pi / 4 + 1e-9 else turn
    along = np.array([math.cos(turn), math.sin(turn)])
    return [along, np.array([-along[1], along[0]])]


def _clear_width(
    room: RoomShape, label: np.ndarray, direction: np.ndarray, half_label: np.ndarray, lettering: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Wall face to wall face in `direction`, (from, to) [2]: where the room is widest among the lines that leave space
    for their figure and pass the label, which reaches `half_label` [2] around its middle; None without floor."""
    across = np.array([-direction[1], direction[0]])
    corners = shapely.get_coordinates(room.floor)
    if not len(corners):
        return None
    heights = (corners - label) @ across
    # The figure stands on its line, one lettering high, with a gap below and above.
    low, high = float(heights.min()) + lettering, float(heights.max()) - 2 * lettering
    if low > high:
        low = high = (float(heights.min()) + float(heights.max())) / 2
    reach = float(half_label @ np.abs(across))
    shapely.prepare(room.floor)
    found: list[tuple[bool, float, float, tuple[np.ndarray, np.ndarray]]] = []
    for height in np.linspace(low, high, 41):
        chord = _chord(room, label + height * across, direction)
        if chord is not None:
            middle = chord[0] / 2 + chord[1] / 2
            figure = np.array([middle - 1.2 * lettering * direction, middle + 1.2 * lettering * direction])
            block = shapely.Polygon([*figure, *(figure[::-1] + 1.5 * lettering * across)])
            passes = (height > reach or height + 1.5 * lettering < -reach) and room.floor.contains(block)
            found.append((bool(passes), float(np.hypot(*(chord[1] - chord[0]))), abs(float(height)), chord))
    passing = [item for item in found if item[0]] or found
    if not passing:
        return None
    longest = max(length for _, length, _, _ in passing)
    near = [item for item in passing if item[1] >= ENOUGH * longest]
    return max(near, key=lambda item: round(item[2], 6))[3]


def _chord(room: RoomShape, through: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The longest stretch of floor on the line through a point, its ends in order of `direction`."""
    reach = 2 * np.hypot(*np.ptp(room.outline, axis=0)) + np.hypot(*(through - room.outline[0]))
    line = LineString([through - reach * direction, through + reach * direction])
    shared = shapely.get_parts(line.intersection(room.floor))
    parts = [part for part in shared if isinstance(part, LineString) and part.length > 0]
    if not parts:
        return None
    ends = shapely.get_coordinates(max(parts, key=lambda part: part.length))[[0, -1]]
    first, last = ends if (ends[1] - ends[0]) @ direction > 0 else ends[::-1]
    return first, last
