"""Airplanes: airliners, business jets, turboprops, light planes, biplanes, gliders, fighters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .airplane_parts import Hull, Leg, Station, canopy, lifting, nacelle, propeller, swept, tail_group, undercarriage
from .curves import superellipse
from .draw import Draw
from .fighter import build_fighter
from .parts import Part, at_depth, beam, loft, rod
from .solid import joined

STYLES = {
    "airliner": 0.32,
    "business": 0.14,
    "turboprop": 0.12,
    "light": 0.16,
    "biplane": 0.05,
    "glider": 0.09,
    "fighter": 0.12,
}


def build_airplane(draw: Draw) -> Part:
    """An airplane with its nose towards +z and its lowest point on y = 0, metres."""
    style = draw.choice("style", STYLES)
    builders = {
        "airliner": airliner,
        "business": business,
        "turboprop": turboprop,
        "light": light,
        "biplane": light,
        "glider": glider,
        "fighter": build_fighter,
    }
    part = joined(builders[style](draw))
    return part.moved(y=-float(part.vertices[:, 1].min()))


def airliner(draw: Draw) -> list[Part]:
    """Swept low wings, two or four engines under them, or two beside the tail with a T-tail."""
    length = draw.between("length", 30.0, 70.0)
    radius = draw.between("slenderness", 0.042, 0.062) * length
    oval = draw.between("hull_height", 0.97, 1.12)
    hull = Hull(
        length, radius, oval * radius, draw.between("nose", 0.09, 0.14), draw.between("tail_length", 0.28, 0.38), 0.75
    )
    half = draw.between("span", 0.40, 0.54) * length
    sweep, rise = draw.between("sweep", 22.0, 36.0), draw.between("dihedral", 3.0, 7.0)
    root = draw.between("root_chord", 0.15, 0.19) * length
    front = hull.z(draw.between("wing_place", 0.33, 0.40))
    y = -0.62 * hull.high
    back, up = np.tan(np.radians(sweep)), np.tan(np.radians(rise))
    kink = 0.36 * half

    def leading(x: float) -> tuple[float, float]:
        return y + up * x, front - back * x

    stations = [
        Station(0.0, y, front, root * 1.1, 0.13),
        Station(kink, *leading(kink), 0.62 * root, 0.11),
        Station(half, *leading(half), draw.between("tip_chord", 0.2, 0.3) * root, 0.10),
    ]
    if draw.chance("winglets", 0.55):
        last, tall = stations[-1], draw.between("winglet_height", 0.08, 0.14) * half
        bent = Station(half + 0.25 * tall, last.y + 0.35 * tall, last.z - 0.5 * tall, 0.75 * last.chord, 0.1, 45.0)
        stations += [bent, Station(half + 0.4 * tall, last.y + tall, last.z - 1.1 * tall, 0.4 * last.chord, 0.1, 75.0)]
    parts = [hull.part(), lifting(stations)]
    place = draw.choice("engines", {"two": 0.6, "four": 0.25, "tail": 0.15})
    size = draw.between("engine_radius", 0.020, 0.031) * length * (0.8 if place == "four" else 1.0)
    long = size * draw.between("engine_length", 3.0, 4.2)
    if place == "tail":
        parts += tail_engines(hull, 0.85 * size, long)
        return parts + tail_group(draw, hull, {"T": 1.0}, (32.0, 44.0), 1.1) + gear(draw, hull, 0.15, y)
    for share in (0.34,) if place == "two" else (0.30, 0.58):
        height, edge = leading(share * half)
        # Ahead of the leading edge and below the wing, on a pylon that reaches into both.
        drop = 1.25 * size
        engine = nacelle(size, long).moved(share * half, height - drop, edge + 0.05 * long)
        pylon = beam(
            (share * half, height - 0.55 * size, edge - 0.25 * long),
            (share * half, height - 0.45 * size, edge + 0.35 * long),
            0.18 * size,
            1.5 * size,
        )
        parts += engine.both_sides() + pylon.both_sides()
    return parts + tail_group(draw, hull, {"low": 1.0}, (32.0, 44.0), 1.1) + gear(draw, hull, 0.25, y)


def gear(draw: Draw, hull: Hull, probability: float, y: float) -> list[Part]:
    """Wheels under nose and wing, where they are out."""
    if not draw.chance("gear_down", probability):
        return []
    wheel = 0.32 * hull.high
    low = -2.1 * hull.high - wheel
    nose = Leg(0.0, hull.z(0.1), 0.7 * wheel, 0.0, 0.0, low)
    main = Leg(1.1 * hull.wide, hull.z(0.52), wheel, 0.7 * hull.wide, min(y, 0.0), low)
    return undercarriage([nose, main], strut=0.08 * hull.high, width=0.35 * hull.high)


def tail_engines(hull: Hull, size: float, long: float) -> list[Part]:
    """Two engines on short stubs beside the rear of the hull."""
    wide, high, centre = hull.at(0.76)
    x, y, z = wide + 1.25 * size, centre + 0.35 * high, hull.z(0.80)
    stub = beam((0.4 * wide, y, z + 0.45 * long), (x, y, z + 0.45 * long), 0.5 * long, 0.25 * size)
    return [*nacelle(size, long).moved(x, y, z).both_sides(), *stub.both_sides()]


def business(draw: Draw) -> list[Part]:
    """A small jet: engines beside the tail, T-tail or half way, wing low and swept."""
    length = draw.between("length", 14.0, 28.0)
    radius = draw.between("slenderness", 0.045, 0.058) * length
    hull = Hull(
        length,
        radius,
        1.03 * radius,
        draw.between("nose", 0.17, 0.24),
        draw.between("tail_length", 0.34, 0.42),
        0.6,
        0.35,
    )
    half = draw.between("span", 0.42, 0.54) * length
    root = draw.between("root_chord", 0.15, 0.2) * length
    y, front = -0.72 * radius, hull.z(draw.between("wing_place", 0.42, 0.48))
    wing = swept(
        half, root, 0.3 * root, draw.between("sweep", 12.0, 33.0), draw.between("dihedral", 2.0, 6.0), (y, front)
    )
    if draw.chance("winglets", 0.65):
        last, tall = wing[-1], draw.between("winglet_height", 0.09, 0.15) * half
        wing.append(Station(last.x + 0.3 * tall, last.y + tall, last.z - 0.8 * tall, 0.5 * last.chord, 0.1, 70.0))
    size = draw.between("engine_radius", 0.024, 0.034) * length
    parts = [hull.part(), lifting(wing), *tail_engines(hull, size, size * draw.between("engine_length", 3.6, 4.8))]
    return parts + tail_group(draw, hull, {"T": 0.75, "middle": 0.25}, (35.0, 48.0), 1.1) + gear(draw, hull, 0.25, y)


def turboprop(draw: Draw) -> list[Part]:
    """Straight wings on top or below with two (or four) propeller engines."""
    length = draw.between("length", 14.0, 33.0)
    radius = draw.between("slenderness", 0.048, 0.064) * length
    hull = Hull(
        length,
        radius,
        1.05 * radius,
        draw.between("nose", 0.13, 0.2),
        draw.between("tail_length", 0.36, 0.45),
        0.7,
        0.3,
    )
    high_wing = draw.chance("high_wing", 0.55)
    half = draw.between("span", 0.50, 0.62) * length
    root = draw.between("root_chord", 0.10, 0.135) * length
    y = 0.95 * hull.high if high_wing else -0.7 * hull.high
    front = hull.z(draw.between("wing_place", 0.38, 0.43))
    rise = 0.0 if high_wing else draw.between("dihedral", 3.0, 7.0)
    wing = swept(half, root, draw.between("taper", 0.45, 0.75) * root, 3.0, rise, (y, front), 0.15)
    parts = [hull.part(), lifting(wing)]
    size = draw.between("engine_radius", 0.018, 0.026) * length
    blade = draw.between("propeller_radius", 0.062, 0.082) * length
    blades = draw.whole("blades", 3, 5)
    turn = draw.between("propeller_turn", 0.0, 1.0)
    for share in (0.33,) if draw.chance("two_engines", 0.8) else (0.28, 0.55):
        x = share * half if share > 0.4 else max(share * half, radius + 1.15 * blade)
        height = y + np.tan(np.radians(rise)) * x
        tip = front + 0.5 * root
        engine = loft(
            [
                at_depth(superellipse(s * size, s * 1.15 * size, 2.5, 12) + np.array([x, height - 0.15 * size]), z)
                for s, z in (
                    (0.5, tip),
                    (0.85, tip - 0.4 * size),
                    (1.0, tip - 1.8 * size),
                    (0.9, front - 0.5 * root),
                    (0.25, front - 1.05 * root),
                )
            ]
        )
        screw = [p.moved(x, height - 0.15 * size, tip) for p in propeller(blade, 0.5 * size, blades, turn)]
        parts += [side for p in (engine, *screw) for side in p.both_sides()]
    parts += tail_group(draw, hull, {"T": 0.45, "low": 0.4, "middle": 0.15}, (15.0, 35.0), 1.15)
    return parts + gear(draw, hull, 0.25, y)


def light(draw: Draw) -> list[Part]:
    """One propeller in front, straight wings high (with struts) or low, fixed wheels; or a biplane."""
    two_wings = draw.parameters["style"] == "biplane"
    length = draw.between("length", 6.5, 9.5)
    wide = draw.between("slenderness", 0.065, 0.085) * length
    hull = Hull(
        length,
        wide,
        draw.between("hull_height", 1.0, 1.2) * wide,
        0.09,
        draw.between("tail_length", 0.58, 0.66),
        0.45,
        0.0,
        0.16,
    )
    high_wing = two_wings or draw.chance("high_wing", 0.5)
    half = draw.between("span", 0.50, 0.72) * length * (0.85 if two_wings else 1.0)
    root = draw.between("root_chord", 0.17, 0.22) * length
    top = hull.high * (1.35 if not two_wings else 1.9)
    y = top if high_wing else -0.72 * hull.high
    front = hull.z(draw.between("wing_place", 0.22, 0.29))
    rise = draw.between("dihedral", 0.5, 2.5) if high_wing else draw.between("dihedral", 3.0, 7.0)
    wing = swept(
        half, root, draw.between("taper", 0.55, 1.0) * root, draw.between("sweep", 0.0, 4.0), rise, (y, front), 0.14
    )
    parts = [hull.part(3.0), lifting(wing)]
    x = 0.55 * half
    out = y + np.tan(np.radians(rise)) * x
    if two_wings:
        low = -0.6 * hull.high
        parts.append(lifting(swept(0.93 * half, 0.95 * root, 0.9 * root, 2.0, 2.5, (low, front - 0.25 * root), 0.13)))
        for at, shift in ((1.35 * x, 0.1 * root), (1.35 * x, 0.55 * root)):
            high = y + np.tan(np.radians(rise)) * at
            parts += rod(
                (at, high, front - shift - 0.1 * root),
                (at, low + 0.03 * at, front - shift - 0.2 * root),
                0.035,
                sides=6,
            ).both_sides()
        parts += rod(
            (0.35 * wide, y, front - 0.35 * root), (0.6 * wide, 0.5 * hull.high, front - 0.35 * root), 0.04, sides=6
        ).both_sides()
        parts.append(canopy(0.5 * wide, 0.5 * hull.high, 0.16 * length, 0.7 * hull.high, front - 1.35 * root))
    elif high_wing:
        # The cabin reaches up to the wing.
        parts.append(canopy(0.86 * wide, 0.95 * hull.high, 0.36 * length, 0.55 * hull.high, front - 0.5 * root))
        if draw.chance("struts", 0.7):
            parts += rod(
                (0.8 * wide, -0.55 * hull.high, front - 0.4 * root), (x, out, front - 0.4 * root), 0.045, sides=6
            ).both_sides()
    else:
        parts.append(canopy(0.8 * wide, 0.85 * hull.high, 0.30 * length, 0.65 * hull.high, front - 0.55 * root))
    screw = propeller(
        draw.between("propeller_radius", 0.10, 0.13) * length,
        0.028 * length,
        draw.whole("blades", 2, 3),
        draw.between("propeller_turn", 0.0, 1.0),
    )
    parts += [p.moved(0, 0, hull.z(0.0)) for p in screw]
    parts += tail_group(draw, hull, {"low": 0.85, "T": 0.15}, (12.0, 38.0), 1.2)
    if draw.chance("fixed_gear", 0.75):
        wheel = 0.027 * length
        low = -hull.high - 0.07 * length - wheel
        if draw.chance("nose_wheel", 0.6):
            third = Leg(0.0, hull.z(0.1), wheel, 0.0, 0.0, low)
        else:
            _, deep, centre = hull.at(0.92)
            third = Leg(0.0, hull.z(0.92), 0.5 * wheel, 0.0, centre, centre - deep - 1.5 * wheel)
        main = Leg(0.16 * length, front - 0.4 * root, wheel, 0.5 * wide, -0.3 * hull.high, low)
        parts += undercarriage([third, main], 0.006 * length, 0.02 * length)
    return parts


def glider(draw: Draw) -> list[Part]:
    """A slim hull, very long wings, a T-tail."""
    length = draw.between("length", 6.4, 8.6)
    wide = draw.between("slenderness", 0.036, 0.048) * length
    hull = Hull(length, wide, 1.35 * wide, 0.22, 0.68, 0.35, 0.3, 0.16)
    half = draw.between("span", 0.85, 1.3) * length
    root = draw.between("root_chord", 0.11, 0.14) * length
    rise = np.tan(np.radians(draw.between("dihedral", 1.5, 4.0)))
    y, front = 0.55 * hull.high, hull.z(draw.between("wing_place", 0.30, 0.36))
    stations: Sequence[Station] = [
        Station(0.0, y, front, root, 0.15),
        Station(0.6 * half, y + 0.6 * half * rise, front - 0.04 * root, 0.8 * root, 0.13),
        Station(half, y + half * rise, front - 0.35 * root, draw.between("tip_chord", 0.3, 0.45) * root, 0.12),
    ]
    parts = [hull.part(), lifting(stations)]
    parts.append(canopy(0.85 * wide, 0.6 * hull.high, 0.24 * length, 0.55 * hull.high, hull.z(0.19)))
    return parts + tail_group(draw, hull, {"T": 0.8, "low": 0.2}, (8.0, 25.0), 1.25)
