"""The clip itself: checks, tensors, rates, and how pictures are fitted to a size."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trifold.video.clip import Audio, Clip, as_rate, rate_text
from trifold.video.errors import VideoError
from trifold.video.resize import plan_fit

from .clips import clip_of, numbered, picture


def test_every_level_survives_the_tensor():
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    clip = clip_of(frames, name="levels")
    x = clip.to_tensor()
    assert x.dtype == torch.float32
    assert x.shape == (1, 3, 16, 16)
    assert (x.min(), x.max()) == (-1, 1)
    torch.testing.assert_close(x[0, 0].flatten(), torch.arange(256) / 127.5 - 1)
    back = Clip.from_tensor(x, fps=clip.fps, name="levels")
    assert np.array_equal(back.frames, frames)
    assert (back.fps, back.name) == (Fraction(10), "levels")


def test_tensors_are_channels_first_and_clipped():
    x = torch.zeros(2, 3, 4, 6)
    x[:, 0], x[:, 1], x[:, 2] = 7.0, 0.01, -7.0
    clip = Clip.from_tensor(x.to(torch.float16), fps=8)
    assert clip.frames.shape == (2, 4, 6, 3)
    assert clip.frames[0, 0, 0].tolist() == [255, 129, 0]
    assert (clip.num_frames, clip.height, clip.width, clip.duration) == (2, 4, 6, 0.25)


def test_values_that_are_not_finite_are_told():
    x = torch.zeros(1, 3, 2, 2)
    x[0, 1, 0, 0] = torch.nan
    with pytest.raises(VideoError, match="1 of 12 values are not finite"):
        Clip.from_tensor(x, fps=8)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.float32),
        torch.zeros(2, 4, 4, 3, dtype=torch.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        [1],
    ],
)
def test_other_frames_are_refused(frames):
    with pytest.raises(VideoError, match=r"Clip.frames: expected"):
        Clip(frames, Fraction(8))


@pytest.mark.parametrize("x", [torch.zeros(3, 4, 4), torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.int)])
def test_other_tensors_are_refused(x):
    with pytest.raises(VideoError, match="expected floating"):
        Clip.from_tensor(x, fps=8)


@pytest.mark.parametrize("rate", [0, -1, 1001, float("nan"), float("inf"), "fast", None])
def test_impossible_rates(rate):
    with pytest.raises(VideoError, match="fps"):
        as_rate(rate)


def test_rates_are_exact():
    assert as_rate(30000 / 1001) == Fraction(30000, 1001)
    assert as_rate(23.976) == Fraction(2997, 125)
    assert as_rate("24000/1001") == Fraction(24000, 1001)
    assert rate_text(Fraction(30000, 1001)) == "29.97"
    assert rate_text(Fraction(24)) == "24"
    assert clip_of(numbered(3), Fraction(30000, 1001)).duration == pytest.approx(0.1001)


def test_sound_is_checked():
    assert Audio(np.zeros((2, 100), np.float32), 50).duration == 2
    for samples in (np.zeros(5, np.float32), np.zeros((1, 5)), np.zeros((1, 0), np.float32)):
        with pytest.raises(VideoError, match=r"Audio.samples: expected float32 \[channels, n\]"):
            Audio(samples, 44100)
    with pytest.raises(VideoError, match=r"Audio.rate"):
        Audio(np.zeros((1, 5), np.float32), 0)


# --------------------------------------------------------------------------------------------------- fitting sizes


def marked(height: int, width: int, y: int, x: int, side: int = 9) -> np.ndarray:
    frame = np.zeros((height, width, 3), np.uint8)
    frame[y - side // 2 : y + side // 2 + 1, x - side // 2 : x + side // 2 + 1] = 255
    return frame


def centroid(frame: np.ndarray) -> tuple[float, float]:
    """(y, x) of the light, in pixel edges: the centre of pixel 0 is 0.5."""
    weight = frame[..., 0].astype(np.float64)
    y, x = np.mgrid[0 : frame.shape[0], 0 : frame.shape[1]] + 0.5
    return float((weight * y).sum() / weight.sum()), float((weight * x).sum() / weight.sum())


@pytest.mark.parametrize("size", [(64, 64), (50, 90), (128, 64), (96, 96), (200, 30)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_marker_goes_where_the_geometry_says(size, fit):
    """In real numbers: crop scales by the larger ratio, pad by the smaller, both about the centre."""
    height, width, y, x = 96, 160, 44, 78
    fitting = plan_fit((height, width), size, fit=fit)
    out = fitting(marked(height, width, y, x))
    assert out.shape == (*size, 3)
    down, across = size[0] / height, size[1] / width
    if fit != "stretch":
        down = across = (max if fit == "crop" else min)(down, across)
    expected = (size[0] / 2 + (y + 0.5 - height / 2) * down, size[1] / 2 + (x + 0.5 - width / 2) * across)
    # Pad puts a picture of whole pixels at whole pixels: up to half a pixel of each.
    assert centroid(out) == pytest.approx(expected, abs=0.75 if fit == "pad" else 0.06)


def test_crop_without_scaling_is_slicing():
    frame = picture(64, 96)
    out = plan_fit((64, 96), (64, 64))(frame)
    assert np.array_equal(out, frame[:, 16:80])
    assert plan_fit((64, 96), (64, 64)).note == "resized to 64x64, cropped 32 px of 96 in width"


def test_pad_is_black_around_everything():
    out = plan_fit((64, 96), (96, 96), fit="pad")(np.full((64, 96, 3), 200, np.uint8))
    assert (out[:16] == 0).all()
    assert (out[80:] == 0).all()
    assert (out[16:80] == 200).all()


def test_reduction_averages_instead_of_aliasing():
    """A one-pixel checkerboard at 96 rows is grey at 32; taking every third pixel would keep it black and white."""
    board = (np.indices((96, 96)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    out = plan_fit((96, 96), 32)(board)
    assert np.abs(out[4:-4, 4:-4].astype(int) - 128).max() <= 6


def test_sides_are_rounded_to_the_multiple():
    assert plan_fit((718, 718), 500, multiple=64).target == (512, 512)
    assert plan_fit((718, 1000), None, multiple=64).target == (704, 1024)
    assert plan_fit((10, 10), None, multiple=8).target == (8, 8)
    assert plan_fit((3, 3), 2, multiple=8).target == (8, 8)
    same = plan_fit((64, 96), None, multiple=32)
    frame = picture(64, 96)
    assert same(frame) is frame
    assert same.note == "size kept"


def test_oblong_pixels_become_square():
    """DV's 720x480 with pixels of 8:9 is a 4:3 picture."""
    assert plan_fit((480, 720), None, pixel_aspect=Fraction(8, 9)).target == (480, 640)
    fitting = plan_fit((480, 720), (240, 320), pixel_aspect=Fraction(8, 9))
    assert fitting.box == (0, 0, 720, 480)
    assert plan_fit((480, 720), 240, pixel_aspect=Fraction(8, 9)).box == pytest.approx((90, 0, 630, 480))


