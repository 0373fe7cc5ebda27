"""Meshes: measures worked by hand, files that come back equal, and files that lie."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest
import trimesh
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.mesh import Mesh

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
OUTWARD = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


@pytest.fixture
def tetrahedron() -> Mesh:
    return Mesh(CORNERS, OUTWARD, "corner")


def test_measures_of_the_corner_tetrahedron(tetrahedron: Mesh) -> None:
    assert tetrahedron.area == pytest.approx(1.5 + np.sqrt(3) / 2)
    assert tetrahedron.volume == pytest.approx(1 / 6)
    assert tetrahedron.is_watertight
    np.testing.assert_allclose(tetrahedron.face_normals[3], np.full(3, 1 / np.sqrt(3)), atol=1e-6)
    # At the origin three faces of equal area meet, looking along -x, -y and -z.
    np.testing.assert_allclose(tetrahedron.vertex_normals[0], np.full(3, -1 / np.sqrt(3)), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(tetrahedron.vertex_normals, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(tetrahedron.bounds, [[0, 0, 0], [1, 1, 1]])
    assert (tetrahedron.vertices.dtype, tetrahedron.faces.dtype) == (np.float32, np.int64)


def test_watertight_needs_every_face_and_one_direction(tetrahedron: Mesh) -> None:
    assert not Mesh(CORNERS, OUTWARD[:3]).is_watertight
    turned = OUTWARD.copy()
    turned[0] = turned[0, ::-1]
    assert not Mesh(CORNERS, turned).is_watertight
    assert not Mesh(CORNERS, np.concatenate([OUTWARD, OUTWARD])).is_watertight
    # Each face with corners of its own, as in files with a normal per corner.
    split = Mesh(CORNERS[OUTWARD].reshape(-1, 3), np.arange(12).reshape(4, 3))
    assert split.is_watertight
    assert Mesh(CORNERS, OUTWARD[:, ::-1]).volume == pytest.approx(-1 / 6)


def test_agrees_with_trimesh() -> None:
    solid = trimesh.creation.torus(1.0, 0.3)
    mesh = Mesh.from_trimesh(solid, "ring")
    assert mesh.name == "ring"
    assert mesh.area == pytest.approx(solid.area, rel=1e-5)
    assert mesh.volume == pytest.approx(solid.volume, rel=1e-5)
    assert mesh.is_watertight == solid.is_watertight
    back = mesh.to_trimesh()
    np.testing.assert_array_equal(back.faces, solid.faces)
    np.testing.assert_allclose(back.face_normals, solid.face_normals, atol=1e-4)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_files_come_back(tetrahedron: Mesh, tmp_path: Path, suffix: str) -> None:
    small = Mesh(tetrahedron.vertices * np.float32(1.2345678e-6), tetrahedron.faces)
    small.save(tmp_path / f"part{suffix.upper()}")
    back = Mesh.load(tmp_path / f"part{suffix.upper()}")
    assert back.name == "part"
    assert back.is_watertight
    assert back.faces.shape == (4, 3)
    assert back.vertices.shape == (4, 3)
    np.testing.assert_array_equal(back.vertices[back.faces], small.vertices[small.faces])
    assert [p.name for p in tmp_path.iterdir()] == [f"part{suffix.upper()}"]


def test_scene_is_joined_in_place(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    box = trimesh.creation.box((1, 1, 1))
    scene.add_geometry(box, transform=trimesh.transformations.translation_matrix((5, 0, 0)))
    scene.add_geometry(box, transform=np.diag([-2.0, 2.0, 2.0, 1.0]))  # a mirror: faces must be turned round
    scene.add_geometry(trimesh.PointCloud(np.zeros((4, 3))))
    scene.export(str(tmp_path / "two.glb"))
    mesh = Mesh.load(tmp_path / "two.glb")
    assert len(mesh.faces) == 24
    assert mesh.volume == pytest.approx(1 + 8, rel=1e-5)
    np.testing.assert_allclose(mesh.bounds, [[-1, -1, -1], [5.5, 1, 1]], atol=1e-6)


@pytest.mark.parametrize("head", ["OFF\n4 4 6\n", "OFF4 4 6\n", "OFF # made by hand\n\n4 4 0\n# corners\n"])
def test_off_with_its_dialects(tetrahedron: Mesh, tmp_path: Path, head: str) -> None:
    rows = [" ".join(map(str, v)) for v in CORNERS] + ["3 " + " ".join(map(str, f)) for f in OUTWARD]
    (tmp_path / "a.off").write_text(head + "\n".join(rows) + "\n")
    mesh = Mesh.load(tmp_path / "a.off")
    np.testing.assert_array_equal(mesh.vertices, CORNERS)
    np.testing.assert_array_equal(mesh.faces, OUTWARD)


def test_off_polygons_become_fans_and_colours_are_skipped(tmp_path: Path) -> None:
    text = "COFF\n4 2 0\n0 0 0 255 0 0\n1 0 0 255 0 0\n1 1 0 255 0 0\n0 1 0 255 0 0\n4 0 1 2 3 0.5 0.5 0.5\n3 0 1 2 9\n"
    (tmp_path / "a.off").write_text(text)
    mesh = Mesh.load(tmp_path / "a.off")
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [0, 2, 3], [0, 1, 2]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("OFF\n9 4 6\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", r"promises 9 vertices and 4 faces, but 4 lines follow"),
        ("OFF\n99999999999999 1 0\n0 0 0\n", r"promises 99999999999999 vertices"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", r"names vertex 7, but there are 3"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n4 0 1 2\n", r"faces: .*a face of 4 corners names 3"),
        ("OFF\n3 1 0\n0 0 0\n1 0\n0 1 0\n3 0 1 2\n", r"vertices: expected three numbers"),
        ("OFF\n2 2 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", r"faces: "),
        ("OFF\nmany 1 0\n", r"expected the counts"),
        ("OFF", r"expected the counts"),
        ("OFF BINARY\n", r"only text in 3D"),
        ("4OFF\n1 1 1\n", r"only text in 3D"),
        ("PLY\n", r"not an OFF file"),
        ("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n", r"no faces, only 3 points"),
    ],
)
def test_off_that_lies(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.off").write_text(text)
    with pytest.raises(PointCloudError, match=message) as caught:
        Mesh.load(tmp_path / "bad.off")
    assert "bad.off" in str(caught.value)


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (np.empty((0, 3)), OUTWARD, r"vertices: expected \[n, 3\].*found \[0, 3\]"),
        (CORNERS, np.empty((0, 3), dtype=int), r"faces: expected \[n, 3\]"),
        (CORNERS[:, :2], OUTWARD, r"vertices: .*found \[4, 2\]"),
        (CORNERS, OUTWARD + 1, r"indices from 1 to 4, but there are 4 vertices"),
        (CORNERS, OUTWARD - 1, r"indices from -1"),
        (CORNERS, OUTWARD.astype(float), r"whole numbers, found float64"),
        (np.where(CORNERS > 0, np.nan, CORNERS), OUTWARD, r"3 not finite, the first is number 1"),
        (np.full_like(CORNERS, np.inf), OUTWARD, r"not finite"),
        (CORNERS.astype(float) * 1e20, OUTWARD, r"at most 1e12"),
        (CORNERS * [1, 0, 0], OUTWARD, r"zero area"),
        (np.array([["a", "b", "c"]]), np.array([[0, 0, 0]]), r"expected numbers"),
    ],
)
def test_what_is_no_mesh(vertices: np.ndarray, faces: np.ndarray, message: str) -> None:
    with pytest.raises(PointCloudError, match=message):
        Mesh(vertices, faces, "bad")


def test_files_that_are_no_meshes(tetrahedron: Mesh, tmp_path: Path) -> None:
    with pytest.raises(PointCloudError, match=r"cannot write \.xyz; use \.glb, \.obj, \.ply, \.stl"):
        tetrahedron.save(tmp_path / "a.xyz")
    with pytest.raises(PointCloudError, match=r"no mesh format \.jpg; known are \.glb"):
        Mesh.load(tmp_path / "a.jpg")
    with pytest.raises(PointCloudError, match=r"a\.glb: no such file"):
        Mesh.load(tmp_path / "a.glb")
    trimesh.PointCloud(CORNERS).export(str(tmp_path / "cloud.ply"))
    with pytest.raises(PointCloudError, match=r"cloud\.ply: no faces, only 4 points"):
        Mesh.load(tmp_path / "cloud.ply")
    for suffix in (".glb", ".ply", ".stl", ".gltf"):
        bad = tmp_path / f"bad{suffix}"
        bad.write_bytes(b"\x00\x01 not a mesh at all \xff" * 7)
        with pytest.raises(PointCloudError, match=f"bad{suffix}: "):
            Mesh.load(bad)


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".stl"])
def test_files_cut_short(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    Mesh.from_trimesh(trimesh.creation.icosphere(subdivisions=2)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(PointCloudError, match=f"cut{suffix}: "):
        Mesh.load(path)


def test_a_failed_write_leaves_nothing(tetrahedron: Mesh, tmp_path: Path) -> None:
    (tmp_path / "wall").write_text("a file")
    with pytest.raises(PointCloudError, match="cannot write"):
        tetrahedron.save(tmp_path / "wall" / "a.stl")
    assert [p.name for p in tmp_path.iterdir()] == ["wall"]


def test_without_trimesh(tetrahedron: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".")[0] == "trimesh":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    tetrahedron.save(tmp_path / "a.obj")
    with pytest.raises(ImportError, match=r"trifold\[pointcloud\]"):
        tetrahedron.save(tmp_path / "a.glb")
