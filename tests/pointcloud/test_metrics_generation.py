"""MMD, COV, 1-NNA and JSD: worked by hand, and against the original's recorded summaries."""

from __future__ import annotations

import numpy as np
import pytest
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.metrics import (
    SetDistances,
    chamfer_matrix,
    coverage,
    jensen_shannon_divergence,
    minimum_matching_distance,
    nearest_neighbour_accuracy,
    original_knn,
    original_summary,
    sample_matching_distance,
)
from trifold.pointcloud.metrics.generation import wilson_interval
from trifold.pointcloud.metrics.jsd import sphere_grid

from .golden import notes, tensors

CASES = list(notes()["metrics"])
# Two identical clouds in one set: the record depends on how topk breaks ties.
UNTIED = [name for name in CASES if name != "mode_collapse"]


def on_a_line(refs: list[float], samples: list[float]) -> SetDistances:
    """Clouds that are numbers, distances that are differences."""
    r, s = np.array(refs, dtype=float), np.array(samples, dtype=float)
    return SetDistances(abs(r[:, None] - s), abs(r[:, None] - r), abs(s[:, None] - s))


def recorded(name: str, prefix: str = "cd") -> SetDistances:
    return SetDistances(
        *(tensors()[f"metrics/{name}/{prefix}_{block}"].numpy() for block in ("ref_sample", "ref_ref", "sample_sample"))
    )


def from_points(name: str) -> SetDistances:
    sample, ref = tensors()[f"metrics/{name}/sample"], tensors()[f"metrics/{name}/ref"]
    return SetDistances(chamfer_matrix(ref, sample), chamfer_matrix(ref), chamfer_matrix(sample))


def test_by_hand() -> None:
    # References 0, 10, 20; samples 1, 2, 13.
    d = on_a_line([0, 10, 20], [1, 2, 13])
    assert minimum_matching_distance(d) == pytest.approx((1 + 3 + 7) / 3)
    assert sample_matching_distance(d) == pytest.approx((1 + 2 + 3) / 3)
    assert coverage(d) == pytest.approx(2 / 3)
    # Nearest: 0 -> 1 (wrong), 10 -> 13 (wrong), 20 -> 13 (wrong); 1 -> 0 ties with 2: half; 2 -> 1; 13 -> 10 (wrong).
    result = nearest_neighbour_accuracy(d)
    assert (result.reference, result.sample, result.accuracy) == (0, 0.5, 0.25)
    assert result.chance == pytest.approx(2 / 5)


def test_identical_sets_score_one_half_and_zero_in_the_original_way() -> None:
    d = on_a_line([0, 1, 5, 9], [0, 1, 5, 9])
    assert nearest_neighbour_accuracy(d).accuracy == 0.5
    assert nearest_neighbour_accuracy(d, ties="original").accuracy == 0
    assert coverage(d) == 1
    assert minimum_matching_distance(d) == 0


def test_collapse_to_one_sample_is_told_apart() -> None:
    d = on_a_line([0, 3, 7, 12], [5, 5, 5, 5])
    result = nearest_neighbour_accuracy(d)
    assert result.sample == 1
    assert coverage(d) == 0.25
    # Copies of a reference: the reference and its copies cannot be told apart, and samples are the majority.
    assert nearest_neighbour_accuracy(on_a_line([0, 3, 7, 12], [0, 0, 0, 0])).sample == 1


def test_k_neighbours_vote_and_share_the_last_place() -> None:
    # Sample 0 sees reference 1, sample -2, then reference 3 and sample -3 tie for third: half. The other samples see
    # two samples and a reference, the references one reference and two samples.
    result = nearest_neighbour_accuracy(on_a_line([1, 3], [0, -2, -3]), k=3)
    assert result.sample == pytest.approx(2.5 / 3)
    assert result.reference == 0
    assert nearest_neighbour_accuracy(on_a_line([0, 0.1, 0.2], [9, 9.1, 9.2]), k=2).accuracy == 1
    # k = 2 with one neighbour of each set: half.
    assert nearest_neighbour_accuracy(on_a_line([0, 1], [0.5, 5]), k=2).reference == 0.5
    with pytest.raises(PointCloudError, match="k: 6 neighbours"):
        nearest_neighbour_accuracy(on_a_line([0, 1, 2], [3, 4, 5]), k=6)


