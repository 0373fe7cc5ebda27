"""Optical flow on textures that were moved by known amounts."""

import sys

import numpy as np
import pytest
import torch
from trifold.video.errors import VideoError
from trifold.video.flow import Motion, estimate_motion, known_motion, tv_l1, visible_pixels


def texture(height: int, width: int, phase: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A sum of 40 waves of random direction with wavelengths of 6 px and more: smooth, and known between pixels."""
    rng = np.random.default_rng(5)
    number = 2 * np.pi / rng.uniform(6, 30, 40)
    angle = rng.uniform(0, 2 * np.pi, 40)
    return number * np.cos(angle), number * np.sin(angle), rng.uniform(0, 2 * np.pi, 40), rng.uniform(0.3, 1, 40)


def shifted_clip(dx: float, dy: float, frames: int = 2, height: int = 64, width: int = 72) -> np.ndarray:
    """uint8 [F, H, W, 3]: the texture seen as its content moves by (dx, dy) pixels per frame."""
    kx, ky, phase, weight = texture(height, width)
    y, x = np.mgrid[:height, :width].astype(float)
    pictures = []
    for i in range(frames):
        angle = kx * (x - i * dx)[..., None] + ky * (y - i * dy)[..., None] + phase
        value = (weight * np.sin(angle)).sum(-1) / (3 * np.sqrt((weight**2).sum() / 2))
        pictures.append(np.clip(127.5 + 120 * value, 0, 255).round().astype(np.uint8))
    return np.stack(pictures)[..., None].repeat(3, -1)


@pytest.mark.parametrize("shift", [(1, 0), (0, -2), (2.5, -1.5), (-0.3, 0.4), (6, 0), (-4, 4.5)])
def test_known_shifts(shift):
    motion = estimate_motion(shifted_clip(*shift))
    assert (motion.flow.shape, motion.flow.dtype, motion.visible.dtype) == ((1, 64, 72, 2), np.float32, bool)
    error = np.linalg.norm(motion.flow - shift, axis=-1)
    assert error[motion.visible].mean() < 0.1
    assert error.mean() < 0.3  # with the strip that has left the picture, where the flow is only filled in
    assert motion.visible.mean() > 0.7


def test_a_still_clip_has_no_flow():
    motion = estimate_motion(shifted_clip(0, 0, frames=3))
    assert np.abs(motion.flow).max() < 1e-3
    assert motion.visible.all()


def test_an_object_in_front_of_a_still_background():
    back, front = shifted_clip(0, 0)[0], np.roll(shifted_clip(0, 0, height=96)[0], 7, 1)[32:]
    frames = np.stack([back, back])
    for i in range(2):
        frames[i, 20:44, 16 + 4 * i : 40 + 4 * i] = front[20:44, 16:40]
    flow = estimate_motion(frames).flow[0]
    assert np.linalg.norm(flow[24:40, 20:36] - (4, 0), axis=-1).mean() < 0.3
    assert np.linalg.norm(flow[:14], axis=-1).mean() < 0.1
    assert np.linalg.norm(flow[:, 52:], axis=-1).mean() < 0.1


def test_what_is_covered_is_not_visible():
    forward = torch.zeros(1, 8, 8, 2)
    forward[:, :, :4, 0] = 2.0  # the left half moves right, over columns 4 and 5
    backward = torch.zeros(1, 8, 8, 2)
    backward[:, :, 2:6, 0] = -2.0
    visible = visible_pixels(forward, backward)[0]
    assert visible[0].tolist() == [True, True, True, True, False, False, True, True]
    forward[:] = 0
    forward[..., 0] = 20.0
    assert not visible_pixels(forward, -forward).any()  # beyond the picture


def test_known_motion_leaves_out_what_meets():
    flow = np.zeros((2, 12, 16, 2), np.float32)
    flow[0, 3:9, 2:6, 0] = 3.0  # a block of columns 2 to 5 goes over columns 5 to 8
    flow[1, :, :, 1] = -2.0  # everything moves up
    motion = known_motion(flow)
    assert isinstance(motion, Motion)
    assert np.array_equal(motion.flow, flow)
    row = motion.visible[0, 5]
    # The block (2 to 5) and the pixels 6 to 8, which stay, meet at columns 5 to 8; pixel 9 lies next to them.
    assert row.tolist() == [True] * 2 + [False] * 8 + [True] * 6
    assert motion.visible[0, 11].all()
    assert np.array_equal(motion.visible[1], np.repeat(np.arange(12) >= 2, 16).reshape(12, 16))
    with pytest.raises(VideoError, match=r"flow: expected \[F - 1, H, W, 2\], found \[12, 16, 2\]"):
        known_motion(flow[0])


def test_a_smooth_flow_hides_nothing_of_itself():
    y, x = np.mgrid[:20, :20].astype(np.float32) - 9.5
    angle = 0.1
    turned = np.stack([np.cos(angle) * x - np.sin(angle) * y - x, np.sin(angle) * x + np.cos(angle) * y - y], -1)
    visible = known_motion(turned[None]).visible[0]
    assert visible[np.hypot(x, y) < 9].all()


def test_pairs_are_independent(monkeypatch):
    frames = shifted_clip(1.5, 1, frames=4)[..., 0] / 255
    grey = torch.from_numpy(frames).float()
    together = tv_l1(grey[:-1], grey[1:])
    monkeypatch.setattr("trifold.video.flow.PAIRS_AT_ONCE", 1)
    assert torch.allclose(tv_l1(grey[:-1], grey[1:]), together, atol=1e-4)


def test_small_pictures():
    assert estimate_motion(shifted_clip(0, 0, height=5, width=9)).flow.shape == (1, 5, 9, 2)


def test_dis_by_name():
    pytest.importorskip("cv2")
    motion = estimate_motion(shifted_clip(2.5, -1.5, height=96, width=96), method="dis")
    assert np.linalg.norm(motion.flow - (2.5, -1.5), axis=-1)[motion.visible].mean() < 0.3


def test_bad_input_is_told(monkeypatch):
    with pytest.raises(VideoError, match="at least 2 frames, found 1"):
        estimate_motion(shifted_clip(0, 0, frames=1))
    with pytest.raises(VideoError, match="expected tvl1 or dis, found 'raft'"):
        estimate_motion(shifted_clip(0, 0), method="raft")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="pip install opencv-python-headless"):
        estimate_motion(shifted_clip(0, 0), method="dis")
