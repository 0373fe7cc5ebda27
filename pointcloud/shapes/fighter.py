"""Jet fighters: pointed hulls, delta or swept wings, one or two fins, intakes, a nozzle or two."""

from __future__ import annotations

import numpy as np

from .airplane_parts import Station, along_z, canopy, lifting
from .curves import superellipse
from .draw import Draw
from .parts import Part, at_depth, loft, rod


def build_fighter(draw: Draw) -> list[Part]:
    """The parts of a jet fighter with its nose towards +z, metres."""
    length = draw.between("length", 13.0, 21.0)
    wide = draw.between("slenderness", 0.045, 0.058) * length
    high = draw.between("hull_height", 0.85, 1.1) * wide
    twin = draw.chance("twin_engines", 0.5)
    rear = 1.7 if twin else 1.15
    # Share behind the nose, half width, half height, exponent of the section.
    rings = [(0.0, 0.03, 0.03), (0.06, 0.3, 0.32), (0.16, 0.62, 0.72), (0.28, 0.85, 1.0), (0.42, 1.1, 1.05)]
    rings += [(0.6, 0.5 * (1.2 + rear), 1.0), (0.8, rear, 0.95), (0.95, 0.85 * rear, 0.78)]
    hull = loft(
        [
            at_depth(superellipse(wide * w, high * h, 2.4, 16) - [0, 0.12 * high * (1 - s)], length * (0.5 - s))
            for s, w, h in rings
        ]
    )
    parts = [
        hull,
        canopy(0.5 * wide, 0.62 * high, draw.between("canopy_length", 0.2, 0.27) * length, 0.7 * high, 0.23 * length),
    ]
    nozzle = draw.between("nozzle_radius", 0.62, 0.78) * high
    for x in (-0.8 * wide, 0.8 * wide) if twin else (0.0,):
        shape = [(0.0, 0.5), (0.72, 0.1), (0.8, 0.0), (0.88, 0.02), (1.0, 0.6), (1.0, 2.4), (0, 2.4)]
        parts.append(along_z([(nozzle * r, nozzle * h) for r, h in shape], 14).moved(x, 0, -0.5 * length))
    if draw.chance("side_intakes", 0.75):
        front, size = draw.between("intake_place", 0.30, 0.40), draw.between("intake_size", 0.5, 0.7)
        steps = [(front, 0.9), (front + 0.1, 1.0), (front + 0.3, 0.8), (0.85, 0.4)]
        duct = loft(
            [
                at_depth(
                    superellipse(size * wide * s, 0.75 * high * s, 6, 12) + np.array([1.15 * wide, -0.05 * high]),
                    length * (0.5 - z),
                )
                for z, s in steps
            ]
        )
        parts += duct.both_sides()
    else:
        steps = [(0.3, 0.6), (0.34, 0.7), (0.6, 0.6), (0.7, 0.3)]
        parts.append(
            loft(
                [
                    at_depth(superellipse(wide * s, high * s, 4, 12) - [0, 0.95 * high], length * (0.5 - z))
                    for z, s in steps
                ]
            )
        )
    return parts + wings(draw, length, wide, high) + fins(draw, length, wide, high, rear)


def wings(draw: Draw, length: float, wide: float, high: float) -> list[Part]:
    """A delta (with canards or without), or cut-off swept wings with a tailplane."""
    kind = draw.choice("wing", {"delta": 0.45, "swept": 0.55})
    y = draw.between("wing_height", -0.25, 0.3) * high
    half = draw.between("span", 0.28, 0.36) * length
    if kind == "delta":
        root = draw.between("root_chord", 0.46, 0.56) * length
        tip = draw.between("tip_share", 0.06, 0.2) * root
        rear = length * (0.5 - draw.between("wing_end", 0.88, 0.94))
        parts = [
            lifting([Station(0.0, y, rear + root, root, 0.05), Station(half, y, rear + tip + 0.02 * root, tip, 0.05)])
        ]
        if draw.chance("canards", 0.5):
            z = length * (0.5 - 0.30)
            small = [
                Station(0.0, 0.35 * high, z, 0.13 * length, 0.06),
                Station(0.17 * length, 0.45 * high, z - 0.10 * length, 0.04 * length, 0.06),
            ]
            parts.append(lifting(small))
    else:
        root = draw.between("root_chord", 0.27, 0.36) * length
        tip = draw.between("tip_share", 0.25, 0.4) * root
        front = length * (0.5 - draw.between("wing_place", 0.38, 0.45))
        back = np.tan(np.radians(draw.between("sweep", 28.0, 48.0)))
        parts = [
            lifting(
                [Station(0.0, y, front, root, 0.05), Station(half, y - 0.03 * half, front - back * half, tip, 0.05)]
            )
        ]
        z, span = -0.30 * length, draw.between("tailplane_span", 0.18, 0.24) * length
        parts.append(
            lifting([Station(0.0, y, z, 0.18 * length, 0.05), Station(span, y, z - 0.8 * span, 0.08 * length, 0.05)])
        )
    if draw.chance("missiles", 0.4):
        x, z = 0.66 * half, parts[0].vertices[:, 2].mean() - 0.06 * length
        parts.append(rod((x, y, z), (x, y - 0.03 * length, z), 0.012 * length, sides=6))
        shape = [(0.6, 0.0), (1.0, 0.1), (1.0, 0.85), (0.0, 1.0)]
        missile = along_z([(0.011 * length * r, 0.17 * length * h) for r, h in shape], 8)
        parts.append(missile.moved(x, y - 0.032 * length, z - 0.07 * length))
        parts += [part.mirrored() for part in parts[-2:]]
    return parts


def fins(draw: Draw, length: float, wide: float, high: float, rear: float) -> list[Part]:
    """One fin on the middle or two that lean outward."""
    tall = draw.between("fin_height", 0.14, 0.19) * length
    chord = draw.between("fin_chord", 0.17, 0.23) * length
    lean = np.tan(np.radians(draw.between("fin_sweep", 35.0, 55.0)))
    z = -0.27 * length
    if draw.chance("twin_fins", 0.45):
        cant = draw.between("fin_cant", 5.0, 28.0)
        x, out = 0.72 * rear * wide, np.sin(np.radians(cant))
        up = np.cos(np.radians(cant))
        stations = [
            Station(x, 0.3 * high, z, chord, 0.05, 90 - cant),
            Station(x + out * tall, 0.3 * high + up * tall, z - lean * tall, 0.4 * chord, 0.05, 90 - cant),
        ]
        return lifting(stations, mirrored=False).both_sides()
    tall *= 1.15
    stations = [
        Station(0.0, 0.5 * high, z, chord, 0.06, 90),
        Station(0.0, 0.5 * high + tall, z - lean * tall, 0.4 * chord, 0.06, 90),
    ]
    return [lifting(stations, mirrored=False)]
