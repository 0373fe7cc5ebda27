"""The grounds before which sprites move: each a function of the pixel's place and a few random shades."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Colour = tuple[float, float, float]


def _mix(a: Array | Colour, b: Array | Colour, share: Array) -> Array:
    """share 0 gives a, 1 gives b; [H, W, 3]."""
    return np.asarray(a, np.float32) + (np.asarray(b, np.float32) - np.asarray(a, np.float32)) * share[..., None]


def _edge(value: Array, softness: float) -> Array:
    """0 below zero, 1 above, with a ramp as wide as a pixel."""
    return np.clip(value / softness + 0.5, 0, 1).astype(np.float32)


def _night(x: Array, y: Array, rng: np.random.Generator) -> Array:
    picture = _mix((8, 10, 40), (38, 34, 92), y)
    for _ in range(12):
        sx, sy, glow = rng.random(), rng.random(), rng.uniform(0.5, 1.0)
        star = np.clip(1.6 - np.hypot(x - sx, y - sy) * 70, 0, 1).astype(np.float32) * np.float32(glow)
        picture = _mix(picture, (225, 220, 200), star)
    return picture


def _meadow(x: Array, y: Array, rng: np.random.Generator) -> Array:
    horizon = rng.uniform(0.35, 0.5)
    hills = horizon + 0.05 * np.sin(x * rng.uniform(4, 8) + rng.uniform(0, 6))
    sky = _mix((120, 190, 245), (205, 232, 250), y / horizon)
    blades = 0.5 + 0.5 * np.sin(x * 75 + 9 * np.sin(y * 31 + rng.uniform(0, 6)))
    grass = _mix((82, 162, 62), (104, 180, 72), blades)
    return _mix(sky, grass, _edge(y - hills, 1 / 64))


def _desert(x: Array, y: Array, rng: np.random.Generator) -> Array:
    horizon = rng.uniform(0.4, 0.55)
    sky = _mix((150, 205, 235), (245, 232, 200), y / horizon)
    near = horizon + 0.07 * np.sin(x * rng.uniform(3, 6) + rng.uniform(0, 6))
    far = near + 0.2 + 0.05 * np.sin(x * rng.uniform(3, 6) + rng.uniform(0, 6))
    picture = _mix(sky, (226, 184, 112), _edge(y - near, 1 / 64))
    return _mix(picture, (202, 152, 84), _edge(y - far, 1 / 64))


def _sea(x: Array, y: Array, rng: np.random.Generator) -> Array:
    picture = _mix((42, 158, 190), (6, 54, 104), y)
    rays = np.clip(np.sin((x + y * rng.uniform(0.2, 0.6)) * 18 + rng.uniform(0, 6)), 0, 1).astype(np.float32)
    picture = _mix(picture, (150, 225, 235), rays * (1 - y) * np.float32(0.3))
    for _ in range(7):
        cx, cy, radius = rng.random(), rng.random(), rng.uniform(0.015, 0.04)
        rim = np.clip(1 - np.abs(np.hypot(x - cx, y - cy) - radius) * 80, 0, 1).astype(np.float32)
        picture = _mix(picture, (195, 240, 245), rim * np.float32(0.7))
    return picture


def _bricks(x: Array, y: Array, rng: np.random.Generator) -> Array:
    rows, columns = 8.0, 4.0
    y, x = y + rng.uniform(0, 1 / rows), x + rng.uniform(0, 1)
    row = np.floor(y * rows)
    across = x * columns + 0.5 * (row % 2)
    down = np.abs((y * rows) % 1 - 0.5)
    side = np.abs(across % 1 - 0.5)
    mortar = np.maximum(_edge(down - 0.42, 0.12), _edge(side - 0.46, 0.06))
    tint = 0.5 + 0.5 * np.sin(row * 12.9 + np.floor(across) * 78.2)
    return _mix(_mix((142, 66, 50), (170, 84, 62), tint), (184, 146, 126), mortar)


def _snow(x: Array, y: Array, rng: np.random.Generator) -> Array:
    horizon = rng.uniform(0.55, 0.7)
    drift = horizon + 0.04 * np.sin(x * rng.uniform(4, 8) + rng.uniform(0, 6))
    picture = _mix((138, 152, 176), (188, 200, 216), y / horizon)
    picture = _mix(
        picture, _mix((246, 249, 252), (214, 226, 240), (y - horizon) / (1 - horizon)), _edge(y - drift, 1 / 64)
    )
    for _ in range(14):
        cx, cy = rng.random(), rng.random()
        flake = np.clip(1.5 - np.hypot(x - cx, y - cy) * 55, 0, 1).astype(np.float32)
        picture = _mix(picture, (255, 255, 255), flake)
    return picture


def _sunset(x: Array, y: Array, rng: np.random.Generator) -> Array:
    horizon = rng.uniform(0.6, 0.75)
    sky = _mix((94, 44, 108), (252, 156, 76), y / horizon)
    sun = _edge(0.15 - np.hypot(x - rng.uniform(0.2, 0.8), y - horizon), 1 / 64)
    sky = _mix(sky, (255, 226, 130), sun)
    land = _mix((58, 30, 56), (30, 16, 34), (y - horizon) / (1 - horizon))
    return _mix(sky, land, _edge(y - horizon, 1 / 64))


def _room(x: Array, y: Array, rng: np.random.Generator) -> Array:
    floor = rng.uniform(0.7, 0.82)
    wall = _mix((176, 172, 166), (154, 150, 146), y)
    return _mix(wall, (108, 88, 72), _edge(y - floor, 1 / 64))


GROUNDS: dict[str, Callable[[Array, Array, np.random.Generator], Array]] = {
    "night": _night,
    "meadow": _meadow,
    "desert": _desert,
    "sea": _sea,
    "bricks": _bricks,
    "snow": _snow,
    "sunset": _sunset,
    "room": _room,
}
"""Background -> its painter: places x, y [H, W] in [0, 1] (y down) and a generator, to RGB [H, W, 3] in 0..255."""
