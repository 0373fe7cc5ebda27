"""Exact earth mover's distances where they decide 1-NNA, MMD and COV, and nowhere else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .bounds import (
    coarse_bound,
    coarse_cloud,
    half_sphere,
    mean_projection_limit,
    projected_bounds,
    projected_quantiles,
    smoothed_bound,
)
from .emd import Cost, check_cost, import_transport, solve
from .generation import TIE_TOLERANCE, SetDistances
from .inputs import Clouds, cloud_set
from .parallel import Progress, run_all
from .search_state import EXACT, SearchState, cloud_digests, load_state, save_state

SMALL = 128  # points; such clouds are solved sooner than bounded
BATCH = 32  # pairs at least that a round takes up, while there are so many


@dataclass(frozen=True)
class SearchProgress(Progress):
    """Progress in settled rows: clouds whose nearest neighbours are known. `solved` of `pairs` pairs exactly so far."""

    solved: int = 0
    sharpened: int = 0
    pairs: int = 0

    def __str__(self) -> str:
        return f"{super().__str__()}; {self.solved} of {self.pairs} pairs solved, {self.sharpened} sharpened"


@dataclass(frozen=True, eq=False)
class NearestEmd:
    """Distances in which every cloud's nearest neighbours, in both sets together and in the other set, are exact.

    All ties for nearest are there; pairs that are nobody's nearest are infinite if they were not solved. MMD, COV and
    1-NNA (k = 1) of `distances` equal those of the full matrices. Of `pairs` in all, `solved` were solved exactly, and
    `sharpened` needed more than projections (the solved ones among them).
    """

    distances: SetDistances
    solved: int
    sharpened: int
    pairs: int

    @property
    def share(self) -> float:
        """Share of pairs that were solved."""
        return self.solved / self.pairs


def nearest_emd(
    generated: Clouds,
    reference: Clouds,
    *,
    cost: Cost = "distance",
    workers: int | None = None,
    state: Path | None = None,
    save_seconds: float = 60.0,
    progress: Callable[[SearchProgress], None] | None = None,
) -> NearestEmd:
    """Exact `emd` of just the pairs that can be a cloud's nearest neighbour.

    Each cloud looks for its nearest in both sets, and in the other set. The candidate of the least lower bound is
    taken up first: its bound is sharpened (projections, coarse duals, smoothed duals) or at last its distance solved,
    until no lower bound is below the best exact distance. Given the bounds no correct search solves fewer pairs (Seidl
    and Kriegel, Optimal Multi-Step k-Nearest Neighbor Search, 1998). Symmetric pairs are solved once, equal clouds
    once for all, and solved pairs sharpen others by the triangle inequality.

    state: an .npz file that is read if it exists and rewritten (beside, then renamed) every `save_seconds` and on the
    way out, also by an error or interrupt: run again with the same clouds and cost to go on. progress: called after
    every pair. The result does not depend on `workers` or on interruptions, except for which needless pairs are solved.

    Raises `PointCloudError` for bad clouds, or a state file that is damaged or of other clouds; ImportError without
    POT.
    """
    check_cost(cost)
    import_transport()
    references = cloud_set(reference, "reference")
    clouds = references + cloud_set(generated, "generated")
    search = _Search(clouds, len(references), cost, workers, state, save_seconds, progress)
    search.run()
    return search.result()


class _Search:
    def __init__(
        self,
        clouds: list[np.ndarray],
        num_refs: int,
        cost: Cost,
        workers: int | None,
        path: Path | None,
        save_seconds: float,
        progress: Callable[[SearchProgress], None] | None,
    ) -> None:
        self.cost: Cost = cost
        self.workers = workers
        self.path = path
        self.save_seconds = save_seconds
        self.progress = progress
        self.num_refs = num_refs
        self.started = self.saved = time.monotonic()
        self.lock = threading.Lock()
        digests, key = cloud_digests(clouds, cost)
        kinds = {digest: k for k, digest in enumerate(dict.fromkeys(digests))}
        self.kind = np.array([kinds[digest] for digest in digests])  # equal clouds are of one kind
        self.members = [np.flatnonzero(self.kind == k) for k in range(len(kinds))]
        # The middle of everything becomes the origin: far from it, coordinates would lose digits.
        middle = np.concatenate(clouds).mean(0)
        self.clouds = clouds
        self.coarse = run_all(lambda cloud: coarse_cloud(cloud - middle), clouds, workers=workers)
        if path is not None and path.exists():
            self.state = load_state(path, key, len(clouds))
            self.use_triangles(self.kind[:, None] == self.kind)  # the round that was broken off had not come to it
        else:
            self.state = self.begin(key)
        level = self.state.level[np.triu_indices(len(clouds), 1)]
        self.pairs, self.solved, self.sharpened = len(level), int((level == EXACT).sum()), int((level > 0).sum())

    def begin(self, key: str) -> SearchState:
        """Bounds from projections for all pairs; equal clouds are at distance 0."""
        directions = half_sphere()
        limit = mean_projection_limit(directions)
        quantiles = np.stack(
            run_all(lambda c: projected_quantiles(c.points, directions), self.coarse, workers=self.workers)
        )
        count = len(self.clouds)
        lower = np.zeros((count, count))
        for i, row in enumerate(
            run_all(lambda i: projected_bounds(quantiles[i], quantiles[:i], limit), range(count), workers=self.workers)
        ):
            lower[i, :i] = lower[:i, i] = row
        level = np.zeros((count, count), np.uint8)
        equal = self.kind[:, None] == self.kind
        lower[equal], level[equal] = 0.0, EXACT
        return SearchState(key, lower, level)

    def sharpen(self, pair: tuple[int, int]) -> None:
        """Raise a pair, and all pairs of equal clouds, to the next level."""
        i, j = pair
        before = int(self.state.level[i, j])
        level = before + 1
        if max(len(self.clouds[i]), len(self.clouds[j])) <= SMALL:
            level = EXACT
        if level == EXACT:
            value = solve(self.clouds[i], self.clouds[j], self.cost, "network_simplex")
            value = value if self.cost == "distance" else float(np.sqrt(value))
        else:
            bound = coarse_bound if level == 1 else smoothed_bound
            value = max(float(self.state.lower[i, j]), bound(self.coarse[i], self.coarse[j]))
        one, other = self.members[self.kind[i]], self.members[self.kind[j]]
        with self.lock:
            for block in (np.ix_(one, other), np.ix_(other, one)):
                self.state.lower[block], self.state.level[block] = value, level
            self.solved += len(one) * len(other) * (level == EXACT)
            self.sharpened += len(one) * len(other) * (before == 0)

    def proposals(self) -> tuple[list[tuple[int, int]], int]:
        """Pairs to take up now, one for every two kinds of cloud, and the number of rows that are settled."""
        count = len(self.clouds)
        others = ~np.eye(count, dtype=bool)
        is_ref = np.arange(count) < self.num_refs
        across = is_ref[:, None] != is_ref
        solved = self.state.level == EXACT
        slack = 1e-13 * float(self.state.lower.max())
        chosen: dict[tuple[int, int], tuple[int, int]] = {}
        unsettled = np.zeros(count, bool)
        for among in (others, across):
            best = np.where(solved & among, self.state.lower, np.inf).min(1)
            bound = np.where(~solved & among, self.state.lower, np.inf)
            bound[bound > (best * (1 + TIE_TOLERANCE) + slack)[:, None]] = np.inf
            rows = np.flatnonzero(np.isfinite(bound).any(1))
            unsettled[rows] = True
            if not len(rows):
                continue
            take = min(count, -(-BATCH // len(rows)))
            columns = np.argpartition(bound[rows], take - 1, axis=1)[:, :take]
            for i, js in zip(rows.tolist(), columns.tolist(), strict=True):
                for j in js:
                    if np.isfinite(bound[i, j]):
                        kinds = sorted((int(self.kind[i]), int(self.kind[j])))
                        chosen.setdefault((kinds[0], kinds[1]), (min(i, j), max(i, j)))
        return [chosen[kinds] for kinds in sorted(chosen)], count - int(unsettled.sum())

    def use_triangles(self, before: np.ndarray) -> None:
        """|W(i, j)| >= W(k, j) - W(i, k) for every pair (i, k) solved since `before` [n, n] (bool)."""
        lower, level = self.state.lower, self.state.level
        for i, k in np.argwhere((level == EXACT) & ~before):
            raised = np.where(level[i] == EXACT, lower[i], np.maximum(lower[i], lower[k] - lower[i, k]))
            lower[i] = lower[:, i] = raised

    def run(self) -> None:
        """Until every row is settled. Saves on the way out, whatever the reason."""
        try:
            while True:
                pairs, settled = self.proposals()
                if not pairs:
                    return
                solved_before = self.state.level == EXACT
                run_all(self.sharpen, pairs, workers=self.workers, progress=lambda _, s=settled: self.report(s))
                self.use_triangles(solved_before)
        finally:
            self.save()

    def report(self, settled: int) -> None:
        now = time.monotonic()
        if now - self.saved > self.save_seconds:
            self.save()
        if self.progress is not None:
            counts = {"solved": self.solved, "sharpened": self.sharpened, "pairs": self.pairs}
            self.progress(SearchProgress(settled, len(self.clouds), now - self.started, "rows", **counts))

    def save(self) -> None:
        if self.path is not None:
            with self.lock:
                save_state(self.path, self.state)
        self.saved = time.monotonic()

    def result(self) -> NearestEmd:
        solved = self.state.level == EXACT
        values = np.where(solved, self.state.lower if self.cost == "distance" else self.state.lower**2, np.inf)
        r = self.num_refs
        distances = SetDistances(values[:r, r:], values[:r, :r], values[r:, r:])
        return NearestEmd(distances, self.solved, self.sharpened, self.pairs)
