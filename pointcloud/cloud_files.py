"""Files of clouds, by suffix. What trimesh reads it reads; normals, which it drops for points, are read here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..common.weights import replaced_file
from .cloud import PointCloud
from .errors import PointCloudError
from .glb_points import glb_of_points, gltf_document, has_triangles, own_normals
from .mesh import Mesh, import_trimesh
from .npz_source import read_array, read_arrays
from .off import read_off
from .ply import check_ply, read_ply_header
from .surface_open3d import import_open3d
from .text_points import begins_with_numbers, read_numbers, read_pts

WRITTEN = (".ply", ".obj", ".xyz", ".npy", ".npz", ".glb")
READ = (*WRITTEN, ".gltf", ".off", ".stl", ".pts", ".txt", ".pcd")
MOST_BYTES = 4 << 30


def write_cloud(cloud: PointCloud, path: str | os.PathLike[str]) -> None:
    """Write by suffix, whole or not at all. Raises PointCloudError for another suffix or a file that cannot be written.

    .ply binary with nx, ny, nz; .obj `v` and `vn` lines; .xyz three or six numbers a line; .npy [N, 3] or [N, 6];
    .npz arrays `points` and `normals`; .glb a mesh of points. All give every float32 back exactly (normals in .glb
    are made unit).
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITTEN:
        raise PointCloudError(
            f"{path}: a cloud cannot be written as {suffix or 'a file without suffix'}; use {', '.join(WRITTEN)}"
        )
    try:
        with replaced_file(path) as temporary:
            if suffix in (".npy", ".npz"):
                with temporary.open("wb") as file:
                    if suffix == ".npy":
                        np.save(file, _columns(cloud))
                    else:
                        np.savez(file, allow_pickle=False, **_named(cloud))
            else:
                temporary.write_bytes(_ENCODERS[suffix](cloud))
    except OSError as error:
        raise PointCloudError(f"{path}: cannot be written ({error.strerror or error})") from error


def _columns(cloud: PointCloud) -> np.ndarray:
    return cloud.points if cloud.normals is None else np.concatenate([cloud.points, cloud.normals], axis=1)


def _named(cloud: PointCloud) -> dict[str, np.ndarray]:
    return {"points": cloud.points} | ({} if cloud.normals is None else {"normals": cloud.normals})


def _ply(cloud: PointCloud) -> bytes:
    names = ("x", "y", "z") if cloud.normals is None else ("x", "y", "z", "nx", "ny", "nz")
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {cloud.num_points}"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    return "\n".join(header).encode() + _columns(cloud).astype("<f4").tobytes()


def _rows(prefix: str, values: np.ndarray) -> list[str]:
    # Nine significant digits give every float32 back exactly.
    return [prefix + " ".join(f"{number:.9g}" for number in row) for row in values.tolist()]


def _obj(cloud: PointCloud) -> bytes:
    rows = _rows("v ", cloud.points) + ([] if cloud.normals is None else _rows("vn ", cloud.normals))
    return ("\n".join(rows) + "\n").encode()


def _xyz(cloud: PointCloud) -> bytes:
    return ("\n".join(_rows("", _columns(cloud))) + "\n").encode()


_ENCODERS: dict[str, Callable[[PointCloud], bytes]] = {
    ".ply": _ply,
    ".obj": _obj,
    ".xyz": _xyz,
    ".glb": lambda cloud: glb_of_points(cloud.points, cloud.normals, cloud.name),
}


def is_shape_file(path: Path) -> bool:
    """Whether a folder's file is one that `read_geometry` reads, by its suffix; .txt only with numbers in it."""
    suffix = path.suffix.lower()
    return suffix in READ and (suffix != ".txt" or begins_with_numbers(path))