@given(
    source=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    fit=st.sampled_from(["crop", "pad", "stretch"]),
    multiple=st.sampled_from([1, 2, 8]),
)
@settings(max_examples=80, deadline=None)
def test_any_size_fits(source, size, fit, multiple):
    fitting = plan_fit(source, size, fit=fit, multiple=multiple)
    out = fitting(np.full((*source, 3), 77, np.uint8))
    assert out.shape == (*fitting.target, 3)
    assert all(side % multiple == 0 for side in fitting.target)
    left, top, right, bottom = fitting.box
    assert 0 <= left < right <= source[1]
    assert 0 <= top < bottom <= source[0]
    if fit == "crop":
        assert (out == 77).all()
    if fit != "stretch" and fit != "pad":
        assert (right - left) / (bottom - top) == pytest.approx(fitting.target[1] / fitting.target[0])


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("size", 0),
        ("size", -3),
        ("size", (64, 0)),
        ("size", (64, 64, 3)),
        ("size", 1.5),
        ("size", 100_000),
        ("size", True),
        ("fit", "squash"),
        ("multiple", 0),
        ("multiple", 2.0),
    ],
)
def test_sizes_out_of_range(argument, value):
    with pytest.raises(VideoError, match=f"{argument}: expected"):
        plan_fit((64, 64), **{argument: value})
