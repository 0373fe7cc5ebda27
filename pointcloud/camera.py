"""Where a picture is taken from, and the arithmetic from world coordinates to pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .errors import PointCloudError


@dataclass(frozen=True)
class Camera:
    """Where a picture is taken from.

    azimuth: degrees around the vertical axis, 0 in front (+z; or -y where z is up), 90 at the right (+x).
    elevation: degrees above the ground, -90 to 90. field_of_view: vertical angle in degrees, 0 for orthographic.
    up: the data's vertical axis. zoom: more than 1 comes nearer than the distance that shows all.
    """

    azimuth: float = 32.0
    elevation: float = 20.0
    field_of_view: float = 28.0
    up: Literal["y", "z"] = "y"
    zoom: float = 1.0

    def __post_init__(self) -> None:
        if self.up not in ("y", "z"):
            raise PointCloudError(f"camera: up: expected 'y' or 'z', found {self.up!r}")
        if not math.isfinite(self.azimuth) or not -90 <= self.elevation <= 90:
            angles = f"azimuth {self.azimuth}, elevation {self.elevation}"
            raise PointCloudError(f"camera: {angles}; expected a finite azimuth and an elevation from -90 to 90")
        if not 0 <= self.field_of_view <= 120 or not 0 < self.zoom <= 100:
            lens = f"field of view {self.field_of_view} (0 to 120), zoom {self.zoom} (0 to 100)"
            raise PointCloudError(f"camera: out of range: {lens}")


@dataclass(frozen=True, eq=False)
class View:
    """A camera aimed at a ball: what turns world coordinates into pixels.

    centre [3], radius: the ball that fills the picture. axes: rows right, up and back (towards the eye), in the world.
    distance: of the eye from the centre, infinite for orthographic. focal: pixels per unit at distance 1 (or, for
    orthographic, at any). size: (width, height) in pixels.
    """

    centre: np.ndarray
    radius: float
    axes: np.ndarray
    distance: float
    focal: float
    size: tuple[int, int]

    @property
    def is_perspective(self) -> bool:
        return math.isfinite(self.distance)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World [..., 3] -> (pixel coordinates [..., 2], x right and y down, pixel centres at halves; depth [...]).

        depth grows away from the eye and is affine in the picture: 1 - near / distance, or the distance itself.
        """
        seen = (points - self.centre) @ self.axes.T
        ahead = self.distance - seen[..., 2] if self.is_perspective else None
        scale = self.focal / ahead if ahead is not None else self.focal
        middle = np.array(self.size) / 2
        pixels = np.stack([middle[0] + seen[..., 0] * scale, middle[1] - seen[..., 1] * scale], axis=-1)
        depth = -1.0 / ahead if ahead is not None else -seen[..., 2]
        return pixels, depth

    def linear_depth(self, depth: np.ndarray) -> np.ndarray:
        """Distance along the view from the centre, in radii, positive away from the eye."""
        far = -1.0 / depth - self.distance if self.is_perspective else depth
        return far / self.radius

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """(origins [H, W, 3], directions [H, W, 3], not of unit length) through the pixel centres."""
        width, height = self.size
        x = (np.arange(width) + 0.5 - width / 2)[None, :, None] / self.focal
        y = (height / 2 - np.arange(height) - 0.5)[:, None, None] / self.focal
        plane = x * self.axes[0] + y * self.axes[1]
        if self.is_perspective:
            eye = self.centre + self.distance * self.axes[2]
            return np.broadcast_to(eye, plane.shape), plane - self.axes[2]
        origins = self.centre + plane + 4 * self.radius * self.axes[2]
        return origins, np.broadcast_to(-self.axes[2], plane.shape)


def aim(camera: Camera, low: np.ndarray, high: np.ndarray, size: tuple[int, int]) -> View:
    """The view in which the ball around the box [low, high] just fits `size` pixels, the same from every side."""
    centre = (low.astype(np.float64) + high) / 2
    radius = max(float(np.linalg.norm(high.astype(np.float64) - low)) / 2, 1e-12)
    azimuth, elevation = math.radians(camera.azimuth), math.radians(camera.elevation)
    back = np.array(
        [math.sin(azimuth) * math.cos(elevation), math.sin(elevation), math.cos(azimuth) * math.cos(elevation)]
    )
    right = np.array([math.cos(azimuth), 0.0, -math.sin(azimuth)])
    axes = np.stack([right, np.cross(back, right), back])
    if camera.up == "z":
        axes = axes @ np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
    half = min(size) / 2
    if camera.field_of_view == 0:
        return View(centre, radius, axes, math.inf, half / radius * camera.zoom, size)
    angle = math.radians(camera.field_of_view) / 2
    return View(centre, radius, axes, radius / math.sin(angle), half / math.tan(angle) * camera.zoom, size)
