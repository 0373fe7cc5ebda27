"""Bad input: damaged files, counts that lie, unknown names, too many points. An error that says what, or a result."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import trimesh
from trifold.pointcloud.cloud import PointCloud
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.items import fixed_size
from trifold.pointcloud.sources import FolderClouds, NpzClouds, ShapeNetHdf5, cached, open_source

PLY = b"ply\nformat binary_little_endian 1.0\nelement vertex %d\nproperty float x\nproperty float y\nproperty float z\n"


def glb(document: bytes) -> bytes:
    return struct.pack("<5I", 0x46546C67, 2, 20 + len(document), len(document), 0x4E4F534A) + document


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ply", b"", "expected 1 to .* bytes, found 0"),
        ("a.ply", b"plx\n", "not a PLY file"),
        ("a.ply", b"ply\nformat ascii 1.0\n", "end_header"),
        ("a.ply", PLY % 0 + b"end_header\n", "found none|no faces"),
        ("a.ply", PLY % 9 + b"end_header\n" + bytes(50), "cannot be read"),
        ("a.ply", PLY % (1 << 40) + b"end_header\n" + bytes(50), "cannot be read"),
        ("a.ply", PLY % 1 + b"end_header\n" + struct.pack("<3f", 0, float("nan"), 0), "1 of 1 points are not finite"),
        ("a.obj", b"# nothing\n", "expected points"),
        ("a.obj", b"v 1 2\n", "three numbers"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "zero area"),
        ("a.xyz", b"1 2\n3 4\n", "three or more numbers"),
        ("a.xyz", b"1 2 3\n4 5\n", "all of one length"),
        ("a.xyz", b"x y z\n", "three or more numbers"),
        ("a.xyz", b"\n", "at least one point"),
        ("a.npy", b"\x93NUMPY", "not a complete file of arrays"),
        ("a.npz", b"PK\x03\x04cut", "not a complete file of arrays"),
        ("a.glb", b"glTF", "not a binary glTF"),
        ("a.glb", struct.pack("<5I", 0x46546C67, 2, 999, 20, 0x4E4F534A), "999 bytes was begun, the file holds 20"),
        ("a.glb", glb(b"{]  "), "description cannot be read"),
        ("a.glb", glb(b"[1] "), "expected a glTF description"),
        ("a.glb", glb(b'{"meshes": [7]} '), "glTF meshes cannot be read"),
        ("a.glb", glb(b'{"asset": {"version": "2.0"}}   '), "found none|cannot be read"),
        ("a.off", b"OFF\n4 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", "promises 4 vertices and 1 faces, but 4 lines follow"),
        ("a.off", b"OFF\n4 0 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", "the counts may be wrong"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", "zero area"),
        ("a.stl", b"solid nothing\nendsolid\n", "no faces|cannot be read"),
        ("a.jpg", b"x", "no file of points or surfaces known as '.jpg'"),
    ],
)
def test_files_that_are_no_clouds(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PointCloudError, match=message) as caught:
        PointCloud.load(tmp_path / name, num_points=10)
    assert name in str(caught.value)


def test_arrays_that_are_no_clouds(tmp_path: Path) -> None:
    for array, message in [
        (np.zeros((5, 4)), r"expected \[N, 3\] or \[N, 6\]"),
        (np.zeros((2, 5, 3)), "opened with open_source"),
        (np.zeros((0, 3)), "at least one point"),
        (np.full((4, 3), np.inf), "not finite"),
        (np.array([{}] * 3), "not a complete file of arrays"),
    ]:
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
        with pytest.raises(PointCloudError, match=message):
            PointCloud.load(tmp_path / "a.npy")
    # The header promises a terabyte.
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 37, 1)})
    with pytest.raises(PointCloudError, match="not a complete file of arrays"):
        PointCloud.load(tmp_path / "a.npy")


def test_missing_files_and_pipes_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ply")
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("none.ply", "pipe.ply", "pipe.npz"):
        with pytest.raises(PointCloudError, match=f"{name}: no such file"):
            PointCloud.load(tmp_path / name)
    for name in ("none", "none.hdf5"):
        with pytest.raises(PointCloudError, match=r"no such file or folder; a data set is a path or 'procedural'"):
            open_source(tmp_path / name)
    with pytest.raises(PointCloudError, match="no such file"):
        open_source(tmp_path / "pipe.npz")


def test_a_scene_of_many_geometries_is_one_surface(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    for i in range(3):
        scene.add_geometry(
            trimesh.creation.box(), transform=trimesh.transformations.translation_matrix((10.0 * i, 0, 0))
        )
    scene.add_geometry(trimesh.PointCloud(np.zeros((4, 3))))
    scene.export(str(tmp_path / "scene.glb"))
    points = FolderClouds(tmp_path, "all", num_points=3000)[0].points
    shares = np.histogram(points[:, 0], bins=[-5, 5, 15, 25])[0] / 3000
    np.testing.assert_allclose(shares, 1 / 3, atol=0.04)


def test_five_million_points_have_a_defined_result(tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.arange(15_000_000, dtype=np.float32).reshape(-1, 3))
    with pytest.warns(UserWarning, match=r"5,000,000 points; 2,048 of them are drawn \(seed \d+\)"):
        item = FolderClouds(tmp_path, "all")[0]
    assert item.points.shape == (2048, 3)
    assert len(np.unique(item.points, axis=0)) == 2048
    with pytest.warns(UserWarning, match=r"it: 1,200,000 points; 1,000,000 of them are drawn"):
        points, _ = fixed_size(np.zeros((1_200_000, 3), dtype=np.float32), None, None, 0, "it")
    assert points.shape == (1_000_000, 3)


def test_hdf5_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    with pytest.raises(PointCloudError, match=r"a\.hdf5: not a readable hdf5 file"):
        open_source(path)
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = np.zeros((5, 8, 3)), np.zeros(5)
    with pytest.raises(PointCloudError, match=r"expected groups <synset>/train.*found data \[5, 8, 3\], label \[5\]"):
        open_source(path)
    with h5py.File(path, "w") as file:
        file["02691156/train"] = np.zeros((5, 8))
    with pytest.raises(PointCloudError, match=r"02691156/train: expected clouds \[n, N, 3\], found \[5, 8\]"):
        open_source(path)
    with h5py.File(path, "w") as file:
        file["02691156/train"] = np.zeros((5, 8, 3))
        file["02691156/val"] = np.full((5, 8, 3), np.nan)
        file["02691156/test"] = np.zeros((0, 8, 3))
        file["03001627/train"] = np.zeros((5, 8, 3))
    with pytest.raises(PointCloudError, match="no class 'spoon'; known: airplane, chair"):
        open_source(path, classes=["chair", "spoon"])
    with pytest.raises(PointCloudError, match=r"a\.hdf5 \(test\): holds no clouds"):
        open_source(path, split="test")
    with pytest.raises(PointCloudError, match=r"02691156/val/2: .*not finite"):
        open_source(path, split="val", num_points=8)[2]
    with h5py.File(path, "w") as file:
        file["02691156/train"] = np.zeros((5, 8, 3))
    with pytest.raises(PointCloudError, match="has no 'val' split; found: train"):
        open_source(path, split="val")


def test_hdf5_that_is_cut_or_damaged_inside(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("02691156/train", data=np.random.default_rng(0).random((50, 64, 3)), compression="gzip")
    whole = path.read_bytes()
    source = ShapeNetHdf5(path, num_points=64)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PointCloudError, match="not a readable hdf5 file"):
        open_source(path)
    with pytest.raises(PointCloudError, match="not a readable hdf5 file"):
        source[0]
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(b ^ 0xFF for b in whole[middle : middle + 4000]) + whole[middle + 4000 :])
    with pytest.raises(PointCloudError, match="not a readable hdf5 file"):
        [source[i] for i in range(50)]


def test_npz_arrays_that_do_not_fit(tmp_path: Path) -> None:
    points = np.zeros((3, 4, 3))
    cases = [
        ({"x": points}, "expected an array points, cuboids or X_train, found x"),
        ({"points": points[..., :2]}, r"points: expected numbers \[S, N, 3\], found float64 \[3, 4, 2\]"),
        ({"points": points, "split": [0, 1]}, "split: expected one entry for each of 3 shapes"),
        ({"points": points, "split": [0, 1, 7]}, r"split: expected 0 \(train\).*found 7"),
        ({"points": points, "split": [1, 1, 2]}, "has no 'train' split; found: test, val"),
        ({"points": points, "split": [0, 0, 0], "unique": [False] * 3}, "holds no clouds"),
        ({"points": points, "split": [0, 0, 0], "normals": points[:2]}, r"normals: expected \[3, 4, 3\]"),
        ({"points": points, "split": [0, 0, 0], "label": [0, 1, 2], "classes": ["a", "b"]}, "expected 0 to 1"),
        ({"points": points, "split": [0, 0, 0], "label": [0.5, 1, 2]}, "label: expected whole numbers"),
        ({"points": points, "split": [0, 0, 0], "classes": ["a", "b"]}, "no array 'label'"),
        ({"points": points[0], "count": [3, 3], "split": [0, 0]}, "add up to 4 points"),
        ({"points": points, "names": ["a"]}, "names: expected one entry"),
        ({"cuboids": np.zeros((2, 15)), "count": [1]}, r"expected cuboids \[1, 15\]"),
        ({"cuboids": np.zeros((2, 15))}, "expected the array 'count'"),
        ({"X_train": np.zeros((2, 100), np.uint8), "y_train": [0, 1]}, "expected bits of cubes"),
        ({"X_train": np.zeros((2, 64), np.uint8), "y_train": [0, 10]}, "expected one label of 0 to 9"),
    ]
    for arrays, message in cases:
        np.savez(tmp_path / "a.npz", **{key: np.asarray(value) for key, value in arrays.items()})
        with pytest.raises(PointCloudError, match=message) as caught:
            open_source(tmp_path / "a.npz")
        assert "a.npz" in str(caught.value)
    np.savez(tmp_path / "a.npz", points=points, label=[4, 5, 6])
    with pytest.raises(PointCloudError, match="no class '7'; known: 4, 5, 6"):
        NpzClouds(tmp_path / "a.npz", "all", classes=["7"])
    np.savez(tmp_path / "a.npz", points=np.array([object()] * 3), split=[0, 0, 0])
    with pytest.raises(PointCloudError, match="not a complete file of arrays"):
        open_source(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", X_train=np.zeros((1, 64), np.uint8), y_train=[0])
    with pytest.raises(PointCloudError, match="train/0: no voxel is set"):
        open_source(tmp_path / "b.npz")[0]
    np.savez(tmp_path / "c.npz", cuboids=np.full((1, 15), np.nan), count=[1], split=[0])
    with pytest.raises(PointCloudError, match="0: expected boxes"):
        open_source(tmp_path / "c.npz")[0]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(PointCloudError, match=r"no file of a cloud or surface in it; known are \.ply"):
        open_source(tmp_path)
    for name in ("chair/train/a.npy", "car/test/b.npy"):
        (tmp_path / name).parent.mkdir(parents=True)
        np.save(tmp_path / name, np.eye(3))
    with pytest.raises(PointCloudError, match=r"\(2 files\): has no 'val' split; found: test, train"):
        open_source(tmp_path, split="val")
    with pytest.raises(PointCloudError, match="no class 'boat'; known: car, chair"):
        open_source(tmp_path, classes=["boat"])
    with pytest.raises(PointCloudError, match=r"\(train\): holds no clouds"):
        open_source(tmp_path, classes=["car"])
    (tmp_path / "chair/train/bad.off").write_text("OFF\n1 0 0\n")
    source = open_source(tmp_path, num_points=3)
    with pytest.raises(PointCloudError, match=r"chair/train/bad\.off: the header promises 1 vertices"):
        source[1]
    assert source[0].points.shape == (3, 3)  # one bad file does not spoil the rest


def test_a_damaged_pc15k_file_is_named(tmp_path: Path) -> None:
    inside = tmp_path / "02691156/train"
    inside.mkdir(parents=True)
    np.save(inside / "a.npy", np.zeros((15_000, 3)))
    np.save(inside / "b.npy", np.zeros((14_999, 3)))
    (inside / "c.npy").write_bytes((inside / "a.npy").read_bytes()[:5000])
    source = open_source(tmp_path)
    with pytest.raises(PointCloudError, match=r"b\.npy: expected \[15000, 3\], found \[14999, 3\]"):
        source[1]
    with pytest.raises(PointCloudError, match=r"c\.npy: not a complete file of arrays"):
        source[2]


def test_settings_that_mean_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", points=np.zeros((3, 4, 3)), classes=["q"])
    for options, message in [
        ({"split": "eval"}, "split: expected train, val, test or all, found 'eval'"),
        ({"up": "x"}, "up: expected 'y' or 'z'"),
        ({"num_points": 0, "split": "all"}, "num_points: expected 1 or more"),
        ({"classes": "a", "split": "all"}, "expected a list of names, found the text 'a'"),
        ({"classes": [], "split": "all"}, "expected at least one"),
        ({"classes": ["a", "a"], "split": "all"}, "no class 'a', 'a'; known: q"),
        ({"classes": ["q", "q"], "split": "all"}, "each once"),
    ]:
        with pytest.raises(PointCloudError, match=message):
            open_source(tmp_path / "a.npz", **options)  # type: ignore[arg-type]
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(PointCloudError, match=r"expected a folder, or a data set as .h5.*found '\.zip'"):
        open_source(tmp_path / "a.zip")


def test_a_cache_that_fails_leaves_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", points=np.full((2, 4, 3), [[[0.0]], [[np.nan]]]))
    with pytest.raises(PointCloudError, match=r"1: .*not finite"):
        cached(open_source(tmp_path / "a.npz", split="all", num_points=4), tmp_path / "cache.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]
