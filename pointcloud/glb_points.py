"""Clouds as binary glTF 2.0: one mesh of mode POINTS with POSITION and, where known, NORMAL."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from .errors import PointCloudError

MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
FLOAT, ARRAY_BUFFER, POINTS = 5126, 34962, 0
TRIANGLE_MODES = (4, 5, 6)  # triangles, strip, fan; 4 where nothing is said


def glb_of_points(points: np.ndarray, normals: np.ndarray | None, name: str) -> bytes:
    """A whole .glb file. points, normals: float32 [N, 3]. glTF wants unit normals: others are scaled, and where one
    is zero the file goes without."""
    arrays = {"POSITION": points}
    if normals is not None:
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        if (length > 0).all():
            arrays["NORMAL"] = normals / length
    blobs = [np.ascontiguousarray(a, dtype="<f4").tobytes() for a in arrays.values()]
    accessors: list[dict[str, Any]] = [
        {"bufferView": i, "componentType": FLOAT, "count": len(points), "type": "VEC3"} for i in range(len(arrays))
    ]
    accessors[0] |= {"min": points.min(axis=0).tolist(), "max": points.max(axis=0).tolist()}  # the format demands it
    primitive = {"attributes": {key: i for i, key in enumerate(arrays)}, "mode": POINTS}
    document = {
        "asset": {"version": "2.0", "generator": "trifold"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name or "cloud"}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": [
            {"buffer": 0, "byteOffset": i * len(blobs[0]), "byteLength": len(blob), "target": ARRAY_BUFFER}
            for i, blob in enumerate(blobs)
        ],
        "buffers": [{"byteLength": sum(map(len, blobs))}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary = b"".join(blobs)
    chunks = struct.pack("<II", len(text), JSON_CHUNK) + text + struct.pack("<II", len(binary), BINARY_CHUNK) + binary
    return struct.pack("<III", MAGIC, 2, 12 + len(chunks)) + chunks


def gltf_document(path: Path) -> dict[str, Any]:
    """The JSON part of a .glb or .gltf file. Raises PointCloudError for one that is cut short or something else."""
    with path.open("rb") as file:
        head = file.read(20)
        if path.suffix.lower() == ".glb":
            if len(head) < 20 or struct.unpack("<I", head[:4])[0] != MAGIC:
                raise PointCloudError(f"{path}: not a binary glTF file, it begins with {head[:8]!r}")
            _, _, total, length, kind = struct.unpack("<5I", head)
            size = path.stat().st_size
            if kind != JSON_CHUNK or total > size:
                raise PointCloudError(f"{path}: a binary glTF of {total} bytes was begun, the file holds {size}")
            text = file.read(length)
        else:
            text = head + file.read()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PointCloudError(f"{path}: its glTF description cannot be read ({error})") from error
    if not isinstance(document, dict):
        raise PointCloudError(f"{path}: expected a glTF description, found {type(document).__name__}")
    return document


def has_triangles(document: dict[str, Any], path: Path) -> bool:
    """Whether any mesh of the glTF has triangles. Raises PointCloudError for a description of another form."""
    try:
        modes = [p.get("mode", 4) for mesh in document.get("meshes", []) for p in mesh["primitives"]]
    except (TypeError, KeyError, AttributeError) as error:
        raise PointCloudError(f"{path}: its glTF meshes cannot be read ({type(error).__name__}: {error})") from error
    return any(mode in TRIANGLE_MODES for mode in modes)


def own_normals(document: dict[str, Any], path: Path) -> np.ndarray | None:
    """The normals [N, 3] of a file laid out as `glb_of_points` does, else None."""
    try:
        (node,), (mesh,) = document["nodes"], document["meshes"]
        (primitive,) = mesh["primitives"]
        accessor = document["accessors"][primitive["attributes"]["NORMAL"]]
        view = document["bufferViews"][accessor["bufferView"]]
        moved = {"matrix", "rotation", "scale"} & set(node)
        plain = (
            accessor["componentType"] == FLOAT and accessor["type"] == "VEC3" and "uri" not in document["buffers"][0]
        )
        if moved or not plain or "sparse" in accessor or view.get("byteStride", 12) != 12:
            return None
        count = int(accessor["count"])
        offset = int(view.get("byteOffset", 0)) + int(accessor.get("byteOffset", 0))
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    with path.open("rb") as file:
        start = 20 + struct.unpack("<5I", file.read(20))[3] + 8
        file.seek(start + offset)
        data = file.read(12 * count)
    return np.frombuffer(data, dtype="<f4").reshape(-1, 3) if len(data) == 12 * count else None
