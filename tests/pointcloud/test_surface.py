"""Surfaces of clouds: closed forms on spheres, closedness everywhere, and real use with noise."""

from __future__ import annotations

import builtins
import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree
from trifold.pointcloud.cloud import PointCloud
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.isosurface import isosurface, well_composed
from trifold.pointcloud.mesh import Mesh
from trifold.pointcloud.orientation import (
    Dipoles,
    gauss_dipoles,
    gauss_kernel,
    plane_normals,
    point_areas,
    point_spacing,
    roughness,
)
from trifold.pointcloud.sampling import sample_surface
from trifold.pointcloud.surface import METHODS, cloud_to_mesh, thinned
from trifold.pointcloud.surface_alpha import alpha_normals
from trifold.pointcloud.surface_field import field_normals, gauss_surface, grid_over, indicator

HAS_OPEN3D = importlib.util.find_spec("open3d") is not None
needs_open3d = pytest.mark.skipif(not HAS_OPEN3D, reason="open3d is not installed")
OWN = ("gauss", "alpha")


def _sphere(count: int) -> np.ndarray:
    """Even points on the unit sphere: a Fibonacci spiral."""
    k = np.arange(count) + 0.5
    y, angle = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    flat = np.sqrt(1 - y**2)
    return np.stack([flat * np.cos(angle), y, flat * np.sin(angle)], axis=1)


def _table() -> Mesh:
    """A thin top (0.06 of its width) on four thin legs."""
    parts = [trimesh.creation.box((2, 0.12, 1.6), trimesh.transformations.translation_matrix((0, 0.7, 0)))]
    for x in (-0.85, 0.85):
        for z in (-0.65, 0.65):
            place = trimesh.transformations.translation_matrix((x, -0.1, z))
            parts.append(trimesh.creation.box((0.16, 1.5, 0.16), place))
    return Mesh.from_trimesh(trimesh.boolean.union(parts, engine="manifold"), "table")


def _distances(found: Mesh, truth: Mesh) -> tuple[float, float, float]:
    """(mean distance both ways, mean signed and unsigned agreement of the normals) from 4000 points each."""
    (a, na), (b, nb) = sample_surface(found, 4000, 1), sample_surface(truth, 4000, 2)
    da, ia = cKDTree(b).query(a)
    db, ib = cKDTree(a).query(b)
    dots = np.concatenate([(na * nb[ia]).sum(1), (nb * na[ib]).sum(1)])
    return float((da.mean() + db.mean()) / 2), float(dots.mean()), float(np.abs(dots).mean())


# ------------------------------------------------------------------------------------------------------ parts


def test_spacing_and_areas_of_a_sphere() -> None:
    points = _sphere(1000)
    assert point_spacing(points) == pytest.approx(np.sqrt(4 * np.pi / 1000), rel=0.15)
    assert point_areas(points).sum() == pytest.approx(4 * np.pi, rel=0.25)
    assert roughness(points) < 0.2
    noisy = points + 0.5 * point_spacing(points) * np.random.default_rng(0).standard_normal(points.shape)
    assert roughness(noisy) > 2 * roughness(points)


def test_planes_of_a_sphere() -> None:
    points = _sphere(600)
    assert np.abs((plane_normals(points) * points).sum(1)).min() > 0.98


@pytest.fixture(scope="module")
def plate() -> tuple[np.ndarray, np.ndarray]:
    """Points of a sheet a third as thick as its points are apart, float64, and their normals."""
    points, normals = sample_surface(Mesh.from_trimesh(trimesh.creation.box((1, 0.02, 1))), 600, 0)
    return points.astype(float), normals


def test_alpha_normals_look_out_on_both_sides_of_a_sheet(plate: tuple[np.ndarray, np.ndarray]) -> None:
    points, true = plate
    normals = alpha_normals(points, 2 * point_spacing(points))
    known = (normals != 0).any(1)
    assert known.mean() > 0.8
    np.testing.assert_allclose(np.linalg.norm(normals[known], axis=1), 1)
    assert ((normals * true).sum(1)[known] > 0).mean() > 0.95
    open_sheet = np.random.default_rng(0).random((200, 3)) * [1, 0, 1]
    np.testing.assert_array_equal(alpha_normals(open_sheet, 0.2), 0)  # no solid, nothing known


def test_field_normals_need_the_guess_on_a_sheet(plate: tuple[np.ndarray, np.ndarray]) -> None:
    points, true = plate
    spacing = point_spacing(points)
    guess = alpha_normals(points, 2 * spacing) * point_areas(points)[:, None]
    right = []
    for known in (guess, None):
        found = field_normals(gauss_dipoles(points, 0.6 * spacing, 0.08, known), points, 96)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
        right.append(((found * true).sum(1) > 0).mean())
    assert right[0] > 0.85
    assert right[0] > right[1]


