"""One cloud: its checks, subsets, and files that give every number back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from trifold.pointcloud.cloud import PointCloud
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.mesh import Mesh

SUFFIXES = [".ply", ".obj", ".xyz", ".npy", ".npz", ".glb"]


def random_cloud(num_points: int = 50, *, normals: bool = True, seed: int = 0) -> PointCloud:
    rng = np.random.default_rng(seed)
    # Magnitudes from 1e-6 to 1e3, so that a format with fixed decimals would be caught.
    points = rng.standard_normal((num_points, 3)) * 10.0 ** rng.uniform(-6, 3, (num_points, 1))
    direction = rng.standard_normal((num_points, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return PointCloud(points, direction if normals else None, "random")


def box(side: float = 1.0) -> Mesh:
    return Mesh.from_trimesh(trimesh.creation.box((side, side, side)))


def test_numbers_become_float32_and_wrong_ones_are_refused() -> None:
    cloud = PointCloud(np.array([[1, 2, 3], [4, 5, 6]]))
    assert cloud.points.dtype == np.float32
    assert cloud.num_points == 2
    for points, message in [
        (np.zeros((0, 3)), "at least one point"),
        (np.zeros((4, 2)), r"expected \[N, 3\], found \[4, 2\]"),
        (np.zeros((2, 4, 3)), r"found \[2, 4, 3\]"),
        (np.array([["a", "b", "c"]]), "real numbers"),
        (np.array([[1j, 0, 0]]), "real numbers"),
        ([[0, 0, 0], [1, 2]], "unequal length"),
        ([[0, 0, 0], [np.nan, 0, 0]], "1 of 2 points are not finite.*row 1"),
        ([[np.inf, 0, 0]], "not finite"),
        ([[1e39, 0, 0]], "not finite float32"),
    ]:
        with pytest.raises(PointCloudError, match=message):
            PointCloud(points, name="it")  # type: ignore[arg-type]
    with pytest.raises(PointCloudError, match="it: 3 normals for 2 points"):
        PointCloud(np.zeros((2, 3)), np.ones((3, 3)), "it")


def test_a_single_point_is_a_cloud(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        PointCloud(np.array([[1.0, 2.0, 3.0]])).save(tmp_path / f"one{suffix}")
        np.testing.assert_array_equal(PointCloud.load(tmp_path / f"one{suffix}").points, [[1, 2, 3]])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("normals", [False, True])
def test_files_give_back_every_number_and_the_normals(tmp_path: Path, suffix: str, normals: bool) -> None:
    cloud, path = random_cloud(normals=normals), tmp_path / f"deep/a{suffix}"
    cloud.save(path)
    again = PointCloud.load(path)
    np.testing.assert_array_equal(again.points, cloud.points)
    assert again.name == "a"
    if cloud.normals is None:
        assert again.normals is None
    else:
        assert again.normals is not None
        np.testing.assert_allclose(again.normals, cloud.normals, atol=2e-7)
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing temporary stays


@pytest.mark.parametrize("suffix", [".ply", ".xyz", ".obj", ".glb"])
def test_trimesh_reads_what_is_written(tmp_path: Path, suffix: str) -> None:
    cloud = random_cloud(normals=suffix != ".xyz")  # it would take six columns for colours
    cloud.save(tmp_path / f"a{suffix}")
    (found,) = trimesh.load_scene(tmp_path / f"a{suffix}").geometry.values()
    np.testing.assert_allclose(np.asarray(found.vertices), cloud.points, rtol=1e-6)


def test_a_zero_normal_does_not_reach_gltf(tmp_path: Path) -> None:
    PointCloud(np.eye(3), np.array([[0, 0, 1], [0, 0, 0], [0, 1, 0]])).save(tmp_path / "a.glb")
    assert PointCloud.load(tmp_path / "a.glb").normals is None


def test_a_gltf_of_several_point_sets_is_joined_in_place(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.PointCloud(np.eye(3)))
    scene.add_geometry(trimesh.PointCloud(np.eye(3)), transform=trimesh.transformations.translation_matrix((5, 0, 0)))
    scene.export(str(tmp_path / "two.glb"))
    points = PointCloud.load(tmp_path / "two.glb").points
    assert len(points) == 6
    np.testing.assert_allclose(sorted(points.sum(axis=1)), [1, 1, 1, 6, 6, 6], atol=1e-6)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(PointCloudError, match=r"cannot be written as \.stl; use \.ply"):
        random_cloud().save(tmp_path / "a.stl")
    (tmp_path / "taken.ply").mkdir()
    with pytest.raises(PointCloudError, match=r"taken\.ply: cannot be written"):
        random_cloud().save(tmp_path / "taken.ply")
    assert [file.name for file in tmp_path.iterdir()] == ["taken.ply"]


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".stl", ".glb"])
def test_surfaces_are_sampled_only_when_a_number_is_said(tmp_path: Path, suffix: str) -> None:
    box(2.0).save(tmp_path / f"box{suffix}")
    with pytest.raises(PointCloudError, match=r"a surface of 12 faces; say num_points"):
        PointCloud.load(tmp_path / f"box{suffix}")
    cloud = PointCloud.load(tmp_path / f"box{suffix}", num_points=500, seed=3)
    assert cloud.num_points == 500
    np.testing.assert_allclose(np.abs(cloud.points).max(axis=1), 1, atol=1e-6)
    assert cloud.normals is not None


def test_off_without_faces_is_a_cloud(tmp_path: Path) -> None:
    (tmp_path / "a.off").write_text("OFF\n2 0 0\n1 2 3\n4 5 6\n")
    np.testing.assert_array_equal(PointCloud.load(tmp_path / "a.off").points, [[1, 2, 3], [4, 5, 6]])


def test_xyz_takes_commas_comments_and_colours(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("# x y z r g b\n1,2,3,255,0,0\n4,5,6,0,255,9\n")
    cloud = PointCloud.load(tmp_path / "a.xyz")
    np.testing.assert_array_equal(cloud.points, [[1, 2, 3], [4, 5, 6]])
    assert cloud.normals is None


def test_subsets_are_different_points_decided_by_the_seed() -> None:
    cloud = random_cloud(200)
    part = cloud.subsampled(50, seed=1)
    assert part.normals is not None
    rows = [int(np.flatnonzero((cloud.points == p).all(axis=1))[0]) for p in part.points]
    assert len(set(rows)) == 50
    np.testing.assert_array_equal(part.normals, cloud.normals[rows])  # type: ignore[index]
    np.testing.assert_array_equal(part.points, cloud.subsampled(50, seed=1).points)
    assert not np.array_equal(part.points, cloud.subsampled(50, seed=2).points)
    assert cloud.subsampled(200, seed=0) is cloud
    for number in (0, 201):
        with pytest.raises(PointCloudError, match=f"num_points: expected 1 to 200, found {number}"):
            cloud.subsampled(number, seed=0)


def test_the_written_gltf_states_its_bounds_and_lengths(tmp_path: Path) -> None:
    cloud = random_cloud(5)
    cloud.save(tmp_path / "a.glb")
    data = (tmp_path / "a.glb").read_bytes()
    assert int.from_bytes(data[8:12], "little") == len(data)
    length = int.from_bytes(data[12:16], "little")
    assert length % 4 == 0
    document = json.loads(data[20 : 20 + length])
    accessor = document["accessors"][0]
    np.testing.assert_array_equal(np.float32(accessor["min"]), cloud.points.min(axis=0))
    np.testing.assert_array_equal(np.float32(accessor["max"]), cloud.points.max(axis=0))
    assert document["buffers"][0]["byteLength"] == 2 * 5 * 12 == len(data) - 20 - length - 8
