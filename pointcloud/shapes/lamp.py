"""Lamps: table lamps, floor lamps, arcs, tripods and desk lamps with a jointed arm."""

from __future__ import annotations

import numpy as np

from .curves import bezier, polygon, spline
from .draw import Draw
from .parts import Part, box, ellipsoid, revolve, rod, tube
from .solid import joined

STYLES = {"table": 0.40, "floor": 0.22, "tripod": 0.12, "arc": 0.08, "desk": 0.18}
SHADES = {"cone": 0.36, "drum": 0.24, "dome": 0.12, "bell": 0.12, "globe": 0.08, "pyramid": 0.08}


def build_lamp(draw: Draw) -> Part:
    """A lamp on y = 0, metres; a desk lamp's head and an arc reach towards +z."""
    style = draw.choice("style", STYLES)
    builders = {"table": table_lamp, "floor": floor_lamp, "tripod": tripod, "arc": arc, "desk": desk_lamp}
    return joined(builders[style](draw))


def shade(draw: Draw, radius: float, height: float, y: float, stem: float, kinds: dict[str, float]) -> list[Part]:
    """An open thin-walled shade with its lower rim at height y, the bars that hold it to a stem on the axis, a bulb."""
    kind = draw.choice("shade", kinds)
    wall = 0.018 * radius + 0.002
    if kind == "globe":
        r = 0.75 * radius
        return [ellipsoid((r, r, r), (0, y + 0.9 * r, 0), 24, 13)]
    top = {"cone": draw.between("shade_top", 0.3, 0.72), "drum": draw.between("drum_top", 0.9, 1.0)}.get(kind, 0.3)
    t = np.linspace(0, 1, 7)
    outer = {
        "cone": lambda: np.array([[1.0, 0.0], [top, 1.0]]),
        "drum": lambda: np.array([[1.0, 0.0], [top, 1.0]]),
        "pyramid": lambda: np.array([[1.15, 0.0], [0.5, 1.0]]),
        "dome": lambda: np.stack([np.cos(0.47 * np.pi * t), np.sin(0.47 * np.pi * t) / np.sin(0.47 * np.pi)], axis=1),
        "bell": lambda: bezier([[1.0, 0.0], [0.55, 0.25], [0.6, 0.9], [0.35, 1.0]], 7),
    }[kind]()
    outer = np.maximum(outer, [0.12, 0]) * [radius, height] + np.array([0, y])
    inner = outer[::-1] - [wall, 0]
    sides = 4 if kind == "pyramid" else 28
    made = [revolve(np.concatenate([outer, inner]), sides, closed=True)]
    if kind == "pyramid":
        made = [made[0].turned("y", 45)]
    # The spider near the top, where the shade is `across` wide.
    hold = y + 0.8 * height
    across = (float(np.interp(hold, outer[:, 1], outer[:, 0])) - wall / 2) * (
        np.sqrt(0.5) if kind == "pyramid" else 1.0
    )
    made += [rod((-across, hold, 0), (across, hold, 0), 0.004 + 0.01 * radius, sides=6)]
    made += [rod((0, hold, -across), (0, hold, across), 0.004 + 0.01 * radius, sides=6)]
    made.append(rod((0, y - 0.1 * height, 0), (0, hold + 0.01, 0), stem, sides=8))
    if draw.chance("bulb", 0.6):
        r = min(0.035, 0.3 * radius)
        made.append(ellipsoid((r, 1.3 * r, r), (0, y + 0.45 * height, 0), 10, 7))
    return made


def foot(draw: Draw, radius: float, stem: float) -> tuple[list[Part], float]:
    """What stands on the floor, and the height at which it is surely as thick as the stem."""
    kind = draw.choice("foot", {"disc": 0.45, "dome": 0.25, "block": 0.3})
    thick = draw.between("foot_height", 0.07, 0.2) * radius + 0.008
    if kind == "disc":
        return [revolve([(radius, 0), (radius, thick), (0.9 * radius, 1.15 * thick)], 28)], 0.6 * thick
    if kind == "dome":
        curve = [
            (radius, 0),
            (radius, 0.25 * thick),
            (0.8 * radius, thick),
            (0.4 * radius, 1.8 * thick),
            (stem, 2.4 * thick),
        ]
        return [revolve(curve, 28)], thick
    return [box((1.7 * radius, 1.2 * thick, 1.7 * radius), (0, 0.6 * thick, 0))], 0.6 * thick