def read_geometry(path: str | os.PathLike[str]) -> PointCloud | Mesh:
    """The cloud or surface in a file, by suffix (`READ`). A scene's parts are joined, each at its place; a file with
    any triangles is a surface.

    Raises PointCloudError naming the file and what was found: missing, unknown suffix, over 4 GiB, unreadable, empty,
    not finite. .pcd files are read by open3d, and raise ImportError without it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in READ:
        raise PointCloudError(f"{path}: no file of points or surfaces known as {suffix!r}; known: {', '.join(READ)}")
    if not path.is_file():  # a named pipe would block for ever
        raise PointCloudError(f"{path}: no such file")
    size = path.stat().st_size
    if not 0 < size <= MOST_BYTES:
        raise PointCloudError(f"{path}: expected 1 to {MOST_BYTES:,} bytes, found {size:,}")
    try:
        found = _READERS[suffix](path)
    except (OSError, EOFError, MemoryError) as error:
        raise PointCloudError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    if isinstance(found, Mesh):
        return found
    try:
        return PointCloud(*found, path.stem)
    except PointCloudError as error:
        raise PointCloudError(f"{path}: {error}") from error


Arrays = tuple[Any, Any]


def _read_npy(path: Path) -> Arrays:
    array = read_array(path)
    if array.ndim == 2 and array.shape[1] == 6:
        return array[:, :3], array[:, 3:]
    if array.ndim != 2 or array.shape[1] != 3:
        many = "; several clouds in one file are opened with open_source" if array.ndim == 3 else ""
        raise PointCloudError(f"{path}: expected [N, 3] or [N, 6] (with normals), found {list(array.shape)}{many}")
    return array, None


def _read_npz(path: Path) -> Arrays:
    arrays = read_arrays(path)
    if "points" not in arrays:
        raise PointCloudError(f"{path}: expected the array 'points', found {', '.join(arrays) or 'nothing'}")
    if arrays["points"].ndim == 3:
        raise PointCloudError(f"{path}: holds {len(arrays['points'])} clouds; open it with open_source")
    return arrays["points"], arrays.get("normals")


def _read_pcd(path: Path) -> Arrays:
    open3d = import_open3d("a .pcd file", "")
    head, text, rows = path.read_bytes().partition(b"\nDATA ascii")
    counts = [line.split()[-1] for line in head.splitlines() if line.startswith(b"POINTS ")]
    lines = sum(1 for row in rows.splitlines() if row.strip())
    if text and counts and counts[0] != str(lines).encode():  # open3d would fill up with zeros
        raise PointCloudError(
            f"{path}: the header promises {counts[0].decode('utf-8', 'replace')} points, but {lines} lines follow"
        )
    found = open3d.io.read_point_cloud(str(path), remove_nan_points=True)  # empty where it cannot be read
    if not found.has_points():
        raise PointCloudError(f"{path}: expected a PCD file with at least one point, found none that open3d can read")
    return np.asarray(found.points), np.asarray(found.normals) if found.has_normals() else None


def _read_obj(path: Path) -> Arrays | Mesh:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if any(line.startswith(("f ", "f\t")) for line in lines):
        return Mesh.load(path)
    points, normals = (_obj_rows(lines, key, path) for key in ("v", "vn"))
    if points is None:
        raise PointCloudError(f"{path}: expected points (lines 'v x y z'), found none")
    return points, normals if normals is not None and len(normals) == len(points) else None


def _obj_rows(lines: list[str], key: str, path: Path) -> np.ndarray | None:
    rows = [
        line.split(maxsplit=1)[1] for line in lines if line.startswith((f"{key} ", f"{key}\t")) and line[3:].strip()
    ]
    if not rows:
        return None
    try:
        return np.loadtxt(rows, usecols=(0, 1, 2), ndmin=2)
    except (ValueError, IndexError) as error:
        raise PointCloudError(f"{path}: expected three numbers in each '{key}' line ({error})") from error


def _read_off(path: Path) -> Arrays | Mesh:
    vertices, faces = read_off(path)
    return _mesh(vertices, faces, path) if len(faces) else (vertices, None)


def _mesh(vertices: np.ndarray, faces: np.ndarray, path: Path) -> Mesh:
    try:
        return Mesh(vertices, faces, path.stem)
    except PointCloudError as error:
        raise PointCloudError(f"{path}: {error}") from error


def _read_ply(path: Path) -> Arrays | Mesh:
    elements = read_ply_header(path).elements
    if any(element.name == "face" and element.count for element in elements):
        return Mesh.load(path)
    check_ply(path)
    cloud = _trimesh_points(path)
    data = cloud.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    try:
        return cloud.vertices, np.stack([np.asarray(data[key]).reshape(-1) for key in ("nx", "ny", "nz")], axis=1)
    except (KeyError, ValueError, TypeError, IndexError):  # no such properties
        return cloud.vertices, None


def _read_gltf(path: Path) -> Arrays | Mesh:
    document = gltf_document(path)
    if has_triangles(document, path):
        return Mesh.load(path)
    points = _trimesh_points(path).vertices
    normals = own_normals(document, path) if path.suffix.lower() == ".glb" else None
    return points, normals if normals is not None and len(normals) == len(points) else None


def _trimesh_points(path: Path) -> Any:
    """The one point set of a file as a trimesh.PointCloud; several are joined, each at its place."""
    trimesh = import_trimesh()
    try:
        scene = trimesh.load_scene(path, process=False)
        parts = [part for part in scene.dump() if isinstance(part, trimesh.PointCloud)]
        if len(parts) == 1:
            return parts[0]
        vertices = [np.asarray(part.vertices) for part in parts]
    except Exception as error:  # damaged bytes make its readers raise anything at all
        raise PointCloudError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    if not vertices:
        raise PointCloudError(f"{path}: expected points, found none")
    return trimesh.PointCloud(np.concatenate(vertices))


_READERS: dict[str, Callable[[Path], Arrays | Mesh]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".xyz": read_numbers,
    ".txt": read_numbers,
    ".pts": read_pts,
    ".pcd": _read_pcd,
    ".obj": _read_obj,
    ".off": _read_off,
    ".ply": _read_ply,
    ".glb": _read_gltf,
    ".gltf": _read_gltf,
    ".stl": Mesh.load,
}
