"""Many clouds in one npz or npy file: as points, as oriented boxes, as voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trifold.pointcloud.items import CloudSource
from trifold.pointcloud.sources import NpzClouds, open_source


def names(source: CloudSource) -> list[str]:
    return [source[i].name for i in range(len(source))]


def test_npz_with_everything(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((6, 10, 3)).astype(np.float16)
    np.savez(
        tmp_path / "a.npz",
        points=points,
        normals=-points,
        split=np.array([0, 1, 0, 2, 0, 1], dtype=np.uint8),
        label=np.array([0, 1, 1, 0, 1, 1]),
        classes=np.array(["mug", "car"]),
        unique=np.array([1, 1, 1, 1, 1, 0], dtype=bool),
        names=np.array(list("uvwxyz")),
    )
    source = open_source(tmp_path / "a.npz", split="train", num_points=10)
    assert source.classes == ("mug", "car")
    assert names(source) == ["u", "w", "y"]
    assert [source[i].label for i in range(3)] == [0, 1, 1]
    assert source[1].points.dtype == np.float32
    np.testing.assert_array_equal(source[1].points, points[2].astype(np.float32))
    np.testing.assert_array_equal(source[1].normals, -points[2].astype(np.float32))  # type: ignore[arg-type]
    assert names(open_source(tmp_path / "a.npz", split="test", num_points=10)) == ["v"]  # z is a copy
    assert names(open_source(tmp_path / "a.npz", split="val", num_points=10)) == ["x"]
    only = open_source(tmp_path / "a.npz", split="train", classes=["car"], num_points=4)
    assert only.classes == ("car",)
    assert [only[i].label for i in range(len(only))] == [0, 0]
    turned = open_source(tmp_path / "a.npz", split="train", num_points=10, up="z")[0]
    x, y, z = points[0].astype(np.float32).T
    np.testing.assert_array_equal(turned.points, np.stack([x, z, -y], axis=1))
    np.testing.assert_array_equal(turned.normals, -turned.points)  # type: ignore[arg-type]


def test_npy_of_many_clouds_and_npz_of_several_sizes(tmp_path: Path) -> None:
    np.save(tmp_path / "samples.npy", np.random.default_rng(0).standard_normal((4, 7, 3)))
    assert len(open_source(tmp_path / "samples.npy", split="all", num_points=7)) == 4
    assert open_source(tmp_path / "samples.npy", split="all").classes == ("samples",)
    assert open_source(tmp_path / "samples.npy", split="all", classes=["chair"]).classes == ("chair",)
    np.savez(tmp_path / "packed.npz", points=np.arange(18.0).reshape(6, 3), count=[1, 3, 2])
    source = NpzClouds(tmp_path / "packed.npz", "all", num_points=None)
    np.testing.assert_array_equal(source[2].points, np.arange(12.0, 18).reshape(2, 3))


def test_boxes_show_only_the_outside_of_their_union(tmp_path: Path) -> None:
    axes = np.eye(3).reshape(-1)
    boxes = [[0, 0, 0, 2, 2, 2, *axes], [1, 0, 0, 2, 2, 2, *axes], [0, 0, 0, 1, 1, 1, *axes]]  # x from -1 to 2
    np.savez(tmp_path / "chair_cuboids.npz", cuboids=np.array(boxes * 3, np.float32), count=[3, 3, 3], split=[0, 1, 1],
             ids=["a", "b", "c"], val_near_iou=[np.nan, 0.95, 0.5])  # fmt: skip
    source = open_source(tmp_path / "chair_cuboids.npz", num_points=4000)
    assert source.classes == ("chair",)
    item = source[0]
    assert item.normals is not None
    depth = np.minimum(item.points - [-1, -1, -1], [2, 1, 1] - item.points).min(axis=1)
    np.testing.assert_allclose(depth, 0, atol=1e-3)  # on the hull, a 3 x 2 x 2 box
    # Where the boxes overlap, their common sides are there twice over: x in [0, 1] of the four long sides.
    ends = np.abs(item.normals[:, 0]) > 0.5
    assert ends.mean() == pytest.approx(8 / 40, abs=0.02)  # two ends of 4 beside 4 sides of 2 x 2 x 2 boxes
    assert names(open_source(tmp_path / "chair_cuboids.npz", split="val")) == ["b", "c"]
    assert names(open_source(tmp_path / "chair_cuboids.npz", split="test")) == ["c"]  # b is near a training shape


def test_voxels(tmp_path: Path) -> None:
    grids = np.zeros((3, 8, 8, 8), dtype=bool)
    grids[0, 2:6, 2:6, 2:6] = grids[1, :, :, 0] = grids[2, 0, 0, 0] = True
    bits = np.packbits(grids.reshape(3, -1), axis=1)
    np.savez(tmp_path / "v.npz", X_train=bits[:2], y_train=[2, 8], X_test=bits[1:], y_test=[8, 9])
    cube = open_source(tmp_path / "v.npz", num_points=2000)[0]
    np.testing.assert_allclose(np.abs(cube.points).max(axis=1), 0.5, atol=1e-6)
    assert cube.normals is not None
    np.testing.assert_allclose((cube.points * cube.normals).sum(axis=1), 0.5, atol=1e-6)
    test = open_source(tmp_path / "v.npz", split="test", num_points=10)
    assert names(test) == ["test/1"]  # the other equals a training shape
    assert test.classes[test[0].label] == "toilet"
    assert open_source(tmp_path / "v.npz", classes=["table"], num_points=10)[0].label == 0
