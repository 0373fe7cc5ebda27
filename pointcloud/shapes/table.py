"""Tables: dining, coffee and side tables, desks with drawers, high tables."""

from __future__ import annotations

import numpy as np

from .curves import polygon, rectangle, rounded_path, superellipse
from .draw import Draw
from .parts import Part, at_height, beam, box, ellipsoid, loft, revolve, rod, slab, strut, tube
from .solid import joined

STYLES = {"dining": 0.32, "coffee": 0.22, "side": 0.16, "desk": 0.2, "high": 0.1}
# Ranges of width, depth and height of the top, metres.
SIZES = {
    "dining": ((1.1, 2.1), (0.75, 1.05), (0.71, 0.77)),
    "coffee": ((0.8, 1.35), (0.5, 0.8), (0.34, 0.46)),
    "side": ((0.4, 0.62), (0.36, 0.55), (0.46, 0.65)),
    "desk": ((1.1, 1.7), (0.55, 0.8), (0.71, 0.77)),
    "high": ((0.55, 0.8), (0.55, 0.8), (0.98, 1.12)),
}
TOPS = {
    "dining": {"rectangle": 0.5, "round": 0.25, "oval": 0.15, "soft": 0.1},
    "coffee": {"rectangle": 0.4, "round": 0.25, "oval": 0.15, "soft": 0.1, "octagon": 0.1},
    "side": {"rectangle": 0.4, "round": 0.45, "octagon": 0.15},
    "desk": {"rectangle": 1.0},
    "high": {"round": 0.7, "rectangle": 0.3},
}
BASES = {
    "dining": {"legs": 0.4, "pedestal": 0.25, "trestle": 0.2, "panels": 0.08, "loops": 0.07},
    "coffee": {"legs": 0.5, "pedestal": 0.1, "panels": 0.12, "loops": 0.13, "crossed": 0.15},
    "side": {"legs": 0.6, "pedestal": 0.4},
    "desk": {"legs": 0.25, "drawers": 0.5, "panels": 0.15, "loops": 0.1},
    "high": {"pedestal": 0.75, "legs": 0.25},
}


def build_table(draw: Draw) -> Part:
    """A table whose long side faces +z, standing on y = 0, metres."""
    style = draw.choice("style", STYLES)
    shape = draw.choice("top_shape", TOPS[style])
    bases = dict(BASES[style])
    if shape in ("round", "oval", "octagon"):
        bases = {key: bases[key] for key in ("legs", "pedestal")}
    base = draw.choice("base", bases)
    (wide, deep, tall) = SIZES[style]
    width, depth = draw.between("width", *wide), draw.between("depth", *deep)
    height = draw.between("height", *tall)
    if shape in ("round", "octagon"):
        width = depth = min(0.5 * (width + depth), 1.3)
    thick = draw.between("top_thickness", 0.018, 0.06) * (0.6 if style in ("side", "coffee") else 1.0)
    a, b, under = width / 2, depth / 2, height - thick
    outline = {
        "rectangle": lambda: rectangle(a, b),
        "soft": lambda: superellipse(a, b, draw.between("top_exponent", 3.0, 7.0), 32),
        "round": lambda: superellipse(a, b, 2.0, 32),
        "oval": lambda: superellipse(a, b, 2.3, 32),
        "octagon": lambda: polygon(a / np.cos(np.pi / 8), 8, 1 / 16),
    }[shape]()
    bevel = 0.3 * thick if draw.chance("bevelled", 0.5) else 0.0
    parts = [slab(outline, under, height, bevel)]
    builders = {
        "legs": legs,
        "pedestal": pedestal,
        "trestle": trestle,
        "panels": panels,
        "loops": loops,
        "crossed": crossed,
        "drawers": drawers,
    }
    return joined(parts + builders[base](draw, a, b, under, shape))


