"""Exact EMD without solving every pair: the bounds hold, the results are those of the full matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.metrics import (
    SearchProgress,
    SetDistances,
    coverage,
    emd,
    emd_matrix,
    minimum_matching_distance,
    nearest_emd,
    nearest_neighbour_accuracy,
    sample_matching_distance,
)
from trifold.pointcloud.metrics.bounds import (
    coarse_bound,
    coarse_cloud,
    half_sphere,
    mean_projection_limit,
    projected_bounds,
    projected_quantiles,
    smoothed_bound,
)


def boxes(count: int, num_points: int, seed: int) -> list[np.ndarray]:
    """Points on the surfaces of random boxes, no two alike."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        points = rng.uniform(-1, 1, size=(num_points, 3))
        side = rng.integers(3, size=num_points)
        points[np.arange(num_points), side] = np.sign(points[np.arange(num_points), side])
        result.append(points * rng.uniform(0.3, 1.0, size=3))
    return result


def full(generated: list[np.ndarray], reference: list[np.ndarray], cost="distance") -> SetDistances:
    return SetDistances(
        emd_matrix(reference, generated, cost=cost), emd_matrix(reference, cost=cost), emd_matrix(generated, cost=cost)
    )


def assert_same_results(found: SetDistances, whole: SetDistances) -> None:
    known = np.isfinite(found.merged()) & np.isfinite(whole.merged())
    np.testing.assert_allclose(found.merged()[known], whole.merged()[known], rtol=1e-12, atol=1e-15)
    for measure in (minimum_matching_distance, sample_matching_distance, coverage):
        assert measure(found) == pytest.approx(measure(whole), rel=1e-12)
    assert nearest_neighbour_accuracy(found) == nearest_neighbour_accuracy(whole)


def test_mean_projection_limit_is_the_largest_and_near_one_half() -> None:
    directions = half_sphere()
    limit = mean_projection_limit(directions)
    x = np.random.default_rng(0).normal(size=(20000, 3))
    found = np.abs((x / np.linalg.norm(x, axis=1, keepdims=True)) @ directions.T).mean(1).max()
    assert found <= limit < found + 1e-3
    assert limit == pytest.approx(0.5, abs=0.01)
    # Three axes: the corner of the cube is the worst, (1 + 1 + 1) / sqrt(3) / 3.
    assert mean_projection_limit(np.eye(3)) == pytest.approx(1 / np.sqrt(3))


@pytest.mark.parametrize("sizes", [(300, 300), (300, 213), (20, 300), (5, 5)])
def test_bounds_hold_and_tighten(sizes: tuple[int, int]) -> None:
    a, b = boxes(1, sizes[0], 0)[0], boxes(1, sizes[1], 1)[0] + 0.1
    exact = emd(a, b)
    directions = half_sphere()
    quantiles = [projected_quantiles(cloud, directions) for cloud in (a, b)]
    projected = projected_bounds(quantiles[0], quantiles[1][None], mean_projection_limit(directions))[0]
    one, other = coarse_cloud(a), coarse_cloud(b)
    coarse, smoothed = coarse_bound(one, other), smoothed_bound(one, other)
    assert max(projected, coarse, smoothed) <= exact * (1 + 1e-12)
    assert smoothed >= 0.9 * exact
    assert coarse >= 0.6 * exact
    assert projected >= 0.3 * exact
    assert one.counts.sum() == sizes[0]
    assert np.ptp(one.counts) <= 1


def test_bounds_of_a_translation_and_of_nothing() -> None:
    a = boxes(1, 200, 0)[0]
    shift = np.array([0.3, -0.4, 1.2])
    assert 0.97 * 1.3 < coarse_bound(coarse_cloud(a), coarse_cloud(a + shift)) <= 1.3 + 1e-12
    assert smoothed_bound(coarse_cloud(a), coarse_cloud(a)) == pytest.approx(0, abs=1e-12)


def test_quantiles_keep_the_mean_and_average_within_shares() -> None:
    points = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    quantiles = projected_quantiles(points, np.eye(3))
    assert quantiles[0].mean() == pytest.approx(1)
    # The share of mass from 42/128 to 43/128 straddles 1/3: two thirds of it lie at 0, one third at 1.
    assert quantiles[0][42] == pytest.approx(1 / 3)
    assert quantiles[0][41] == 0
    assert quantiles[0][43] == 1


