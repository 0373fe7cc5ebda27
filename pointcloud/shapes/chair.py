"""Chairs: dining chairs, stools, armchairs, office chairs, shells and steel-tube chairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .chair_backs import back_and_arms
from .curves import rectangle, rounded_path, superellipse
from .draw import Draw
from .parts import Part, at_height, box, loft, pad, revolve, rod, slab, strut, tube
from .solid import joined

STYLES = {"dining": 0.36, "armchair": 0.15, "office": 0.15, "stool": 0.12, "shell": 0.12, "tube": 0.10}
# Which undercarriage goes with which style.
BASES = {
    "dining": {"square legs": 0.45, "round legs": 0.4, "sled": 0.08, "crossed": 0.07},
    "armchair": {"feet": 0.45, "plinth": 0.2, "square legs": 0.2, "round legs": 0.15},
    "office": {"star": 1.0},
    "stool": {"round legs": 0.45, "square legs": 0.2, "disc": 0.35},
    "shell": {"round legs": 0.5, "disc": 0.2, "star": 0.15, "sled": 0.15},
    "tube": {"cantilever": 0.65, "sled": 0.35},
}


@dataclass(frozen=True)
class Seat:
    """What base, back and arms attach to.

    Half width a and half depth b, heights of the underside, of the board's upper face and of the top to sit on, and
    the outline [S, 2] in (x, z).
    """

    a: float
    b: float
    bottom: float
    board: float
    top: float
    outline: np.ndarray

    def rear(self, x: float) -> float:
        """Where the rear edge is (z) at the distance x from the middle."""
        edge = self.outline[(self.outline[:, 0] >= 0) & (self.outline[:, 1] <= 0)]
        order = np.argsort(edge[:, 0], kind="stable")
        return float(np.interp(x, edge[order, 0], edge[order, 1]))

    def side(self, z: float) -> float:
        """How far the edge is from the middle (x) at the depth z."""
        edge = self.outline[self.outline[:, 0] >= 0]
        order = np.argsort(edge[:, 1], kind="stable")
        return float(np.interp(z, edge[order, 1], edge[order, 0]))


def build_chair(draw: Draw) -> Part:
    """A chair that faces +z and stands on y = 0, metres."""
    style = draw.choice("style", STYLES)
    base = draw.choice("base", BASES[style])
    seat, parts = make_seat(draw, style)
    parts += {
        "square legs": legs,
        "round legs": legs,
        "feet": feet,
        "plinth": feet,
        "star": star,
        "disc": disc,
        "sled": sled,
        "cantilever": cantilever,
        "crossed": crossed,
    }[base](draw, seat, base)
    return joined(parts + back_and_arms(draw, seat, style))


def make_seat(draw: Draw, style: str) -> tuple[Seat, list[Part]]:
    """The seat with its cushion."""
    wide = style == "armchair"
    sizes = {"armchair": (0.56, 0.78, 0.52, 0.66), "stool": (0.29, 0.38, 0.28, 0.36)}.get(
        style, (0.38, 0.52, 0.38, 0.5)
    )
    width = draw.between("seat_width", *sizes[:2])
    depth = draw.between("seat_depth", *sizes[2:])
    tall = style == "stool" and draw.chance("bar_height", 0.6)
    low, high = (0.62, 0.80) if tall else (0.28, 0.38) if wide else (0.42, 0.50)
    height = draw.between("seat_height", low, high)
    thickness = draw.between("seat_thickness", 0.10, 0.18) if wide else draw.between("seat_thickness", 0.025, 0.06)
    shapes = {"square": 0.4, "soft": 0.35, "round": 0.25 if style in ("stool", "dining") else 0.0}
    shape = draw.choice("seat_shape", {"square": 1.0} if wide else shapes)
    if shape == "round":
        depth = width
    exponent = {"square": 14.0, "soft": 4.0, "round": 2.0}[shape]
    outline = superellipse(width / 2, depth / 2, exponent, 24)
    if style == "shell":
        # Only a mount; the shell itself comes with the back.
        mount = 0.7 * outline
        return Seat(0.35 * width, 0.35 * depth, height - 0.02, height, height, mount), [
            slab(mount, height - 0.02, height)
        ]
    if shape != "round":
        # Many seats are narrower towards the back.
        taper = draw.between("seat_taper", 0.0, 0.18)
        outline = outline * np.stack([1 - taper * (0.5 - outline[:, 1] / depth), np.ones(len(outline))], axis=1)
    parts = [slab(outline, height - thickness, height, 0.3 * thickness)]
    top = height
    if wide or draw.chance("cushion", 0.3):
        thick = draw.between("cushion_thickness", 0.05, 0.08) + (0.06 if wide else 0.0)
        parts.append(pad((0.94 * width, thick, 0.94 * depth), (0, height + 0.25 * thick, 0), max(exponent / 2, 2)))
        top += 0.7 * thick
    return Seat(width / 2, depth / 2, height - thickness, height, top, outline), parts


def corners(seat: Seat, inset: float, shape: str) -> list[tuple[float, float]]:
    """Where four legs meet the seat: (x, z), front right first, then round to the front left."""
    reach = {"round": 0.66, "soft": 0.86, "square": 0.95}[shape]
    x, z = reach * seat.a - inset, reach * seat.b - inset
    narrow = np.abs(seat.outline[seat.outline[:, 1] < -0.9 * seat.b, 0]).max() / seat.a if shape != "round" else 1.0
    return [(x, z), (x * narrow, -z), (-x * narrow, -z), (-x, z)]


def legs(draw: Draw, seat: Seat, base: str) -> list[Part]:
    """Four legs, perhaps splayed and tapered, perhaps with stretchers between them."""
    square = base == "square legs"
    thick = draw.between("leg_thickness", 0.028, 0.05) if square else draw.between("leg_thickness", 0.022, 0.042)
    apart = draw.parameters["style"] == "shell"
    splay = draw.between("leg_splay", 0.04 if apart else 0.0, 0.12 if apart else 0.03 if square else 0.10)
    taper = draw.between("leg_taper", 0.5, 1.0)
    rake = draw.between("rear_rake", 0.0, 0.06)
    shape = str(draw.parameters["seat_shape"])
    up = seat.bottom + 0.01
    ends = []
    parts = []
    for x, z in corners(seat, thick / 2, shape):
        foot = (x + np.sign(x) * splay, 0.0, z + (splay if z > 0 else -splay - rake))
        ends.append((np.array([x, up, z]), np.array(foot)))
        if square:
            rings = [
                at_height(rectangle(s * thick / 2, s * thick / 2) + np.array([p[0], p[2]]), p[1])
                for p, s in ((ends[-1][0], 1.0), (ends[-1][1], taper))
            ]
            parts.append(loft(rings))
        else:
            parts.append(rod(ends[-1][0], ends[-1][1], thick / 2, taper * thick / 2, 10))
    ways = {"none": 0.45, "sides": 0.2, "H": 0.2, "ring": 0.15}
    if seat.top > 0.6:
        ways = {"ring": 0.8, "H": 0.2}
    return parts + stretchers(draw.choice("stretchers", ways), draw.between("stretcher_height", 0.25, 0.5), ends, thick)


def stretchers(way: str, share: float, ends: list[tuple[np.ndarray, np.ndarray]], thick: float) -> list[Part]:
    """Bars between the legs at a share of their height: along the sides, as an H, or all round."""
    if way == "none":
        return []
    at = [foot + (top - foot) * share for top, foot in ends]
    front_right, back_right, back_left, front_left = at
    bars = [(front_right, back_right), (front_left, back_left)]
    if way == "H":
        bars.append(((front_right + back_right) / 2, (front_left + back_left) / 2))
    elif way == "ring":
        lift = np.array([0, 0.04, 0])
        bars += [(front_right + lift, front_left + lift), (back_right + lift, back_left + lift)]
    return [rod(a, b, 0.32 * thick, sides=8) for a, b in bars]


def feet(draw: Draw, seat: Seat, base: str) -> list[Part]:
    """Under an armchair: a closed box down to the floor or to short feet."""
    gap = 0.02 if base == "plinth" else draw.between("foot_height", 0.05, 0.14)
    body = box((1.96 * seat.a, seat.bottom + 0.02 - gap, 1.92 * seat.b), (0, (seat.bottom + 0.02 + gap) / 2, 0))
    if base == "plinth":
        return [body, box((1.7 * seat.a, 0.05, 1.7 * seat.b), (0, 0.025, 0))]
    x, z = 0.84 * seat.a, 0.82 * seat.b
    thick = draw.between("foot_thickness", 0.018, 0.032)
    return [
        body,
        *(rod((i * x, gap + 0.02, j * z), (i * x, 0, j * z), thick, 0.7 * thick) for i in (1, -1) for j in (1, -1)),
    ]


def star(draw: Draw, seat: Seat, base: str) -> list[Part]:
    """A gas spring over a star of five arms (sometimes four) with castors."""
    arms = 5 if draw.chance("five_arms", 0.85) else 4
    reach = draw.between("star_radius", 0.27, 0.34)
    castor = draw.between("castor_radius", 0.022, 0.032)
    hub = draw.between("hub_height", 0.09, 0.14)
    parts = [
        rod((0, hub - 0.05, 0), (0, 0.5 * (hub + seat.bottom), 0), 0.03, sides=12),
        rod((0, hub, 0), (0, seat.bottom + 0.01, 0), 0.018, sides=10),
        box((0.2, 0.04, 0.22), (0, seat.bottom - 0.01, 0)),
    ]
    for k in range(arms):
        angle = 2 * np.pi * (k / arms + 0.25)
        way = np.array([np.cos(angle), 0, np.sin(angle)])
        low = way * reach + np.array([0, 2 * castor + 0.012, 0])
        parts.append(tube([[0, hub, 0], 0.5 * low + np.array([0, 0.55 * hub, 0]), low], [0.026, 0.022, 0.017], 6))
        side = np.array([-way[2], 0, way[0]])
        wheel = way * (reach - 0.005) + np.array([0, castor, 0])
        parts.append(rod(wheel - 0.018 * side, wheel + 0.018 * side, castor, sides=10))
        parts.append(rod(wheel, low + np.array([0, 0.005, 0]), 0.009, sides=6))
    return parts


def disc(draw: Draw, seat: Seat, base: str) -> list[Part]:
    """One column on a round foot: a trumpet or a plain tube over a plate."""
    radius = draw.between("disc_radius", 0.20, 0.27)
    stem = draw.between("stem_radius", 0.022, 0.04)
    if draw.chance("trumpet", 0.5):
        height = seat.bottom + 0.01
        curve = [(radius, 0), (radius, 0.008), (0.6 * radius, 0.03), (1.6 * stem, 0.10), (stem, 0.4 * height)]
        parts = [revolve([*curve, (stem, 0.75 * height), (2.4 * stem, height)], 24)]
    else:
        plate = draw.between("plate_thickness", 0.012, 0.03)
        parts = [revolve([(radius, 0), (radius, plate), (0.3 * radius, plate + 0.01)], 24)]
        parts.append(rod((0, plate, 0), (0, seat.bottom + 0.01, 0), stem, sides=14))
    if seat.bottom > 0.55:
        # A ring to put the feet on, held by a bar.
        y, ring = 0.38 * seat.bottom, 0.15
        parts.append(tube(at_height(superellipse(ring, ring, 2, 20), y), 0.011, 6, closed=True, up=(0, 1, 0)))
        parts += [rod((-ring, y, 0), (ring, y, 0), 0.009, sides=6)]
    return parts


def sled(draw: Draw, seat: Seat, base: str) -> list[Part]:
    """Two bent rods that run along the floor, joined under the seat."""
    thick = draw.between("rod_radius", 0.009, 0.016)
    x, z, lean = 0.86 * seat.a, 0.85 * seat.b, draw.between("sled_lean", 0.0, 0.06)
    y = seat.bottom - 0.5 * thick
    path = [[x, y, -0.7 * z], [x, y, z], [x, thick, z + lean], [x, thick, -z - lean], [x, y, -z], [x, y, 0]]
    side = tube(rounded_path(path[1:5], 0.06), thick, 8)
    bars = [rod((-x, y, s * 0.98 * z), (x, y, s * 0.98 * z), thick, sides=8) for s in (1, -1)]
    bars.append(box((1.2 * seat.a, 0.03, 1.98 * z), (0, seat.bottom - 0.003, 0)))
    return [*side.both_sides(), *bars]


def cantilever(draw: Draw, seat: Seat, base: str) -> list[Part]:
    """A steel tube from the seat down the front and back along the floor: no rear legs (Breuer, Stam)."""
    thick = draw.between("rod_radius", 0.010, 0.015)
    x, z = 0.92 * seat.a, 0.92 * seat.b
    back = draw.between("floor_reach", 0.75, 1.1) * z
    y = seat.bottom - 0.3 * thick
    path = [[x, y, -z], [x, y, z], [x, thick, z], [x, thick, -back], [-x, thick, -back], [-x, thick, z], [-x, y, z]]
    frame = tube(rounded_path([*path, [-x, y, -z]], 0.07), thick, 8)
    bars = [rod((-x, y, s * 0.6 * z), (x, y, s * 0.6 * z), 0.9 * thick, sides=8) for s in (1, -1)]
    bars.append(box((1.7 * seat.a, 0.025, 1.5 * z), (0, seat.bottom - 0.002, 0)))
    return [frame, *bars]


def crossed(draw: Draw, seat: Seat, base: str) -> list[Part]:
    """Folding legs: an X on either side, and bars across."""
    thick = draw.between("leg_thickness", 0.022, 0.034)
    z = 0.9 * seat.b
    x = min(0.9 * seat.a, seat.side(0.8 * z) - 0.4 * thick, seat.side(-0.8 * z) - 0.4 * thick)
    foot = draw.between("cross_reach", 1.0, 1.2) * z
    up = seat.bottom + 0.005
    side = [
        strut((x, up, -0.8 * z), (x, 0, foot), 0.7 * thick, thick),
        strut((x - 0.6 * thick, up, 0.8 * z), (x - 0.6 * thick, 0, -foot), 0.7 * thick, thick),
    ]
    y = 0.28 * up
    low = foot - (foot + 0.8 * z) * y / up
    bars = [rod((-x, y, s * low), (x, y, s * low), 0.35 * thick) for s in (1, -1)]
    return [*side[0].both_sides(), *side[1].both_sides(), *bars]
