"""The metrics' tables of `bench_pointcloud.py`: Chamfer against matrix products, exact EMD, 1-NNA with pairs pruned."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from bench_measure import Table, difference, interleaved
from torch import Tensor
from trifold.pointcloud.metrics import (
    SetDistances,
    chamfer_matrix,
    coverage,
    emd,
    emd_matrix,
    minimum_matching_distance,
    nearest_emd,
    nearest_neighbour_accuracy,
)
from trifold.pointcloud.shapes import CATEGORIES, ProceduralClouds

BLOCK = {"cpu": 1 << 24, "cuda": 1 << 28}  # distances at a time: 64 MiB and 1 GiB of float32


def shapes(count: int, num_points: int, seed: int) -> list[np.ndarray]:
    """Held-out procedural shapes, float32 [num_points, 3] each."""
    source = ProceduralClouds("test", num_shapes=count, num_points=num_points, seed=seed)
    return [source[i].points for i in range(count)]


@torch.no_grad()
def chamfer_by_products(rows: Tensor, columns: Tensor) -> Tensor:
    """Chamfer [R, C] of clouds [R, N, 3] and [C, M, 3] from |x|^2 + |y|^2 - 2 x.y, one batched product a block."""
    result = rows.new_empty(len(rows), len(columns))
    row_squares, column_squares = rows.square().sum(-1), columns.square().sum(-1)
    for i, part in _blocks(rows, columns):
        distances = row_squares[i][None, :, None] + column_squares[part, None]
        x = rows[i].expand(len(distances), -1, -1)
        distances.baddbmm_(x, columns[part].transpose(1, 2), alpha=-2)
        result[i, part] = distances.amin(2).mean(1) + distances.amin(1).mean(1)
    return result


@torch.no_grad()
def chamfer_by_three_products(rows: Tensor, columns: Tensor) -> Tensor:
    """The same as most published code has it: |x|^2 and |y|^2 are the diagonals of x.x and y.y."""
    result = rows.new_empty(len(rows), len(columns))
    for i, part in _blocks(rows, columns):
        y = columns[part]
        x = rows[i].expand(len(y), -1, -1)
        xx, yy, xy = (torch.bmm(a, b.transpose(1, 2)) for a, b in ((x, x), (y, y), (x, y)))
        distances = xx.diagonal(dim1=1, dim2=2)[:, :, None] + yy.diagonal(dim1=1, dim2=2)[:, None] - 2 * xy
        result[i, part] = distances.amin(2).mean(1) + distances.amin(1).mean(1)
    return result


def _blocks(rows: Tensor, columns: Tensor) -> list[tuple[int, slice]]:
    """(row, columns) compared at once."""
    width = max(1, BLOCK[rows.device.type] // (rows.shape[1] * columns.shape[1]))
    return [(i, slice(j, j + width)) for i in range(len(rows)) for j in range(0, len(columns), width)]


def chamfer_table(count: int, num_points: int, device: str, *, repeats: int, workers: int) -> Table:
    """Every pair of two sets of `count` clouds."""
    rows, columns = (
        torch.from_numpy(np.stack(shapes(count, num_points, seed))).to(device).contiguous() for seed in (0, 1)
    )
    runs: dict[str, Callable[[], Any]] = {
        "three products a block": partial(chamfer_by_three_products, rows, columns),
        "one product a block": partial(chamfer_by_products, rows, columns),
        "ours": partial(chamfer_matrix, rows, columns, workers=workers),
    }
    timings = interleaved(runs, repeats, device, warm_up=False)
    ours, table = timings["ours"], []
    exact = torch.as_tensor(ours.result).cpu()
    for name, timing in timings.items():
        row = {"version": name, "fastest s": timing.fastest, "median s": timing.median}
        row["ours is faster by"] = timing.fastest / ours.fastest
        error = None if timing is ours else difference(torch.as_tensor(timing.result).cpu(), exact)
        table.append({**row, "difference": error})
    return Table("chamfer", f"Chamfer matrix, {count} x {count} clouds of {num_points} points, {device}", table)


def emd_tables(num_points: int, set_clouds: int, set_points: int, *, repeats: int, workers: int) -> list[Table]:
    """Single distances of clouds of `num_points`, and a 1-NNA of two sets: the pairs that matter, and all of them."""
    pairs = zip(*(shapes(len(CATEGORIES), num_points, seed) for seed in (0, 1)), strict=True)
    single = interleaved({i: partial(emd, *pair) for i, pair in enumerate(pairs)}, 1, "cpu")
    times = [timing.fastest for timing in single.values()]
    row = {"pairs": len(times), "fastest s": min(times), "median s": statistics.median(times), "slowest s": max(times)}
    one = Table("emd", f"Exact EMD, one pair of {num_points} points", [row])

    generated, reference = (shapes(set_clouds, set_points, seed) for seed in (1, 0))
    runs: dict[str, Callable[[], Any]] = {
        "all pairs": partial(all_pairs, generated, reference, workers),
        "pruned": partial(nearest_emd, generated, reference, workers=workers),
    }
    timings = interleaved(runs, repeats, "cpu", warm_up=False)
    pruned = timings["pruned"].result
    distances = {"all pairs": timings["all pairs"].result, "pruned": pruned.distances}
    solved = {"all pairs": pruned.pairs, "pruned": pruned.solved}
    scores = {name: _scores(own) for name, own in distances.items()}
    rows = [
        {
            "version": name,
            "fastest s": timing.fastest,
            "median s": timing.median,
            "pairs": pruned.pairs,
            "solved": solved[name],
            "share %": 100 * solved[name] / pruned.pairs,
            "1-NNA %": 100 * scores[name][0],
            "all scores equal": scores[name] == scores["all pairs"],
        }
        for name, timing in timings.items()
    ]
    title = f"1-NNA by exact EMD, 2 x {set_clouds} clouds of {set_points} points"
    return [one, Table("nearest", title, rows)]


def all_pairs(generated: Sequence[np.ndarray], reference: Sequence[np.ndarray], workers: int) -> SetDistances:
    """Every distance solved."""
    solve = partial(emd_matrix, workers=workers)
    return SetDistances(solve(reference, generated), solve(reference), solve(generated))


def _scores(distances: SetDistances) -> tuple[float, ...]:
    """1-NNA with its interval, MMD and COV."""
    nearest = nearest_neighbour_accuracy(distances)
    spread = nearest.low, nearest.high, nearest.reference, nearest.sample
    return (nearest.accuracy, *spread, minimum_matching_distance(distances), coverage(distances))
