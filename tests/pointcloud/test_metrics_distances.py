"""Chamfer and earth mover's distances: worked by hand, by their properties, and against recorded numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.metrics import (
    Progress,
    chamfer,
    chamfer_matrix,
    emd,
    emd_matrix,
    emd_pointflow,
    emd_pvd,
    legacy_emd_matrix,
)

from .golden import notes, scaled_error, tensors

CASES = list(notes()["metrics"])
EMD_CASES = [name for name in CASES if f"metrics/{name}/emd_l2_ref_sample" in tensors()]


def on_line(*xs: float) -> np.ndarray:
    return np.array([[x, 0.0, 0.0] for x in xs])


def clouds(count: int, num_points: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, num_points, 3))


def test_chamfer_by_hand() -> None:
    assert chamfer(on_line(0, 2), on_line(0, 4)) == 2 + 2
    assert chamfer(on_line(0, 2), on_line(0, 4), squared=False) == 1 + 1
    assert chamfer(on_line(0, 1), on_line(0)) == 0.5 + 0


def test_chamfer_is_zero_on_itself_far_from_the_origin_and_symmetric() -> None:
    a, b = clouds(2)
    assert chamfer(a + 1000, np.random.default_rng(1).permutation(a + 1000)) == 0
    assert chamfer(a, b[:17]) == pytest.approx(chamfer(b[:17], a), rel=1e-15)
    assert chamfer(a + 1000, b + 1000) == pytest.approx(chamfer(a, b), rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_chamfer_matrices_are_the_recorded_ones(name: str) -> None:
    t = tensors()
    sample, ref = t[f"metrics/{name}/sample"], t[f"metrics/{name}/ref"]
    assert scaled_error(chamfer_matrix(ref, sample), t[f"metrics/{name}/cd_ref_sample"]) < 5e-6
    assert scaled_error(chamfer_matrix(ref), t[f"metrics/{name}/cd_ref_ref"]) < 5e-6
    assert scaled_error(chamfer_matrix(sample), t[f"metrics/{name}/cd_sample_sample"]) < 5e-6
    if f"metrics/{name}/paired_cd" in t:
        pairs = [chamfer(s, r) for s, r in zip(sample, ref, strict=True)]
        assert scaled_error(pairs, t[f"metrics/{name}/paired_cd"]) < 5e-6


@pytest.mark.parametrize("squared", [True, False])
def test_chamfer_matrix_is_chamfer_of_each_pair_whatever_the_method(squared: bool) -> None:
    rows = [*clouds(2, 40), *clouds(2, 33, seed=1)]
    columns = [*clouds(3, 33, seed=2), clouds(1, 1, seed=3)[0]]
    each = [[chamfer(a, b, squared=squared) for b in columns] for a in rows]
    np.testing.assert_allclose(chamfer_matrix(rows, columns, squared=squared, workers=2), each, rtol=1e-12)
    on_device = [[torch.from_numpy(cloud) for cloud in side] for side in (rows, columns)]
    blocks = chamfer_matrix(*on_device, squared=squared, method="blocks", block_elements=2000)
    np.testing.assert_allclose(blocks, each, rtol=1e-12)


def test_chamfer_matrix_against_itself_and_its_progress() -> None:
    rows, seen = clouds(4), []
    matrix = chamfer_matrix(rows, progress=seen.append)
    assert (matrix == matrix.T).all()
    assert (np.diag(matrix) == 0).all()
    np.testing.assert_allclose(matrix, chamfer_matrix(rows, rows), rtol=1e-15)
    assert [step.done for step in seen] == [1, 2, 3, 4]
    assert seen[-1].seconds_left == 0
    seen.clear()
    chamfer_matrix(rows, rows[:3], progress=seen.append)
    assert [(step.done, step.total) for step in seen] == [(i, 7) for i in range(1, 8)]


def test_an_error_in_a_callback_stops_the_work() -> None:
    def stop(step: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chamfer_matrix(clouds(4), progress=stop)


SOLVERS = ["network_simplex", "assignment"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_emd_by_hand(solver) -> None:
    assert emd(on_line(0, 1), on_line(2, 1), solver=solver) == 1
    # Crossing costs the same distance, but not the same squares.
    assert emd(on_line(0, 1), on_line(2, 1), cost="squared", solver=solver) == 1
    assert emd(on_line(0, 5), on_line(1, 9), solver=solver) == (1 + 4) / 2
    assert emd(on_line(0, 5), on_line(1, 9), cost="squared", solver=solver) == (1 + 16) / 2


def test_emd_of_unequal_sizes_splits_points() -> None:
    assert emd(on_line(0), on_line(0, 1, 2)) == pytest.approx(1, rel=1e-14)
    assert emd(on_line(0), on_line(0, 1, 2), cost="squared") == pytest.approx(5 / 3, rel=1e-14)
    # The middle third of b's mass comes half from 0, half from 1, half a unit each.
    assert emd(on_line(0, 1), on_line(0, 0.5, 1)) == pytest.approx(1 / 6, rel=1e-14)
    with pytest.raises(PointCloudError, match="2 and 3 points: assignment needs equal sizes"):
        emd(on_line(0, 1), on_line(0, 0.5, 1), solver="assignment")


@pytest.mark.parametrize("cost", ["distance", "squared"])
def test_both_solvers_give_the_same_bits(cost) -> None:
    a, b = clouds(2, 200)
    assert emd(a, b, cost=cost, solver="network_simplex") == emd(a, b, cost=cost, solver="assignment")


def test_emd_is_a_metric_between_clouds_of_any_sizes() -> None:
    a, b, c = clouds(1, 30)[0], clouds(1, 45, seed=1)[0], 2 * clouds(1, 30, seed=2)[0]
    assert emd(a, b) == pytest.approx(emd(b, a), rel=1e-12)
    assert emd(a, c) <= emd(a, b) + emd(b, c)
    assert emd(a, np.random.default_rng(0).permutation(a)) == 0
    assert emd(a, np.concatenate([a, a])) == pytest.approx(0, abs=1e-14)
    shift = np.array([0.3, -0.4, 1.2])
    assert emd(a, a + shift) == pytest.approx(1.3, rel=1e-12)
    assert emd(a, a + shift, cost="squared") == pytest.approx(1.69, rel=1e-12)
    assert emd(a, c) ** 2 <= emd(a, c, cost="squared")


@pytest.mark.parametrize("name", EMD_CASES)
@pytest.mark.parametrize(("cost", "label"), [("distance", "emd_l2"), ("squared", "emd_sq")])
def test_emd_matrices_are_the_recorded_ones(name: str, cost, label: str) -> None:
    t = tensors()
    sample, ref = t[f"metrics/{name}/sample"][:6], t[f"metrics/{name}/ref"][:5]
    assert scaled_error(emd_matrix(ref, sample, cost=cost), t[f"metrics/{name}/{label}_ref_sample"][:5, :6]) < 1e-6
    assert scaled_error(emd_matrix(ref, cost=cost), t[f"metrics/{name}/{label}_ref_ref"][:5, :5]) < 1e-6


@pytest.mark.parametrize("name", list(notes()["big"]))
def test_big_pairs(name: str) -> None:
    a, b, record = tensors()[f"{name}/a"], tensors()[f"{name}/b"], notes()["big"][name]
    assert chamfer(a, b) == pytest.approx(record["cd_mean_a_to_b_plus_b_to_a"], abs=1e-6)
    assert emd(a, b) == pytest.approx(record["emd_l2"], abs=1e-9)


def test_legacy_emd_of_single_points() -> None:
    assert emd_pointflow(on_line(0), on_line(1)) == pytest.approx(1, rel=1e-6)
    assert emd_pvd(on_line(0), on_line(3)) == pytest.approx(9, rel=1e-6)
    # The widest kernel that PointFlow keeps does not reach 20 units; what is not sent counts as nothing.
    assert emd_pointflow(on_line(0), on_line(20)) < 1e-30
    assert emd_pvd(on_line(0), on_line(20)) == pytest.approx(400, rel=1e-6)


def test_legacy_emds_overestimate_as_much_as_measured_before() -> None:
    sphere, other = (tensors()[f"big/sphere_sphere/{side}"] for side in "ab")
    exact = notes()["big"]["big/sphere_sphere"]
    assert 1.2 < emd_pointflow(sphere, other) / exact["emd_l2"] < 1.48
    assert 1.69 < emd_pvd(sphere, other) / exact["emd_sq"] < 7.66


def test_legacy_emd_is_asymmetric_and_rows_come_first() -> None:
    rows, columns = clouds(2, 50), clouds(1, 50, seed=1) * 0.5
    matrix = legacy_emd_matrix(rows, columns, kernel="pvd")
    assert matrix.shape == (2, 1)
    assert matrix[1, 0] == emd_pvd(rows[1], columns[0])
    swapped = emd_pvd(columns[0], rows[1])
    assert swapped != matrix[1, 0]
    assert swapped == pytest.approx(matrix[1, 0], rel=0.2)
    assert legacy_emd_matrix(rows, kernel="pointflow")[0, 1] == emd_pointflow(rows[0], rows[1])


@pytest.mark.parametrize("measure", [chamfer, emd, emd_pvd])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((0, 3)), "b: no points"),
        (np.full((2, 3), np.nan), "b: 2 of 2 points are not finite"),
        (np.zeros((4, 2)), r"b: expected numbers \[N, 3\], found float64 \[4, 2\]"),
    ],
)
def test_bad_clouds_are_named(measure, wrong: np.ndarray, message: str) -> None:
    with pytest.raises(PointCloudError, match=message):
        measure(on_line(0), wrong)


def test_bad_sets_and_names() -> None:
    with pytest.raises(PointCloudError, match=r"columns\[1\]: no points"):
        chamfer_matrix(clouds(2), [on_line(0), np.zeros((0, 3))])
    with pytest.raises(PointCloudError, match="rows: no clouds"):
        chamfer_matrix([])
    with pytest.raises(PointCloudError, match="cost"):
        emd_matrix(clouds(2), cost="cubed")  # type: ignore[arg-type]
    with pytest.raises(PointCloudError, match="workers"):
        chamfer_matrix(clouds(2), workers=0)