@pytest.mark.parametrize("cost", ["distance", "squared"])
def test_results_are_those_of_the_full_matrices(cost) -> None:
    reference, generated = boxes(9, 256, 0), boxes(7, 256, 1)
    found = nearest_emd(generated, reference, cost=cost, workers=2)
    assert_same_results(found.distances, full(generated, reference, cost))
    assert found.pairs == 16 * 15 // 2
    assert found.share < 0.5


def test_results_with_unequal_sizes_and_small_clouds() -> None:
    reference, generated = [*boxes(3, 150, 0), *boxes(2, 90, 2)], [*boxes(3, 131, 1), boxes(1, 1, 3)[0]]
    found = nearest_emd(generated, reference)
    assert_same_results(found.distances, full(generated, reference))


def test_ties_and_copies_are_found() -> None:
    shape, reference = boxes(1, 140, 5)[0], boxes(4, 140, 0)
    # A collapsed generator: the same cloud again and again, one a copy of a reference, one its points in other order.
    generated = [shape, shape, shape, reference[1], np.random.default_rng(0).permutation(shape)]
    found = nearest_emd(generated, reference)
    assert_same_results(found.distances, full(generated, reference))
    # Mirrored clouds are exactly as far from a mirror-symmetric one.
    flat = boxes(1, 140, 6)[0]
    symmetric = np.concatenate([flat, flat * [1, 1, -1]])
    up = np.array([0, 0, 0.5])
    sides = [flat + up, flat * [1, 1, -1] - up]
    tied = nearest_emd(sides, [symmetric, symmetric + 5])
    near = tied.distances.ref_sample[0]
    assert np.isfinite(near).all()
    assert near[0] == pytest.approx(near[1], rel=1e-12)
    assert_same_results(tied.distances, full(sides, [symmetric, symmetric + 5]))


def test_identical_sets_cost_no_solution() -> None:
    reference = boxes(5, 140, 0)
    found = nearest_emd(reference, reference)
    assert nearest_neighbour_accuracy(found.distances).accuracy == 0.5
    assert minimum_matching_distance(found.distances) == 0
    assert found.solved == 5


def test_a_stopped_search_goes_on_from_its_file(tmp_path: Path) -> None:
    reference, generated, path = boxes(6, 200, 0), boxes(6, 200, 1), tmp_path / "search.npz"
    seen: list[SearchProgress] = []

    def stop_at_twenty(step: SearchProgress) -> None:
        seen.append(step)
        if len(seen) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nearest_emd(generated, reference, state=path, progress=stop_at_twenty, workers=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["search.npz"]
    again: list[SearchProgress] = []
    found = nearest_emd(generated, reference, state=path, progress=again.append, workers=1)
    whole: list[SearchProgress] = []
    fresh = nearest_emd(generated, reference, progress=whole.append, workers=1)
    assert_same_results(found.distances, fresh.distances)
    assert again[0].sharpened >= seen[-1].sharpened > 0
    assert len(again) < len(whole)
    assert again[-1].pairs == 66
    assert "pairs solved" in str(again[-1])
    # Once finished nothing is left to do.
    done: list[SearchProgress] = []
    nearest_emd(generated, reference, state=path, progress=done.append)
    assert not done


def test_state_files_of_other_clouds_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    reference, generated, path = boxes(2, 20, 0), boxes(2, 20, 1), tmp_path / "search.npz"
    nearest_emd(generated, reference, state=path)
    with pytest.raises(PointCloudError, match=r"search\.npz: belongs to other clouds or another cost"):
        nearest_emd(generated, reference, state=path, cost="squared")
    with pytest.raises(PointCloudError, match="other clouds"):
        nearest_emd(generated[::-1], reference, state=path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(PointCloudError, match=r"search\.npz: not a readable search state"):
        nearest_emd(generated, reference, state=path)


def test_workers_do_not_change_what_is_solved() -> None:
    reference, generated = boxes(5, 160, 0), boxes(5, 160, 1)
    one, two = (nearest_emd(generated, reference, workers=n) for n in (1, 3))
    assert (one.distances.merged() == two.distances.merged()).all()
    assert one.sharpened == two.sharpened