def table_lamp(draw: Draw) -> list[Part]:
    """A vase, a turned column, stacked balls, a block or a plain stem under a shade."""
    height = draw.between("height", 0.38, 0.75)
    body_share = draw.between("body_share", 0.45, 0.62)
    top = body_share * height
    radius = draw.between("shade_radius", 0.26, 0.40) * height
    kind = draw.choice("body", {"vase": 0.3, "column": 0.15, "balls": 0.15, "block": 0.1, "stem": 0.2, "cone": 0.1})
    girth = draw.between("body_girth", 0.10, 0.19) * height
    stem = 0.012
    made: list[Part] = []
    if kind == "vase":
        belly = draw.between("belly_height", 0.3, 0.75)
        profile = [
            (0.55, 0),
            (0.6, 0.04),
            (0.75, 0.5 * belly),
            (1, belly),
            (0.8, 0.5 + 0.5 * belly),
            (0.25, 0.93),
            (0.2, 1),
        ]
        smooth = spline([(girth * r, top * h) for r, h in profile], 3)
        made.append(revolve(smooth, 24))
    elif kind == "column":
        beads = [
            (1, 0),
            (1, 0.06),
            (0.6, 0.09),
            (0.45, 0.15),
            (0.6, 0.4),
            (0.4, 0.8),
            (0.55, 0.85),
            (0.55, 0.9),
            (0.3, 0.94),
            (0.2, 1),
        ]
        made.append(revolve([(girth * r, top * h) for r, h in beads], 20))
    elif kind == "balls":
        count = draw.whole("balls", 2, 4)
        ball = 0.53 * (top - 0.03) / count
        made += [
            ellipsoid(
                (min(girth, 1.15 * ball), ball, min(girth, 1.15 * ball)),
                (0, 0.025 + (2 * k + 1) * 0.94 * ball, 0),
                18,
                9,
            )
            for k in range(count)
        ]
        made.append(revolve([(girth, 0), (girth, 0.02), (0.8 * girth, 0.035)], 24))
    elif kind == "block":
        made.append(box((1.5 * girth, 0.9 * top, 1.5 * girth), (0, 0.45 * top, 0)))
    elif kind == "cone":
        made.append(revolve([(1.1 * girth, 0), (1.1 * girth, 0.01), (0.25 * girth, top)], 24))
    else:
        stem = draw.between("stem_radius", 0.007, 0.016)
        made, _ = foot(draw, draw.between("foot_radius", 0.5, 0.75) * radius, stem)
        if draw.chance("stem_knob", 0.4):
            made.append(ellipsoid((2.4 * stem,) * 3, (0, draw.between("knob_height", 0.3, 0.8) * top, 0), 12, 7))
    made.append(rod((0, 0.01, 0), (0, top + 0.02, 0), min(stem, 0.012), sides=10))
    return made + shade(draw, radius, height - top, top, 0.008, SHADES)


def floor_lamp(draw: Draw) -> list[Part]:
    """A tall thin stem on a foot; the shade hangs over it or opens upward like a torch."""
    height = draw.between("height", 1.35, 1.85)
    radius = draw.between("shade_radius", 0.16, 0.28)
    stem = draw.between("stem_radius", 0.010, 0.022)
    made, _ = foot(draw, draw.between("foot_radius", 0.12, 0.19), stem)
    if draw.chance("uplight", 0.2):
        deep = draw.between("bowl_depth", 0.10, 0.22)
        y = height - deep
        t = np.linspace(0, 1, 6)
        outer = np.stack(
            [stem + (radius - stem) * np.sin(0.5 * np.pi * t), y + deep * (1 - np.cos(0.5 * np.pi * t))], axis=1
        )
        wall = [0.0, 0.012]
        bowl = np.concatenate([outer, [outer[-1] - [0.012, 0]], outer[-2:0:-1] + wall, [(0, y + 0.014)]])
        return [*made, revolve(bowl, 28), rod((0, 0.01, 0), (0, y + 0.008, 0), stem, sides=10)]
    tall = draw.between("shade_height", 0.20, 0.36)
    y = height - tall
    made.append(rod((0, 0.01, 0), (0, y, 0), stem, sides=10))
    if draw.chance("tray", 0.15):
        at = draw.between("tray_height", 0.35, 0.5) * y
        made.append(revolve([(0.17, at), (0.17, at + 0.02), (stem, at + 0.025)], 24))
    return made + shade(draw, radius, tall, y, 0.9 * stem, SHADES)


def tripod(draw: Draw) -> list[Part]:
    """Three slanted legs that meet under a shade; on the floor or, smaller, on a table."""
    size = 1.0 if draw.chance("on_floor", 0.7) else 0.42
    height = size * draw.between("height", 1.3, 1.65)
    spread = size * draw.between("leg_spread", 0.24, 0.36)
    thin = size * draw.between("leg_radius", 0.012, 0.020) + 0.002
    y = height * draw.between("hub_share", 0.66, 0.76)
    made = [revolve([(0.05 * size, y - 0.03 * size), (0.05 * size, y + 0.02 * size)], 14)]
    cross = draw.between("leg_crossing", -0.12, 0.12)
    for way in polygon(1.0, 3, 0.25):
        side = np.array([way[0], 0, way[1]])
        made.append(rod(side * spread, -side * cross * spread + np.array([0, y, 0]), thin, sides=8))
    if draw.chance("brace", 0.4):
        level = draw.between("brace_height", 0.25, 0.45)
        knots = [
            np.array([w[0] * spread * (1 - level * (1 + cross)), level * y, w[1] * spread * (1 - level * (1 + cross))])
            for w in polygon(1.0, 3, 0.25)
        ]
        made += [rod(knots[i], knots[(i + 1) % 3], 0.5 * thin, sides=6) for i in range(3)]
    made.append(rod((0, y, 0), (0, y + 0.08 * size, 0), 0.012 * size + 0.004, sides=8))
    kinds = {"cone": 0.4, "drum": 0.5, "dome": 0.1}
    radius = size * draw.between("shade_radius", 0.2, 0.3)
    start = y + 0.05 * size
    return made + shade(draw, radius, height - start, start, 0.012 * size + 0.002, kinds)


