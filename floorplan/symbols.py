"""The signs of an architect's drawing: door swings, labels that fit, scale bars. All lengths in plan units."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from xml.sax.saxutils import escape

import numpy as np
import shapely
from PIL import ImageFont
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

FONT = "Aileron, 'Helvetica Neue', Helvetica, Arial, sans-serif"
LINE = "#383b42"
ACCENT = "#c8553d"
FLOOR = "#ffffff"


def fmt(value: float, digits: int = 2) -> str:
    """A coordinate with at most so many decimals (two are 0.7 mm at RPLAN's scale), without trailing zeros."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def points(polygon: np.ndarray | Sequence[np.ndarray]) -> str:
    """SVG's points list of a [K, 2] array."""
    return " ".join(f"{fmt(x)},{fmt(y)}" for x, y in np.asarray(polygon))


def square_metres(area: float, font_size: float, digits: int = 1) -> str:
    """`12.3 m` with a raised 2, as tspans: the raised character itself is missing from small fonts."""
    small = f'<tspan font-size="{fmt(0.66 * font_size)}" dy="{fmt(-0.36 * font_size)}">2</tspan>'
    return f"{area:.{digits}f} m{small}"


def text_width(text: str, font_size: float) -> float:
    """The advance width of a line of text, in the units of font_size."""
    return _advance(text) * font_size


@lru_cache(maxsize=1024)  # a label is tried in many sizes
def _advance(text: str) -> float:
    font = ImageFont.load_default(size=64)
    return font.getlength(text) / 64 if isinstance(font, ImageFont.FreeTypeFont) else 0.58 * len(text)


def shortened(text: str, font_size: float, width: float) -> str:
    """The text itself if it fits into `width`, else with its middle replaced by an ellipsis."""
    if text_width(text, font_size) <= width:
        return text

    def with_gap(kept: int) -> str:
        return f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"

    most = bisect_right(range(1, len(text)), width, key=lambda kept: text_width(with_gap(kept), font_size))
    return with_gap(most)


def contrast_colour(fill: str) -> str:
    """Black or white text, by the relative luminance of the ground (hex colour)."""
    red, green, blue = (int(fill[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "#26282d" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.22 else "#ffffff"


def largest_part(shape: BaseGeometry) -> Polygon:
    """The biggest polygon of a geometry; empty if there is none."""
    parts = [part for part in shapely.get_parts(shape) if isinstance(part, Polygon)]
    return max(parts, key=lambda part: part.area, default=Polygon())


def place_label(
    shape: BaseGeometry, taken: BaseGeometry, title: str, area: float, *, fill: str, side: float, stroke: float
) -> str:
    """Name over area, as large as fits into the room and as central as possible; upright text is tried last; else "".

    taken: floor to leave free (door swings), ignored where nothing fits otherwise. side: width of the drawing, which
    sets the font sizes (2.9 % of it down to 1.65 %).
    """
    room = largest_part(shape)
    if room.is_empty:
        return ""
    centre = np.asarray(shapely.maximum_inscribed_circle(room, tolerance=side / 500).coords[0])
    middle = np.asarray(room.centroid.coords[0])
    low_x, low_y, high_x, high_y = room.bounds
    grid = np.stack(np.meshgrid(np.linspace(low_x, high_x, 25), np.linspace(low_y, high_y, 25)), -1).reshape(-1, 2)
    spots = np.concatenate([middle[None], centre[None], grid[np.argsort(np.abs(grid - centre).sum(1))]])
    inner = room.buffer(-stroke)
    colour = contrast_colour(fill)
    words = title.split()
    broken = [" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])] if len(words) > 1 else []
    layouts = [lines for lines in ([title, None], [*broken, None], [title], broken) if any(lines)]
    for free in (inner.difference(taken), inner):
        shapely.prepare(free)
        for lines in layouts if free is inner else layouts[:2]:
            for upright in (False, True):
                for font in np.linspace(0.029, 0.0165, 6) * side:
                    shown = [f"{area:.1f} m2" if line is None else line for line in lines]
                    sizes = [0.86 * font if line is None else font for line in lines]
                    half = np.array([max(map(text_width, shown, sizes)) / 2 + 0.3 * font, 0.62 * font * len(lines)])
                    half = half[::-1] if upright else half
                    inside = np.flatnonzero(shapely.contains(free, shapely.box(*(spots - half).T, *(spots + half).T)))
                    if len(inside):
                        return _label(spots[inside[0]], lines, area, float(font), colour, upright)
    return ""


def _label(spot: np.ndarray, lines: Sequence[str | None], area: float, font: float, colour: str, upright: bool) -> str:
    x, y = spot
    turn = f' transform="rotate(-90 {fmt(x)} {fmt(y)})"' if upright else ""
    rows = []
    for k, line in enumerate(lines):
        baseline = y + (k - (len(lines) - 1) / 2) * 1.16 * font + 0.34 * font
        size, faint = (0.86 * font, ' fill-opacity="0.72"') if line is None else (font, "")
        body = square_metres(area, size) if line is None else escape(line)
        rows.append(f'<text x="{fmt(x)}" y="{fmt(baseline)}" font-size="{fmt(size)}"{faint}>{body}</text>')
    return f'<g fill="{colour}"{turn}>{"".join(rows)}</g>'


def door_symbol(
    polygon: np.ndarray, rooms: list[BaseGeometry], *, wall: float, stroke: float, widest: float, front: bool = False
) -> tuple[str, BaseGeometry]:
    """An opening through the wall, and the leaf with its arc inside whichever joined room has space for it.

    polygon: [K, 2], ideally a rectangle whose long side runs along the wall. rooms: the joined rooms (one for a front
    door, which also gets an arrow outside). Doors longer than `widest` slide: two panes, no swing.
    Returns the SVG and the floor that the leaf sweeps (empty if it has none), which labels should leave free.
    """
    box = shapely.minimum_rotated_rectangle(shapely.MultiPoint(polygon))
    # A door that is far from a rectangle is a fault of the plan: shown as it is, not as a tidy symbol.
    if not isinstance(box, Polygon) or shapely.make_valid(Polygon(polygon)).area < 0.75 * box.area:
        flat = f'<polygon points="{points(polygon)}" fill="{FLOOR}" stroke="{LINE}" stroke-width="{fmt(stroke / 2)}"/>'
        return flat, Polygon()
    corner = np.asarray(box.exterior.coords)[:4]
    sides = np.stack([corner[1] - corner[0], corner[2] - corner[1]])
    lengths = np.linalg.norm(sides, axis=1)
    long = int(lengths[1] > lengths[0])
    along, length, thick = sides[long] / lengths[long], float(lengths[long]), float(lengths[1 - long])
    normal = np.array([-along[1], along[0]])
    middle = corner.mean(0)

    reach = {1: thick / 2, -1: thick / 2}  # how far the opening goes on each side until it meets the room there
    swings: list[tuple[float, int, BaseGeometry]] = []
    for room in rooms:
        if room.is_empty:
            continue
        near = shapely.shortest_line(shapely.Point(middle), room)
        offset = np.asarray(near.coords[1]) - middle
        lean = float(offset @ normal) or float((np.asarray(room.centroid.coords[0]) - middle) @ normal)
        side = 1 if lean >= 0 else -1
        reach[side] = max(reach[side], min(float(abs(offset @ normal)), 2 * wall))
        swings.append((room.area, side, room))
    if front and swings:
        reach[-swings[0][1]] = max(reach[-swings[0][1]], wall - reach[swings[0][1]])
    slack = stroke / 2 + 0.02 * wall
    ends = [middle - along * length / 2, middle + along * length / 2]
    up, down = normal * (reach[1] + slack), -normal * (reach[-1] + slack)
    opening = np.array([ends[0] + up, ends[1] + up, ends[1] + down, ends[0] + down])
    pen = f'fill="none" stroke="{LINE}" stroke-width="{fmt(max(0.45 * stroke, 0.1 * wall))}"'
    out = [f'<polygon points="{points(opening)}" fill="{FLOOR}"/>']
    swept: BaseGeometry = Polygon()
    if length > widest:
        shift = normal * 0.14 * (reach[1] + reach[-1])
        centre = (ends[0] + ends[1] + normal * (reach[1] - reach[-1])) / 2
        for sign in (-1, 1):
            pane = np.array([centre + sign * shift + along * length * k for k in (-0.5 * sign, 0.06 * sign)])
            out.append(f'<polyline points="{points(pane)}" {pen}/>')
        swings_inside: list[tuple[float, int, BaseGeometry]] = []
    else:
        swings_inside = sorted(swings, key=lambda item: item[0])
    for _, side, room in swings_inside:
        roomy = room.buffer(stroke)
        out_of_wall = normal * side
        choices = []
        for hinge, latch in (ends, ends[::-1]):
            base, tip = hinge + out_of_wall * reach[side], latch + out_of_wall * reach[side]
            open_tip = base + out_of_wall * length
            angles = np.linspace(0, np.pi / 2, 7)[:, None]
            arc = base + length * (np.cos(angles) * (tip - base) / length + np.sin(angles) * out_of_wall)
            sector = Polygon([base, *arc])
            if roomy.contains(sector):
                # A leaf that opens against a nearby wall is where a person would hang it.
                choices.append((float(room.boundary.distance(shapely.Point(open_tip))), base, tip, open_tip, sector))
        if choices:
            _, base, tip, open_tip, swept = min(choices, key=lambda item: item[0])
            turn = np.cross(np.append(tip - base, 0), np.append(open_tip - base, 0))[2]
            sweep = int(turn > 0)
            radius = fmt(length)
            out.append(f'<path d="M{points([base])} L{points([open_tip])}" {pen}/>')
            out.append(
                f'<path d="M{points([open_tip])} A{radius},{radius} 0 0 {1 - sweep} {points([tip])}" {pen} '
                f'stroke-opacity="0.55"/>'
            )
            break
    if front and swings:
        outward = -normal * swings[0][1]
        point = middle + outward * (reach[-swings[0][1]] + 0.35 * wall)
        arrow = [point, point + outward * wall + along * 0.7 * wall, point + outward * wall - along * 0.7 * wall]
        out.append(f'<polygon points="{points(np.array(arrow))}" fill="{ACCENT}"/>')
    return "".join(out), swept


def scale_bar(x: float, y: float, width: float, height: float, metres_per_unit: float) -> str:
    """A bar of a round number of metres, about a quarter of the drawing, in the lower left corner of the window."""
    target = 0.26 * width * metres_per_unit
    metres = max((m for m in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if m <= target), default=target)
    length, left, base = metres / metres_per_unit, x + 0.035 * width, y + height - 0.032 * width
    thick, font = 0.008 * width, 0.022 * width
    parts = 5 if metres in (0.5, 5, 50, 500) else 4
    out = []
    for k in range(parts):
        fill = LINE if k % 2 == 0 else "#ffffff"
        out.append(
            f'<rect x="{fmt(left + k * length / parts)}" y="{fmt(base - thick)}" width="{fmt(length / parts)}" '
            f'height="{fmt(thick)}" fill="{fill}" stroke="{LINE}" stroke-width="{fmt(0.0016 * width)}"/>'
        )
    for where, text in ((0.0, "0"), (length, f"{metres:g} m")):
        out.append(
            f'<text x="{fmt(left + where)}" y="{fmt(base - 1.9 * thick)}" text-anchor="middle" '
            f'font-size="{fmt(font)}" fill="#4a4d55">{text}</text>'
        )
    return "".join(out)