def test_the_interval_counts_mutual_neighbours_once() -> None:
    # Two far pairs of mutual neighbours, each within one set: 4 clouds, 2 independent decisions.
    result = nearest_neighbour_accuracy(on_a_line([0, 1], [100, 101]))
    assert result.accuracy == 1
    assert result.effective_count == 2
    assert (result.low, result.high) == pytest.approx(wilson_interval(1.0, 2))
    # Wilson for 8 of 10: (0.4902, 0.9433), a textbook value.
    assert wilson_interval(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_the_interval_covers_random_labels() -> None:
    rng = np.random.default_rng(0)
    inside, plain, rounds = 0, 0, 300
    for _ in range(rounds):
        x = rng.normal(size=(60, 2))
        d = np.linalg.norm(x[:, None] - x, axis=2)
        result = nearest_neighbour_accuracy(SetDistances(d[:30, 30:], d[:30, :30], d[30:, 30:]))
        inside += result.low <= result.chance <= result.high
        low, high = wilson_interval(result.accuracy, 60)
        plain += low <= result.chance <= high
    assert 0.92 <= inside / rounds <= 0.99
    assert plain / rounds < 0.92  # what taking all decisions for independent would promise as 95 %


@pytest.mark.parametrize("name", CASES)
def test_summaries_are_the_recorded_ones(name: str) -> None:
    record = notes()["metrics"][name]
    for distances in (recorded(name), from_points(name)):
        for key, value in original_summary(distances).items():
            if name in UNTIED or "1-NN" not in key:
                assert value == pytest.approx(record[key], abs=1e-6), key
        if name in UNTIED:
            assert original_knn(distances, 3) == pytest.approx(record["knn_k3"], abs=1e-6)
            assert original_knn(distances, 1) == pytest.approx(record["knn_k1_full"], abs=1e-6)


@pytest.mark.parametrize("name", ["shapes_unequal_counts", "shapes_equal_noisy"])
@pytest.mark.parametrize("label", ["emd_l2", "emd_sq"])
def test_summaries_of_exact_emd(name: str, label: str) -> None:
    record = notes()["metrics"][name][f"from_exact_{label}"]
    summary = original_summary(recorded(name, label), "x")
    for key, value in record.items():
        found = summary[f"{key}-x"] if key.startswith("lgan") else summary[key.replace("1-NN-", "1-NN-x-")]
        assert found == pytest.approx(value, abs=1e-6), key


@pytest.mark.parametrize("name", ["random_equal", "shapes_unequal_counts"])
def test_where_nothing_ties_both_ways_agree(name: str) -> None:
    plain = nearest_neighbour_accuracy(recorded(name))
    original = nearest_neighbour_accuracy(recorded(name), ties="original")
    assert (plain.accuracy, plain.reference, plain.sample) == (
        original.accuracy,
        original.reference,
        original.sample,
    )
    assert plain.low < plain.accuracy < plain.high


def test_bad_matrices() -> None:
    with pytest.raises(PointCloudError, match="ref_ref"):
        SetDistances(np.zeros((2, 3)), np.zeros((3, 3)), np.zeros((3, 3)))
    with pytest.raises(PointCloudError, match="NaN"):
        SetDistances(np.full((2, 3), np.nan), np.zeros((2, 2)), np.zeros((3, 3)))
    with pytest.raises(PointCloudError, match="no finite distance"):
        SetDistances(np.full((2, 3), np.inf), np.zeros((2, 2)), np.zeros((3, 3)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scale", [1, 0.5])
def test_jsd_is_the_recorded_one(name: str, scale: float) -> None:
    record = notes()["metrics"][name]
    sample, ref = (tensors()[f"metrics/{name}/{side}"] * scale for side in ("sample", "ref"))
    value = jensen_shannon_divergence(sample, ref, grid="original")
    assert value == pytest.approx(record[f"jsd_points_times_{scale:g}"], abs=2e-3)
    coarse = jensen_shannon_divergence(sample, ref, grid="original", resolution=16)
    assert coarse == pytest.approx(record[f"jsd_res16_points_times_{scale:g}"], abs=2e-3)


def test_jsd_by_hand() -> None:
    corner = np.array([[[0.5, 0, 0], [-0.5, 0, 0], [0, 0.5, 0], [0, -0.5, 0]]])
    assert jensen_shannon_divergence(corner, corner) == 0
    # Half of the mass agrees: p = (1/2, 1/2, 0), q = (1/2, 0, 1/2); the mean (1/2, 1/4, 1/4) has 1.5 bits, p and q 1.
    p = np.array([[[0.5, 0, 0], [-0.5, 0, 0]]])
    q = np.array([[[0.5, 0, 0], [0, 0.5, 0]]])
    assert jensen_shannon_divergence(p, q, grid="original") == pytest.approx(0.5)
    assert jensen_shannon_divergence(p, -q[:, 1:], grid="original") == pytest.approx(1)


def test_jsd_grid_fits_any_unit_and_place() -> None:
    rng = np.random.default_rng(0)
    sample, ref = rng.normal(size=(3, 200, 3)), rng.normal(size=(3, 200, 3))
    value = jensen_shannon_divergence(sample, ref)
    assert jensen_shannon_divergence(40 * sample + 7, 40 * ref + 7) == pytest.approx(value, abs=0.02)
    assert jensen_shannon_divergence(sample, ref, grid="original") != pytest.approx(value, abs=0.02)
    with pytest.raises(PointCloudError, match="coincide"):
        jensen_shannon_divergence(sample, np.ones((1, 4, 3)))
    assert np.linalg.norm(sphere_grid(), axis=1).max() <= 0.5
