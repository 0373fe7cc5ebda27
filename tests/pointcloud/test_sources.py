"""Data sets of clouds: the layouts of the field, what is drawn from them, and what never depends on the order."""

from __future__ import annotations

import pickle
import warnings
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import trimesh
from torch.utils.data import DataLoader, Dataset
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.items import CloudSource, fixed_size, split_by_name
from trifold.pointcloud.mesh import Mesh
from trifold.pointcloud.sources import (
    FolderClouds,
    Pc15kClouds,
    ShapeNetHdf5,
    cached,
    open_source,
)
from trifold.pointcloud.synsets import SYNSETS

from .golden import notes, tensors

AIRPLANE, CHAIR = "02691156", "03001627"
BOX = "OFF\n8 6 0\n" + "".join(f"{x} {y} {z}\n" for x in (0, 1) for y in (0, 2) for z in (0, 3))
BOX += "4 0 1 3 2\n4 4 6 7 5\n4 0 4 5 1\n4 2 3 7 6\n4 0 2 6 4\n4 1 5 7 3\n"


@pytest.fixture
def shapenet(tmp_path: Path) -> Path:
    """The golden data set in the original's layout."""
    path = tmp_path / "shapenet.hdf5"
    with h5py.File(path, "w") as file:
        for synset in (AIRPLANE, CHAIR):
            for split in ("train", "val", "test"):
                file[f"{synset}/{split}"] = tensors()[f"dataset/raw/{synset}/{split}"].numpy()
    return path


def write_off(path: Path, text: str = BOX) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def names(source: CloudSource) -> list[str]:
    return [source[i].name for i in range(len(source))]


def by_name(source: CloudSource) -> dict[str, np.ndarray]:
    items = [source[i] for i in range(len(source))]
    return {item.name: item.points for item in items}


# ---------------------------------------------------------------------------------------------------- the original's


def test_the_originals_file_in_the_originals_order(shapenet: Path) -> None:
    source = ShapeNetHdf5(shapenet, "train", num_points=None, order="luo_hu")
    order = notes()["dataset"]["order_of_train_items"]
    assert source.classes == ("airplane", "chair")
    assert [[source.classes[source[i].label], int(source[i].name.split("/")[-1])] for i in range(len(source))] == order
    for i, (category, row) in enumerate(order):
        synset = {"airplane": AIRPLANE, "chair": CHAIR}[category]
        np.testing.assert_array_equal(source[i].points, tensors()[f"dataset/raw/{synset}/train"][row].numpy())


def test_classes_are_labelled_in_the_order_asked_for(shapenet: Path) -> None:
    source = open_source(shapenet, split="all", classes=["chair", AIRPLANE], num_points=None)
    assert source.classes == ("chair", "airplane")
    assert Counter(source[i].label for i in range(len(source))) == {0: 8, 1: 9}
    assert all((source[i].label == 0) == source[i].name.startswith(CHAIR) for i in range(len(source)))
    assert len(open_source(shapenet, split="test", classes=["chair"], num_points=8)) == 3


def test_the_file_can_be_held_in_memory_and_its_folder_is_left_alone(shapenet: Path) -> None:
    stored, held = ShapeNetHdf5(shapenet, num_points=16), ShapeNetHdf5(shapenet, num_points=16, in_memory=True)
    before = shapenet.stat().st_mtime_ns
    shapenet.chmod(0o444)
    for i in range(len(stored)):
        np.testing.assert_array_equal(stored[i].points, held[i].points)
    assert [file.name for file in shapenet.parent.iterdir()] == ["shapenet.hdf5"]
    assert shapenet.stat().st_mtime_ns == before


class AsTensors(Dataset):
    def __init__(self, source: CloudSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.source[index].points)


def test_workers_read_the_same_clouds(shapenet: Path) -> None:
    source = ShapeNetHdf5(shapenet, "all", num_points=20)
    alone = [source[i].points for i in range(len(source))]  # the file has been open in this process
    together = torch.cat(
        list(DataLoader(AsTensors(source), batch_size=4, num_workers=2, multiprocessing_context="fork"))
    )
    np.testing.assert_array_equal(together.numpy(), np.stack(alone))
    again = pickle.loads(pickle.dumps(source))  # as a spawned worker gets it
    np.testing.assert_array_equal(again[3].points, alone[3])


