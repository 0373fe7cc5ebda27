"""Points as lines of numbers: .xyz, .txt and .pts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .errors import PointCloudError


def read_numbers(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Points [N, 3] and normals [N, 3] or None of lines of three or more numbers, apart by blanks or commas; what
    follows a # is left out, and so are further columns. Raises PointCloudError for anything else."""
    return _columns(_rows(path), path)


def read_pts(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """As `read_numbers`, of a file that may begin with a line that says how many follow, which must then be true."""
    rows = _rows(path)
    first = rows[0].split()
    if len(first) == 1 and first[0].isdecimal():
        if int(first[0][:18]) != len(rows) - 1:
            raise PointCloudError(
                f"{path}: the first line promises {first[0]} points, but {len(rows) - 1} lines follow"
            )
        rows = rows[1:]
    return _columns(rows, path)


def begins_with_numbers(path: Path) -> bool:
    """Whether the first line that says anything has three or more numbers: a .txt file may be prose or a list."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            while line := file.readline(4096):
                if row := _row(line):
                    return len([float(word) for word in row.split()]) >= 3
    except (OSError, ValueError):
        pass
    return False


def _row(line: str) -> str:
    return line.partition("#")[0].replace(",", " ").strip()


def _rows(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = [row for line in text.splitlines() if (row := _row(line))]
    if not rows:
        raise PointCloudError(f"{path}: expected at least one point, found no numbers")
    return rows


def _columns(rows: list[str], path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    if not rows:
        raise PointCloudError(f"{path}: expected at least one point, found none")
    try:
        table = np.loadtxt(rows, ndmin=2)
    except ValueError as error:
        raise PointCloudError(
            f"{path}: expected lines of three or more numbers, all of one length ({error})"
        ) from error
    if table.shape[1] < 3:
        raise PointCloudError(f"{path}: expected three or more numbers a line, found {table.shape[1]}")
    # Six columns may be normals or colours; directions have unit length.
    if table.shape[1] == 6 and np.allclose(np.linalg.norm(table[:, 3:], axis=1), 1, atol=0.02):
        return table[:, :3], table[:, 3:]
    return table[:, :3], None
