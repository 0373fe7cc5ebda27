"""Closed triangle surfaces that furniture and vehicles are put together from.

Every builder returns a `Part` whose triangles close up and face outward. Lengths are metres, y is up, z the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .curves import Points, Vector, rectangle, superellipse


@dataclass(frozen=True, eq=False)
class Part:
    """A closed surface: vertices float64 [V, 3], faces int64 [F, 3], counter-clockwise seen from outside."""

    vertices: np.ndarray
    faces: np.ndarray

    @property
    def volume(self) -> float:
        """Enclosed volume (divergence theorem); positive when the faces look outward."""
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = self.vertices.T[:, self.faces.T].transpose(1, 0, 2)
        return float((ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)).sum()) / 6

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Part:
        """Shifted by (x, y, z)."""
        return Part(self.vertices + np.array([x, y, z]), self.faces)

    def turned(self, axis: str, degrees: float) -> Part:
        """Rotated about "x", "y" or "z" through the origin, right-handed."""
        k = "xyz".index(axis)
        i, j = (k + 1) % 3, (k + 2) % 3
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        matrix = np.eye(3)
        matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = cos, -sin, sin, cos
        return Part(self.vertices @ matrix.T, self.faces)

    def scaled(self, x: float = 1.0, y: float = 1.0, z: float = 1.0) -> Part:
        """Stretched about the origin by positive factors."""
        return Part(self.vertices * np.array([x, y, z]), self.faces)

    def mirrored(self) -> Part:
        """Reflected from left to right (x to -x)."""
        return Part(self.vertices * np.array([-1.0, 1.0, 1.0]), self.faces[:, ::-1])

    def both_sides(self) -> list[Part]:
        """This part and its mirror image."""
        return [self, self.mirrored()]

    def pair(self) -> Part:
        """Both of them as one, which is cheaper to join; they must not touch."""
        return apart([self, self.mirrored()])


def apart(parts: Sequence[Part]) -> Part:
    """Parts that do not touch one another, as one."""
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    faces = [part.faces + offset for part, offset in zip(parts, offsets, strict=True)]
    return Part(np.concatenate([part.vertices for part in parts]), np.concatenate(faces))


def outward(vertices: np.ndarray, faces: np.ndarray) -> Part:
    """The closed surface with its faces turned outward, about a point of its own so that rounding does not decide."""
    part = Part(vertices, faces)
    return part if Part(vertices - vertices.mean(0), faces).volume >= 0 else Part(vertices, faces[:, ::-1])


def loft(
    rings: np.ndarray | Sequence[np.ndarray | Sequence[Vector]], *, closed: bool = False, thin: bool = False
) -> Part:
    """A skin over rings [R, S, 3] of equally many points; the ends are capped, or joined when `closed`.

    A cap is a fan about the mean of its ring, which must see the whole ring (convex or star-shaped). `thin` rings run
    out along their first half and back along the second, and are capped by the strip in between.
    """
    rings = np.asarray(rings, dtype=np.float64)
    count, sides = rings.shape[:2]
    index = np.arange(count * sides).reshape(count, sides)
    lower = index if closed else index[:-1]
    upper = np.roll(index, -1, axis=0) if closed else index[1:]
    a, b = lower.ravel(), np.roll(lower, -1, axis=1).ravel()
    c, d = np.roll(upper, -1, axis=1).ravel(), upper.ravel()
    faces = [np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)]
    vertices = [rings.reshape(-1, 3)]
    if thin:
        faces += [strip(index[0])[:, ::-1], strip(index[-1])]
    elif not closed:
        vertices.append(rings[[0, -1]].mean(axis=1))
        first, last = np.full(sides, count * sides), np.full(sides, count * sides + 1)
        faces.append(np.stack([first, np.roll(index[0], -1), index[0]], axis=1))
        faces.append(np.stack([last, index[-1], np.roll(index[-1], -1)], axis=1))
    return outward(np.concatenate(vertices), np.concatenate(faces))


def strip(ring: np.ndarray) -> np.ndarray:
    """Triangles [S - 2, 3] between the two halves of a ring of vertex numbers that runs out and back."""
    half = len(ring) // 2
    out, back = ring[:half], ring[half:][::-1]
    return np.concatenate(
        [np.stack([out[:-1], out[1:], back[1:]], axis=1), np.stack([out[:-1], back[1:], back[:-1]], axis=1)]
    )


def at_height(outline: Points, y: float) -> np.ndarray:
    """An outline [S, 2] of (x, z) as a level ring [S, 3]."""
    return np.stack([outline[:, 0], np.full(len(outline), y), outline[:, 1]], axis=1)


def at_depth(outline: Points, z: float) -> np.ndarray:
    """An outline [S, 2] of (x, y) as an upright ring [S, 3] across the front axis."""
    return np.concatenate([outline, np.full((len(outline), 1), z)], axis=1)


def box(size: Vector, centre: Vector = (0, 0, 0)) -> Part:
    """A box with full side lengths `size` about `centre`."""
    half = np.asarray(size, dtype=np.float64) / 2
    return slab(rectangle(half[0], half[2]), -half[1], half[1]).moved(*centre)


def slab(outline: Points, low: float, high: float, bevel: float = 0.0) -> Part:
    """A plan outline of (x, z) between two heights; `bevel` draws the top and bottom rims in by that length."""
    if bevel <= 0:
        return loft([at_height(outline, low), at_height(outline, high)])
    bevel = min(bevel, 0.45 * (high - low))
    inner = outline * (1 - bevel / np.abs(outline).max(axis=0))
    return loft(
        [
            at_height(inner, low),
            at_height(outline, low + bevel),
            at_height(outline, high - bevel),
            at_height(inner, high),
        ]
    )


def pad(size: Vector, centre: Vector = (0, 0, 0), exponent: float = 5.0, sides: int = 24) -> Part:
    """A cushion: superelliptic in plan and round at its rims."""
    half = np.asarray(size, dtype=np.float64) / 2
    rise = np.radians([-80.0, -40.0, 0.0, 40.0, 80.0])
    shrink = min(half[1] / min(half[0], half[2]), 1.0) * 0.6
    outline = superellipse(half[0], half[2], exponent, sides)
    rings = [at_height(outline * (1 - shrink * (1 - np.cos(t))), half[1] * np.sin(t)) for t in rise]
    return loft(rings).moved(*centre)


def revolve(profile: Sequence[Vector] | Points, sides: int = 24, *, closed: bool = False) -> Part:
    """A profile of (radius, height) points turned about the y axis, first point to last.

    Open profiles are capped at both ends (a radius of 0 there becomes a sharp tip); a `closed` profile is a loop off
    the axis, such as the wall of a lampshade, and gives a ring-shaped solid.
    """
    profile = np.maximum(np.asarray(profile, dtype=np.float64), [1e-5, -np.inf])
    circle = superellipse(1.0, 1.0, 2.0, sides)
    return loft([at_height(radius * circle, y) for radius, y in profile], closed=closed)


def frames(path: np.ndarray, closed: bool, up: Vector | None) -> tuple[np.ndarray, np.ndarray]:
    """Two unit normals [K, 3] along a path: the second nearest `up` where given, else turned as little as can be."""
    tangent = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0) if closed else np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    start = np.eye(3)[np.argmin(np.abs(tangent[0]))] if up is None else np.asarray(up, dtype=np.float64)
    seconds = np.empty_like(path)
    for k, t in enumerate(tangent):
        across = start - t * (start @ t)
        seconds[k] = across / np.linalg.norm(across)
        if up is None:
            start = seconds[k]
    return np.cross(seconds, tangent), seconds


def tube(
    path: np.ndarray | Sequence[Vector],
    radius: float | Sequence[float] | np.ndarray,
    sides: int = 8,
    *,
    closed: bool = False,
    section: Points | None = None,
    up: Vector | None = None,
) -> Part:
    """A section swept along a path [K, 3], scaled by `radius` (one number, or one a point of the path).

    section: outline [S, 2] in units of the radius (a circle of `sides` points by default); its second coordinate
    lies along `up` as nearly as the path allows. A `closed` path joins its end to its start and needs `up`.
    """
    path = np.asarray(path, dtype=np.float64)
    outline = superellipse(1.0, 1.0, 2.0, sides) if section is None else section
    first, second = frames(path, closed, up)
    scale = np.broadcast_to(np.asarray(radius, dtype=np.float64), len(path))[:, None, None]
    offsets = outline[None, :, :1] * first[:, None] + outline[None, :, 1:] * second[:, None]
    return loft(path[:, None] + scale * offsets, closed=closed)


def rod(start: Vector, end: Vector, radius: float, end_radius: float | None = None, sides: int = 8) -> Part:
    """A straight round bar, tapered when `end_radius` differs."""
    return tube([start, end], [radius, radius if end_radius is None else end_radius], sides)


def beam(start: Vector, end: Vector, width: float, height: float, up: Vector = (0, 1, 0)) -> Part:
    """A straight rectangular bar; `height` is measured along `up` as nearly as its direction allows."""
    return tube([start, end], 1.0, section=rectangle(width / 2, height / 2), up=up)


def strut(start: Vector, end: Vector, across: float, thick: float) -> Part:
    """A slanted rectangular bar with level ends; it leans in a vertical plane, and `across` is its side normal to that.

    `thick` is measured at right angles to the bar.
    """
    first, last = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    run = (last - first)[[0, 2]]
    lean = float(np.hypot(*run))
    way = run / lean if lean > 1e-9 else np.array([1.0, 0.0])
    along = 0.5 * thick * np.hypot(1.0, lean / (last[1] - first[1])) * way
    side = 0.5 * across * np.array([-way[1], way[0]])
    outline = np.stack([along - side, along + side, -along + side, -along - side])
    return loft([at_height(outline + p[[0, 2]], p[1]) for p in (first, last)])


def ellipsoid(radii: Vector, centre: Vector = (0, 0, 0), sides: int = 16, levels: int = 9) -> Part:
    """An ellipsoid with the given half axes, `levels` rings from pole to pole."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, levels)
    ball = revolve(np.stack([np.cos(angle), np.sin(angle)], axis=1), sides)
    return ball.scaled(*radii).moved(*centre)


def sheet(front: np.ndarray, thickness: float | np.ndarray, direction: Vector = (0, 0, -1)) -> Part:
    """A plate of even thickness behind a grid of points [U, V, 3] (U, V at least 2), grown along `direction`.

    thickness: one length, or one for every point of the grid.
    """
    front = np.asarray(front, dtype=np.float64)
    grown = np.asarray(thickness, dtype=np.float64)
    behind = front + grown[..., None] * np.asarray(direction, dtype=np.float64)
    return loft(np.concatenate([front, behind[:, ::-1]], axis=1), thin=True)