def test_the_classes_of_shapenet() -> None:
    assert len(SYNSETS) == len(set(SYNSETS.values())) == 55
    assert list(SYNSETS) == sorted(SYNSETS)
    assert SYNSETS["03001627"] == "chair"


# -------------------------------------------------------------------------------------------------------------- PC15k


@pytest.fixture
def pc15k(tmp_path: Path) -> Path:
    root = tmp_path / "ShapeNetCore.v2.PC15k"
    for c, synset in enumerate((AIRPLANE, CHAIR)):
        for split, count in (("train", 2), ("val", 1)):
            (root / synset / split).mkdir(parents=True)
            for k in range(count):
                cloud = np.random.default_rng([c, k, split == "val"]).standard_normal((15_000, 3))
                np.save(root / synset / split / f"{k}.npy", cloud)
    return root


def test_the_reference_is_points_10000_to_12047(pc15k: Path) -> None:
    source = open_source(pc15k, split="val", classes=["airplane"])
    assert isinstance(source, Pc15kClouds)
    stored = np.load(pc15k / AIRPLANE / "val/0.npy")
    np.testing.assert_array_equal(source[0].points, stored[10_000:12_048].astype(np.float32))
    for seed in (1, 2):  # nothing is drawn
        again = open_source(pc15k, split="val", classes=["airplane"], seed=seed)
        np.testing.assert_array_equal(again[0].points, source[0].points)
    assert source[0].name == f"{AIRPLANE}/val/0.npy"


def test_training_points_come_from_the_first_10000(pc15k: Path) -> None:
    source = open_source(pc15k, split="train", seed=4)
    assert source.classes == ("airplane", "chair")
    assert len(source) == 4
    stored = np.load(pc15k / CHAIR / "train/1.npy").astype(np.float32)
    rows = {point.tobytes(): row for row, point in enumerate(stored)}
    drawn = [rows[point.tobytes()] for point in source[3].points]
    assert len(set(drawn)) == 2048
    assert max(drawn) < 10_000
    whole = Pc15kClouds(pc15k, "train", num_points=None, part="whole")
    np.testing.assert_array_equal(whole[3].points, stored)
    everything = Pc15kClouds(pc15k, "all", num_points=None)
    assert Counter(len(everything[i].points) for i in range(len(everything))) == {10_000: 4, 5000: 2}


def test_one_class_of_pc15k_opened_alone_keeps_the_protocol(pc15k: Path) -> None:
    source = open_source(pc15k / CHAIR, split="val")
    assert isinstance(source, Pc15kClouds)
    assert source.classes == ("chair",)
    stored = np.load(pc15k / CHAIR / "val/0.npy")
    np.testing.assert_array_equal(source[0].points, stored[10_000:12_048].astype(np.float32))


# ------------------------------------------------------------------------------------------------------------ folders


@pytest.fixture
def modelnet(tmp_path: Path) -> Path:
    root = tmp_path / "ModelNet10"
    for split, count in (("train", 3), ("test", 2)):
        for k in range(count):
            write_off(root / f"chair/{split}/chair_{k:04}.off", BOX.replace("OFF\n", "OFF") if k == 1 else BOX)
            write_off(root / f"night_stand/{split}/night_stand_{k:04}.off")
    (root / "README.txt").write_text("ModelNet")
    return root


