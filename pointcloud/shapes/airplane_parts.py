"""What airplanes are made of: hulls, lifting surfaces, tails, engines, propellers, canopies, wheels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .curves import Vector, superellipse
from .draw import Draw
from .parts import Part, at_depth, ellipsoid, loft, revolve, rod

# Half of a symmetric section: (share of the chord behind the leading edge, share of the half thickness).
SECTION = np.array([[0.0, 0.0], [0.03, 0.48], [0.15, 0.88], [0.35, 1.0], [0.7, 0.55], [1.0, 0.06]])


class Station(NamedTuple):
    """A section of a wing: its leading edge (x, y, z), chord, thickness over chord, and the angle it leans, degrees."""

    x: float
    y: float
    z: float
    chord: float
    thick: float
    cant: float = 0.0


def ring(station: Station) -> np.ndarray:
    """The outline [10, 3] of a section, whose chord runs backwards (towards -z)."""
    x, y, z, chord, thick, cant = station
    lower = SECTION[-1:0:-1] * [1, -1]
    outline = np.concatenate([SECTION, lower]) * [chord, 0.5 * thick * chord]
    cos, sin = np.cos(np.radians(cant)), np.sin(np.radians(cant))
    return np.stack([x - sin * outline[:, 1], y + cos * outline[:, 1], z - outline[:, 0]], axis=1)


def lifting(stations: Sequence[Station], mirrored: bool = True) -> Part:
    """A wing from tip to tip (stations from x = 0 outwards, right half), or one fin when not `mirrored`."""
    rings = [ring(station) for station in stations]
    if mirrored:
        rings = [r * [-1, 1, 1] for r in rings[:0:-1]] + rings
    return loft(rings)


def along_z(profile: Sequence[Vector], sides: int = 16) -> Part:
    """A profile of (radius, distance forward) turned about the z axis."""
    return revolve(profile, sides).turned("x", 90)


def nacelle(radius: float, length: float) -> Part:
    """A jet engine with a lip, an intake with a spinner, and a cone at the back; its rear edge at z = 0."""
    shape = [
        (0.0, -0.18),
        (0.30, 0.0),
        (0.58, 0.0),
        (0.64, 0.05),
        (0.85, 0.28),
        (1.0, 0.62),
        (0.97, 0.9),
        (0.88, 1.0),
        (0.80, 0.93),
        (0.78, 0.75),
        (0.25, 0.75),
        (0.0, 0.90),
    ]
    return along_z([(radius * r, length * h) for r, h in shape], 16)


def propeller(radius: float, hub: float, blades: int, turn: float) -> list[Part]:
    """A spinner at the origin and its blades; `turn` in [0, 1) is how far it is rotated."""
    spinner = along_z([(0.95 * hub, -0.6 * hub), (hub, 0.0), (0.75 * hub, 0.8 * hub), (0.0, 1.6 * hub)], 12)
    reach = np.array([0.0, 0.25, 0.7, 1.0])
    chord, pitch = radius * np.array([0.07, 0.11, 0.12, 0.05]), np.radians([60.0, 45.0, 25.0, 15.0])
    rings = []
    for share, wide, angle in zip(reach, chord, pitch, strict=True):
        along, thin = np.array([np.cos(angle), np.sin(angle)]), 0.16 * wide
        across = np.array([-along[1], along[0]])
        flat = [wide * along, thin * across, -wide * along, -thin * across]
        rings.append([(p[0], share * radius, p[1]) for p in flat])
    blade = loft(rings)
    return [spinner, *(blade.turned("z", 360 * (k + turn) / blades) for k in range(blades))]


def canopy(wide: float, high: float, long: float, y: float, z: float) -> Part:
    """A bubble over the cockpit: half width, half height and whole length, about (0, y, z)."""
    return ellipsoid((wide, high, long / 2), (0, y, z), 14, 9)


class Leg(NamedTuple):
    """A wheel at (x, z) with its lowest point at `low`, on a strut from (top_x, top); x > 0 comes in pairs."""

    x: float
    z: float
    radius: float
    top_x: float
    top: float
    low: float


def undercarriage(legs: Sequence[Leg], strut: float, width: float) -> list[Part]:
    """Wheels of a width on struts of a radius."""
    parts: list[Part] = []
    for leg in legs:
        axle = np.array([leg.x, leg.low + leg.radius, leg.z])
        half = np.array([width / 2, 0, 0])
        one = [
            rod((leg.top_x, leg.top, leg.z), axle, strut, sides=6),
            rod(axle - half, axle + half, leg.radius, sides=12),
        ]
        parts += [side for part in one for side in part.both_sides()] if leg.x > 0 else one
    return parts


@dataclass(frozen=True)
class Hull:
    """A fuselage along z: length, greatest half width and half height, shares of the length that nose and tail take."""

    length: float
    wide: float
    high: float
    nose: float
    tail: float
    upsweep: float
    droop: float = 0.25
    tip: float = 0.12

    def at(self, share: float) -> tuple[float, float, float]:
        """(half width, half height, centre height) at a share of the length behind the nose."""
        if share < self.nose:
            s = share / self.nose
            grow = max(np.sqrt(1 - (1 - s) ** 2), 0.04)
            return self.wide * grow, self.high * grow, -self.droop * self.high * (1 - s) ** 2
        s = max(0.0, (share - (1 - self.tail)) / self.tail)
        shrink = 1 - (1 - self.tip) * s**1.6
        return self.wide * shrink, self.high * shrink, self.upsweep * self.high * (1 - shrink)

    def z(self, share: float) -> float:
        """Where a share of the length lies: the nose at +length / 2."""
        return self.length * (0.5 - share)

    def part(self, exponent: float = 2.0) -> Part:
        """The skin."""
        shares = np.concatenate(
            [self.nose * np.array([0, 0.06, 0.2, 0.45, 0.75, 1]), 1 - self.tail * np.linspace(1, 0, 6)]
        )
        rings = []
        for share in shares:
            wide, high, centre = self.at(share)
            rings.append(at_depth(superellipse(wide, high, exponent, 18) + np.array([0, centre]), self.z(share)))
        return loft(rings)


def swept(
    half_span: float,
    root: float,
    tip: float,
    sweep: float,
    dihedral: float,
    at: tuple[float, float],
    thick: float = 0.12,
) -> list[Station]:
    """Stations of a straight-edged half wing whose leading edge starts at height and depth `at`; angles in degrees."""
    back, rise = np.tan(np.radians(sweep)), np.tan(np.radians(dihedral))
    return [
        Station(x, at[0] + rise * x, at[1] - back * x, root + (tip - root) * x / half_span, thick)
        for x in (0.0, half_span)
    ]


def tail_group(
    draw: Draw, hull: Hull, kinds: dict[str, float], sweep: tuple[float, float], size: float = 1.0
) -> list[Part]:
    """Fin and tailplane: the tailplane on the hull, half way up the fin, or on its top (T-tail)."""
    kind = draw.choice("tail", kinds)
    lean = draw.between("fin_sweep", *sweep)
    tall = size * draw.between("fin_height", 0.105, 0.15) * hull.length
    chord = draw.between("fin_chord", 0.11, 0.16) * hull.length
    taper = draw.between("fin_taper", 0.35, 0.65)
    end = hull.z(0.965)
    _, high, centre = hull.at(0.9)
    foot = centre + 0.3 * high
    back = np.tan(np.radians(lean))
    stations = [
        Station(0.0, foot, end + chord + 0.0, chord, 0.10, 90.0),
        Station(0.0, foot + tall, end + chord - back * tall, taper * chord, 0.10, 90.0),
    ]
    fin = lifting(stations, mirrored=False)
    span = size * draw.between("tailplane_span", 0.155, 0.21) * hull.length
    plane = draw.between("tailplane_chord", 0.07, 0.10) * hull.length
    level = {"low": 0.0, "middle": 0.45, "T": 0.985}[kind]
    z = end + chord - back * tall * level - (0.12 * chord if kind != "T" else 0.0)
    y = centre + 0.2 * high if kind == "low" else foot + tall * level
    wing = swept(span, plane, 0.5 * plane, 0.85 * lean, 5.0 if kind == "low" else 0.0, (y, z), 0.09)
    return [fin, lifting(wing)]
