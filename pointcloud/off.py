"""OFF files, read strictly: counts that do not fit the lines are an error, not a wrong mesh.

The ModelNet data sets hold files whose counts follow `OFF` without a line break ("OFF490 518 0"); they are read.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from .errors import PointCloudError

_HEADER = re.compile(r"(ST)?C?N?(4?n?)OFF")


def read_off(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """(vertices float64 [V, 3], triangles int64 [F, 3]) of a text OFF, COFF or NOFF file; F may be 0.

    Polygons become fans of triangles; "faces" of one or two corners have no area and are left out; colours and
    normals are skipped.

    Raises PointCloudError naming the file, the part, what was found and expected.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise PointCloudError(f"{path}: cannot be read ({error.strerror or error})") from error
    if "#" in text:
        text = re.sub("#[^\r\n]*", "", text)
    text = text.lstrip("\ufeff \t\r\n")
    header = _HEADER.match(text)
    if header is None:
        raise PointCloudError(f"{path}: not an OFF file: expected text that begins with OFF, found {text[:20]!r}")
    lines = [line for line in text[header.end() :].splitlines() if line and not line.isspace()]
    if header[2] or (lines and lines[0].strip().upper() == "BINARY"):
        raise PointCloudError(f"{path}: only text in 3D is read, found {text[:12]!r}")
    num_vertices, num_faces = _counts(lines, path)
    if len(lines) - 1 != num_vertices + num_faces:
        raise PointCloudError(
            f"{path}: the header promises {num_vertices} vertices and {num_faces} faces, "
            f"but {len(lines) - 1} lines follow; expected {num_vertices + num_faces}"
        )
    vertices = _vertices(lines[1 : num_vertices + 1], path)
    return vertices, _triangles(lines[num_vertices + 1 :], num_vertices, path)


def _counts(lines: list[str], path: Path) -> tuple[int, int]:
    numbers = lines[0].split() if lines else []
    # More than 18 digits are no count, and Python refuses to read thousands of them.
    if len(numbers) not in (2, 3) or not all(re.fullmatch("[0-9]{1,18}", number) for number in numbers):
        found = repr(lines[0][:40]) if lines else "nothing"
        raise PointCloudError(f"{path}: expected the counts of vertices, faces and edges after OFF, found {found}")
    return int(numbers[0]), int(numbers[1])


def _table(lines: list[str]) -> np.ndarray | None:
    """The numbers of the lines, or None where they are no rectangle of numbers."""
    try:
        return np.loadtxt(lines, ndmin=2)
    except ValueError:
        return None


def _vertices(lines: list[str], path: Path) -> np.ndarray:
    if not lines:
        return np.zeros((0, 3))
    # A face line taken for a vertex, because the counts are wrong but add up, has another number of columns.
    table = _table(lines)
    if table is None or table.shape[1] < 3:
        raise PointCloudError(
            f"{path}: vertices: expected three numbers or more in each of {len(lines)} lines, all of one length; "
            "found other lines among them (the counts may be wrong)"
        )
    return table[:, :3]


def _triangles(lines: list[str], num_vertices: int, path: Path) -> np.ndarray:
    if not lines:
        return np.zeros((0, 3), dtype=np.int64)
    table = _table(lines)
    if table is not None and table.shape[1] >= 4 and (table[:, 0] == 3).all():
        corners = table[:, 1:4]
        whole = (corners == np.round(corners)) & (np.abs(corners) < 2**53)
        if not whole.all():
            raise PointCloudError(f"{path}: faces: expected whole numbers as corners, found {corners[~whole][0]:g}")
        faces = corners.astype(np.int64)
    else:
        faces = np.array([t for line in lines for t in _fan(line, path)], dtype=np.int64).reshape(-1, 3)
    bad = faces[(faces < 0) | (faces >= num_vertices)]
    if len(bad):
        raise PointCloudError(f"{path}: faces: a face names vertex {bad[0]}, but there are {num_vertices}")
    return faces


def _fan(line: str, path: Path) -> list[tuple[int, int, int]]:
    words = line.split()
    try:
        count = int(words[0])
        corners = [int(word) for word in words[1 : max(count, 0) + 1]]
        if any(abs(corner) >= 2**53 for corner in corners):
            raise ValueError
    except ValueError:
        count, corners = 0, []
    if count < 1:
        raise PointCloudError(f"{path}: faces: expected the number of corners, then the vertices; found {line[:40]!r}")
    if len(corners) != count:
        raise PointCloudError(f"{path}: faces: a face of {count} corners names {len(corners)}: {line[:40]!r}")
    return [(corners[0], corners[i], corners[i + 1]) for i in range(1, count - 1)]