def test_a_modelnet_tree(modelnet: Path) -> None:
    source = open_source(modelnet, split="test", num_points=300)
    assert source.classes == ("chair", "night_stand")
    assert names(source) == [f"{c}/test/{c}_{k:04}.off" for c in source.classes for k in range(2)]
    item = source[3]
    assert item.label == 1
    assert item.points.shape == (300, 3)
    # Every point lies on a side of the 1 x 2 x 3 box, which its normal points out of.
    assert item.normals is not None
    side = item.points @ np.diag([1, 1 / 2, 1 / 3]).astype(np.float32)
    outward = (side * item.normals).sum(axis=1)
    np.testing.assert_allclose(np.where(item.normals.sum(axis=1) > 0, outward - 1, outward), 0, atol=1e-5)
    assert len(open_source(modelnet, split="train", classes=["night_stand"])) == 3


def test_points_depend_on_the_name_and_the_seed_alone(modelnet: Path, tmp_path: Path) -> None:
    before = by_name(open_source(modelnet, split="train", num_points=64, seed=5))
    write_off(modelnet / "airplane/train/airplane_0000.off")
    (tmp_path / "elsewhere").mkdir()
    after = by_name(open_source(modelnet.rename(tmp_path / "elsewhere/M"), split="train", num_points=64, seed=5))
    assert len(after) == len(before) + 1
    for name, points in before.items():
        np.testing.assert_array_equal(after[name], points)
    other = by_name(open_source(tmp_path / "elsewhere/M", split="train", num_points=64, seed=6))
    assert not any(np.array_equal(other[name], points) for name, points in before.items())
    assert len({points.tobytes() for points in before.values()}) == len(before)  # equal shapes, other points


def test_a_folder_of_anything(tmp_path: Path) -> None:
    solid = trimesh.creation.icosphere(subdivisions=2)
    root = tmp_path / "things"
    for suffix in ("ply", "stl", "glb", "gltf", "obj"):
        (root / "balls" / suffix).mkdir(parents=True)
        solid.export(root / f"balls/{suffix}/ball.{suffix}")
    write_off(root / "boxes/box.off")
    (root / "clouds").mkdir()
    np.save(root / "clouds/a.npy", np.random.default_rng(0).standard_normal((40, 3)))
    np.savez(root / "clouds/b.npz", points=np.eye(3), normals=np.eye(3))
    (root / "clouds/c.xyz").write_text("0 0 0\n1 2 3\n")
    (root / "loose.XYZ").write_text("0 0 0\n1 2 3\n")
    for ignored in ("notes.txt", ".hidden.npy", "clouds/.hidden.off"):
        (root / ignored).write_text("not a cloud")
    (root / "clouds/up").symlink_to(root)  # a ring of links ends
    source = FolderClouds(root, "all", num_points=None)
    assert source.classes == ("balls", "boxes", "clouds", "things")
    assert source.names == sorted(source.names)
    assert len(source) == 10
    sizes = {item.name: len(item.points) for item in (source[i] for i in range(len(source)))}
    assert [sizes[f"clouds/{name}"] for name in ("a.npy", "b.npz", "c.xyz")] == [40, 3, 2]
    for suffix in ("ply", "stl", "glb", "gltf", "obj"):
        points = by_name(source)[f"balls/{suffix}/ball.{suffix}"]
        assert len(points) == 2048
        assert 0.9 < np.linalg.norm(points, axis=1).min() <= np.linalg.norm(points, axis=1).max() < 1.001
    with pytest.warns(UserWarning, match="points are repeated"):
        stacked = {
            len(item.points) for item in (s[i] for s in [FolderClouds(root, "all", num_points=64)] for i in range(10))
        }
    assert stacked == {64}


def test_splits_named_first_or_second_and_a_class_called_train(tmp_path: Path) -> None:
    for name in ("train/chair/a.npy", "validation/chair/b.npy", "test/car/c.npy"):
        (tmp_path / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "one" / name, np.eye(3))
    assert names(open_source(tmp_path / "one", split="val", num_points=None)) == ["validation/chair/b.npy"]
    assert open_source(tmp_path / "one", split="val", num_points=None).classes == ("car", "chair")
    for name in ("train/train/a.npy", "train/test/b.npy", "car/train/c.npy"):  # ShapeNet has trains
        (tmp_path / "two" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "two" / name, np.eye(3))
    assert names(open_source(tmp_path / "two", split="test", num_points=None)) == ["train/test/b.npy"]
    assert open_source(tmp_path / "two", split="train", num_points=None).classes == ("car", "train")


