"""Surface samples: uniform by area, with outward unit normals, decided by the seed."""

import numpy as np
import pytest
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.mesh import Mesh
from trifold.pointcloud.sampling import sample_surface
from trifold.pointcloud.shapes.parts import box, ellipsoid

SIDES = np.array([1.0, 2.0, 3.0])


def mesh_of(part) -> Mesh:
    return Mesh(part.vertices.astype(np.float32), part.faces, "known")


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def test_every_side_of_a_box_gets_its_share_of_the_area() -> None:
    points, normals = sample_surface(mesh_of(box(SIDES)), 20_000, seed=0)
    assert points.dtype == normals.dtype == np.float32
    assert points.shape == normals.shape == (20_000, 3)
    sides = [(axis, sign) for axis in range(3) for sign in (1, -1)]
    counts = np.array([(normals[:, axis] * sign > 0.5).sum() for axis, sign in sides])
    areas = np.array([SIDES.prod() / SIDES[axis] for axis, _ in sides])
    # 99.9 % quantile for 5 degrees of freedom.
    assert counts.sum() == 20_000
    assert chi_square(counts, 20_000 * areas / areas.sum()) < 20.5
    for axis, sign in sides:
        on = normals[:, axis] * sign > 0.5
        np.testing.assert_allclose(points[on, axis], sign * SIDES[axis] / 2, atol=1e-6)


def test_a_triangle_is_covered_evenly() -> None:
    triangle = Mesh(np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0]], dtype=np.float32), np.array([[0, 1, 2]]))
    points, normals = sample_surface(triangle, 16_000, seed=1)
    assert (normals == [0, 0, 1]).all()
    # Sixteen equal triangles: ten that point up and six that point down, told apart within each unit square.
    cell = np.floor(points[:, :2]).astype(int)
    part = points[:, :2] - cell
    upper = part.sum(axis=1) > 1
    index = (cell[:, 0] * 4 + cell[:, 1]) * 2 + upper
    counts = np.bincount(index, minlength=32)
    assert (counts > 0).sum() == 16
    # 99.9 % quantile for 15 degrees of freedom.
    assert chi_square(counts[counts > 0], np.full(16, 1000.0)) < 37.7


def test_points_do_not_depend_on_how_a_surface_is_cut_into_triangles() -> None:
    flat = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.01, 0.01, 0]], dtype=np.float32)
    fan = Mesh(flat, np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]))
    points, _ = sample_surface(fan, 16_000, seed=2)
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=4, range=[[0, 1], [0, 1]])[0].ravel()
    assert chi_square(counts, np.full(16, 1000.0)) < 37.7


def test_normals_are_of_unit_length_and_look_outward() -> None:
    points, normals = sample_surface(mesh_of(ellipsoid((1.0, 2.0, 0.5))), 2000, seed=3)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    assert ((points * normals).sum(axis=1) > 0).all()


def test_the_seed_decides() -> None:
    mesh = mesh_of(box(SIDES))
    first, again, other = (sample_surface(mesh, 64, seed)[0] for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.isclose(first, other).all(axis=1).any()
    huge = sample_surface(mesh, 64, 1 << 80)[0]
    assert not np.array_equal(huge, first)


def test_faces_without_area_are_never_drawn() -> None:
    part = box(SIDES)
    # Degenerate faces at either end of the list, where rounding of the last draw would end up.
    faces = np.concatenate([[[0, 0, 1]], part.faces, [[2, 2, 2]]])
    _, normals = sample_surface(Mesh(part.vertices.astype(np.float32), faces), 4096, seed=0)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)


def test_what_cannot_be_sampled_is_refused() -> None:
    line = np.array([[0, 0, 0], [0.1, 0.1, 0.1], [0.3, 0.3, 0.3]], dtype=np.float32)
    with pytest.raises(PointCloudError, match="zero area"):
        sample_surface(Mesh(line * np.float32(1.1), np.array([[0, 1, 2]]), "thin"), 10, seed=0)
    with pytest.raises(PointCloudError, match="num_points: expected 1 or more, found 0"):
        sample_surface(mesh_of(box(SIDES)), 0, seed=0)
    with pytest.raises(PointCloudError, match="seed: expected 0 or more, found -1"):
        sample_surface(mesh_of(box(SIDES)), 1, seed=-1)
