"""Chamfer distance of two clouds, and of every pair of two sets."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import PointCloudError
from .inputs import Cloud, Clouds, cloud_points, cloud_set
from .nearest import directed_matrix, mutual_power_means, nearest
from .parallel import Progress, ProgressCallback, run_all

Method = Literal["auto", "trees", "blocks"]


def chamfer(a: Cloud, b: Cloud, *, squared: bool = True) -> float:
    """Mean over a of the squared distance to the nearest point of b, plus the same from b to a.

    Clouds of any sizes [N, 3], [M, 3]; float64, never negative, exactly 0 for equal sets of points. This is the
    convention of Luo & Hu, PointFlow, PVD and LION. `squared=False` takes distances instead (the L1 Chamfer distance;
    some papers also halve it). Raises `PointCloudError` for a cloud that is empty or not finite.
    """
    first, second = cloud_points(a, "a"), cloud_points(b, "b")
    power = 2 if squared else 1
    return float(np.mean(nearest(first, second)[0] ** power) + np.mean(nearest(second, first)[0] ** power))


def chamfer_matrix(
    rows: Clouds,
    columns: Clouds | None = None,
    *,
    squared: bool = True,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
    method: Method = "auto",
    block_elements: int = 1 << 28,
) -> np.ndarray:
    """`chamfer` of every pair: float64 [R, C].

    columns: None means rows against themselves, at half the cost: the result is symmetric, its diagonal 0.
    method: "trees" runs KD-trees on all cores (`workers` threads); "blocks" runs on the clouds' device by brute force,
    at most max(block_elements, N * M) distances at a time, and keeps their dtype for the distances; "auto" takes
    blocks for CUDA tensors and trees for all else. Raises `PointCloudError` as `chamfer` does, naming the cloud.
    """
    if method not in ("auto", "trees", "blocks"):
        raise PointCloudError(f'method: expected "auto", "trees" or "blocks", found {method!r}')
    if method == "blocks" or (method == "auto" and _on_cuda(rows)):
        return _by_blocks(rows, columns, 2 if squared else 1, block_elements, progress)
    first = cloud_set(rows, "rows")

    def mean_power(distances: np.ndarray, indices: np.ndarray) -> float:
        return float(np.dot(distances, distances) / len(distances) if squared else distances.mean())

    if columns is None:
        forth = directed_matrix(first, first, mean_power, workers=workers, progress=progress)
        return forth + forth.T
    second = cloud_set(columns, "columns")
    both = _two_halves(progress, len(first) + len(second), len(second))
    forth = directed_matrix(first, second, mean_power, workers=workers, progress=both[0])
    return forth + directed_matrix(second, first, mean_power, workers=workers, progress=both[1]).T


def _two_halves(
    progress: ProgressCallback | None, total: int, first: int
) -> tuple[ProgressCallback | None, ProgressCallback | None]:
    """Callbacks that report two runs, of `first` and `total - first` steps, as one."""
    if progress is None:
        return None, None
    spent = [0.0]

    def report_first(step: Progress) -> None:
        spent[0] = step.seconds
        progress(Progress(step.done, total, step.seconds, step.what))

    def report_second(step: Progress) -> None:
        progress(Progress(first + step.done, total, spent[0] + step.seconds, step.what))

    return report_first, report_second


def _on_cuda(clouds: Clouds) -> bool:
    tensors = [clouds] if isinstance(clouds, Tensor) else clouds
    return all(isinstance(cloud, Tensor) and cloud.is_cuda for cloud in tensors)


def _as_tensors(clouds: Clouds, name: str) -> list[Tensor]:
    if not isinstance(clouds, Tensor) and not all(isinstance(cloud, Tensor) for cloud in clouds):
        raise PointCloudError(f'{name}: method "blocks" expects tensors; it computes on their device')
    tensors = [cloud for cloud in clouds if isinstance(cloud, Tensor)]
    if not tensors:
        raise PointCloudError(f"{name}: no clouds; expected at least one")
    for i, cloud in enumerate(tensors):
        if cloud.ndim != 2 or cloud.shape[1] != 3 or len(cloud) == 0 or not cloud.is_floating_point():
            raise PointCloudError(
                f"{name}[{i}]: expected floating [N, 3] with N >= 1, found {cloud.dtype} {list(cloud.shape)}"
            )
        if not torch.isfinite(cloud).all():
            raise PointCloudError(f"{name}[{i}]: some points are not finite")
    return tensors


@torch.no_grad()
def _by_blocks(
    rows: Clouds, columns: Clouds | None, power: int, block_elements: int, progress: ProgressCallback | None
) -> np.ndarray:
    first = _as_tensors(rows, "rows")
    second = first if columns is None else _as_tensors(columns, "columns")
    result = torch.empty(len(first), len(second), dtype=torch.float64, device=first[0].device)
    # Columns of equal size are compared together; each size is one group.
    groups = {size: [j for j, c in enumerate(second) if len(c) == size] for size in sorted({len(c) for c in second})}
    stacks = {size: torch.stack([second[j] for j in members]) for size, members in groups.items()}

    def fill(i: int) -> None:
        for size, members in groups.items():
            forth, back = mutual_power_means(first[i], stacks[size], power, block_elements=block_elements)
            result[i, torch.tensor(members, device=result.device)] = forth + back

    run_all(fill, range(len(first)), workers=1, total=len(first), what="rows", progress=progress)
    return result.cpu().numpy()