def hood(draw: Draw, radius: float, deep: float) -> list[Part]:
    """A reflector open towards -y with its neck at the origin: thick-walled, with a bulb inside."""
    bend = draw.between("hood_bend", 0.35, 1.0)
    t = np.linspace(0, 1, 6)
    outer = np.stack(
        [0.3 * radius + 0.7 * radius * np.sin(0.5 * np.pi * t) ** bend, -0.25 * deep - 0.75 * deep * t], axis=1
    )
    wall = 0.06 * radius
    inner = np.maximum(outer[::-1] - [wall, 0], [0.02 * radius, -np.inf])
    inner[-1] = [inner[-1, 0], inner[-1, 1] - wall]
    profile = [(0.22 * radius, 0.0), (0.3 * radius, -0.05 * deep), *outer, *inner, (0, inner[-1, 1])]
    bulb = ellipsoid((0.3 * radius, 0.35 * deep, 0.3 * radius), (0, -0.5 * deep, 0), 10, 7)
    return [revolve(profile, 24), bulb]


def arc(draw: Draw) -> list[Part]:
    """A floor lamp whose long bow carries a hood out in front."""
    height = draw.between("height", 1.6, 2.1)
    reach = draw.between("reach", 0.7, 1.15)
    radius = draw.between("shade_radius", 0.14, 0.22)
    thin = draw.between("stem_radius", 0.011, 0.018)
    made, _ = foot(draw, draw.between("foot_radius", 0.15, 0.21), thin)
    drop = draw.between("drop", 0.1, 0.35)
    line = bezier([[0, 0.02, 0], [0, height, -0.15], [0, 1.25 * height, 0.75 * reach], [0, height - drop, reach]], 16)
    made.append(tube(line, thin, 8, up=(1, 0, 0)))
    head = [
        part.moved(0, height - drop + 0.01, reach)
        for part in hood(draw, radius, draw.between("hood_depth", 0.7, 1.2) * radius)
    ]
    return made + head


def desk_lamp(draw: Draw) -> list[Part]:
    """A foot, two arms with a joint between them, and a hood tilted at the work."""
    lower, upper = draw.between("lower_arm", 0.22, 0.36), draw.between("upper_arm", 0.20, 0.34)
    back = np.radians(draw.between("lower_lean", -5.0, 35.0))
    fore = np.radians(draw.between("upper_rise", -10.0, 45.0))
    thin = draw.between("arm_radius", 0.006, 0.012)
    radius = draw.between("shade_radius", 0.055, 0.10)
    deep = draw.between("hood_depth", 1.0, 1.7) * radius
    made, start = foot(draw, draw.between("foot_radius", 0.07, 0.11), 2 * thin)
    elbow = np.array([0, start + lower * np.cos(back), -lower * np.sin(back)])
    # The hood hangs clear of the foot.
    fore = max(fore, np.arcsin(np.clip((0.12 + 1.5 * deep - elbow[1]) / upper, -1, 1)))
    wrist = elbow + upper * np.array([0, np.sin(fore), np.cos(fore)])
    if draw.chance("gooseneck", 0.25):
        line = bezier([[0, start, 0], [0, elbow[1] * 1.3, 1.5 * elbow[2]], wrist + np.array([0, 0.25, 0]), wrist], 16)
        made.append(tube(line, thin, 8, up=(1, 0, 0)))
    else:
        double = draw.chance("double_arms", 0.4)
        for x in (0.016, -0.016) if double else (0.0,):
            slim = 0.7 * thin if double else thin
            aside = np.array([x, 0, 0])
            made += [rod((x, start, 0), elbow + aside, slim), rod(elbow + aside, wrist + aside, slim)]
        knob = 0.022 if double else 2 * thin
        made += [rod(p - [knob, 0, 0], p + np.array([knob, 0, 0]), 1.9 * thin, sides=10) for p in (elbow, wrist)]
        made.append(rod((-knob, start, 0), (knob, start, 0), 1.9 * thin, sides=10))
    tilt = draw.between("hood_tilt", -15.0, 40.0)
    head = hood(draw, radius, deep)
    return [*made, *(part.moved(0, 0.3 * thin + 0.004, 0).turned("x", -tilt).moved(*wrist) for part in head)]