def legs(draw: Draw, a: float, b: float, under: float, shape: str) -> list[Part]:
    """Four legs (a round top may have three), with an apron, a shelf or stretchers."""
    round_top = shape in ("round", "oval", "octagon")
    reach = draw.between("leg_reach", 0.55, 0.66) if round_top else draw.between("leg_reach", 0.86, 0.97)
    kind = draw.choice("leg_kind", {"square": 0.4, "round": 0.3, "turned": 0.15, "hairpin": 0.15})
    thick = draw.between("leg_thickness", 0.035, 0.085) * min(1.0, 0.45 + under * 0.8)
    splay = draw.between("leg_splay", 0.0, 0.12) * under if draw.chance("splayed", 0.4) else 0.0
    taper = draw.between("leg_taper", 0.45, 1.0)
    spots = [
        (i * (reach * a - thick / 2), j * (reach * b - thick / 2)) for i, j in ((1, 1), (1, -1), (-1, -1), (-1, 1))
    ]
    if shape in ("round", "octagon") and draw.chance("three_legs", 0.3):
        spots = [tuple(reach * p) for p in polygon(a, 3, 0.25)]
    parts = [leg(kind, x, z, under, thick, taper, splay) for x, z in spots]
    if kind == "hairpin":
        return [part for pair in parts for part in pair]
    made = [part for pair in parts for part in pair]
    extra = draw.choice("between_legs", {"none": 0.3, "apron": 0.35, "shelf": 0.2, "stretchers": 0.15})
    if len(spots) == 3 and extra in ("apron", "stretchers"):
        extra = "none"
    ends = [np.array([x, 0, z]) for x, z in spots]
    if extra == "apron" and splay == 0 and not round_top:
        drop = draw.between("apron_height", 0.05, 0.12)
        x, z = ends[0][0], ends[0][2]
        y = under - drop / 2 + 0.005
        made += [box((2 * x, drop, 0.022), (0, y, j * z)) for j in (1, -1)]
        made += [box((0.022, drop, 2 * z), (i * x, y, 0)) for i in (1, -1)]
        if draw.chance("apron_drawer", 0.35):
            made += [
                box((0.7 * x, 0.7 * drop, 0.04), (0, y, z)),
                ellipsoid((0.015, 0.015, 0.02), (0, y, z + 0.03), 8, 5),
            ]
    elif extra == "apron":
        drop = draw.between("apron_height", 0.04, 0.09)
        made.append(
            slab(
                superellipse(0.9 * reach * a + 0.06, 0.9 * reach * b + 0.06, 2 if round_top else 9, 24),
                under - drop,
                under + 0.005,
            )
        )
    elif extra == "shelf":
        y = draw.between("shelf_height", 0.18, 0.45) * under
        grow = splay * (1 - y / under)
        x, z = abs(ends[0][0]) + 0.7 * grow, abs(ends[0][2]) + 0.7 * grow
        if round_top:
            reach_out = float(np.hypot(x, z)) if len(spots) == 4 else reach * a + grow
            made.append(slab(superellipse(reach_out, reach_out * b / a, 2, 24), y, y + 0.02))
        else:
            made.append(box((2 * x, 0.02, 2 * z), (0, y, 0)))
    elif extra == "stretchers":
        y = draw.between("stretcher_height", 0.12, 0.4) * under
        out = [
            np.array([p[0], y, p[2]])
            + np.array(
                [np.sign(p[0]) * 0.7 * splay * (1 - y / under), 0, np.sign(p[2]) * 0.7 * splay * (1 - y / under)]
            )
            for p in ends
        ]
        thin = 0.3 * thick
        made += [
            rod(out[0], out[1], thin),
            rod(out[2], out[3], thin),
            rod((out[0] + out[1]) / 2, (out[2] + out[3]) / 2, thin),
        ]
    return made


def leg(kind: str, x: float, z: float, under: float, thick: float, taper: float, splay: float) -> list[Part]:
    """One leg from the floor into the underside."""
    away = np.array([np.sign(x), 0, np.sign(z)]) * 0.7 * splay
    top, foot = np.array([x, under + 0.004, z]), np.array([x, 0.0, z]) + away
    if kind == "square":
        rings = [
            at_height(rectangle(s * thick / 2, s * thick / 2) + np.array([p[0], p[2]]), p[1])
            for p, s in ((top, 1), (foot, taper))
        ]
        return [loft(rings)]
    if kind == "round":
        return [rod(top, foot, thick / 2, taper * thick / 2, 12)]
    if kind == "turned":
        r = thick / 2
        beads = [
            (0.7, 0),
            (0.9, 0.04),
            (0.5, 0.08),
            (0.55, 0.2),
            (1.05, 0.5),
            (0.85, 0.68),
            (0.55, 0.72),
            (1, 0.76),
            (1, 0.79),
            (0.6, 0.81),
            (0.75, 0.83),
        ]
        turned = revolve([(r * s, under * h) for s, h in beads], 10).moved(x, 0, z)
        return [turned, box((1.7 * r, 0.2 * under + 0.004, 1.7 * r), (x, 0.9 * under + 0.002, z))]
    # Hairpin: two thin rods that meet at the floor, under a plate.
    thin = 0.006 + 0.04 * thick
    inward = np.array([-np.sign(x) or 1.0, 0, 0])
    low = foot + np.array([0, thin, 0])
    side = np.array([0, 0, -np.sign(z) or 1.0])
    return [
        rod(top + 0.11 * inward, low, thin, sides=6),
        rod(top + 0.11 * side, low, thin, sides=6),
        ellipsoid((1.3 * thin,) * 3, tuple(low + np.array([0, 0.3 * thin, 0])), 8, 5),
    ]