def test_kernel_is_the_gradient_of_a_blurred_potential() -> None:
    from scipy.special import erf

    width, step = 0.3, 1e-5

    def potential(x: np.ndarray) -> float:
        r = np.linalg.norm(x)
        return float(erf(r / (width * np.sqrt(2))) / (4 * np.pi * r))

    for offset in np.array([[0.5, 0.1, -0.2], [0.05, 0.02, 0.01], [2.0, 1.0, 0.0], [0.002, 0.001, 0.0015]]):
        slope = [(potential(offset + step * axis) - potential(offset - step * axis)) / (2 * step) for axis in np.eye(3)]
        np.testing.assert_allclose(gauss_kernel(offset, width), slope, rtol=2e-3, atol=1e-6)
    np.testing.assert_array_equal(gauss_kernel(np.zeros((2, 3)), width), 0)


def test_gauss_formula_is_one_inside_and_zero_outside() -> None:
    points = _sphere(2000)
    moments = points * (4 * np.pi / 2000)
    place = np.array([[0, 0, 0], [0.3, -0.4, 0.2], [0, 0, 1.7], [2, 2, 2]], dtype=float)
    chi = np.einsum("qpc,pc->q", gauss_kernel(place[:, None] - points, 0.05), moments)
    np.testing.assert_allclose(chi, [1, 1, 0, 0], atol=5e-3)


def test_grid_indicator_is_the_sum_of_kernels() -> None:
    rng = np.random.default_rng(0)
    points = _sphere(300) * [1, 0.7, 0.8]
    moments = points + 0.3 * rng.standard_normal((300, 3))
    moments -= moments.mean(0)
    dipoles = Dipoles(points, moments, 0.15)
    origin, spacing, shape = grid_over(points, 40, 1.5)
    chi = indicator(dipoles, origin, spacing, shape)
    some = rng.integers(8, np.array(shape) - 8, (200, 3))
    exact = np.einsum("qpc,pc->q", gauss_kernel(origin + spacing * some[:, None] - points, 0.15), moments)
    difference = chi[tuple(some.T)] - exact
    # Equal up to a constant, periodicity and the steps of the grid.
    assert np.abs(difference - difference.mean()).max() < 0.03 * np.ptp(exact)


def test_normals_come_out_of_the_linear_system() -> None:
    points = _sphere(400)
    dipoles = gauss_dipoles(points, 0.5 * point_spacing(points), 0.0)
    assert (dipoles.moments * points).sum(1).min() > 0.9 * np.linalg.norm(dipoles.moments, axis=1).max()
    assert np.linalg.norm(dipoles.moments.sum(0)) < 0.02 * np.abs(dipoles.moments).sum()
    chi = np.einsum("qpc,pc->q", gauss_kernel(points[:, None] - points, dipoles.width), dipoles.moments)
    np.testing.assert_allclose(chi, 0.5, atol=2e-3)


# -------------------------------------------------------------------------------------------------- isosurface


def _ball(shape: int = 30, radius: float = 0.8) -> tuple[np.ndarray, np.ndarray, float]:
    axis = np.linspace(-1, 1, shape)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    return radius - np.linalg.norm(grid, axis=-1), np.full(3, -1.0), float(axis[1] - axis[0])


def test_isosurface_of_a_ball() -> None:
    mesh = isosurface(*_ball(), name="ball")
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.02)
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(0.8, abs=0.01)
    assert (mesh.vertex_normals * mesh.vertices).sum(1).min() > 0.75
    assert len(mesh.vertices) - len(mesh.faces) // 2 == 2  # Euler: V - E + F = 2 with E = 3 F / 2


def test_isosurface_level_and_borders() -> None:
    values, origin, spacing = _ball()
    inner = isosurface(values, origin, spacing, level=0.3)
    assert np.linalg.norm(inner.vertices, axis=1) == pytest.approx(0.5, abs=0.015)
    assert isosurface(np.ones((5, 6, 7)), np.zeros(3), 1.0).is_watertight  # closed at the border of the grid
    with pytest.raises(PointCloudError, match="hole: no sample of the"):
        isosurface(-np.ones((5, 5, 5)), np.zeros(3), 1.0, name="hole")


