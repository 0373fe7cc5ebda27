"""Procedural shapes: closed single surfaces without hidden faces, varied, told apart, the same for the same seed."""

from functools import cache

import numpy as np
import pytest
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.sampling import sample_surface
from trifold.pointcloud.shapes import CATEGORIES, Shape, make_shape

SEEDS = range(14)
# Least and greatest longest side that such an object has in the real world, metres.
SIZES = {
    "airplane": (6.0, 80.0),
    "car": (3.3, 6.3),
    "chair": (0.4, 1.5),
    "lamp": (0.25, 2.3),
    "mug": (0.06, 0.22),
    "table": (0.4, 2.2),
}


@cache
def shape_of(category: str, seed: int) -> Shape:
    return make_shape(category, seed)


@cache
def points_of(category: str, seed: int, count: int = 2048) -> np.ndarray:
    return sample_surface(shape_of(category, seed).mesh, count, seed)[0]


def winding_numbers(points: np.ndarray, shape: Shape) -> np.ndarray:
    """How often the surface goes round a point: 1 inside, 0 outside (solid angles, van Oosterom and Strackee 1983)."""
    a, b, c = (shape.mesh.vertices.astype(np.float64)[shape.mesh.faces[:, i]] - points[:, None] for i in range(3))
    la, lb, lc = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
    top = (a * np.cross(b, c)).sum(-1)
    bottom = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (a * c).sum(-1) * lb
    return np.arctan2(top, bottom).sum(axis=1) / (2 * np.pi)


@pytest.mark.parametrize("category", CATEGORIES)
def test_surfaces_are_closed_single_pieces_of_unit_size(category: str) -> None:
    for seed in SEEDS:
        shape = shape_of(category, seed)
        mesh = shape.mesh.to_trimesh()
        assert mesh.is_watertight, seed
        assert mesh.volume > 0, seed
        assert mesh.body_count == 1, seed
        # Also after vertices at the same place are made one, as files of other programs have it.
        mesh.merge_vertices()
        assert mesh.is_watertight, seed
        low, high = shape.mesh.bounds
        assert (high - low).max() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(low + high, 0, atol=1e-5)
        least, greatest = SIZES[category]
        assert least < shape.metres < greatest, seed
        assert len(mesh.faces) < 4000


@pytest.mark.parametrize("category", CATEGORIES)
def test_sampled_normals_look_out_and_nothing_is_hidden_inside(category: str) -> None:
    outside, inside = [], []
    for seed in SEEDS[:4]:
        points, normals = sample_surface(shape_of(category, seed).mesh, 40, seed)
        outside.append(winding_numbers(points + 2e-4 * normals.astype(np.float64), shape_of(category, seed)))
        inside.append(winding_numbers(points - 2e-4 * normals.astype(np.float64), shape_of(category, seed)))
    # Thinner places than the step, such as trailing edges, may miss.
    assert (np.abs(np.concatenate(outside)) < 0.01).mean() > 0.97
    assert (np.abs(np.concatenate(inside) - 1) < 0.01).mean() > 0.97


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_seed_is_a_shape(category: str) -> None:
    first, again = make_shape(category, 3), make_shape(category, 3)
    assert np.array_equal(first.mesh.vertices, again.mesh.vertices)
    assert np.array_equal(first.mesh.faces, again.mesh.faces)
    assert first.parameters == again.parameters
    assert first.metres == again.metres
    values = {tuple(shape_of(category, seed).parameters.items()) for seed in SEEDS}
    assert len(values) == len(SEEDS)
    beyond = make_shape(category, 3 + (1 << 64))
    assert beyond.parameters != first.parameters


@pytest.mark.parametrize("category", CATEGORIES)
def test_designs_vary(category: str) -> None:
    from scipy.spatial import cKDTree

    styles = {shape_of(category, seed).parameters["style"] for seed in SEEDS}
    assert len(styles) >= 3
    assert all(len(shape_of(category, seed).parameters) >= 8 for seed in SEEDS)
    clouds = [points_of(category, seed) for seed in SEEDS]
    trees = [cKDTree(cloud) for cloud in clouds]
    same = cKDTree(sample_surface(shape_of(category, 0).mesh, 2048, 10**6)[0])
    noise = np.mean(same.query(clouds[0])[0])
    pairs = [
        np.mean(trees[i].query(clouds[j])[0]) + np.mean(trees[j].query(clouds[i])[0])
        for i in range(len(clouds))
        for j in range(i)
    ]
    # A typical pair is much further apart than two samples of one shape.
    assert np.median(pairs) / 2 > 1.4 * noise
    assert np.max(pairs) / 2 > 2.0 * noise


def test_categories_are_told_apart_by_the_distances_within_them() -> None:
    def distances(category: str, seed: int) -> np.ndarray:
        points = points_of(category, seed)
        return np.histogram(np.linalg.norm(points[:1024] - points[1024:], axis=1), bins=16, range=(0, 1.5))[0] / 1024

    def looks(category: str, seed: int) -> np.ndarray:
        points = points_of(category, seed)
        return np.concatenate([distances(category, seed), points.std(axis=0), np.abs(points).max(axis=0)])

    train = {name: np.mean([looks(name, seed) for seed in SEEDS[:8]], axis=0) for name in CATEGORIES}
    right = [
        min(train, key=lambda name: float(np.abs(train[name] - looks(category, seed)).sum())) == category
        for category in CATEGORIES
        for seed in SEEDS[8:]
    ]
    assert np.mean(right) > 0.6  # chance: 1 / 6


def test_objects_face_the_front_and_stand_upright() -> None:
    for seed in SEEDS:
        plane = shape_of("airplane", seed).mesh.vertices
        if shape_of("airplane", seed).parameters["style"] != "biplane":
            assert plane[plane[:, 1].argmax(), 2] < 0, "the fin is at the rear"
        chair = points_of("chair", seed)
        if shape_of("chair", seed).parameters["back"] != "none":
            assert chair[chair[:, 1] > chair[:, 1].max() - 0.1, 2].mean() < 0, "the back is at the rear"
        table = points_of("table", seed)
        assert (table[:, 1] > table[:, 1].max() - 0.12).mean() > 0.2, "the top is on top"
        mug = shape_of("mug", seed)
        if not mug.parameters["saucer"]:
            # Front and back are alike; to the left is the body, to the right the handle.
            vertices = mug.mesh.vertices
            assert np.abs(vertices[vertices[:, 0].argmax(), 2]) < 0.1
            assert np.ptp(vertices[:, 0]) > 1.1 * np.ptp(vertices[:, 2])


def test_mugs_can_be_filled() -> None:
    for seed in SEEDS:
        mesh = shape_of("mug", seed).mesh.to_trimesh()
        assert mesh.volume < 0.5 * mesh.convex_hull.volume, seed


def test_unknown_categories_and_seeds_are_refused() -> None:
    with pytest.raises(PointCloudError, match=r"category: expected one of airplane, .*, found 'sofa'"):
        make_shape("sofa", 0)
    with pytest.raises(PointCloudError, match="seed: expected 0 or more, found -1"):
        make_shape("chair", -1)
