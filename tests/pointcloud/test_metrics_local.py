"""Density, normals and F-score of cloud pairs, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.metrics import density_aware_chamfer, density_aware_matrix, f_score, normal_concordance


def on_line(*xs: float) -> np.ndarray:
    return np.array([[x, 0.0, 0.0] for x in xs])


def plane(count: int = 400, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).uniform(-1, 1, size=(count, 3))
    points[:, 2] = 0
    return points


def test_density_aware_chamfer_by_hand() -> None:
    # Both points of a have the nearest 0: each counts half; b has one point at distance 0, alone.
    a, b = on_line(0, 0.1), on_line(0)
    forth = 1 - (0.5 + 0.5 * math.exp(-1000 * 0.01)) / 2
    assert density_aware_chamfer(a, b) == pytest.approx(forth / 2)
    assert density_aware_chamfer(a, b, alpha=1) == pytest.approx((1 - (0.5 + 0.5 * math.exp(-0.01)) / 2) / 2)
    assert density_aware_chamfer(a, a) == 0
    assert density_aware_chamfer(on_line(0), on_line(10)) == 1


def test_density_aware_chamfer_sees_density_that_chamfer_does_not() -> None:
    even, uneven = on_line(*np.linspace(0, 1, 8)), on_line(*np.linspace(0, 1, 8))
    uneven[:5] = uneven[0]  # five points at 0, the rest as before
    far = density_aware_chamfer(even, uneven, alpha=1e-9)
    assert far > 0.2


def test_density_aware_matrix_is_each_pair() -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(size=(3, 40, 3)), [rng.normal(size=(30, 3)) for _ in range(2)]
    each = [[density_aware_chamfer(a, b, alpha=5) for b in columns] for a in rows]
    np.testing.assert_allclose(density_aware_matrix(rows, columns, alpha=5), each, rtol=1e-12)
    own = density_aware_matrix(rows, alpha=5)
    assert (own == own.T).all()
    assert own[0, 1] == pytest.approx(density_aware_chamfer(rows[0], rows[1], alpha=5))


def test_normal_concordance_of_planes() -> None:
    flat, again = plane(), plane(seed=1)
    assert normal_concordance(flat, again) == pytest.approx(1, abs=1e-9)
    upright = again[:, [0, 2, 1]]
    assert normal_concordance(flat, upright) == pytest.approx(0, abs=1e-6)
    tilted = again @ np.array([[1, 0, 0], [0, math.cos(1), math.sin(1)], [0, -math.sin(1), math.cos(1)]])
    assert normal_concordance(flat, tilted) == pytest.approx(math.cos(1), abs=1e-6)


def test_normal_concordance_uses_given_normals_whatever_their_sign_and_length() -> None:
    a = on_line(0, 1)
    n = np.array([[0, 0, 1.0], [0, 0, -3.0]])
    m = np.array([[0, 0, -2.0], [0, 1.0, 1.0]])
    assert normal_concordance(a, a, normals_a=n, normals_b=m) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    with pytest.raises(PointCloudError, match="normals_b"):
        normal_concordance(a, a, normals_a=n, normals_b=np.zeros((2, 3)))
    with pytest.raises(PointCloudError, match="normals_a: 2 points span no planes"):
        normal_concordance(a, a)


def test_noise_lowers_normal_concordance_towards_one_half() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2000, 3))
    random_directions = normal_concordance(noise, rng.normal(size=(2000, 3)))
    assert random_directions == pytest.approx(0.5, abs=0.03)
    rough = plane(2000, seed=1) + rng.normal(size=(2000, 3)) * 0.02
    assert 0.6 < normal_concordance(plane(2000), rough) < 0.999


def test_f_score_by_hand() -> None:
    # Within 0.5: of a's points 0 and 1 but not 5; of b's points 0.4 but not 9.
    found = f_score(on_line(0, 0.5, 5), on_line(0.4, 9), 0.5)
    assert (found.precision, found.recall) == (pytest.approx(2 / 3), 0.5)
    assert found.score == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert f_score(on_line(0), on_line(9), 1).score == 0
    assert f_score(on_line(0), on_line(1), 1).score == 1
    with pytest.raises(PointCloudError, match="threshold"):
        f_score(on_line(0), on_line(1), 0)
