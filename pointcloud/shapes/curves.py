"""Plane outlines and space curves, as arrays of points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Points = np.ndarray  # float64 [K, 2] or [K, 3]
Vector = Sequence[float] | np.ndarray


def superellipse(a: float, b: float, exponent: float = 2.0, sides: int = 24) -> Points:
    """Counter-clockwise outline |x/a|^n + |y/b|^n = 1, [sides, 2]; n = 2 is an ellipse, large n a rectangle.

    Points are spread evenly in the angle of the ray through them, with the corners of large n met exactly when
    `sides` is a multiple of 8 and a = b.
    """
    angle = 2 * np.pi * np.arange(sides) / sides
    cos, sin = np.cos(angle), np.sin(angle)
    radius = (np.abs(cos) ** exponent + np.abs(sin) ** exponent) ** (-1 / exponent)
    return np.stack([a * radius * cos, b * radius * sin], axis=1)


def rectangle(a: float, b: float) -> Points:
    """Counter-clockwise corners of the rectangle with half sides a and b, [4, 2]."""
    return np.array([[a, -b], [a, b], [-a, b], [-a, -b]], dtype=np.float64)


def rounded_rectangle(a: float, b: float, radius: float, per_corner: int = 3) -> Points:
    """Counter-clockwise rectangle with half sides a and b and round corners, [4 * per_corner, 2]."""
    radius = min(radius, 0.95 * a, 0.95 * b)
    turn = np.linspace(0, np.pi / 2, per_corner)
    corners = []
    for k, (x, y) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        angle = turn + k * np.pi / 2
        centre = np.array([x * (a - radius), y * (b - radius)])
        corners.append(centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    return np.concatenate(corners)


def polygon(radius: float, sides: int, turn: float = 0.0) -> Points:
    """Counter-clockwise regular polygon, its first corner at `turn` of a full turn from +x, [sides, 2]."""
    angle = 2 * np.pi * (np.arange(sides) / sides + turn)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def bezier(controls: Sequence[Vector] | Points, count: int) -> Points:
    """`count` points of the Bezier curve with the given control points (de Casteljau), ends included."""
    t = np.linspace(0, 1, count)[:, None, None]
    level = np.asarray(controls, dtype=np.float64)[None]
    while level.shape[1] > 1:
        level = (1 - t) * level[:, :-1] + t * level[:, 1:]
    return level[:, 0]


def spline(points: Sequence[Vector] | Points, per_span: int = 4) -> Points:
    """Smooth curve through all points (cubic Hermite, finite-difference tangents), `per_span` pieces a span."""
    p = np.asarray(points, dtype=np.float64)
    tangent = np.gradient(p, axis=0)
    t = (np.arange(per_span) / per_span)[:, None]
    h = (2 * t**3 - 3 * t**2 + 1, t**3 - 2 * t**2 + t, -2 * t**3 + 3 * t**2, t**3 - t**2)
    spans = [h[0] * p[i] + h[1] * tangent[i] + h[2] * p[i + 1] + h[3] * tangent[i + 1] for i in range(len(p) - 1)]
    return np.concatenate([*spans, p[-1:]])


def rounded_path(points: Sequence[Vector] | Points, radius: float, per_corner: int = 4) -> Points:
    """The polyline with its inner corners rounded off by quadratic curves that start `radius` before them."""
    p = np.asarray(points, dtype=np.float64)
    path = [p[:1]]
    for before, corner, after in zip(p[:-2], p[1:-1], p[2:], strict=True):
        to, away = before - corner, after - corner
        reach_to, reach_away = np.linalg.norm(to), np.linalg.norm(away)
        start = corner + to * min(radius / reach_to, 0.49)
        end = corner + away * min(radius / reach_away, 0.49)
        path.append(bezier([start, corner, end], per_corner + 1))
    return np.concatenate([*path, p[-1:]])
