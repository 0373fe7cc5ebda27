"""Polygons of a label grid: inner wall faces with true corners only.

Points are integer (x, y) in plan units, y down. Polygons start at the topmost, then leftmost corner and go down first
(top-left, bottom-left, bottom-right, top-right for a rectangle), as HouseDiffusion's contours do.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .procedural_layout import CELL, MIN_CELLS, WALL

Point = tuple[int, int]
Polygon = list[Point]


def trace(mask: np.ndarray) -> Polygon | None:
    """Lattice corners of the outline of `mask` (bool [H, W], border False), interior on the left hand of y-down
    travel, so a rectangle runs TL, BL, BR, TR. None if the outline is not a single simple loop (holes, parts,
    corners touching).
    """
    m = mask.astype(np.int8)
    nw, ne, sw, se = m[:-1, :-1], m[:-1, 1:], m[1:, :-1], m[1:, 1:]
    total = nw + ne + sw + se
    if ((total == 2) & (nw == se)).any():
        return None
    ys, xs = np.nonzero(total & 1)
    points = list(zip((xs + 1).tolist(), (ys + 1).tolist(), strict=True))
    if not points:
        return None
    across: dict[Point, Point] = {}
    for a, b in zip(points[0::2], points[1::2], strict=True):  # sorted by y, then x: pairs are horizontal edges
        across[a], across[b] = b, a
    down: dict[Point, Point] = {}
    columns = sorted(points)
    for a, b in zip(columns[0::2], columns[1::2], strict=True):
        down[a], down[b] = b, a
    loop = [points[0]]
    while True:
        loop.append(down[loop[-1]])
        after = across[loop[-1]]
        if after == loop[0]:
            break
        loop.append(after)
    return loop if len(loop) == len(points) else None


def inset(loop: Polygon) -> Polygon:
    """Inner wall faces of a lattice loop: scaled to units and moved WALL units inwards from every wall line."""
    out: Polygon = []
    for i, (x, y) in enumerate(loop):
        (px, py), (nx, ny) = loop[i - 1], loop[(i + 1) % len(loop)]
        dx = sign(y - py) + sign(ny - y)  # travelling down, the interior is at larger x
        dy = -sign(x - px) - sign(nx - x)
        out.append((x * CELL + WALL * dx, y * CELL + WALL * dy))
    return out


def normalised(polygon: Polygon) -> Polygon:
    """Same outline without repeated or collinear corners, in the standard orientation and from the standard start."""
    points = [p for p, q in zip(polygon, [*polygon[1:], polygon[0]], strict=True) if p != q]
    kept = [p for i, p in enumerate(points) if _turn(points[i - 1], p, points[(i + 1) % len(points)]) != 0]
    if len(kept) < 3:
        return kept
    if doubled_area(kept) > 0:
        kept.reverse()
    start = min(range(len(kept)), key=lambda i: (kept[i][1], kept[i][0]))
    return kept[start:] + kept[:start]


def doubled_area(polygon: Polygon) -> int:
    """Twice the signed shoelace area; negative in the standard orientation (y down)."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise([*polygon, polygon[0]]))


def sign(value: int) -> int:
    """-1, 0 or 1."""
    return (value > 0) - (value < 0)


def _turn(a: Point, b: Point, c: Point) -> int:
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])


def wide_everywhere(mask: np.ndarray, width: int = MIN_CELLS) -> bool:
    """True iff a square of `width` cells can slide over all of `mask` (bool [H, W]) without leaving it."""
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int64)
    total[1:, 1:] = mask.cumsum(0).cumsum(1)
    inside = total[width:, width:] - total[:-width, width:] - total[width:, :-width] + total[:-width, :-width]
    fits = inside == width**2  # by the square's top left cell
    h, w = fits.shape
    seen = np.zeros((mask.shape[0] + width, mask.shape[1] + width), dtype=np.int64)
    seen[:h, :w] += fits
    seen[width : width + h, width : width + w] += fits
    seen[width : width + h, :w] -= fits
    seen[:h, width : width + w] -= fits
    covered = seen.cumsum(0).cumsum(1)[: mask.shape[0], : mask.shape[1]] > 0
    # The squares must also be one family: two that touch by less than a side leave a neck between them.
    return bool((covered == mask).all()) and trace(np.pad(fits, 1)) is not None
