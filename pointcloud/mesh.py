"""A triangle mesh: checked arrays, its area and normals, and files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np

from ..common.weights import replaced_file
from .errors import PointCloudError
from .off import read_off
from .ply import check_ply

if TYPE_CHECKING:
    from trimesh import Trimesh

WRITTEN = (".glb", ".obj", ".ply", ".stl")
READ = (".glb", ".gltf", ".obj", ".off", ".ply", ".stl")
MOST_FACES = 50_000_000
MOST_BYTES = 4 << 30
FARTHEST = 1e12  # float32 squares and cubes of coordinates beyond this overflow in areas, normals and volumes


def import_trimesh() -> ModuleType:
    """trimesh, or an ImportError that says which extra has it."""
    try:
        import trimesh
    except ImportError as error:
        raise ImportError("mesh files need trimesh: pip install 'trifold[pointcloud]'") from error
    return trimesh


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface of triangles. Counter-clockwise seen from outside, as in glTF.

    vertices: [V, 3], stored as float32, in any unit. faces: [F, 3] indices of vertices, stored as int64. Single
    faces may have no area; the whole may not.

    Raises PointCloudError for other shapes, no vertices or faces, indices out of range, coordinates that are not finite
    or beyond 1e12, zero area, and more than 50 million faces.
    """

    vertices: np.ndarray
    faces: np.ndarray
    name: str = ""

    def __post_init__(self) -> None:
        label = f"mesh {self.name!r}" if self.name else "mesh"
        vertices, faces = np.asarray(self.vertices), np.asarray(self.faces)
        for field, array in (("vertices", vertices), ("faces", faces)):
            if array.ndim != 2 or array.shape[1] != 3 or not len(array):
                raise PointCloudError(f"{label}: {field}: expected [n, 3] with n at least 1, found {list(array.shape)}")
        if len(faces) > MOST_FACES:
            raise PointCloudError(f"{label}: {len(faces):,} faces; at most {MOST_FACES:,} are read")
        if not np.issubdtype(vertices.dtype, np.number) or np.iscomplexobj(vertices):
            raise PointCloudError(f"{label}: vertices: expected numbers, found {vertices.dtype}")
        if not np.issubdtype(faces.dtype, np.integer):
            raise PointCloudError(f"{label}: faces: expected whole numbers, found {faces.dtype}")
        if faces.min() < 0 or faces.max() >= len(vertices):
            found = f"indices from {faces.min()} to {faces.max()}"
            raise PointCloudError(f"{label}: faces: {found}, but there are {len(vertices)} vertices")
        bad = ~np.isfinite(vertices).all(1)
        if bad.any():
            where = int(np.flatnonzero(bad)[0])
            raise PointCloudError(f"{label}: vertices: {int(bad.sum())} not finite, the first is number {where}")
        if np.abs(vertices).max() > FARTHEST:
            raise PointCloudError(f"{label}: vertices: a coordinate of {np.abs(vertices).max():.3g}; at most 1e12")
        object.__setattr__(self, "vertices", np.ascontiguousarray(vertices, dtype=np.float32))
        object.__setattr__(self, "faces", np.ascontiguousarray(faces, dtype=np.int64))
        if self.area == 0:
            raise PointCloudError(f"{label}: zero area, all {len(faces)} faces are points or lines")

    # --------------------------------------------------------------------------------------------- what it measures

    @cached_property
    def face_vectors(self) -> np.ndarray:
        """Cross product of two sides of every face, float64 [F, 3]: twice the area, along the outward normal."""
        a, b, c = self.vertices.astype(np.float64)[self.faces.T]
        return np.cross(b - a, c - a)

    @cached_property
    def face_areas(self) -> np.ndarray:
        """float64 [F], in squared units of the vertices."""
        return np.linalg.norm(self.face_vectors, axis=1) / 2

    @cached_property
    def area(self) -> float:
        return float(self.face_areas.sum())

    @cached_property
    def face_normals(self) -> np.ndarray:
        """Unit normals float32 [F, 3]; zero for faces without area."""
        length = np.linalg.norm(self.face_vectors, axis=1, keepdims=True)
        return (self.face_vectors / np.where(length > 0, length, 1)).astype(np.float32)

    @cached_property
    def vertex_normals(self) -> np.ndarray:
        """Unit normals float32 [V, 3]: those of the faces around, weighted by area. (0, 1, 0) where no face is near."""
        corners, vectors = self.faces.ravel(), np.repeat(self.face_vectors, 3, axis=0)
        total = np.stack([np.bincount(corners, vectors[:, k], len(self.vertices)) for k in range(3)], axis=1)
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return np.where(length > 0, total / np.where(length > 0, length, 1), (0.0, 1.0, 0.0)).astype(np.float32)

    @cached_property
    def bounds(self) -> np.ndarray:
        """Lowest and highest corner of the vertices in use, float32 [2, 3]."""
        used = self.vertices[self.faces.ravel()]
        return np.stack([used.min(0), used.max(0)])

    @cached_property
    def is_watertight(self) -> bool:
        """Whether every edge has exactly two faces, which pass it in opposite directions.

        Vertices at one position count as one: files split them where normals or textures differ.
        """
        _, merged = np.unique(self.vertices, axis=0, return_inverse=True)
        faces = merged.reshape(-1)[self.faces]
        # Slivers whose corners coincide have no edges of their own.
        faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
        start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
        size = np.int64(len(self.vertices))
        forward, backward = np.sort(start * size + end), np.sort(end * size + start)
        return bool(len(forward) and (forward == backward).all() and (forward[1:] != forward[:-1]).all())

    @property
    def volume(self) -> float:
        """Enclosed volume; meaningful for watertight meshes, negative where the faces look inwards."""
        a, b, c = (self.vertices.astype(np.float64) - self.bounds.mean(0))[self.faces.T]
        return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)

    # --------------------------------------------------------------------------------------------- other libraries

    def to_trimesh(self) -> Trimesh:
        """The same arrays as a `trimesh.Trimesh`, nothing merged or dropped."""
        return import_trimesh().Trimesh(self.vertices.copy(), self.faces.copy(), process=False)

    @classmethod
    def from_trimesh(cls, mesh: Trimesh, name: str = "") -> Mesh:
        """Vertices and faces of a `trimesh.Trimesh`; colours and textures are left behind."""
        return cls(np.asarray(mesh.vertices), np.asarray(mesh.faces), name)

    # ------------------------------------------------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write by suffix: .glb, .obj, .ply (binary) or .stl (binary). The file appears whole or not at all."""
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in WRITTEN:
            raise PointCloudError(f"{path}: cannot write {suffix or 'a file without suffix'}; use {', '.join(WRITTEN)}")
        data = self._obj() if suffix == ".obj" else self._binary(suffix[1:])
        try:
            with replaced_file(path) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            raise PointCloudError(f"{path}: cannot write ({error.strerror or error})") from error

    def _binary(self, kind: str) -> bytes:
        return cast(bytes, self.to_trimesh().export(file_type=kind))

    def _obj(self) -> bytes:
        # Nine significant digits give every float32 back exactly, at any scale.
        rows = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in self.vertices.tolist()]
        rows += [f"f {a} {b} {c}" for a, b, c in (self.faces + 1).tolist()]
        return ("\n".join(rows) + "\n").encode()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Mesh:
        """Read .glb, .gltf, .obj, .off, .ply or .stl; `name` is the file's stem.

        All geometries of a scene are joined, each moved to its place; polygons become triangles. Corners of .stl at one
        position become one vertex.

        Raises PointCloudError for a file that is missing, cut short, of another format, without faces, or whose mesh
        `Mesh` refuses.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in READ:
            raise PointCloudError(f"{path}: no mesh format {suffix or 'without suffix'}; known are {', '.join(READ)}")
        if not path.is_file():
            raise PointCloudError(f"{path}: no such file")
        if path.stat().st_size > MOST_BYTES:
            raise PointCloudError(f"{path}: {path.stat().st_size:,} bytes; at most {MOST_BYTES:,} are read")
        vertices, faces = read_off(path) if suffix == ".off" else _read_scene(path)
        if not len(faces):
            raise PointCloudError(f"{path}: no faces, only {len(vertices)} points; open it as a point cloud")
        try:
            return cls(vertices, faces, path.stem)
        except PointCloudError as error:
            raise PointCloudError(f"{path}: {error}") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What trimesh's readers raise over damaged bytes, as one error with the path."""
    try:
        yield
    except Exception as error:  # damaged bytes make its readers raise anything at all
        raise PointCloudError(f"{path}: cannot be read as a mesh ({type(error).__name__}: {error})") from error