@pytest.mark.parametrize("seed", range(4))
def test_isosurface_of_noise_is_a_closed_manifold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((14, 15, 16))
    mesh = isosurface(values, np.zeros(3), 1.0)
    assert mesh.is_watertight  # no edge has four faces, although noise is full of diagonal contacts
    solid = mesh.to_trimesh()
    around = np.bincount(solid.faces.ravel())
    fans = [set(f) for f in solid.vertex_faces if (f >= 0).any()]
    assert len(fans) == len(around)
    assert mesh.volume > 0


def test_repair_only_adds() -> None:
    inside = np.zeros((6, 6, 6), dtype=bool)
    inside[2, 2, 2] = inside[3, 3, 2] = True  # two voxels that share an edge only
    values = np.where(inside, 1.0, -1.0)
    values[3, 2, 2] = -0.1
    repaired = well_composed(inside, values)
    assert repaired[3, 2, 2]
    assert repaired.sum() == 3
    corner = np.zeros((6, 6, 6), dtype=bool)
    corner[2, 2, 2] = corner[3, 3, 3] = True  # a corner only
    repaired = well_composed(corner, np.where(corner, 1.0, -1.0))
    assert (repaired | ~corner).all()
    assert isosurface(np.where(repaired, 1.0, -1.0), np.zeros(3), 1.0).is_watertight


# ------------------------------------------------------------------------------------------------- the function


@pytest.mark.parametrize("method", OWN)
def test_sphere_comes_back(method: str) -> None:
    cloud = PointCloud(_sphere(600).astype(np.float32) * 50 + [100, 0, -30], name="ball")
    mesh = cloud_to_mesh(cloud, method, resolution=40)  # type: ignore[arg-type]
    assert mesh.name == "ball"
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 50**3, rel=0.03)
    np.testing.assert_allclose(mesh.bounds, [[50, -50, -80], [150, 50, 20]], atol=2)


def test_auto_needs_no_open3d(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".")[0] == "open3d":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    cloud = PointCloud(_sphere(300))
    auto, gauss = cloud_to_mesh(cloud, resolution=24), cloud_to_mesh(cloud, "gauss", resolution=24)
    np.testing.assert_array_equal(auto.vertices, gauss.vertices)
    for method in ("poisson", "ball_pivoting"):
        with pytest.raises(ImportError, match=r"trifold\[open3d\].*gauss and alpha do not"):
            cloud_to_mesh(cloud, method, resolution=24)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def table() -> tuple[Mesh, Callable[[float], PointCloud]]:
    truth = _table()
    points, _ = sample_surface(truth, 1500, 0)

    def noisy(share: float) -> PointCloud:
        return PointCloud(points + 2 * share * np.random.default_rng(1).standard_normal(points.shape), name="table")

    return truth, noisy


def test_thin_legs_and_top_survive(table: tuple[Mesh, Callable[[float], PointCloud]]) -> None:
    truth, noisy = table
    mesh = cloud_to_mesh(noisy(0.0), resolution=64)
    distance, signed, unsigned = _distances(mesh, truth)
    assert mesh.is_watertight
    assert distance < 0.04  # half the top's thickness is 0.06
    assert signed > 0.75
    assert unsigned - signed < 0.05  # hardly a normal looks in
    assert mesh.volume == pytest.approx(truth.volume, rel=0.25)


def test_noise_is_forgiven_and_alpha_is_not_better(table: tuple[Mesh, Callable[[float], PointCloud]]) -> None:
    truth, noisy = table
    cloud = noisy(0.01)
    gauss, alpha = cloud_to_mesh(cloud, resolution=64), cloud_to_mesh(cloud, "alpha")
    assert gauss.is_watertight
    found, other = _distances(gauss, truth), _distances(alpha, truth)
    assert found[0] < other[0]
    assert found[1] > other[1]


def test_given_normals_are_used() -> None:
    points = _sphere(500)
    outward = cloud_to_mesh(PointCloud(points, points), resolution=32)
    assert outward.volume == pytest.approx(4 / 3 * np.pi, rel=0.1)
    with pytest.raises(PointCloudError, match="2 normals are zero; use_normals=False"):
        cloud_to_mesh(PointCloud(points, np.where(np.arange(500)[:, None] < 2, 0, points)))
    assert cloud_to_mesh(PointCloud(points, -points), resolution=32, use_normals=False).volume > 4


def test_smoothing_trades_detail_for_calm() -> None:
    noisy = _sphere(500) + 0.04 * np.random.default_rng(0).standard_normal((500, 3))
    rough, calm = (cloud_to_mesh(PointCloud(noisy), smoothing=s, resolution=32) for s in (0.0, 2.0))
    assert calm.area < rough.area
    assert np.linalg.norm(calm.vertices, axis=1).std() < np.linalg.norm(rough.vertices, axis=1).std()


