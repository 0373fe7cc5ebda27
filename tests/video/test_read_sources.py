"""Sound that belongs to the chosen time; pictures in folders and animations; real clips."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trifold.video.clip import as_rate
from trifold.video.errors import VideoError
from trifold.video.pictures import natural_key
from trifold.video.read import read_clip

from .clips import BACKENDS, HAVE_DECORD, dominant, moving, numbered, numbers, picture, psnr, sine, write_video

av = pytest.importorskip("av", reason="PyAV is not installed")


# ---------------------------------------------------------------------------------------------------------------- sound


@pytest.fixture(scope="module")
def sounding(tmp_path_factory) -> Path:
    """4 s at 10 fps; 440 Hz, and from 2 s on 880 Hz."""
    low, high = sine(440, 2).samples[0], sine(880, 2).samples[0]
    path = tmp_path_factory.mktemp("sounding") / "a.mp4"
    return write_video(path, numbered(40), sound=np.concatenate([low, high]), options={"g": "10"})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("arguments", "seconds", "frequency"),
    [
        ({}, 4.0, None),
        ({"num_frames": 10}, 1.0, 440),
        ({"num_frames": 5, "stride": 2, "start": 2.5}, 1.0, 880),
        ({"num_frames": 8, "fps": 5, "start": 0.2}, 1.6, 440),
    ],
)
def test_sound_of_the_chosen_time(sounding, backend, arguments, seconds, frequency):
    clip = read_clip(sounding, backend=backend, **arguments)
    assert clip.audio is not None
    assert clip.audio.samples.dtype == np.float32
    assert clip.audio.rate == 44100
    assert clip.audio.duration == pytest.approx(clip.duration, abs=1 / 44100)
    assert clip.duration == pytest.approx(seconds)
    if frequency:
        assert dominant(clip.audio.samples[0], 44100) == pytest.approx(frequency, abs=1)
        assert clip.audio.samples.std() == pytest.approx(0.5 / 2**0.5, rel=0.02)
    whole = read_clip(sounding).audio
    assert whole is not None
    first = round(arguments.get("start", 0) * 44100)
    expected = whole.samples[:, first : first + clip.audio.samples.shape[1]]
    assert np.abs(clip.audio.samples - expected).max() < 1e-4


def test_sound_and_pictures_change_together(sounding):
    """The tone changes at 2 s, where frame 20 comes; within 5 ms after any cut."""
    clip = read_clip(sounding, start=1.3, num_frames=15)
    assert numbers(clip.frames)[7] == 20
    assert clip.audio is not None
    samples = clip.audio.samples[0]
    window = 882
    tones = [dominant(samples[i : i + window], 44100) for i in range(0, len(samples) - window, 221)]
    change = next(i for i, tone in enumerate(tones) if tone > 660) * 221 + window / 2
    assert change / 44100 == pytest.approx(0.7, abs=0.012)


def test_sound_shorter_than_the_pictures_is_filled_with_silence(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(20), sound=sine(440, 1).samples[0])
    clip = read_clip(path)
    assert clip.audio is not None
    assert clip.audio.duration == 2
    assert np.abs(clip.audio.samples[0, 50000:]).max() < 1e-3
    late = read_clip(path, start=1.5)
    assert late.audio is None
    assert "no sound in this part" in late.note


# ----------------------------------------------------------------------------------------------- pictures as the source


def test_natural_order():
    names = ["f10.png", "f2.png", "F1.png", "f2b.png", "10.png", "9.png"]
    assert sorted(names, key=natural_key) == ["9.png", "10.png", "F1.png", "f2.png", "f2b.png", "f10.png"]


def test_a_folder_of_frames(tmp_path):
    for i, frame in enumerate(numbered(12)):
        Image.fromarray(frame).save(tmp_path / f"shot {i}.{'png' if i % 2 else 'jpg'}")
    (tmp_path / "notes.txt").write_text("not a frame")
    clip = read_clip(tmp_path)
    assert numbers(clip.frames) == list(range(12))
    assert clip.fps == 8
    assert clip.audio is None
    clip = read_clip(tmp_path, fps=24, stride=2, start=4 / 24, num_frames=3)
    assert numbers(clip.frames) == [4, 6, 8]
    assert clip.fps == 12
    Image.fromarray(numbered(1, 32, 32)[0]).save(tmp_path / "shot 5.png")
    with pytest.raises(VideoError, match=r"shot 5.png: 32x32 pixels; expected 96x64 as in shot 0.jpg"):
        read_clip(tmp_path)
    (tmp_path / "shot 0.jpg").write_bytes((tmp_path / "shot 0.jpg").read_bytes()[:-40])
    with pytest.raises(VideoError, match=r"shot 0.jpg: a damaged picture"):
        read_clip(tmp_path, num_frames=1)


def test_a_folder_without_frames(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(VideoError, match=r"no \.png, \.jpg, \.jpeg files in this folder \(found notes.txt\)"):
        read_clip(tmp_path)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations_keep_their_times(tmp_path, suffix):
    shown = [100, 300, 50, 150, 200]
    frames = [Image.fromarray(frame) for frame in numbered(5)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], duration=shown, loop=0)
    clip = read_clip(tmp_path / f"a{suffix}", fps=20)
    assert numbers(clip.frames) == [0] * 2 + [1] * 6 + [2] + [3] * 3 + [4] * 4
    assert numbers(read_clip(tmp_path / f"a{suffix}", stride=2).frames) == [0, 2, 4]


def test_gif_at_an_even_rate(tmp_path):
    frames = [Image.fromarray(frame) for frame in numbered(6)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=80, loop=0)
    assert read_clip(tmp_path / "a.gif").fps == Fraction(25, 2)
    frames[0].save(tmp_path / "unset.gif", save_all=True, append_images=frames[1:], duration=0, loop=0)
    assert read_clip(tmp_path / "unset.gif").fps == 10  # what browsers make of a delay of zero


def test_transparency_is_composited_on_black(tmp_path):
    rgba = np.zeros((3, 64, 96, 4), np.uint8)
    rgba[..., :3], rgba[:, :, 48:, 3], rgba[:, :32, :48, 3] = (200, 100, 50), 255, 128
    frames = [Image.fromarray(frame) for frame in rgba]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    clip = read_clip(tmp_path / "a.webp")
    assert "alpha composited on black" in clip.note
    assert clip.frames[0, 5, 90].tolist() == [200, 100, 50]
    assert clip.frames[0, 5, 5].tolist() == [100, 50, 25]
    assert clip.frames[0, 60, 5].tolist() == [0, 0, 0]
    Image.fromarray(rgba[0]).save(tmp_path / "one.png")
    assert read_clip(tmp_path / "one.png").frames[0, 5, 5].tolist() == [100, 50, 25]
    opaque = read_clip(write_video(tmp_path / "a.mp4", moving(3)))
    assert "alpha" not in opaque.note


def test_transparent_gif(tmp_path):
    """Frame 1 keeps what frame 0 drew wherever it is itself transparent."""
    canvas = Image.new("P", (96, 64), 0)
    canvas.putpalette([0, 0, 0, 240, 200, 40, 40, 80, 220] + [0] * 759)
    left, right = canvas.copy(), canvas.copy()
    left.paste(1, (0, 0, 48, 64))
    right.paste(2, (48, 0, 96, 64))
    left.save(
        tmp_path / "a.gif", save_all=True, append_images=[right], duration=100, loop=0, transparency=0, disposal=1
    )
    clip = read_clip(tmp_path / "a.gif")
    assert clip.frames[0, 30, 10].tolist() == [240, 200, 40]
    assert clip.frames[0, 30, 80].tolist() == [0, 0, 0]
    assert clip.frames[1, 30, 80].tolist() == [40, 80, 220]
    assert "alpha composited on black" in clip.note


def test_video_with_alpha(tmp_path):
    alpha = np.full((64, 96), 255, np.uint8)
    alpha[:, :48] = 128
    path = write_video(tmp_path / "a.mov", numbered(4), codec="qtrle", pixels="argb", alpha=alpha)
    clip = read_clip(path)
    assert "alpha composited on black" in clip.note
    assert clip.frames[3, 5, 90].tolist() == [28, 28, 28]
    assert clip.frames[3, 5, 5].tolist() == [14, 14, 14]
    if HAVE_DECORD:
        with pytest.raises(VideoError, match="decord drops alpha"):
            read_clip(path, backend="decord")


def test_one_picture_is_a_clip_of_one_frame(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    clip = read_clip(tmp_path / "a.png")
    assert np.array_equal(clip.frames[0], picture())
    assert clip.fps == 8
    with pytest.raises(VideoError, match=r"a.png: 8 frames by stride 1 need 8 source frames, found 1"):
        read_clip(tmp_path / "a.png", num_frames=8)
    sixteen = np.linspace(0, 65535, 96).astype(np.uint16)[None].repeat(64, axis=0)
    Image.fromarray(sixteen).save(tmp_path / "deep.png")
    assert np.array_equal(read_clip(tmp_path / "deep.png").frames[0, 0, :, 1], sixteen[0] >> 8)


# ----------------------------------------------------------------------------------------------------------- real clips


def real_clips() -> list[Path]:
    folder = os.environ.get("TRIFOLD_DATA")
    if not folder:
        pytest.skip("TRIFOLD_DATA is not set: no real clips to read")
    return sorted(Path(folder).glob("video/*.mp4"))


def test_real_clips_are_read_alike_by_both_backends(tmp_path):
    found = real_clips()
    assert len(found) >= 8
    for path in found:
        clip = read_clip(path, num_frames=8, size=256)
        assert clip.frames.shape == (8, 256, 256, 3), path.name
        assert clip.frames.std() > 10, path.name
        other = read_clip(path, num_frames=8, size=256, backend="pyav")
        assert np.array_equal(clip.frames, other.frames), path.name
        assert not HAVE_DECORD or "read by decord" in clip.note


def test_a_real_clip_keeps_rate_and_sound(tmp_path):
    sounding = [path for path in real_clips() if "audio" in path.name]
    assert sounding
    clip = read_clip(sounding[0], num_frames=24, stride=2, size=256)
    clip.save(tmp_path / "again.mp4")
    again = read_clip(tmp_path / "again.mp4")
    assert clip.fps == again.fps == as_rate(Fraction(30000, 1001)) / 2
    assert psnr(again.frames, clip.frames) > 36
    assert clip.audio is not None
    assert again.audio is not None
    assert again.audio.samples.shape == clip.audio.samples.shape
    a, b = clip.audio.samples[:, 4410:-4410].ravel(), again.audio.samples[:, 4410:-4410].ravel()
    assert np.corrcoef(a, b)[0, 1] > 0.97
