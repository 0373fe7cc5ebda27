"""The page: one file, texts escaped, and shapes that decode to what was given."""

from __future__ import annotations

import base64
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trimesh
from trifold.pointcloud.cloud import PointCloud
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.mesh import Mesh
from trifold.pointcloud.page import Panel, packed, page_html, save_page
from trifold.pointcloud.page_text import SCRIPT

BOX = Mesh.from_trimesh(trimesh.creation.box((1, 2, 0.4)))
CLOUD = PointCloud(np.random.default_rng(0).uniform(-1, 3, (70, 3)))


class Reader(html.parser.HTMLParser):
    """Collects tags and text; fails on a tag that is closed out of order."""

    VOID = frozenset({"meta", "input", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def _array(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind).reshape(-1, 3)


def test_one_file_without_network(tmp_path: Path) -> None:
    save_page(tmp_path / "out" / "index.html", [Panel("a box", BOX, "seed 0"), Panel("points", CLOUD)], title="Two")
    text = (tmp_path / "out" / "index.html").read_text()
    page = _read(text)
    assert len([tag for tag, _ in page.tags if tag == "canvas"]) == 2
    stills = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(still["src"].startswith("data:image/webp;base64,") for still in stills)
    assert [still["alt"] for still in stills] == ["a box, 12 triangles", "points, 70 points"]
    assert not re.search(r"https?:|//[a-z]|@import|url\(|src=\"(?!data:)", text)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["index.html"]
    shapes = json.loads(re.search(r"const SHAPES = (.*);\n", text)[1])  # type: ignore[index]
    assert shapes == [packed(BOX), packed(CLOUD)]


def test_texts_are_escaped() -> None:
    bad = "<script>alert('1')</script>&\""
    page = _read(page_html([Panel(bad, BOX, bad)], title=bad, caption=bad, facts={bad: bad}))
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 1
    assert sum(bad in text for text in page.texts) == 7  # title, heading, caption, panel's two, facts' two


@pytest.mark.parametrize("up", ["y", "z"])
def test_clouds_decode_to_themselves(up: str) -> None:
    data = packed(CLOUD, up)  # type: ignore[arg-type]
    low, high = CLOUD.points.min(0), CLOUD.points.max(0)
    half = (high - low).max() / 2
    expected = (CLOUD.points - (low + high) / 2) / half
    if up == "z":
        expected = np.stack([expected[:, 0], expected[:, 2], -expected[:, 1]], axis=1)
    found = _array(data["points"], "<i2") / 32767
    assert np.abs(found - expected).max() <= 0.5 / 32767 + 1e-6
    assert data["height"] == pytest.approx(np.ptp(expected[:, 1]) / 2, abs=1e-4)
    assert data["radius"] == pytest.approx(np.linalg.norm(high - low) / 2 / half)


def test_meshes_decode_to_themselves() -> None:
    data = packed(BOX)
    points, normals = _array(data["points"], "<i2") / 32767, _array(data["normals"], "<i1") / 127
    faces = _array(data["faces"], "<u2").astype(int)
    assert len(points) == 24  # the corners of a box have three normals each
    np.testing.assert_allclose(points[faces], BOX.vertices[BOX.faces], atol=1e-4)
    np.testing.assert_allclose(normals[faces], np.repeat(BOX.face_normals[:, None], 3, 1), atol=1e-6)
    assert data["wide"] is False
    ball = Mesh.from_trimesh(trimesh.creation.icosphere(subdivisions=3))
    smooth = packed(ball)
    assert len(_array(smooth["points"], "<i2")) == len(ball.vertices)  # nothing is split where it is round


def test_large_meshes_have_wide_indices() -> None:
    side = 260
    x, y = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    vertices = np.stack([x.ravel(), 0 * x.ravel(), y.ravel()], axis=1)
    corner = (x[:-1, :-1] * side + y[:-1, :-1]).ravel()
    faces = np.stack([corner, corner + 1, corner + side], axis=1)
    data = packed(Mesh(vertices, faces))
    assert data["wide"] is True
    assert len(_array(data["faces"], "<u4")) == len(faces)


@pytest.mark.parametrize("points", [np.zeros((1, 3)), np.ones((4, 3))])
def test_a_cloud_of_one_place(points: np.ndarray) -> None:
    data = packed(PointCloud(points))
    np.testing.assert_array_equal(_array(data["points"], "<i2"), 0)
    assert data["radius"] > 0


def test_refuses(tmp_path: Path) -> None:
    with pytest.raises(PointCloudError, match="at least one cloud or mesh"):
        save_page(tmp_path / "a.html", [])
    (tmp_path / "wall").write_text("a file")
    with pytest.raises(PointCloudError, match="cannot write"):
        save_page(tmp_path / "wall" / "a.html", [Panel("a", BOX)])
    assert [p.name for p in tmp_path.iterdir()] == ["wall"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_parses(tmp_path: Path) -> None:
    (tmp_path / "page.js").write_text("const SETTING = {}, SHAPES = [];\n" + SCRIPT)
    done = subprocess.run(["node", "--check", "page.js"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
