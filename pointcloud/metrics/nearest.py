"""Nearest neighbours between clouds: KD-trees on the CPU, blocked distance matrices on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import PointCloudError
from .parallel import ProgressCallback, run_all

# distances [n] from n points to their nearest neighbours, and the neighbours' indices [n] -> one number
Reduction = Callable[[np.ndarray, np.ndarray], float]

LEAF_SIZE = 32  # of 8 to 32, the quickest for shapes of 2048 points
QUERY_POINTS = 1 << 17  # points a thread asks one tree about at a time


def import_spatial() -> Any:
    """scipy.spatial, or an ImportError that says which extra has it."""
    try:
        import scipy.spatial
    except ImportError as error:
        raise ImportError("metrics of clouds need scipy: pip install 'trifold[pointcloud]'") from error
    return scipy.spatial


def build_tree(points: np.ndarray) -> Any:
    """A KD-tree over points [N, 3].

    Cut at the middle of the box and not at the median, without shrinking boxes to the points: a fifth faster to ask on
    surfaces, and no slower on clusters, lines or repeated points.
    """
    return import_spatial().cKDTree(points, leafsize=LEAF_SIZE, balanced_tree=False, compact_nodes=False)


def nearest(queries: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances float64 [n] from queries [n, 3] to their nearest of `points`, and its indices int64 [n]."""
    distances, indices = build_tree(points).query(queries)
    return distances, indices


def directed_matrix(
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    reduce: Reduction,
    *,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> np.ndarray:
    """float64 [S, T]: `reduce` over the points of source s of their nearest neighbours in target t.

    One tree a target; a thread asks it about many sources in one call, whose overhead would else be noticed. `reduce`
    sees a source's points in any order.
    """
    starts = np.cumsum([0, *(len(points) for points in sources)])
    runs: list[tuple[int, int]] = []
    first = 0
    for last in range(1, len(sources) + 1):
        if last == len(sources) or starts[last + 1] - starts[first] > QUERY_POINTS:
            runs.append((first, last))
            first = last
    # In the order of a tree's leaves, a point takes nearly the way through a tree that the one before it took.
    stacked = np.concatenate([points[build_tree(points).indices] for points in sources])
    result = np.empty((len(sources), len(targets)))

    def ask(t: int) -> None:
        tree = build_tree(targets[t])
        for begin, end in runs:
            distances, indices = tree.query(stacked[starts[begin] : starts[end]])
            for s in range(begin, end):
                part = slice(starts[s] - starts[begin], starts[s + 1] - starts[begin])
                result[s, t] = reduce(distances[part], indices[part])

    run_all(ask, range(len(targets)), workers=workers, total=len(targets), what="trees", progress=progress)
    return result


def block_columns(num_columns: int, row_points: int, column_points: int, block_elements: int) -> int:
    """How many columns fit a block of at most `block_elements` distances (at least one column does)."""
    return max(1, min(num_columns, block_elements // (row_points * column_points)))


def mutual_power_means(
    row: Tensor, columns: Tensor, power: int, *, block_elements: int = 1 << 28
) -> tuple[Tensor, Tensor]:
    """Directed means of nearest distances to the power 1 or 2 by brute force, in blocks of bounded memory.

    row: [N, 3], columns: [C, M, 3], of one device and floating dtype. Returns float64 [C] row -> column and [C]
    column -> row. Distances come from differences of coordinates, never from |x|^2 + |y|^2 - 2 x.y: no cancellation,
    nothing below zero. A block holds at most max(`block_elements`, N * M) distances.
    """
    if row.ndim != 2 or columns.ndim != 3 or row.shape[1] != 3 or columns.shape[2] != 3:
        raise PointCloudError(f"expected [N, 3] and [C, M, 3], found {list(row.shape)} and {list(columns.shape)}")
    step = block_columns(len(columns), len(row), columns.shape[1], block_elements)
    forth, back = [], []
    for block in columns.split(step):
        distances = torch.cdist(row[None], block, compute_mode="donot_use_mm_for_euclid_dist")
        forth.append(distances.amin(2).double().pow(power).mean(1))
        back.append(distances.amin(1).double().pow(power).mean(1))
    return torch.cat(forth), torch.cat(back)
