"""The outlines of the sprites as signed distance functions, in units of the sprite's half width.

A distance is negative inside. Coordinates: x right, y down, the sprite within [-1, 1]^2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Distance = Callable[[Array, Array], Array]


def disc(x: Array, y: Array, cx: float = 0.0, cy: float = 0.0, radius: float = 0.92) -> Array:
    """Signed distance to a disc."""
    return np.hypot(x - cx, y - cy) - np.float32(radius)


def box(x: Array, y: Array, cx: float, cy: float, half_width: float, half_height: float) -> Array:
    """Signed distance to an upright box."""
    dx, dy = np.abs(x - cx) - np.float32(half_width), np.abs(y - cy) - np.float32(half_height)
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def polygon(x: Array, y: Array, corners: Sequence[tuple[float, float]]) -> Array:
    """Signed distance to a simple polygon."""
    squared = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
        ex, ey = np.float32(bx - ax), np.float32(by - ay)
        px, py = x - np.float32(ax), y - np.float32(ay)
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        squared = np.minimum(squared, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        if ay != by:
            crosses = (y < ay) != (y < by)
            inside ^= crosses & (px < py * ex / ey)
    return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(squared)


def union(*parts: Array) -> Array:
    """Signed distance to the union (a lower bound outside of it)."""
    return np.minimum.reduce(parts)


def _star(points: int = 5, inner: float = 0.45) -> tuple[tuple[float, float], ...]:
    angles = -np.pi / 2 + np.pi / points * np.arange(2 * points)
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return tuple((float(r * np.cos(a)), float(r * np.sin(a))) for r, a in zip(radii, angles, strict=True))


def _heart(corners: int = 28) -> tuple[tuple[float, float], ...]:
    u = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    x = 16 * np.sin(u) ** 3
    y = 13 * np.cos(u) - 5 * np.cos(2 * u) - 2 * np.cos(3 * u) - np.cos(4 * u)
    return tuple((float(a / 17), float(-b / 17)) for a, b in zip(x, y, strict=True))


_A = 0.34  # half width of the arms of a cross
TRIANGLE = ((0.0, -0.95), (0.98, 0.78), (-0.98, 0.78))
CROSS = (
    *((-_A, -0.95), (_A, -0.95), (_A, -_A), (0.95, -_A), (0.95, _A), (_A, _A)),
    *((_A, 0.95), (-_A, 0.95), (-_A, _A), (-0.95, _A), (-0.95, -_A), (-_A, -_A)),
)
STAR, HEART = _star(), _heart()
HOUSE = ((0.0, -0.98), (0.95, -0.15), (0.72, -0.15), (0.72, 0.92), (-0.72, 0.92), (-0.72, -0.15), (-0.95, -0.15))
CAR = (
    (-0.98, 0.5),
    (-0.98, 0.02),
    (-0.6, -0.06),
    (-0.34, -0.56),
    (0.4, -0.56),
    (0.66, -0.06),
    (0.98, 0.06),
    (0.98, 0.5),
)


def _fish(x: Array, y: Array) -> Array:
    body = (np.hypot((x - 0.2) / 0.76, y / 0.56) - 1) * 0.56
    tail = polygon(x, y, ((-0.42, 0.0), (-0.98, -0.5), (-0.98, 0.5)))
    return union(body.astype(np.float32), tail)


def _moon(x: Array, y: Array) -> Array:
    return np.maximum(disc(x, y, radius=0.94), -disc(x, y, 0.42, -0.1, 0.72))


def _robot(x: Array, y: Array) -> Array:
    head, body = box(x, y, 0, -0.62, 0.36, 0.3), box(x, y, 0, 0.12, 0.46, 0.4)
    arms = box(np.abs(x), y, 0.66, 0.06, 0.14, 0.34)
    legs = box(np.abs(x), y, 0.24, 0.72, 0.15, 0.24)
    return union(head, body, arms, legs)


OUTLINES: dict[str, Distance] = {
    "circle": disc,
    "square": lambda x, y: box(x, y, 0, 0, 0.8, 0.8),
    "triangle": lambda x, y: polygon(x, y, TRIANGLE),
    "star": lambda x, y: polygon(x, y, STAR),
    "heart": lambda x, y: polygon(x, y, HEART),
    "cross": lambda x, y: polygon(x, y, CROSS),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - np.float32(0.66)) - np.float32(0.28),
    "moon": _moon,
    "fish": _fish,
    "house": lambda x, y: polygon(x, y, HOUSE),
    "car": lambda x, y: union(polygon(x, y, CAR), disc(np.abs(x), y, 0.54, 0.5, 0.3)),
    "robot": _robot,
}
"""Shape -> signed distance to its outline."""

DARK, LIGHT = (30, 28, 36), (240, 244, 250)
DETAILS: dict[str, tuple[tuple[Distance, tuple[int, int, int]], ...]] = {
    "fish": ((lambda x, y: disc(x, y, 0.56, -0.14, 0.16), LIGHT), (lambda x, y: disc(x, y, 0.6, -0.14, 0.08), DARK)),
    "house": ((lambda x, y: box(x, y, 0, 0.6, 0.2, 0.32), DARK), (lambda x, y: box(x, y, 0, -0.2, 0.2, 0.18), LIGHT)),
    "car": (
        (lambda x, y: box(np.abs(x - 0.03), y, 0.25, -0.28, 0.18, 0.16), LIGHT),
        (lambda x, y: disc(np.abs(x), y, 0.54, 0.5, 0.26), DARK),
    ),
    "robot": (
        (lambda x, y: disc(np.abs(x), y, 0.16, -0.64, 0.1), DARK),
        (lambda x, y: box(x, y, 0, 0.1, 0.2, 0.1), LIGHT),
    ),
}
"""Shape -> what is painted on it, whatever its colour and texture: (distance, RGB), in painting order."""
