"""A z-buffer in numpy: discs and triangles to a depth and a number for every pixel."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .camera import View

EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


class Buffer:
    """The nearest thing at every pixel: depth and number packed in one integer, so that one minimum keeps both."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.width, self.height = size
        self.keys = np.full(self.width * self.height, EMPTY, dtype=np.uint64)
        self._depth_range: tuple[float, float] = (0.0, 1.0)

    def set_range(self, near: float, far: float) -> None:
        """Depths between which the following are told apart, in 2^32 steps."""
        self._depth_range = (near, max(far - near, 1e-12))

    def add(self, flat: np.ndarray, depth: np.ndarray, number: np.ndarray) -> None:
        """Offer fragments: flat pixel index, depth, number of the thing (below 2^32), all of one length."""
        near, span = self._depth_range
        steps = (np.clip((depth - near) / span, 0, 1) * 4294967294.0).astype(np.uint64)
        np.minimum.at(self.keys, flat, (steps << np.uint64(32)) | number.astype(np.uint64))

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(covered bool [H, W], depth float64 [H, W], number int64 [H, W]); depth and number only where covered."""
        keys = self.keys.reshape(self.height, self.width)
        near, span = self._depth_range
        depth = (keys >> np.uint64(32)).astype(np.float64) / 4294967294.0 * span + near
        return keys != EMPTY, depth, (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def splat_discs(view: View, points: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Balls of `radius` (world units) at `points` [N, 3]: (covered, depth, number [H, W], offset [H, W, 2]).

    offset: where in its ball a pixel lies, x right and y up, from -1 to 1: the normal is (x, y, sqrt(1 - x^2 - y^2)).
    Points behind the eye are left out.
    """
    pixels, depth = view.project(points)
    scale = view.focal * (-depth if view.is_perspective else np.ones(len(points)))
    reach = np.maximum(radius * scale, 0.6)
    visible = np.flatnonzero(np.isfinite(depth) & (scale > 0))
    buffer = Buffer(view.size)
    # A ball's own relief in depth: affine depth changes by its derivative times the height in the ball.
    relief = depth**2 * radius if view.is_perspective else np.full(len(points), radius)
    if len(visible):
        buffer.set_range(float((depth - relief)[visible].min()), float(depth[visible].max()))
    step = max(1, 4_000_000 // (2 * int(reach[visible].max(initial=1)) + 3) ** 2)
    for start in range(0, len(visible), step):
        some = visible[start : start + step]
        half = int(np.ceil(reach[some].max())) + 1
        side = np.arange(-half, half + 1)
        corner = np.floor(pixels[some]).astype(np.int64)
        x, y = corner[:, 0, None] + side, corner[:, 1, None] + side
        dx = (x + 0.5 - pixels[some, 0, None]) / reach[some, None]
        dy = (y + 0.5 - pixels[some, 1, None]) / reach[some, None]
        square = dx[:, None, :] ** 2 + dy[:, :, None] ** 2
        inside = square <= 1
        inside &= ((x >= 0) & (x < view.size[0]))[:, None, :] & ((y >= 0) & (y < view.size[1]))[:, :, None]
        point, row, column = np.nonzero(inside)
        height = np.sqrt(1 - square[inside])
        number = some[point]
        flat = y[point, row] * view.size[0] + x[point, column]
        buffer.add(flat, depth[number] - relief[number] * height, number)
    covered, found, number = buffer.result()
    number = np.where(covered, number, 0)
    rows, columns = np.indices(covered.shape)
    offset = np.stack([columns + 0.5 - pixels[number, 0], pixels[number, 1] - rows - 0.5], axis=-1)
    offset = np.clip(offset / reach[number][..., None], -1, 1)
    return covered, found, number, offset


def fill_triangles(view: View, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Triangles `corners` [F, 3, 3] in the world: (covered, depth, number [H, W], weights [H, W, 3]).

    weights: of the three corners at the pixel, correct in perspective. Both sides are drawn. A triangle is cut into
    rows of pixels and those into pixels, so the work is that of the pixels covered; triangles with a corner behind the
    eye are left out.
    """
    pixels, depth = view.project(corners)
    buffer = Buffer(view.size)
    behind = (depth >= 0).any(1) if view.is_perspective else np.zeros(len(corners), dtype=bool)
    kept = np.flatnonzero(~behind)
    weights = np.zeros((*buffer.keys.reshape(buffer.height, buffer.width).shape, 3))
    if len(kept):
        buffer.set_range(float(depth[kept].min()), float(depth[kept].max()))
    planes = _planes(pixels, depth)
    for start in range(0, len(kept), 65536):
        some = kept[start : start + 65536]
        number, row = _rows(pixels[some], view.size[1])
        first, last = _span(pixels[some][number], row, view.size[0])
        number = some[number]
        count = np.maximum(last - first, 0)
        for piece in _pieces(count, 4_000_000):
            many = count[piece]
            owner = np.repeat(number[piece], many)
            y = np.repeat(row[piece], many)
            x = np.repeat(first[piece], many) + np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
            value = planes[owner, 0] * (x + 0.5) + planes[owner, 1] * (y + 0.5) + planes[owner, 2]
            buffer.add(y * view.size[0] + x, value, owner)
    covered, found, number = buffer.result()
    rows, columns = np.nonzero(covered)
    weights[covered] = _weights(view, pixels, depth, number[covered], columns + 0.5, rows + 0.5)
    return covered, found, np.where(covered, number, 0), weights


def _planes(pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Coefficients [F, 3] of depth = a x + b y + c over each triangle; flat ones get their first corner's depth."""
    u, v = pixels[:, 1] - pixels[:, 0], pixels[:, 2] - pixels[:, 0]
    p, q = depth[:, 1] - depth[:, 0], depth[:, 2] - depth[:, 0]
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    safe = np.where(np.abs(area) > 1e-9, area, np.inf)
    a, b = (p * v[:, 1] - q * u[:, 1]) / safe, (q * u[:, 0] - p * v[:, 0]) / safe
    return np.stack([a, b, depth[:, 0] - a * pixels[:, 0, 0] - b * pixels[:, 0, 1]], axis=1)


def _rows(pixels: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """(index into pixels [R], row [R]) of every row of pixel centres that a triangle [F, 3, 2] crosses."""
    low = np.clip(np.ceil(pixels[:, :, 1].min(1) - 0.5), 0, height).astype(np.int64)
    high = np.clip(np.floor(pixels[:, :, 1].max(1) - 0.5) + 1, 0, height).astype(np.int64)
    count = np.maximum(high - low, 0)
    number = np.repeat(np.arange(len(pixels)), count)
    return number, np.repeat(low, count) + np.arange(len(number)) - np.repeat(np.cumsum(count) - count, count)


def _span(pixels: np.ndarray, row: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """First pixel and the one after the last whose centre lies in the triangle [R, 3, 2] at the centre of `row` [R]."""
    y = row + 0.5
    low, high = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for k in range(3):
        a, b = pixels[:, k], pixels[:, (k + 1) % 3]
        rise = b[:, 1] - a[:, 1]
        t = (y - a[:, 1]) / np.where(rise == 0, np.inf, rise)
        crosses = (t >= 0) & (t <= 1) & (rise != 0)
        x = a[:, 0] + t * (b[:, 0] - a[:, 0])
        low, high = np.where(crosses, np.minimum(low, x), low), np.where(crosses, np.maximum(high, x), high)
    first = np.clip(np.ceil(low - 0.5), 0, width)
    last = np.clip(np.floor(high - 0.5) + 1, 0, width)
    return first.astype(np.int64), last.astype(np.int64)


def _pieces(count: np.ndarray, most: int) -> list[slice]:
    """Slices of rows that hold about `most` pixels each."""
    total = np.cumsum(count)
    if not len(total):
        return []
    cuts = np.searchsorted(total, np.arange(most, int(total[-1]), most))
    edges = [0, *(cuts + 1).tolist(), len(count)]
    return [slice(a, b) for a, b in pairwise(edges) if b > a]


def _weights(
    view: View, pixels: np.ndarray, depth: np.ndarray, number: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    a, b, c = pixels[number].swapaxes(0, 1)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    area = np.where(np.abs(area) > 1e-9, area, np.inf)
    second = ((x - a[:, 0]) * (c[:, 1] - a[:, 1]) - (y - a[:, 1]) * (c[:, 0] - a[:, 0])) / area
    third = ((b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (b[:, 1] - a[:, 1]) * (x - a[:, 0])) / area
    weights = np.clip(np.stack([1 - second - third, second, third], axis=1), 0, 1)
    if view.is_perspective:
        weights = weights * -depth[number]
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-12)
