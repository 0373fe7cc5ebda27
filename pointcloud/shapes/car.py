"""Cars: sedans, hatchbacks, wagons, off-roaders, vans, pick-ups, sports cars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .car_details import accessories, axles, windows
from .curves import rounded_rectangle
from .draw import Draw
from .parts import Part, at_depth, at_height, box, loft
from .solid import joined

STYLES = {"sedan": 0.24, "hatchback": 0.18, "wagon": 0.08, "suv": 0.18, "van": 0.1, "pickup": 0.1, "sports": 0.12}


@dataclass(frozen=True)
class Proportions:
    """Ranges of one style. Lengths in metres; places are shares of the length behind the front bumper.

    belt: height of the shoulder; hood: height of the front of the hood; rear: height of the tail; windscreen: where it
    meets the hood; roof: where the roof starts and ends; window: where the rear window meets the tail.
    """

    length: tuple[float, float]
    width: tuple[float, float]
    height: tuple[float, float]
    clearance: tuple[float, float]
    wheel: tuple[float, float]
    belt: tuple[float, float]
    hood: tuple[float, float]
    rear: tuple[float, float]
    windscreen: tuple[float, float]
    roof: tuple[tuple[float, float], tuple[float, float]]
    window: tuple[float, float]


# fmt: off
PROPORTIONS = {
    "sedan": Proportions(
        (4.3, 5.1), (1.74, 1.92), (1.40, 1.50), (0.15, 0.20), (0.31, 0.35), (0.88, 0.96),
        (0.66, 0.76), (0.86, 0.98), (0.26, 0.31), ((0.40, 0.45), (0.64, 0.70)), (0.80, 0.86),
    ),
    "hatchback": Proportions(
        (3.5, 4.3), (1.62, 1.82), (1.42, 1.56), (0.14, 0.19), (0.28, 0.33), (0.86, 0.96),
        (0.68, 0.80), (0.84, 0.95), (0.22, 0.29), ((0.37, 0.43), (0.82, 0.89)), (0.945, 0.975),
    ),
    "wagon": Proportions(
        (4.4, 5.0), (1.75, 1.88), (1.42, 1.52), (0.15, 0.20), (0.31, 0.35), (0.88, 0.96),
        (0.66, 0.76), (0.86, 0.95), (0.26, 0.31), ((0.39, 0.43), (0.86, 0.92)), (0.95, 0.98),
    ),
    "suv": Proportions(
        (4.2, 5.0), (1.80, 2.00), (1.66, 1.88), (0.20, 0.28), (0.36, 0.42), (1.05, 1.18),
        (0.88, 1.04), (1.02, 1.14), (0.22, 0.28), ((0.33, 0.39), (0.86, 0.94)), (0.955, 0.98),
    ),
    "van": Proportions(
        (4.4, 5.6), (1.85, 2.05), (1.90, 2.45), (0.18, 0.25), (0.32, 0.37), (1.05, 1.2),
        (0.85, 1.0), (1.0, 1.15), (0.09, 0.17), ((0.22, 0.28), (0.95, 0.975)), (0.975, 0.985),
    ),
    "pickup": Proportions(
        (4.9, 5.8), (1.80, 2.02), (1.70, 1.88), (0.22, 0.30), (0.37, 0.42), (1.02, 1.15),
        (0.90, 1.04), (1.0, 1.1), (0.24, 0.28), ((0.33, 0.37), (0.52, 0.62)), (0.56, 0.66),
    ),
    "sports": Proportions(
        (4.0, 4.7), (1.80, 2.00), (1.12, 1.30), (0.10, 0.14), (0.31, 0.35), (0.76, 0.86),
        (0.56, 0.68), (0.72, 0.86), (0.30, 0.40), ((0.48, 0.54), (0.60, 0.68)), (0.84, 0.94),
    ),
}
# fmt: on


@dataclass(frozen=True)
class Body:
    """A drawn car: lengths in metres, places along z with the front at +length / 2.

    screen, roof_front, roof_rear, window: z of the foot of the windscreen, both ends of the roof, foot of the rear
    window. a: half width.
    """

    style: str
    length: float
    a: float
    height: float
    clearance: float
    wheel: float
    belt: float
    hood: float
    rear: float
    screen: float
    roof_front: float
    roof_rear: float
    window: float
    tumblehome: float

    def cabin(self, y: float, inset: float = 0.0) -> tuple[float, float, float]:
        """(half width, front z, rear z) of the glass house at the height y, drawn in by `inset`."""
        share = (y - self.belt) / (self.height - self.belt)
        wide = self.a * (0.93 - self.tumblehome * share)
        front = self.screen + (self.roof_front - self.screen) * share
        rear = self.window + (self.roof_rear - self.window) * share
        return wide - inset, front - inset, rear + inset


def build_car(draw: Draw) -> Part:
    """A car with its front towards +z on y = 0, metres."""
    body = draw_body(draw)
    running = axles(draw, body)
    parts, holes = [lower_body(draw, body)], []
    if draw.chance("wheel_arches", 0.85):
        holes += running.wells
        parts += running.fenders
    late = [*running.wheels, *accessories(draw, body)]
    if body.style == "pickup":
        front, rear = body.window - 0.06, -body.length / 2 + 0.07
        depth = draw.between("bed_depth", 0.35, 0.5)
        low, high = body.belt - depth, body.belt + 1.0
        holes.append(box((2 * body.a - 0.3, high - low, front - rear), (0, (low + high) / 2, (front + rear) / 2)))
    house = glass_house(body)
    if draw.chance("windows", 0.85):
        glass = glass_house(body, draw.between("glass_depth", 0.03, 0.06))
        house = joined([house], windows(draw, body), [glass])
    return joined(parts, holes, [*late, house])


def draw_body(draw: Draw) -> Body:
    """All measures of one car."""
    style = draw.choice("style", STYLES)
    p = PROPORTIONS[style]
    length = draw.between("length", *p.length)

    def place(name: str, span: tuple[float, float]) -> float:
        return length * (0.5 - draw.between(name, *span))

    return Body(
        style,
        length,
        draw.between("width", *p.width) / 2,
        draw.between("height", *p.height),
        draw.between("clearance", *p.clearance),
        draw.between("wheel_radius", *p.wheel),
        draw.between("belt", *p.belt),
        draw.between("hood", *p.hood),
        draw.between("rear", *p.rear),
        place("windscreen", p.windscreen),
        place("roof_front", p.roof[0]),
        place("roof_rear", p.roof[1]),
        place("rear_window", p.window),
        draw.between("tumblehome", 0.04, 0.12)
        if style in ("van", "suv", "pickup")
        else draw.between("tumblehome", 0.14, 0.24),
    )


def lower_body(draw: Draw, body: Body) -> Part:
    """The body below the windows: sections from bumper to bumper, whose tops draw hood, shoulder and tail."""
    half, a, g = body.length / 2, body.a, body.clearance
    nose, tail = draw.between("nose_rounding", 0.05, 0.22), draw.between("tail_rounding", 0.04, 0.14)
    plan = draw.between("plan_rounding", 0.05, 0.16)
    soft = draw.between("corner_radius", 0.08, 0.22)
    cowl = body.belt + 0.02
    bed = body.style == "pickup"
    end = body.belt if bed else body.rear
    # z, share of the half width, underside, top
    stations = [
        (half, 1 - plan - 0.16, g + 0.16, body.hood - 0.16 - 0.4 * nose),
        (half - 0.03, 1 - plan - 0.05, g + 0.08, body.hood - 0.5 * nose),
        (half - 0.14, 1 - 0.6 * plan, g + 0.02, body.hood - 0.2 * nose),
        (half - 0.38, 1 - 0.2 * plan, g, body.hood),
        (body.screen + 0.05, 1.0, g, cowl - 0.02),
        (0.0, 1.0, g, cowl),
        (min(body.window, 0.0) - 0.02 * (0.0 if bed else 1.0), 1.0, g, body.belt if bed else max(end, body.belt)),
        (-half + 0.30, 1 - 0.15 * plan, g + 0.02, end),
        (-half + 0.10, 1 - 0.4 * plan, g + 0.08, end - 0.3 * tail),
        (-half, 1 - 0.8 * plan - 0.06, g + 0.2, end - 0.06 - tail),
    ]
    stations = sorted(stations, key=lambda s: -s[0])
    return loft([at_depth(section(a * w, low, high, soft), z) for z, w, low, high in stations])


def section(a: float, low: float, high: float, radius: float) -> np.ndarray:
    """A car's cross section: a rounded box, widest below its middle and drawn in towards the shoulder."""
    half = (high - low) / 2
    outline = rounded_rectangle(a, half, min(radius, 0.7 * half), 4)
    lean = 1 - 0.07 * np.clip(outline[:, 1] / half, 0, 1) ** 1.5
    return np.stack([outline[:, 0] * lean, outline[:, 1] + (high + low) / 2], axis=1)


def glass_house(body: Body, inset: float = 0.0) -> Part:
    """Windscreen, side windows and roof, as level sections from below the shoulder up; drawn in by `inset`."""
    rings = []
    radius = 0.01 + 0.05 * body.length
    for below, extra in ((None, 0.0), (0.09, 0.0), (0.035, 0.025), (0.0, 0.15)):
        y = body.belt - 0.12 if below is None else body.height - below
        wide, front, rear = body.cabin(max(y, body.belt - 0.05), inset + extra)
        outline = rounded_rectangle(wide, (front - rear) / 2, radius, 4)
        rings.append(at_height(outline + np.array([0, (front + rear) / 2]), y - inset))
    return loft(rings)
