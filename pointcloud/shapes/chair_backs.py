"""Backrests and armrests of chairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .curves import rounded_path, superellipse
from .draw import Draw
from .parts import Part, ellipsoid, loft, pad, rod, sheet, tube

if TYPE_CHECKING:
    from .chair import Seat

# A back as a surface: (across -1 to 1, up 0 to 1) to a point in space.
Surface = Callable[[np.ndarray, np.ndarray], np.ndarray]

BACKS = {
    "dining": {"panel": 0.2, "slats": 0.2, "ladder": 0.2, "spindles": 0.2, "cross": 0.07, "pad": 0.13},
    "armchair": {"upholstered": 0.65, "wings": 0.35},
    "office": {"pad": 0.45, "panel": 0.25, "tall panel": 0.3},
    "stool": {"none": 0.4, "low": 0.6},
    "shell": {"shell": 1.0},
    "tube": {"panel": 0.5, "pad": 0.3, "ladder": 0.2},
}
ARMS = {
    "dining": {"none": 0.75, "bars": 0.25},
    "armchair": {"blocks": 0.75, "rolls": 0.25},
    "office": {"none": 0.25, "T": 0.5, "loops": 0.25},
    "stool": {"none": 1.0},
    "shell": {"none": 1.0},
    "tube": {"none": 0.6, "bars": 0.4},
}


def back_and_arms(draw: Draw, seat: Seat, style: str) -> list[Part]:
    """Everything above the seat of a chair that faces +z."""
    kind = draw.choice("back", BACKS[style])
    arms = draw.choice("arms", ARMS[style])
    if kind == "none":
        return []
    if kind == "shell":
        return shell(draw, seat)
    if style == "armchair":
        return upholstery(draw, seat, kind, arms)
    low, high = (0.12, 0.24) if kind == "low" else (0.55, 0.75) if kind == "tall panel" else (0.32, 0.56)
    height = draw.between("back_height", low, high)
    recline = np.tan(np.radians(draw.between("back_recline", 2.0, 20.0)))
    bow = draw.between("back_bow", 0.0, 0.07)
    flare = draw.between("back_flare", 0.88, 1.12)
    rear = np.abs(seat.outline[seat.outline[:, 1] < -0.7 * seat.b, 0]).max()
    half = max(0.97 * rear, 0.72 * seat.a)
    base = seat.bottom + 0.2 * (seat.board - seat.bottom)
    height += seat.top - base
    foot = seat.rear(0.97 * half) + 0.02

    def surface(across: np.ndarray, up: np.ndarray) -> np.ndarray:
        x = half * across * (1 + (flare - 1) * up)
        z = foot - recline * height * up**1.3 - bow * (1 - across**2) * np.minimum(2 * up, 1)
        return np.stack([x, base + height * up + 0 * x, z + 0 * x], axis=-1)

    parts = BUILDERS[kind](draw, surface)
    if style == "office":
        parts += spine(seat, surface, 0.4)
    return parts + armrests(draw, seat, arms, surface)


def line(surface: Surface, across: tuple[float, float], up: tuple[float, float], count: int) -> np.ndarray:
    """A straight run over the back, [count, 3]."""
    return surface(np.linspace(*across, count), np.linspace(*up, count))


def plate(
    surface: Surface, across: tuple[float, float], up: tuple[float, float], thick: float, columns: int = 7
) -> Part:
    """A piece of the back as a bent plate."""
    u, v = np.meshgrid(np.linspace(*across, columns), np.linspace(*up, 4), indexing="ij")
    return sheet(surface(u, v), thick)


def posts(surface: Surface, thick: float, top: float = 1.0) -> list[Part]:
    """The two uprights at the sides of a back."""
    return [tube(line(surface, (s, s), (0.0, top), 5), thick / 2, 8) for s in (0.96, -0.96)]


def panel(draw: Draw, surface: Surface) -> list[Part]:
    """A solid bent board, from the seat up or held a hand above it by two posts."""
    thick = draw.between("back_thickness", 0.018, 0.04)
    start = 0.0 if draw.chance("back_from_seat", 0.5) else draw.between("back_start", 0.25, 0.5)
    arch = draw.between("back_arch", 0.0, 0.2)
    u, v = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(start, 1, 4), indexing="ij")
    v = start + (v - start) * (1 - arch * u**2)
    parts = [sheet(surface(u, v), thick)]
    return parts if start == 0 else parts + posts(surface, 0.03, start + 0.12)


def tall_panel(draw: Draw, surface: Surface) -> list[Part]:
    """A high padded back with a headrest that narrows."""
    thick = draw.between("back_thickness", 0.05, 0.08)
    waist = draw.between("back_waist", 0.0, 0.25)
    u, v = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(0.0, 1, 8), indexing="ij")
    width = 1 - waist * np.clip((v - 0.55) / 0.3, 0, 1) - 0.1 * v**6
    return [sheet(surface(u * width, v), thick * (1 - 0.6 * u**4))]


def padded(draw: Draw, surface: Surface) -> list[Part]:
    """A cushion between two posts."""
    thick = draw.between("back_thickness", 0.04, 0.07)
    start = draw.between("back_start", 0.2, 0.45)
    outline = superellipse(0.98, 0.5 * (1 - start), draw.between("pad_roundness", 2.5, 8.0), 20)
    ring = surface(outline[:, 0], outline[:, 1] + 0.5 * (1 + start))
    inner = surface(0.85 * outline[:, 0], 0.85 * outline[:, 1] + 0.5 * (1 + start))
    depth = np.array([0, 0, thick / 2])
    rings = [inner + depth, ring + 0.4 * depth, ring - 0.4 * depth, inner - depth]
    return [loft(rings), *posts(surface, 0.026, 0.5 * (1 + start))]


def slats(draw: Draw, surface: Surface) -> list[Part]:
    """Upright flat bars under a top rail."""
    count = draw.whole("slats", 2, 6)
    width = draw.between("slat_width", 0.35, 0.65) * 1.8 / count / 2
    rail = draw.between("rail_height", 0.10, 0.22)
    middle = np.linspace(-0.96, 0.96, count + 2)[1:-1]
    parts = [plate(surface, (m - width / 2, m + width / 2), (0.0, 1 - rail / 2), 0.014, 2) for m in middle]
    parts.append(plate(surface, (-1, 1), (1 - rail, 1), 0.024))
    return parts + posts(surface, draw.between("post_thickness", 0.026, 0.042), 0.97)


def ladder(draw: Draw, surface: Surface) -> list[Part]:
    """Level bars between two posts."""
    count = draw.whole("rungs", 2, 5)
    share = draw.between("rung_share", 0.35, 0.65)
    gap = 0.85 / count
    edges = [(1 - (k + share) * gap, 1 - k * gap) for k in range(count)]
    parts = [plate(surface, (-0.97, 0.97), edge, 0.018) for edge in edges]
    return parts + posts(surface, draw.between("post_thickness", 0.026, 0.042), 1.02)


def spindles(draw: Draw, surface: Surface) -> list[Part]:
    """Thin round rods under a bow or a comb (Windsor chairs)."""
    count = draw.whole("spindles", 4, 8)
    thin = draw.between("spindle_radius", 0.006, 0.010)
    place = np.linspace(-0.8, 0.8, count)
    if draw.chance("bow_back", 0.5):
        turn = np.linspace(np.pi, 0, 13)
        hoop = tube(surface(0.98 * np.cos(turn), np.sin(turn) ** 0.8), 0.013, 8)
        tops = np.sqrt(1 - (place / 0.98) ** 2) ** 0.8
        ends = [line(surface, (0.75 * p, p), (0.0, top), 2) for p, top in zip(place, tops, strict=True)]
        return [hoop, *(rod(lower, upper, thin, sides=6) for lower, upper in ends)]
    rods = [tube(line(surface, (0.85 * p, p), (0.0, 0.93), 3), thin, 6) for p in place]
    return [*rods, plate(surface, (-1.02, 1.02), (0.84, 1), 0.022), *posts(surface, 0.024, 0.9)]


def cross(draw: Draw, surface: Surface) -> list[Part]:
    """Two bent laths that cross between the posts (bistro chairs)."""
    reach = draw.between("cross_top", 0.78, 0.9)
    thin = draw.between("cross_radius", 0.009, 0.014)
    turn = np.linspace(0, 1, 7)
    laths = [tube(surface(s * (2 * turn - 1) * 0.9, reach * turn), thin, 6) for s in (1, -1)]
    return [*laths, plate(surface, (-1, 1), (0.86, 1), 0.022), *posts(surface, 0.03, 0.95)]


def low(draw: Draw, surface: Surface) -> list[Part]:
    """The short back of a stool: one bent rail on two posts."""
    start = draw.between("back_start", 0.45, 0.6)
    return [
        plate(surface, (-1, 1), (start, 1), draw.between("back_thickness", 0.02, 0.04)),
        *posts(surface, 0.024, 0.8),
    ]


BUILDERS: dict[str, Callable[[Draw, Surface], list[Part]]] = {
    "panel": panel,
    "tall panel": tall_panel,
    "pad": padded,
    "slats": slats,
    "ladder": ladder,
    "spindles": spindles,
    "cross": cross,
    "low": low,
}


def spine(seat: Seat, surface: Surface, top: float) -> list[Part]:
    """The bent bar that carries the back of an office chair from under the seat."""
    anchor = surface(np.array(0.0), np.array(top))
    y = seat.bottom - 0.005
    path = rounded_path([[0, y, 0], [0, y, anchor[2] - 0.05], anchor - [0, 0, 0.03]], 0.08)
    return [tube(path, 0.02, 6)]


def armrests(draw: Draw, seat: Seat, arms: str, surface: Surface) -> list[Part]:
    """Armrests of chairs with an open frame."""
    if arms == "none":
        return []
    lift = draw.between("arm_height", 0.18, 0.26)
    x, front = seat.a + 0.02, draw.between("arm_reach", 0.35, 0.8) * seat.b
    y = seat.top + lift
    if arms == "bars":
        # From the back post forward, then down to the seat.
        low, high = surface(np.array(0.97), np.array([0.0, 1.0]))[:, 1]
        back = surface(np.array(0.97), np.array(min((y - low) / (high - low), 0.93)))
        foot = [seat.side(0.9 * front) - 0.015, (seat.bottom + seat.board) / 2, 0.9 * front]
        path = [back, [x, y, front], foot]
        return tube(rounded_path(path, draw.between("arm_bend", 0.01, 0.06)), 0.014, 8).both_sides()
    bracket = rod((0.6 * seat.a, seat.bottom + 0.012, 0), (x + 0.03, seat.bottom + 0.012, 0), 0.014, sides=6)
    if arms == "T":
        post = rod((x + 0.025, seat.bottom, 0), (x + 0.025, y, 0), 0.016, sides=8)
        rest = pad((0.07, 0.03, 0.5 * seat.b + 0.12), (x + 0.025, y, 0), 4, 16)
        return [part for one in (bracket, post, rest) for part in one.both_sides()]
    loop = [[x + 0.02, seat.bottom, -0.25], [x + 0.02, y, -0.25], [x + 0.02, y, 0.2], [x + 0.02, seat.bottom, 0.12]]
    path = np.asarray(loop) * [1, 1, seat.b / 0.24]
    inner = path[0] * [0.6, 1, 1], path[-1] * [0.6, 1, 1]
    return tube(rounded_path([inner[0], *path, inner[1]], 0.05), 0.015, 8).both_sides()


def upholstery(draw: Draw, seat: Seat, kind: str, arms: str) -> list[Part]:
    """The thick back and arms of an armchair, from near the floor up."""
    height = draw.between("back_height", 0.32, 0.60)
    recline = np.tan(np.radians(draw.between("back_recline", 4.0, 16.0)))
    thick = draw.between("back_thickness", 0.10, 0.18)
    side = draw.between("arm_thickness", 0.08, 0.16)
    lift = draw.between("arm_height", 0.10, 0.24)
    round_top = draw.between("back_roundness", 0.0, 0.3)
    base = 0.6 * seat.bottom
    u, v = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(0, 1, 5), indexing="ij")
    rise = base + v * (seat.top + height * (1 - round_top * u**4) - base)
    z = -0.75 * seat.b - recline * np.maximum(rise - seat.top, 0)
    grid = np.stack([(seat.a + 0.3 * side) * u, rise, z], axis=-1)
    parts = [sheet(grid, thick * (1 - 0.25 * v))]
    depth = 1.9 * seat.b
    y = seat.top + lift
    x = seat.a + side / 2 - 0.015
    rings = [(base, 0.96), (y - 0.3 * side, 1.0), (y - 0.05 * side, 0.92), (y, 0.7)]
    outline = superellipse(side / 2, depth / 2, 8, 16)
    block = loft([np.stack([x + s * outline[:, 0], 0 * outline[:, 0] + h, outline[:, 1]], axis=1) for h, s in rings])
    parts += block.both_sides()
    if arms == "rolls":
        roll = rod((x + 0.02, y, -0.9 * seat.b), (x + 0.02, y, 0.97 * seat.b), 0.62 * side, sides=14)
        parts += roll.both_sides()
    if kind == "wings":
        reach = draw.between("wing_reach", 0.5, 0.9) * seat.b
        top = seat.top + 0.88 * height
        start = -0.75 * seat.b - recline * np.array([lift, 0.88 * height])
        u, v = np.meshgrid(np.linspace(0, 1, 4), np.linspace(0, 1, 3), indexing="ij")
        z = start[0] + (start[1] - start[0]) * v - 0.4 * thick + u * reach * (1 - 0.45 * v**2)
        grid = np.stack([0 * u + seat.a + 0.25 * side, y - 0.03 + v * (top - y + 0.03), z], axis=-1)
        parts += sheet(grid, 0.06, (-1, 0, 0)).both_sides()
    if draw.chance("pillow", 0.3):
        parts.append(ellipsoid((0.7 * seat.a, 0.5 * height, 0.09), (0, seat.top + 0.5 * height, -0.75 * seat.b), 14, 7))
    return parts


def shell(draw: Draw, seat: Seat) -> list[Part]:
    """One bent plastic shell for seat and back, perhaps drawn up at the sides to a tub (Eames, Saarinen)."""
    height = draw.between("back_height", 0.34, 0.46)
    recline = draw.between("back_recline", 0.06, 0.16)
    rim = draw.between("rim_height", 0.02, 0.22)
    thick = draw.between("shell_thickness", 0.012, 0.022)
    # The seat is only the mount below; the shell reaches well over it.
    a, b, y = seat.a / 0.68, seat.b / 0.7, seat.top
    front, corner = [y - 0.02, b], [y - 0.012, -1.05 * b]
    bends = [front, [y + 0.012, 0.75 * b], corner, [y + height, corner[1] - recline]]
    ridge = rounded_path(bends, draw.between("shell_bend", 0.10, 0.18), 5)
    along = np.linspace(0, 1, len(ridge))
    width = a * np.interp(along, [0, 0.2, 0.75, 0.9, 1], [0.94, 1, 1, 0.9, 0.7])
    sides = rim * np.sin(0.5 * np.pi * np.interp(along, [0.1, 0.55, 0.95], [0, 1, 0])) ** 2
    u = np.linspace(-1, 1, 9)[:, None]
    lean = np.clip((along - 0.35) / 0.4, 0, 1)
    # The sides rise from the seat and come forward from the back.
    grid = np.stack(
        [
            u * width,
            ridge[:, 0] + sides * (1 - 0.5 * lean) * np.abs(u) ** 2.5,
            ridge[:, 1] + (0.4 * sides + 0.05) * lean * np.abs(u) ** 2,
        ],
        axis=-1,
    )
    across = np.gradient(grid, axis=0)
    forward = np.gradient(grid, axis=1)
    normal = np.cross(forward, across)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    return [
        loft(np.concatenate([grid + 0.5 * thick * normal, (grid - 0.5 * thick * normal)[:, ::-1]], axis=1), thin=True)
    ]