def test_files_without_splits_are_divided_by_their_names(tmp_path: Path) -> None:
    for i in range(100):
        np.save(tmp_path / f"{i}.npy", np.eye(3))
    parts = {part: set(names(open_source(tmp_path, split=part, num_points=3))) for part in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 100
    assert 70 <= len(parts["train"]) <= 90
    before = split_by_name("7.npy")
    for i in range(100, 120):
        np.save(tmp_path / f"{i}.npy", np.eye(3))
    assert parts["test"] <= set(names(open_source(tmp_path, split="test", num_points=3)))
    assert "7.npy" in names(open_source(tmp_path, split=before, num_points=3))  # type: ignore[arg-type]


def test_files_beside_the_splits_are_left_out_aloud(modelnet: Path) -> None:
    write_off(modelnet / "chair/stray.off")
    with pytest.warns(UserWarning, match=r"1 files outside train, val and test are left out \(chair/stray.off\)"):
        assert len(open_source(modelnet, split="test")) == 4
    assert len(open_source(modelnet, split="all")) == 11


# ------------------------------------------------------------------------------------------------- sizes and caches


def test_every_point_is_used_equally_often_when_there_are_too_few() -> None:
    points = np.arange(30, dtype=np.float32).reshape(10, 3)
    with pytest.warns(UserWarning, match="fewer than the 25 points"):
        filled, normals = fixed_size(points, -points, 25, 0, "it")
    counts = Counter(filled[:, 0].tolist())
    assert set(counts.values()) == {2, 3}
    np.testing.assert_array_equal(normals, -filled)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fixed_size(points, None, 10, 0, "it")[0] is points
        assert len(np.unique(fixed_size(points, None, 9, 0, "it")[0], axis=0)) == 9


def test_a_cache_holds_the_same_items(tmp_path: Path, modelnet: Path) -> None:
    source = open_source(modelnet, split="train", num_points=100)
    kept = cached(source, tmp_path / "cache/train.npz")
    for once in (kept, cached(source, tmp_path / "cache/train.npz")):
        assert once.classes == source.classes
        for i in range(len(source)):
            assert (once[i].name, once[i].label) == (source[i].name, source[i].label)
            np.testing.assert_array_equal(once[i].points, source[i].points)
            np.testing.assert_array_equal(once[i].normals, source[i].normals)  # type: ignore[arg-type]
    with pytest.raises(PointCloudError, match="holds 6 clouds of chair, night_stand, the source 4"):
        cached(open_source(modelnet, split="test"), tmp_path / "cache/train.npz")


def test_procedural_shapes_are_opened_by_name() -> None:
    source = open_source("procedural", split="val", classes=["mug", "chair"], num_points=50)
    assert source.classes == ("mug", "chair")
    assert source[1].label == 1
    assert source[1].points.shape == (50, 3)
    for options, message in [
        ({"split": "all"}, "have train, val and test, found 'all'"),
        ({"classes": ["boat"]}, "procedural: no class 'boat'; known: airplane"),
        ({"num_points": 0}, "num_points: expected 1 or more, found 0"),
    ]:
        with pytest.raises(PointCloudError, match=message):
            open_source("procedural", **options)  # type: ignore[arg-type]


def test_items_end(modelnet: Path) -> None:
    source = open_source(modelnet, split="test", num_points=5)
    for index in (-1, len(source)):
        with pytest.raises(IndexError):
            source[index]


def test_meshes_written_here_are_read_here(tmp_path: Path) -> None:
    Mesh.from_trimesh(trimesh.creation.torus(1.0, 0.25)).save(tmp_path / "shapes/torus.glb")
    item = FolderClouds(tmp_path / "shapes", "all", num_points=200)[0]
    ring = np.hypot(np.linalg.norm(item.points[:, :2], axis=1) - 1, item.points[:, 2])
    np.testing.assert_allclose(ring, 0.25, atol=0.01)
