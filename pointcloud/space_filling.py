"""Points in the order of a space-filling curve: neighbours on the curve are neighbours in space.

Shape letters: B clouds, N points, M points of a packed row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BITS = 12  # cells per axis: 4096, 0.0024 of a cloud of unit variance
EXTENT = 5.0  # half the side of the cube that the curve fills; what lies outside counts as its border
MOVES = ((0.0, 0), (1.37, 1))  # (shift of the cube, rotation of the axes) of the curves to choose from


def hilbert_codes(cells: Tensor, bits: int = BITS) -> Tensor:
    """Position of each cell along the three-dimensional Hilbert curve (Skilling 2004, "Programming the Hilbert curve").

    cells: long [..., 3], 0 <= cell < 2^bits -> long [...], 0 <= code < 2^(3 bits). Consecutive codes are cells that
    share a face.
    """
    x, y, z = cells.unbind(-1)
    for bit in range(bits - 1, 0, -1):
        q, below = 1 << bit, (1 << bit) - 1
        x = torch.where(x & q != 0, x ^ below, x)
        x, y = _turned(x, y, q, below)
        x, z = _turned(x, z, q, below)
    y = y ^ x
    z = z ^ y
    flips = torch.zeros_like(z)
    for bit in range(bits - 1, 0, -1):
        flips = torch.where(z & (1 << bit) != 0, flips ^ ((1 << bit) - 1), flips)
    code = torch.zeros_like(x)
    for bit in range(bits - 1, -1, -1):
        for axis in (x, y, z):
            code = code << 1 | (axis ^ flips) >> bit & 1
    return code


def _turned(first: Tensor, other: Tensor, q: int, below: int) -> tuple[Tensor, Tensor]:
    """One step of Skilling's inverse: where bit q of `other` is set the low bits of `first` are flipped, else both
    exchange theirs."""
    high = other & q != 0
    exchange = torch.where(high, 0, (first ^ other) & below)
    return torch.where(high, first ^ below, first ^ exchange), other ^ exchange


@torch.no_grad()
def curve_order(x: Tensor, lens: Sequence[int] | None = None, *, curve: int = 0) -> Tensor:
    """Rows of x, cloud after cloud, each in the order of a Hilbert curve.

    Args:
        x: [B, N, 3] coordinates of about unit variance, or a packed row [1, M, 3] with `lens`.
        curve: 0 or 1; the second has its axes rotated and its cube moved, so that points which the first tears apart
            at the border of a large cell are together.
    Returns: long [B N], rows of x.flatten(0, 1). Points in one cell keep their order.
    """
    shift, turn = MOVES[curve]
    unit = (x.float().flatten(0, 1).roll(turn, dims=-1) + shift + EXTENT) / (2 * EXTENT)
    cells = (unit * 2**BITS).floor().clamp(0, 2**BITS - 1).long()
    if lens is None:
        cloud = torch.arange(len(cells), device=x.device) // x.shape[1]
    else:
        counts = torch.tensor(tuple(lens), device=x.device)
        cloud = torch.repeat_interleave(torch.arange(len(counts), device=x.device), counts, output_size=len(cells))
    return torch.argsort((cloud << 3 * BITS) | hilbert_codes(cells), stable=True)


def inverse_order(order: Tensor) -> Tensor:
    """Long [M]: the place at which each row stands in `order`, a permutation of 0 .. M - 1."""
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return inverse


def run_lengths(num_points: int, run_length: int) -> tuple[int, ...]:
    """`num_points` cut into the fewest runs of at most `run_length`, of equal lengths but for one point."""
    runs = -(-num_points // run_length)
    short, longer = divmod(num_points, runs)
    return (short + 1,) * longer + (short,) * (runs - longer)
