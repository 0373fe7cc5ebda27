"""Mugs and cups: real cavities, many handles, sometimes a saucer."""

from __future__ import annotations

import numpy as np

from .curves import bezier, rectangle, rounded_path, spline, superellipse
from .draw import Draw
from .parts import Part, revolve, tube
from .solid import joined

STYLES = {"straight": 0.30, "tapered": 0.2, "barrel": 0.15, "tulip": 0.15, "cup": 0.12, "stein": 0.08}
HANDLES = {"C": 0.35, "D": 0.25, "ear": 0.25, "square": 0.15}


def build_mug(draw: Draw) -> Part:
    """A mug on y = 0 with its handle towards +x, metres."""
    style = draw.choice("style", STYLES)
    tall = {"cup": (0.05, 0.068), "stein": (0.13, 0.17)}.get(style, (0.08, 0.115))
    wide = {"cup": (0.04, 0.052), "stein": (0.042, 0.052)}.get(style, (0.036, 0.048))
    height, radius = draw.between("height", *tall), draw.between("radius", *wide)
    wall = draw.between("wall", 0.0028, 0.0055)
    floor = draw.between("floor", 0.005, 0.010)
    sides = 8 if style in ("straight", "tapered", "stein") and draw.chance("faceted", 0.12) else 32
    outer = outline(draw, style) * [radius, height]
    inner = outer[outer[:, 1] >= floor - 1e-9]
    low = float(np.interp(floor, outer[:, 1], outer[:, 0]))
    # The cavity follows the wall; it starts with the rounded edge of the floor and ends above the rim.
    edge = draw.between("floor_rounding", 0.1, 0.5)
    rise = floor + 0.12 * height
    inner = inner[inner[:, 1] > rise]
    at_rise = float(np.interp(rise, outer[:, 1], outer[:, 0])) - wall
    bottom = max(min(low - wall, at_rise) * (1 - 0.3 * edge), 0.3 * at_rise)
    cavity = [(0, floor), (bottom, floor), (at_rise, rise), *(inner - [wall, 0])]
    lip = (cavity[-1][0], height + 0.01)
    body = revolve(outer, sides)
    hollow = revolve([*cavity, lip], sides)
    holes = [hollow]
    if draw.chance("foot_ring", 0.5):
        ring = 0.8 * float(outer[0, 0])
        holes.append(revolve([(ring, -0.01), (ring, 0.0), (0.9 * ring, 0.35 * floor), (0, 0.35 * floor)], sides))
    parts = [body, handle(draw, outer, height)]
    late = [saucer(draw, radius, float(outer[0, 0]))] if draw.chance("saucer", 0.6 if style == "cup" else 0.06) else []
    if late:
        # The mug sinks a little into the saucer's well, so that both are one piece.
        parts, holes = [part.moved(y=0.006) for part in parts], [hole.moved(y=0.006) for hole in holes[:1]]
    return joined(parts, holes, late)


def outline(draw: Draw, style: str) -> np.ndarray:
    """Outer wall as (radius, height) in shares of the radius and of the height, floor to rim."""
    if style in ("straight", "stein"):
        round_off = draw.between("base_rounding", 0.02, 0.12)
        flare = draw.between("flare", 0.97, 1.05)
        points = [(1 - round_off, 0), (1 - 0.3 * round_off, 0.35 * round_off), (1, round_off), (flare, 1)]
        if style == "stein":
            points = [(1.15, 0), (1.15, 0.06), (1.02, 0.10), (0.98, 0.5), (0.92, 0.92), (0.96, 1)]
        return np.array(points)
    if style == "tapered":
        foot = draw.between("foot_share", 0.58, 0.85)
        return np.array([(foot - 0.04, 0), (foot, 0.03), (1, 1)])
    if style == "barrel":
        belly = draw.between("belly", 1.06, 1.25)
        waist = draw.between("neck", 0.82, 1.0)
        return spline([(0.72, 0), (0.5 + 0.5 * belly, 0.2), (belly, 0.48), (0.5 * (belly + waist), 0.8), (waist, 1)], 3)
    if style == "tulip":
        neck, lip = draw.between("neck", 0.78, 0.9), draw.between("lip", 1.0, 1.12)
        return spline([(0.62, 0), (0.92, 0.15), (1, 0.38), (neck, 0.72), (lip, 1)], 3)
    foot = draw.between("foot_share", 0.4, 0.55)
    bowl = draw.between("bowl", 0.2, 0.5)
    return np.concatenate(
        [[(foot, 0), (foot, 0.06)], bezier([(foot, 0.08), (1.0, 0.1), (1.0 - 0.15 * bowl, 0.5), (1.08, 1)], 8)]
    )


def handle(draw: Draw, outer: np.ndarray, height: float) -> Part:
    """A bent strap from the upper to the lower wall; what reaches into the cavity is cut away with it."""
    kind = draw.choice("handle", HANDLES)
    high = draw.between("handle_top", 0.74, 0.88) * height
    low = draw.between("handle_bottom", 0.14, 0.32) * height
    reach = draw.between("handle_reach", 0.55, 0.85) * (high - low) * 0.85 + 0.006
    thick = draw.between("handle_thickness", 0.0038, 0.0062)
    flat = draw.between("handle_flatness", 1.0, 1.9)
    above, below = (float(np.interp(y, outer[:, 1], outer[:, 0])) for y in (high, low))
    start, end = [above - 0.004, high], [below - 0.004, low]
    x = max(above, below)
    if kind == "C":
        flatten = bezier(
            [start, [x + 1.35 * reach, high + 0.12 * reach], [x + 1.35 * reach, low - 0.12 * reach], end], 14
        )
    elif kind == "D":
        flatten = rounded_path(
            [start, [x + reach, high], [x + 0.8 * reach, low + 0.1 * (high - low)], end], 0.45 * reach, 5
        )
    elif kind == "ear":
        lift = draw.between("ear_lift", 0.0, 0.12) * height
        flatten = bezier(
            [
                start,
                [x + 0.9 * reach, high + 2.2 * lift + 0.01],
                [x + 1.9 * reach, high - 0.2 * (high - low)],
                [x + 0.3 * reach, low],
                end,
            ],
            14,
        )
    else:
        flatten = rounded_path([start, [x + reach, high], [x + reach, low], end], 0.15 * reach, 3)
    path = np.concatenate([flatten, np.zeros((len(flatten), 1))], axis=1)
    section = rectangle(1.0, flat) if draw.chance("strap", 0.2) else superellipse(1.0, flat, 2.5, 10)
    taper = np.linspace(1.08, draw.between("handle_taper", 0.75, 1.0), len(path))
    return tube(path, thick * taper, section=section, up=(0, 0, 1))


def saucer(draw: Draw, radius: float, foot: float) -> Part:
    """A shallow plate with a well for the foot, thick 4 mm."""
    rim = draw.between("saucer_radius", 1.55, 1.9) * radius
    rise = draw.between("saucer_rise", 0.010, 0.018)
    well = foot + 0.004
    lower = [(0, 0.002), (0.9 * well, 0.002), (0.95 * well, 0), (1.05 * well, 0), (1.1 * well, 0.002), (rim, rise)]
    upper = [(rim, rise + 0.003), (1.25 * well, 0.0095), (well, 0.0075), (0, 0.0075)]
    return revolve([*lower, *upper], 32)
