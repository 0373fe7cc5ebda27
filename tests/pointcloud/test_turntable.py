"""Turntables: one whole turn, one palette, files that appear whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from trifold.pointcloud.camera import Camera
from trifold.pointcloud.cloud import PointCloud
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.mesh import Mesh
from trifold.pointcloud.render import Style, render
from trifold.pointcloud.turntable import save_turntable, turntable_frames

BOX = Mesh.from_trimesh(trimesh.creation.box((1, 2, 0.4)))
CLOUD = PointCloud(np.random.default_rng(0).uniform(-1, 1, (60, 3)))
FAST = Style(supersample=1)


def test_frames_turn_once() -> None:
    frames = list(turntable_frames([BOX], 6, size=48, style=FAST))
    assert len(frames) == 6
    for index in (0, 2):
        camera = Camera(azimuth=Camera().azimuth + 60 * index)
        np.testing.assert_array_equal(frames[index], render(BOX, camera=camera, size=48, style=FAST))
    step = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames, frames[1:] + frames[:1], strict=True)]
    assert min(step) > 0.5  # the last is not the first again
    # A box looks the same after half a turn.
    assert np.abs(frames[0].astype(int) - frames[3]).mean() < 0.5 * np.mean(step)


def test_several_side_by_side_with_labels() -> None:
    frames = list(turntable_frames([BOX, CLOUD], 2, labels=["box", "points"], columns=2, size=48, style=FAST))
    assert frames[0].shape[1] > 96
    assert all(side % 2 == 0 for side in frames[0].shape[:2])
    odd = next(iter(turntable_frames([BOX], 2, size=49, style=FAST)))
    assert odd.shape == (48, 48, 3)


def test_mp4_is_a_loop(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    save_turntable(tmp_path / "a.mp4", BOX, seconds=0.8, fps=10, size=64, style=FAST)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == 10
        back = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = list(turntable_frames([BOX], 8, size=64, style=FAST))
    assert len(back) == 8
    assert np.abs(np.stack(back).astype(int) - np.stack(frames)).mean() < 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_gif_loops_at_its_rate(tmp_path: Path) -> None:
    save_turntable(tmp_path / "a.gif", [BOX, CLOUD], seconds=1, fps=30, size=32, style=FAST)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.info["loop"] == 0
        assert gif.n_frames == 30
        total, tables = 0, set()
        for index in range(gif.n_frames):
            gif.seek(index)
            total += gif.info["duration"]
            tables.add(gif.dispose_extent)
        first = list(turntable_frames([BOX, CLOUD], 30, size=32, style=FAST))
        gif.seek(0)
        assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - first[0]).mean() < 6
    assert total == 1000


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.avi", {}, r"a\.avi: cannot write \.avi; use \.mp4 or \.gif"),
        ("a", {}, "a file without suffix"),
        ("a.gif", {"items": []}, "no items"),
        ("a.gif", {"labels": ["a", "b"]}, "labels: expected 1, found 2"),
        ("a.gif", {"seconds": 0}, "0 seconds"),
        ("a.gif", {"fps": -1}, "-1 frames per second"),
        ("a.gif", {"seconds": 0.1, "fps": 10}, "1 frames; expected at least 2"),
        ("a.gif", {"columns": 0}, "columns: "),
        ("a.gif", {"size": 2}, "size: expected 8"),
        ("wall/a.gif", {}, "cannot write"),
        ("wall/a.mp4", {}, "cannot write"),
    ],
)
def test_refuses(tmp_path: Path, name: str, options: dict, message: str) -> None:
    (tmp_path / "wall").write_text("a file")
    settings = {"items": BOX, "seconds": 0.3, "fps": 10, "size": 32, "style": FAST} | options
    with pytest.raises(PointCloudError, match=message):
        save_turntable(tmp_path / name, **settings)
    assert [p.name for p in tmp_path.iterdir()] == ["wall"]
