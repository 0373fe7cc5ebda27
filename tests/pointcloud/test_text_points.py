"""Clouds that scanners and data sets leave as .pts, .txt and .pcd."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from trifold.pointcloud.cloud import PointCloud
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.evaluation import load_clouds
from trifold.pointcloud.sources import open_source

POINTS = np.array([[0, 0.5, 1], [2, 3, 4], [5, 6, 7]], np.float32)
PCD = """# .PCD v.7
VERSION .7
FIELDS x y z
SIZE 4 4 4
TYPE F F F
COUNT 1 1 1
WIDTH 3
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 3
DATA ascii
0 0.5 1
2 3 4
5 6 7
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pts", "0 0.5 1\n2 3 4\n5 6 7\n"),
        ("a.pts", "3\n0 0.5 1 -90 1 2 3\n2 3 4 -90 1 2 3\n5 6 7 -90 1 2 3\n\n"),
        ("a.txt", "0,0.5,1\n2,3,4\n5, 6, 7\n"),
        ("a.txt", "# x y z\n\n0\t0.5\t1\n2 3 4\n5 6 7"),
        ("a.TXT", "0,0.5,1,0,0,1\n2,3,4,0,1,0\n5,6,7,1,0,0\n"),
    ],
)
def test_lines_of_numbers(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    for cloud in (PointCloud.load(tmp_path / name), *load_clouds(tmp_path, 3)):
        np.testing.assert_array_equal(cloud.points, POINTS)
        assert (cloud.normals is not None) == name.endswith("TXT")
    np.testing.assert_array_equal(open_source(tmp_path, split="all", num_points=3)[0].points, POINTS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pts", "4\n0 0 1\n2 3 4\n5 6 7\n", "the first line promises 4 points, but 3 lines follow"),
        ("a.pts", "0\n", "expected at least one point, found none"),
        ("a.pts", "version: 1\nn_points: 3\n", "three or more numbers"),
        ("a.txt", "A list of chairs\n", "three or more numbers"),
        ("a.txt", "1 2 3\n4 5\n", "all of one length"),
        ("a.txt", "1 2\n", "three or more numbers a line, found 2"),
    ],
)
def test_lines_that_are_no_points(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(PointCloudError, match=message) as caught:
        PointCloud.load(tmp_path / name)
    assert name in str(caught.value)


def test_prose_in_a_folder_is_no_cloud(tmp_path: Path) -> None:
    (tmp_path / "chair").mkdir()
    (tmp_path / "chair" / "0001.txt").write_text("1,2,3\n4,5,6\n")
    (tmp_path / "chair" / "notes.txt").write_text("\n# 1 2 3\nscanned in May\n")
    for name, content in (("README.txt", "Ten chairs.\n"), ("split.txt", "0001 train\n"), ("ids.txt", "1\n2\n3\n")):
        (tmp_path / name).write_text(content)
    source = open_source(tmp_path, split="all", num_points=2)
    assert [source[i].name for i in range(len(source))] == ["chair/0001.txt"]


def test_pcd_files_are_read_by_open3d(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scan.pcd").write_text(PCD)
    monkeypatch.setitem(sys.modules, "open3d", None)
    for read in (PointCloud.load, lambda path: open_source(path.parent, split="all", num_points=3)[0]):
        with pytest.raises(ImportError, match=r"a \.pcd file needs open3d: pip install 'trifold\[open3d\]'"):
            read(tmp_path / "scan.pcd")

    def read_point_cloud(path: str, **_: object) -> SimpleNamespace:
        found = POINTS.astype(float) if "scan" in path else np.empty((0, 3))
        return SimpleNamespace(points=found, has_points=lambda: len(found) > 0, has_normals=lambda: False)

    open3d = SimpleNamespace(io=SimpleNamespace(read_point_cloud=read_point_cloud))
    monkeypatch.setitem(sys.modules, "open3d", open3d)
    np.testing.assert_array_equal(PointCloud.load(tmp_path / "scan.pcd").points, POINTS)
    (tmp_path / "scan.pcd").write_text(PCD[: -len("5 6 7\n")])
    with pytest.raises(PointCloudError, match=r"scan\.pcd: the header promises 3 points, but 2 lines follow"):
        PointCloud.load(tmp_path / "scan.pcd")
    (tmp_path / "bad.pcd").write_text("cut")
    with pytest.raises(PointCloudError, match=r"bad\.pcd: expected a PCD file with at least one point"):
        PointCloud.load(tmp_path / "bad.pcd")


def test_pcd_files_with_open3d_itself(tmp_path: Path) -> None:
    pytest.importorskip("open3d")
    (tmp_path / "scan.pcd").write_text(PCD)
    np.testing.assert_array_equal(PointCloud.load(tmp_path / "scan.pcd").points, POINTS)