def pedestal(draw: Draw, a: float, b: float, under: float, shape: str) -> list[Part]:
    """One column (two under long tops) on a plate, a trumpet, a block or feet that spread out."""
    foot = draw.choice("pedestal_foot", {"plate": 0.3, "trumpet": 0.25, "cross": 0.3, "drum": 0.15})
    reach = draw.between("pedestal_reach", 0.5, 0.72) * b
    stem = draw.between("stem_radius", 0.03, 0.055) * (1.0 if under > 0.6 else 0.8) * (1.2 if b > 0.45 else 0.8)
    count = draw.whole("feet", 3, 5)
    turned = draw.chance("turned_column", 0.35)
    places = (-0.5 * a, 0.5 * a) if a > 1.6 * b else (0.0,)
    top = under + 0.004
    made: list[Part] = []
    for place in places:
        if foot == "trumpet":
            curve = [(reach, 0), (reach, 0.012), (0.5 * reach, 0.05), (1.3 * stem, 0.2 * under), (stem, 0.5 * under)]
            made.append(revolve([*curve, (1.2 * stem, 0.8 * under), (0.45 * b, top)], 24).moved(place))
            continue
        if foot == "drum":
            waist = draw.parameters["pedestal_reach"]
            curve = [
                (0.8 * reach, 0),
                (0.8 * reach, 0.03),
                (float(waist) * 0.8 * reach, 0.5 * under),
                (0.85 * reach, top),
            ]
            made.append(revolve(curve, 28).moved(place))
            continue
        start = 0.0
        if foot == "plate":
            made.append(revolve([(reach, 0), (reach, 0.015), (1.5 * stem, 0.03)], 24).moved(place))
            start = 0.02
        else:
            for k in range(count):
                way = polygon(1.0, count, 0.25 if len(places) == 1 else 0.0)[k]
                end = np.array([reach * way[0], 0.02, reach * way[1]])
                path = [[0, 0.3 * under, 0], 0.45 * end + np.array([0, 0.18 * under, 0]), end]
                made.append(
                    tube(rounded_path(path, 0.2 * reach), 0.5 * stem, 6, up=(way[1], 0.01, -way[0])).moved(place)
                )
                made.append(ellipsoid((0.6 * stem, 0.02, 0.6 * stem), tuple(end), 8, 5).moved(place))
            start = 0.15 * under
        if turned:
            beads = [
                (1, 0),
                (1, 0.15),
                (0.6, 0.2),
                (1.3, 0.45),
                (1.1, 0.6),
                (0.55, 0.75),
                (0.6, 0.85),
                (1.2, 0.95),
                (1.6, 1),
            ]
            made.append(revolve([(stem * s, start + (top - start) * h) for s, h in beads], 16).moved(place))
        else:
            made.append(rod((place, start, 0), (place, top, 0), stem, sides=16))
        made.append(box((0.9 * min(a, b), 0.025, 0.9 * b), (place, under - 0.008, 0)))
    return made


def trestle(draw: Draw, a: float, b: float, under: float, shape: str) -> list[Part]:
    """Two frames, A-shaped, X-shaped or upright on a foot, and a beam between them."""
    kind = draw.choice("trestle", {"A": 0.4, "X": 0.25, "T": 0.35})
    x, z = draw.between("trestle_reach", 0.62, 0.85) * a, 0.78 * b
    thick = draw.between("trestle_thickness", 0.045, 0.08)
    top = under + 0.004
    if kind == "T":
        side = [
            box((0.8 * thick, top, 2.2 * thick), (x, top / 2, 0)),
            box((thick, 0.06, 2 * z), (x, 0.03, 0)),
            box((thick, 0.05, 1.7 * z), (x, top - 0.025, 0)),
        ]
        y = 0.45 * under
    else:
        inner = 0.25 * z if kind == "A" else -0.85 * z
        side = [strut((x, top, s * inner), (x, 0, s * z), 0.8 * thick, thick) for s in (1, -1)]
        y = 0.35 * under if kind == "A" else 0.48 * under
        if kind == "A":
            share = inner + (z - inner) * (1 - y / top)
            side.append(box((0.6 * thick, 0.8 * thick, 2 * share), (x, y, 0)))
    made = [part for one in side for part in one.both_sides()]
    return [*made, box((2 * x, 0.9 * thick, 0.55 * thick), (0, y, 0))]