def _read_scene(path: Path) -> tuple[np.ndarray, np.ndarray]:
    trimesh = import_trimesh()
    if path.suffix.lower() == ".ply":
        check_ply(path)
    with _reading(path):
        scene = trimesh.load_scene(path, process=False)
        solids = {key for key, geometry in scene.geometry.items() if isinstance(geometry, trimesh.Trimesh)}
        if not solids:
            return _points_only(scene)
        parts = []
        for node in scene.graph.nodes_geometry:
            transform, key = scene.graph[node]
            if key in solids:
                part = scene.geometry[key].copy()
                part.apply_transform(transform)  # turns the faces round where the transform is a mirror
                parts.append(part)
        offsets = np.cumsum([0] + [len(part.vertices) for part in parts])
        vertices = np.concatenate([np.asarray(part.vertices) for part in parts])
        faces = np.concatenate([np.asarray(part.faces) + start for part, start in zip(parts, offsets, strict=False)])
    if path.suffix.lower() == ".stl":
        vertices, index = np.unique(vertices, axis=0, return_inverse=True)
        faces = index.reshape(-1)[faces]
    return vertices, faces


def _points_only(scene: object) -> tuple[np.ndarray, np.ndarray]:
    found = [np.asarray(g.vertices) for g in getattr(scene, "geometry", {}).values() if hasattr(g, "vertices")]
    return np.concatenate(found) if found else np.empty((0, 3)), np.empty((0, 3), dtype=np.int64)