def test_alpha_fills_the_inside_and_respects_its_radius() -> None:
    points = _sphere(500)
    mesh = cloud_to_mesh(PointCloud(points), "alpha")
    assert set(map(tuple, mesh.vertices)) <= set(map(tuple, points.astype(np.float32)))
    assert mesh.volume == pytest.approx(4 / 3 * np.pi, rel=0.03)
    two = PointCloud(np.concatenate([points, points + np.array([2.5, 0, 0])]))
    assert cloud_to_mesh(two, "alpha").volume == pytest.approx(8 / 3 * np.pi, rel=0.03)
    assert cloud_to_mesh(two, "alpha", radius=50.0).volume > 3 * np.pi  # the gap between them is bridged
    with pytest.raises(PointCloudError, match="passes everywhere; use a larger one"):
        cloud_to_mesh(two, "alpha", radius=1e-3)


@needs_open3d
@pytest.mark.parametrize("method", ["poisson", "ball_pivoting"])
def test_open3d_methods(method: str) -> None:
    points = _sphere(800)
    mesh = cloud_to_mesh(PointCloud(points * 10), method, resolution=32)  # type: ignore[arg-type]
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(10, abs=0.6)
    assert (mesh.face_normals * mesh.vertices[mesh.faces].mean(1)).sum(1).min() > 0
    assert mesh.area > 0.9 * 4 * np.pi * 100


# ------------------------------------------------------------------------------------------------------ bad input


def test_thinning_is_even_and_bounded() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([_sphere(3000), 0.01 * rng.standard_normal((5000, 3)) + [1, 0, 0]])
    few, normals = thinned(points, points / np.linalg.norm(points, axis=1, keepdims=True), 500)
    assert 300 <= len(few) <= 500
    assert normals is not None
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    assert (few[:, 0] > 0.9).mean() < 0.2  # the dense clump does not take over
    assert thinned(points, None, 8000)[0] is points
    mesh = cloud_to_mesh(PointCloud(points), max_points=300, resolution=24, smoothing=0.1)
    assert mesh.is_watertight


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((1, 3)), "1 different points; a surface needs at least 8"),
        (np.ones((5000, 3)), "1 different points"),
        (np.eye(3), "3 different points"),
        (np.pad(np.random.default_rng(0).random((50, 2)), ((0, 0), (0, 1))), "lie in a plane"),
        (np.arange(60).reshape(20, 3), "lie in a line"),
    ],
)
def test_clouds_without_a_solid(method: str, points: np.ndarray, message: str) -> None:
    with pytest.raises(PointCloudError, match=message):
        cloud_to_mesh(PointCloud(points), method)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method: expected one of auto, gauss, poisson, ball_pivoting, alpha, found 'magic'"),
        ({"resolution": 4}, "resolution: expected 8 to 512"),
        ({"resolution": 10**6}, "resolution: "),
        ({"radius": 0.0}, "radius: expected a positive"),
        ({"radius": float("nan")}, "radius: "),
        ({"smoothing": -1.0}, "smoothing: expected 0 to 3"),
        ({"max_points": 3}, "max_points: expected at least 8"),
    ],
)
def test_settings_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(PointCloudError, match=message):
        cloud_to_mesh(PointCloud(_sphere(50)), **options)


def test_thin_poles_get_the_cells_they_need_and_others_no_more() -> None:
    rng = np.random.default_rng(0)
    turn, height = rng.uniform(0, 2 * np.pi, 900), rng.uniform(0, 1, 900)
    pole = PointCloud(np.stack([0.012 * np.cos(turn), height, 0.012 * np.sin(turn)], axis=1))
    coarse, own, fine = (pole.to_mesh(resolution=cells) for cells in (96, None, 192))
    volume = np.pi * 0.012**2
    assert abs(own.volume - volume) < 0.05 * volume < 0.1 * volume < abs(coarse.volume - volume)
    assert np.array_equal(own.vertices, fine.vertices)
    ball = PointCloud(_sphere(300))
    assert np.array_equal(ball.to_mesh().vertices, ball.to_mesh(resolution=96).vertices)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_any_unit(unit: float) -> None:
    mesh = cloud_to_mesh(PointCloud(_sphere(300) * unit), resolution=24)
    assert np.linalg.norm(mesh.vertices.astype(float), axis=1) == pytest.approx(unit, rel=0.05)


def test_gauss_surface_takes_ready_dipoles() -> None:
    points = _sphere(500)
    mesh = gauss_surface(Dipoles(points, points * (4 * np.pi / 500), 0.1), 40, "given")
    assert mesh.name == "given"
    assert mesh.is_watertight
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(1, abs=0.03)