def panels(draw: Draw, a: float, b: float, under: float, shape: str) -> list[Part]:
    """Two boards as sides, with a shelf or a back board."""
    thick = draw.between("panel_thickness", 0.025, 0.06)
    x = draw.between("panel_reach", 0.8, 0.98) * a - thick / 2
    z = draw.between("panel_depth", 0.75, 0.98) * b
    sides = box((thick, under + 0.004, 2 * z), (x, under / 2 + 0.002, 0)).both_sides()
    if draw.chance("back_board", 0.5):
        drop = draw.between("board_height", 0.3, 0.75) * under
        return [*sides, box((2 * x, drop, 0.02), (0, under - drop / 2 + 0.003, -0.7 * z))]
    y = draw.between("shelf_height", 0.15, 0.6) * under
    return [*sides, box((2 * x, 0.022, 1.9 * z), (0, y, 0))]


def loops(draw: Draw, a: float, b: float, under: float, shape: str) -> list[Part]:
    """Two closed frames of flat steel."""
    thick = draw.between("steel_width", 0.03, 0.07)
    x, z = draw.between("loop_reach", 0.7, 0.93) * a, 0.88 * b
    low = draw.between("loop_narrowing", 0.65, 1.0) * z
    top = under + 0.004
    h = thick / 2
    corners = [(x, h, low), (x, top - h / 2, z), (x, top - h / 2, -z), (x, h, -low)]
    sides = [beam(corners[i], corners[(i + 1) % 4], thick, thick, up=(1, 0, 0)) for i in range(4)]
    ends = [box((thick, thick, thick), (x, h, s * low)) for s in (1, -1)]
    made = [part for one in (*sides, *ends) for part in one.both_sides()]
    if draw.chance("stretcher", 0.4):
        made.append(box((2 * x, thick, 0.6 * thick), (0, h, 0)))
    return made


def crossed(draw: Draw, a: float, b: float, under: float, shape: str) -> list[Part]:
    """Two X frames along the long sides or across the ends."""
    thick = draw.between("cross_thickness", 0.035, 0.06)
    top = under + 0.004
    if draw.chance("cross_along", 0.5):
        z, x = 0.75 * b, 0.8 * a
        bars = [strut((i * x, top, j * z), (-i * x, 0, j * z), thick, thick) for i in (1, -1) for j in (1, -1)]
        return [*bars, box((0.8 * thick, 0.8 * thick, 2 * z), (0, top / 2, 0))]
    x, z = 0.78 * a, 0.85 * b
    bars = [strut((i * x, top, j * z), (i * x, 0, -j * z), thick, thick) for i in (1, -1) for j in (1, -1)]
    return [*bars, box((2 * x, 0.8 * thick, 0.8 * thick), (0, top / 2, 0))]


def drawers(draw: Draw, a: float, b: float, under: float, shape: str) -> list[Part]:
    """A desk: a chest of drawers at one side or both, legs or a board at the other, a board behind the knees."""
    width = draw.between("chest_width", 0.30, 0.42)
    both = draw.chance("two_chests", 0.4) and a > 0.65
    count = draw.whole("drawers", 2, 4)
    gap = 0.0 if draw.chance("chest_on_floor", 0.6) else draw.between("chest_gap", 0.08, 0.3)
    knob = draw.choice("handle", {"knob": 0.5, "bar": 0.5})
    left = draw.chance("left_handed", 0.5)
    x, z = a - width / 2 - 0.02, 0.92 * b
    top = under + 0.004
    chest = [box((width, top - gap, 2 * z - 0.03), (x, (top + gap) / 2, -0.015))]
    step = (under - gap) / count
    for k in range(count):
        y = gap + (k + 0.5) * step
        chest.append(box((width - 0.03, step - 0.025, 0.03), (x, y, z - 0.03)))
        if knob == "knob":
            chest.append(ellipsoid((0.016, 0.016, 0.022), (x, y, z - 0.002), 8, 5))
        else:
            chest.append(box((0.35 * width, 0.018, 0.04), (x, y + 0.15 * step, z - 0.01)))
    if gap > 0:
        chest += [
            box((0.035, gap + 0.01, 0.035), (x + i * 0.42 * width, gap / 2 + 0.005, j * 0.85 * z))
            for i in (1, -1)
            for j in (1, -1)
        ]
    if both:
        made = [part for one in chest for part in one.both_sides()]
    else:
        side = (
            [box((0.03, top, 1.9 * z), (-a + 0.04, top / 2, 0))]
            if draw.chance("side_board", 0.5)
            else [box((0.045, top, 0.045), (-a + 0.06, top / 2, j * 0.9 * z)) for j in (1, -1)]
        )
        made = chest + side
        made = [part.mirrored() for part in made] if left else made
    if draw.chance("modesty_board", 0.6):
        drop = draw.between("board_height", 0.25, 0.7) * under
        made.append(box((2 * a - 0.08, drop, 0.02), (0, top - drop / 2, -0.85 * z)))
    return made
