"""The exact earth mover's distance between clouds, and between every pair of two sets."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..errors import PointCloudError
from .inputs import Cloud, Clouds, cloud_points, cloud_set
from .nearest import import_spatial
from .parallel import ProgressCallback, run_all

Cost = Literal["distance", "squared"]
Solver = Literal["auto", "network_simplex", "assignment"]

MAX_PIVOTS = 50_000_000  # of the network simplex; 2048 points take some tens of thousands


def import_transport() -> Any:
    """Python Optimal Transport, or an ImportError that says which extra has it."""
    try:
        import ot
    except ImportError as error:
        raise ImportError("this needs POT, the optimal transport library: pip install 'trifold[pointcloud]'") from error
    return ot


def has_transport() -> bool:
    try:
        import_transport()
    except ImportError:
        return False
    return True


def check_cost(cost: str) -> None:
    if cost not in ("distance", "squared"):
        raise PointCloudError(f'cost: expected "distance" or "squared", found {cost!r}')


def cost_matrix(a: np.ndarray, b: np.ndarray, cost: Cost) -> np.ndarray:
    """float64 [N, M] of |a_i - b_j| or its square."""
    return import_spatial().distance.cdist(a, b, "euclidean" if cost == "distance" else "sqeuclidean")


def transport_plan(masses_a: np.ndarray, masses_b: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An optimal plan [N, M] between masses [N], [M] of equal sum, and dual values [M] of the second (network simplex).

    Whole masses give a whole plan, free of rounding. Raises `PointCloudError` when the solver gives up.
    """
    plan, log = import_transport().emd(masses_a, masses_b, costs, numItermax=MAX_PIVOTS, log=True)
    if log["warning"]:
        raise PointCloudError(f"optimal transport of {costs.shape} was not solved: {log['warning']}")
    return plan, log["v"]


def emd(a: Cloud, b: Cloud, *, cost: Cost = "distance", solver: Solver = "auto") -> float:
    """The least mean cost of moving cloud a onto cloud b, solved exactly in float64.

    cost "distance": mean |a_i - b_s(i)| over the best one-to-one matching s (the Wasserstein-1 distance of the two
    uniform distributions); "squared": mean |a_i - b_s(i)|^2 (Wasserstein-2 squared). Clouds of different sizes share
    the unit mass evenly over their points, and points may be split. Symmetric; 0 for equal sets of points.

    solver: "network_simplex" (POT), "assignment" (scipy's; equal sizes only, 1.5 to 3 times slower), "auto": the
    network simplex where POT is installed, else assignment. Both give the same value to rounding. Published "EMD"
    tables used other formulas: see `legacy_emd`. Raises `PointCloudError` for empty clouds, points that are not finite
    and unknown names, ImportError when no installed solver fits.
    """
    return solve(cloud_points(a, "a"), cloud_points(b, "b"), cost, choose_solver(solver))


def choose_solver(solver: Solver) -> Solver:
    if solver not in ("auto", "network_simplex", "assignment"):
        raise PointCloudError(f'solver: expected "auto", "network_simplex" or "assignment", found {solver!r}')
    if solver == "auto":
        return "network_simplex" if has_transport() else "assignment"
    return solver


def solve(a: np.ndarray, b: np.ndarray, cost: Cost, solver: Solver) -> float:
    """`emd` of checked float64 clouds [N, 3], [M, 3] by a chosen solver."""
    check_cost(cost)
    if a.shape == b.shape and np.array_equal(a, b):
        return 0.0
    costs = cost_matrix(a, b, cost)
    if solver == "assignment":
        if len(a) != len(b):
            raise PointCloudError(
                f"clouds of {len(a)} and {len(b)} points: assignment needs equal sizes; other sizes need POT"
                " (pip install 'trifold[pointcloud]')"
            )
        from scipy.optimize import linear_sum_assignment

        matched = linear_sum_assignment(costs)[1]
        return float(costs[np.arange(len(a)), matched].mean())
    masses = whole_masses(np.ones(len(a)), np.ones(len(b)))
    plan = transport_plan(*masses, costs)[0]
    if len(a) == len(b):
        # Summed as the matching it is, so that both solvers agree to the last bit.
        return float(costs[np.arange(len(a)), plan.argmax(1)].mean())
    return float((plan * costs).sum() / masses[0].sum())


def whole_masses(counts_a: np.ndarray, counts_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float64 whole numbers in proportion to each side's counts, of the same sum on both sides."""
    total_a, total_b = round(float(counts_a.sum())), round(float(counts_b.sum()))
    shared = math.gcd(total_a, total_b)
    return counts_a * float(total_b // shared), counts_b * float(total_a // shared)


def emd_matrix(
    rows: Clouds,
    columns: Clouds | None = None,
    *,
    cost: Cost = "distance",
    solver: Solver = "auto",
    workers: int | None = None,
    progress: ProgressCallback | None = None,
) -> np.ndarray:
    """`emd` of every pair, all of them solved: float64 [R, C]; columns None: rows against themselves, symmetric.

    A pair of 2048 points takes 0.5 to 0.8 s of one core. Where only nearest neighbours matter (1-NNA, MMD, COV) use
    `pruned.nearest_emd`, which solves about one pair in a hundred.
    """
    check_cost(cost)
    chosen = choose_solver(solver)
    first = cloud_set(rows, "rows")
    second = first if columns is None else cloud_set(columns, "columns")
    pairs = [(i, j) for i in range(len(first)) for j in range(i if columns is None else len(second))]
    values = run_all(
        lambda pair: solve(first[pair[0]], second[pair[1]], cost, chosen),
        pairs,
        workers=workers,
        total=len(pairs),
        progress=progress,
    )
    result = np.zeros((len(first), len(second)))
    for (i, j), value in zip(pairs, values, strict=True):
        result[i, j] = value
        if columns is None:
            result[j, i] = value
    return result
