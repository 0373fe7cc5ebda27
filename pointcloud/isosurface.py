"""From a function on a grid to a closed surface, by surface nets on a repaired sign field."""

from __future__ import annotations

from itertools import product

import numpy as np

from .errors import PointCloudError
from .mesh import Mesh


def isosurface(values: np.ndarray, origin: np.ndarray, spacing: float, *, level: float = 0.0, name: str = "") -> Mesh:
    """The surface where `values` pass `level`, with what is above it inside.

    Surface nets (Gibson 1998, without the relaxation): every cell of eight samples that the surface passes has one
    vertex, the mean of the crossings of its edges; every grid edge that it passes has one quadrilateral, cut in two. It
    is
    the boundary of a set of voxels with its corners moved, so it is closed, and a manifold wherever that boundary is:
    `well_composed` sees to that. The triangles are of more even shape than those of marching cubes.

    values: [X, Y, Z] at origin + spacing * (i, j, k). Samples on the border count as outside: shapes that leave the
    grid are closed there. Raises PointCloudError where nothing or everything is inside.
    """
    above = np.asarray(values, dtype=np.float32) - np.float32(level)
    smallest = np.float32(1e-4) * np.abs(above).max()
    inside = above > 0
    for axis in range(3):
        inside.swapaxes(0, axis)[[0, -1]] = False
    inside = well_composed(inside, above)
    if not inside.any():
        raise PointCloudError(f"{name or 'isosurface'}: no sample of the {list(values.shape)} grid is inside")
    # Where the repair or the border decided otherwise than the value, the crossing lies at the sample.
    above = np.where(inside, np.maximum(above, smallest), np.minimum(above, -smallest))

    count, total, cells = _crossings(inside, above)
    mixed = count > 0
    number = np.full(count.shape, -1, dtype=np.int64)
    number[mixed] = np.arange(int(mixed.sum()))
    vertices = total[mixed] / count[mixed][:, None]
    faces = np.concatenate([_quads(inside, number, axis) for axis in range(3)])
    return Mesh(np.asarray(origin) + spacing * (vertices + cells), faces, name)


def well_composed(inside: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`inside` [X, Y, Z] with samples added until its voxels touch by faces only, never by an edge or corner alone.

    The boundary of such a set is a 2-manifold (Latecki 1997). Of the outside samples in a bad place the one with the
    highest value joins, until no place is bad: samples are only added, so it ends.
    """
    inside = inside.copy()
    while (bad := _bad_samples(inside, values)).size:
        inside.reshape(-1)[bad] = True
    return inside


def _bad_samples(inside: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Flat indices of the samples to add: one for every square or cube whose inside samples meet across a diagonal."""
    index = np.arange(inside.size).reshape(inside.shape)
    found = []
    for axis in range(3):
        planes, flat = np.moveaxis(inside, axis, 0), np.moveaxis(index, axis, 0)
        a, b = planes[:, :-1, :-1], planes[:, 1:, 1:]
        c, d = planes[:, :-1, 1:], planes[:, 1:, :-1]
        for bad, candidates in (
            ((a & b & ~c & ~d), (flat[:, :-1, 1:], flat[:, 1:, :-1])),
            ((c & d & ~a & ~b), (flat[:, :-1, :-1], flat[:, 1:, 1:])),
        ):
            found.append(_highest(values, [candidate[bad] for candidate in candidates]))
    # Only cells with two or six samples inside can be bad at a corner.
    corners: list[tuple[int, ...]] = list(product((0, 1), repeat=3))
    cut = {corner: _corner(inside, corner) for corner in corners}
    number = np.sum(list(cut.values()), axis=0, dtype=np.int8)
    for corner in corners[:4]:  # one of each diagonal
        opposite = tuple(1 - side for side in corner)
        pair = (cut[corner] & cut[opposite] & (number == 2)).nonzero()
        others = [key for key in cut if key not in (corner, opposite)]
        found.append(_highest(values, [_corner(index, key)[pair] for key in others]))
        hole = (~cut[corner] & ~cut[opposite] & (number == 6)).nonzero()
        found.append(_highest(values, [_corner(index, key)[hole] for key in (corner, opposite)]))
    return np.concatenate(found)


def _highest(values: np.ndarray, candidates: list[np.ndarray]) -> np.ndarray:
    flat = np.stack(candidates)
    best = values.reshape(-1)[flat].argmax(0) if flat.size else np.zeros(0, dtype=np.int64)
    return flat[best, np.arange(flat.shape[1])]


def _corner(array: np.ndarray, corner: tuple[int, ...]) -> np.ndarray:
    """For every cell the sample at one of its corners, each coordinate 0 or 1."""
    return array[tuple(slice(side, side - 1 or None) for side in corner)]


def _crossings(inside: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(number [X-1, Y-1, Z-1] of crossed edges of each cell, their positions summed [..., 3] in the cell, 0 to 1 each,
    and the coordinates [M, 3] of the crossed cells in order)."""
    shape = tuple(n - 1 for n in inside.shape)
    count, total = np.zeros(shape, dtype=np.int32), np.zeros((*shape, 3), dtype=np.float32)
    flat = total.reshape(-1, 3)
    for axis in range(3):
        low = tuple(slice(0, -1) if k == axis else slice(None) for k in range(3))
        high = tuple(slice(1, None) if k == axis else slice(None) for k in range(3))
        where = np.argwhere(inside[low] != inside[high])
        a, b = above[low][tuple(where.T)], above[high][tuple(where.T)]
        along = a / (a - b)
        sides = [k for k in range(3) if k != axis]
        for offset in product((0, 1), repeat=2):
            # The four cells around an edge; the edge lies at `offset` in the plane across it.
            cell = where.copy()
            cell[:, sides] -= offset
            valid = ((cell >= 0) & (cell < shape)).all(1)
            position = np.empty((len(where), 3), dtype=np.float32)
            position[:, axis] = along
            position[:, sides] = offset
            # No two edges of one axis and offset share a cell, so plain indexing adds every one.
            target = np.ravel_multi_index(tuple(cell[valid].T), shape)
            count.reshape(-1)[target] += 1
            flat[target] += position[valid]
    return count, total, np.argwhere(count > 0)


def _quads(inside: np.ndarray, number: np.ndarray, axis: int) -> np.ndarray:
    """Two triangles for every crossed edge along `axis`, counter-clockwise from outside."""
    order = (axis, (axis + 1) % 3, (axis + 2) % 3)
    filled, cells = inside.transpose(order), number.transpose(order)
    first, second = filled[:-1, 1:-1, 1:-1], filled[1:, 1:-1, 1:-1]
    i, j, k = np.nonzero(first != second)
    ring = np.stack([cells[i, j, k], cells[i, j + 1, k], cells[i, j + 1, k + 1], cells[i, j, k + 1]], axis=1)
    # Seen from the far end of the edge the ring runs counter-clockwise; right where the near end is inside.
    ring = np.where(first[i, j, k][:, None], ring, ring[:, ::-1])
    return np.concatenate([ring[:, [0, 1, 2]], ring[:, [0, 2, 3]]])
