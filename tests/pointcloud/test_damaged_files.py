"""Files with wrong bytes or cut short: whatever a library raises over them, the reader says which file, or reads it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import trimesh
from trifold.cli.main import main
from trifold.pointcloud.cloud import PointCloud
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.mesh import Mesh
from trifold.pointcloud.normalise import Normalisation
from trifold.pointcloud.sources import open_source
from trifold.pointcloud.training_data import TrainingClouds

from .tiny_points import random_cloud, tiny_model

CORNERS = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
FACES = "3 0 1 2\n3 0 1 3\n"


def ply(vertices: int = 4, faces: int = 2, name: str = "vertex_indices", body: str = CORNERS + FACES) -> str:
    head = ["ply", "format ascii 1.0", f"element vertex {vertices}", *(f"property float {axis}" for axis in "xyz")]
    head += [f"element face {faces}", f"property list uchar int {name}"] if faces else []
    return "\n".join([*head, "end_header", ""]) + body


def refusals(path: Path, read: Callable[[Path], object], *, tries: int, first: int = 0, last: int | None = None) -> int:
    """Read a file `tries` times with other bytes changed between `first` and `last`; how often it was refused, always
    by our own error."""
    whole, refused = path.read_bytes(), 0
    rng = np.random.default_rng(0)
    for _ in range(tries):
        damaged = bytearray(whole)
        for place in rng.integers(first, len(whole) if last is None else last, 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings(), suppress(PointCloudError):
            warnings.simplefilter("ignore")
            refused += 1
            read(path)
            refused -= 1
    return refused


# ----------------------------------------------------------------------------------------------------- wrong bytes


def test_a_mesh_with_wrong_bytes(tmp_path: Path) -> None:
    for suffix in (".glb", ".ply", ".stl"):
        path = tmp_path / f"mesh{suffix}"
        Mesh(np.eye(4, 3), np.array([[0, 1, 2], [0, 1, 3]])).save(path)
        assert refusals(path, Mesh.load, tries=150, last=min(400, path.stat().st_size)) > 10


@pytest.mark.parametrize("kind", [UnboundLocalError, TypeError, ZeroDivisionError])
def test_whatever_a_library_raises_is_told_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    Mesh(np.eye(4, 3), np.array([[0, 1, 2], [0, 1, 3]])).save(tmp_path / "mesh.glb")
    with h5py.File(tmp_path / "shapes.hdf5", "w") as file:
        file["02691156/train"] = np.zeros((5, 8, 3))

    def broken(*_: object, **__: object) -> None:
        raise kind("inside")

    monkeypatch.setattr(trimesh, "load_scene", broken)
    with pytest.raises(PointCloudError, match=rf"mesh\.glb: cannot be read as a mesh \({kind.__name__}: inside"):
        Mesh.load(tmp_path / "mesh.glb")
    monkeypatch.setattr(h5py.Dataset, "__getitem__", broken)
    with pytest.raises(PointCloudError, match=rf"shapes\.hdf5: not a readable hdf5 file \({kind.__name__}: inside"):
        _ = open_source(tmp_path / "shapes.hdf5")[0]


def test_an_array_with_wrong_bytes(tmp_path: Path) -> None:
    path = tmp_path / "cloud.npy"
    np.save(path, np.ones((9, 3), np.float32))
    whole = path.read_bytes()
    assert refusals(path, PointCloud.load, tries=400, last=80) > 100
    path.write_bytes(whole.replace(b"(9, 3)", b"(9, 3 "))  # numpy's own reader ends in tokenize.TokenError
    with pytest.raises(PointCloudError, match=r"cloud\.npy: not a complete file of arrays \(TokenError"):
        PointCloud.load(path)
    many = tmp_path / "many.npz"
    np.savez(many, points=np.ones((2, 9, 3)), split=np.zeros(2, int))
    assert refusals(many, open_source, tries=300) > 100


def test_an_archive_packed_in_an_unknown_way(tmp_path: Path) -> None:
    path = tmp_path / "cloud.npz"
    np.savez(path, points=np.ones((9, 3)))
    whole = bytearray(path.read_bytes())
    for start, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        whole[whole.index(start) + place] = 99
    path.write_bytes(whole)
    with pytest.raises(PointCloudError, match=r"cloud\.npz: not a complete file of arrays \(NotImplementedError"):
        PointCloud.load(path)
    with pytest.raises(PointCloudError, match="not a file of prepared clouds"):
        TrainingClouds.load(path, "none", {})


def test_a_pc15k_folder_with_a_wrong_header(tmp_path: Path) -> None:
    inside = tmp_path / "02691156/train"
    inside.mkdir(parents=True)
    for name in ("a.npy", "b.npy"):
        np.save(inside / name, np.zeros((15_000, 3), np.float32))
    source = open_source(tmp_path)
    for name in ("a.npy", "b.npy"):
        (inside / name).write_bytes((inside / name).read_bytes().replace(b"(15000, 3)", b"(15000, 3 "))
    with pytest.raises(PointCloudError, match=r"b\.npy: not a complete file of arrays"):
        source[1]
    with pytest.raises(PointCloudError, match=r"a\.npy: not a complete file of arrays"):  # no longer known as PC15k
        open_source(tmp_path)[0]


def test_an_hdf5_file_with_wrong_bytes(tmp_path: Path) -> None:
    path = tmp_path / "shapes.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("02691156/train", data=np.random.default_rng(0).random((5, 8, 3)), compression="gzip")

    def read(path: Path) -> None:
        source = open_source(path, num_points=8)
        for i in range(len(source)):
            source[i]

    assert refusals(path, read, tries=200) > 20


# -------------------------------------------------------------------------------------------------- PLY that is text


def test_faces_by_another_name_are_told(tmp_path: Path) -> None:
    path = tmp_path / "mesh.ply"
    path.write_text(ply())
    assert len(Mesh.load(path).faces) == 2
    path.write_text(ply(name="verts"))
    for read in (Mesh.load, PointCloud.load):
        with pytest.raises(
            PointCloudError,
            match=r"mesh\.ply: element face: expected the list vertex_indices or vertex_index, found verts",
        ):
            read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ply(5), "promises 7 lines, but 6 follow"),
        (ply(3), "promises 5 lines, but 6 follow"),
        (ply(4, 3), "promises 7 lines, but 6 follow"),
        (ply(4, 1), "promises 5 lines, but 6 follow"),
        (ply()[:-9], "promises 6 lines, but 5 follow"),
        (ply()[:-3], "face 1: expected vertex_indices, found '3 0 1'"),
        (ply(body=CORNERS.replace("1 0 0", "1 0") + FACES), "vertex 1: expected x, y, z, found '1 0'"),
        (ply(body=CORNERS + "3 0 1 2\nx 0 1 3\n"), "face 1: expected vertex_indices, found 'x 0 1 3'"),
        (ply(4, 0, body=CORNERS[:-6]), "promises 4 lines, but 3 follow"),
        (ply(4, 0, body=CORNERS[:-3]), "vertex 3: expected x, y, z, found '0 0'"),
        (ply(3, 0, body=CORNERS), "promises 3 lines, but 4 follow"),
    ],
)
def test_text_that_is_not_what_its_header_promises(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "shape.ply"
    path.write_text(content)
    with pytest.raises(PointCloudError, match=message) as caught:
        PointCloud.load(path, num_points=3)
    assert "shape.ply" in str(caught.value)


def test_text_with_polygons_colours_and_blank_ends_is_read(tmp_path: Path) -> None:
    path = tmp_path / "shape.ply"
    path.write_text(ply(body=CORNERS + "4 0 1 2 3\n3 0 1 3\n\n\n"))
    assert len(Mesh.load(path).faces) == 3
    coloured = ply(body="0 0 0 9\n1 0 0 9\n0 1 0 9\n0 0 1 9\n" + FACES)
    path.write_text(coloured.replace("property float z", "property float z\nproperty uchar red"))
    assert len(Mesh.load(path).faces) == 2


# ------------------------------------------------------------------------------------------- memory that is its own


def test_a_loaded_cloud_does_not_change_with_its_file(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "cloud.npy"
    random_cloud(9).save(path)
    loaded = PointCloud.load(path)
    expected = loaded.points.copy()
    with path.open("r+b") as file:
        file.seek(128)
        file.write(bytes(9 * 12))
    np.testing.assert_array_equal(loaded.points, expected)
    assert loaded.points.flags.writeable
    assert not recwarn.list


@pytest.mark.parametrize(("split", "num_points"), [("train", 10_000), ("test", 2048), ("test", None)])
def test_a_pc15k_cloud_does_not_change_with_its_file(tmp_path: Path, split: str, num_points: int | None) -> None:
    inside = tmp_path / "02691156" / split
    inside.mkdir(parents=True)
    np.save(inside / "a.npy", np.ones((15_000, 3), np.float32))
    points = open_source(tmp_path, split=split, num_points=num_points)[0].points
    with (inside / "a.npy").open("r+b") as file:
        file.seek(128)
        file.write(bytes(15_000 * 12))
    assert (points == 1).all()


# ------------------------------------------------------------------------------------------------- no points at all


def test_no_points_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, cloud = tiny_model(), random_cloud(20)
    calls: list[Callable[[], object]] = [
        lambda: model.generate(1, 0),
        lambda: model.decode(model.encode([cloud]), 0),
        lambda: model.reconstruct([cloud], 0),
        lambda: model.interpolate(cloud, cloud, 2, num_points=0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="num_points: expected at least 1, found 0"):
            call()
    plain = tiny_model(latent_dim=0, normalisation=Normalisation())
    with pytest.raises(PointCloudError, match="num_points: expected"):
        plain.interpolate(cloud, cloud, 2, num_points=0)
    model.save_pretrained(tmp_path / "model")
    cloud.save(tmp_path / "a.ply")
    words = [str(tmp_path / "a.ply")] * 2 + ["--model", str(tmp_path / "model"), "--num-points", "0"]
    assert main(["pointcloud", "interpolate", *words, "--out", str(tmp_path / "b.png")]) == 1
    assert "num_points: expected at least 1, found 0" in capsys.readouterr().err
