"""Wheels, windows and what is fixed to a car's body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .draw import Draw
from .parts import Part, box, ellipsoid, loft, revolve, rod

if TYPE_CHECKING:
    from .car import Body


@dataclass(frozen=True, eq=False)
class Running:
    """Wheels with the axles that hold them, the wells cut for them, and fenders where they rise above the hood."""

    wheels: list[Part]
    wells: list[Part]
    fenders: list[Part]


def wheel_pair(radius: float, width: float, rim: float, out: float) -> Part:
    """Two wheels about the x axis with dished rims, their middles `out` to either side, and the axle between them."""
    h, edge, shoulder = width / 2, rim * radius, 0.1 * radius
    left = [(0.0, -h + 0.02), (0.85 * edge, -h + 0.05), (edge, -h), (radius - shoulder, -h)]
    left += [(radius, -h + shoulder), (radius, h), (0.07, h)]
    right = [(r, -x) for r, x in reversed(left)]
    return revolve([*((r, x - out) for r, x in left), *((r, x + out) for r, x in right)], 14).turned("z", -90)


def axles(draw: Draw, body: Body) -> Running:
    """What a car rolls on."""
    half, r = body.length / 2, body.wheel
    front = half - draw.between("front_overhang", 0.70, 0.95) * (0.9 if body.length < 4 else 1.0)
    rear = -half + draw.between("rear_overhang", 0.65, 1.0) * (0.85 if body.length < 4 else 1.0)
    width = draw.between("tyre_width", 0.19, 0.27)
    rim = draw.between("rim_share", 0.55, 0.75)
    arch = draw.between("arch_gap", 1.08, 1.18) * r
    out = body.a + 0.005 - width / 2
    inner = body.a - width - 0.04
    wheels, wells, fenders = [], [], []
    for z, top in ((front, body.hood), (rear, min(body.rear, body.belt))):
        wheels.append(wheel_pair(r, width, rim, out).moved(0, r, z))
        wells.append(rod((inner, r, z), (body.a + 0.3, r, z), arch, sides=14).pair())
        if r + arch > top - 0.08:
            # Half a drum over the wheel, its lower edge inside the body.
            turn = np.linspace(0, np.pi, 11)
            hump = [
                [(x, r + size * np.sin(t), z + size * np.cos(t)) for t in turn]
                + [(x, 0.85 * r, z - size), (x, 0.85 * r, z + size)]
                for x, size in ((inner - 0.05, arch + 0.06), (0.99 * body.a, arch + 0.035))
            ]
            fenders.append(loft(hump).pair())
    return Running(wheels, wells, fenders)


def windows(draw: Draw, body: Body) -> list[Part]:
    """Openings through the glass house, from side to side and from end to end; glass set back fills them again."""
    low, high = body.belt + 0.04, body.height - 0.12
    pillar = draw.between("pillar", 0.05, 0.10)
    wide_low, front_low, rear_low = body.cabin(low)
    wide_high, front_high, rear_high = body.cabin(high)
    count = {"sports": 1, "pickup": 1 if front_high - rear_high < 1.1 else 2}.get(body.style, 2)
    if body.style in ("wagon", "suv", "van") and draw.chance("third_window", 0.7):
        count = 3
    closed = body.style == "van" and draw.chance("panel_van", 0.4)
    if closed:
        count = 1
        rear_low = rear_high = front_high - 1.0
    margin = 2.2 * pillar
    ends_low = np.linspace(front_low - margin, rear_low + margin, count + 1)
    ends_high = np.linspace(front_high - margin, rear_high + margin, count + 1)
    # Posts between doors stand upright.
    ends_low[1:-1] = ends_high[1:-1] = (ends_low[1:-1] + ends_high[1:-1]) / 2
    panes = []
    reach = body.a + 0.2
    for k in range(count):
        front_post, rear_post = (0.0 if k == 0 else pillar / 2), (0.0 if k == count - 1 else pillar / 2)
        first, last = np.array([ends_low[k], ends_high[k]]), np.array([ends_low[k + 1], ends_high[k + 1]])
        first, last = first - front_post, last + rear_post
        corners = [(low, first[0]), (high, first[1]), (high, last[1]), (low, last[0])]
        panes.append(loft([[(x, y, z) for y, z in corners] for x in (-reach, reach)]))
    a, b = wide_low - 1.6 * pillar, wide_high - 1.6 * pillar
    corners = [(-a, low), (a, low), (b, high), (-b, high)]
    ends = (0.0 if closed else -body.length, body.length)
    return [*panes, loft([[(x, y, z) for x, y in corners] for z in ends])]


def accessories(draw: Draw, body: Body) -> list[Part]:
    """Mirrors, bumpers, spoilers, roof rails, a spare wheel."""
    parts: list[Part] = []
    half = body.length / 2
    if draw.chance("mirrors", 0.9):
        wide, front, _ = body.cabin(body.belt + 0.08)
        size = draw.between("mirror_size", 0.8, 1.25)
        mirror = ellipsoid(
            (0.16 * size, 0.075 * size, 0.06 * size), (wide + 0.05, body.belt + 0.05, front - 0.36), 8, 6
        )
        parts.append(mirror.pair())
    if draw.chance("bumpers", 0.5):
        y, deep = body.clearance + 0.24, draw.between("bumper_depth", 0.03, 0.08)
        parts.append(box((1.66 * body.a, 0.16, 0.4), (0, y, half - 0.2 + deep)))
        parts.append(box((1.66 * body.a, 0.16, 0.4), (0, y + 0.06, -half + 0.2 - deep)))
    if body.style == "sports" and draw.chance("wing", 0.5):
        y, z = body.rear + draw.between("wing_height", 0.14, 0.28), -half + 0.22
        parts.append(box((1.6 * body.a, 0.03, 0.26), (0, y, z)))
        parts += box((0.04, y - body.rear + 0.25, 0.14), (0.55 * body.a, (y + body.rear - 0.25) / 2, z)).both_sides()
    elif body.style in ("sedan", "sports") and draw.chance("lip", 0.35):
        parts.append(box((1.5 * body.a, 0.12, 0.16), (0, body.rear - 0.01, -half + 0.22)))
    elif body.style in ("hatchback", "suv", "wagon") and draw.chance("roof_spoiler", 0.4):
        parts.append(box((1.3 * body.a, 0.035, 0.34), (0, body.height - 0.055, body.roof_rear + 0.02)))
    if body.style in ("suv", "wagon", "van") and draw.chance("roof_rails", 0.4):
        wide, front, rear = body.cabin(body.height)
        x, y = wide - 0.16, body.height + 0.05
        span = (front - 0.3, rear + 0.25)
        parts += rod((x, y, span[0]), (x, y, span[1]), 0.022, sides=6).both_sides()
        for z in (span[0] - 0.05, sum(span) / 2, span[1] + 0.05):
            parts += rod((x, y, z), (x, y - 0.12, z), 0.02, sides=6).both_sides()
    if body.style == "suv" and draw.chance("spare_wheel", 0.25):
        parts.append(
            rod((0, body.belt - 0.1, -half - 0.2), (0, body.belt - 0.1, -half + 0.2), 0.92 * body.wheel, sides=18)
        )
    return parts
