"""Writing: what is read back is what was written, and a name never holds half a file."""

import struct
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from trifold.video import write
from trifold.video.clip import Audio, VideoWarning
from trifold.video.errors import VideoError
from trifold.video.read import read_clip
from trifold.video.write import gif_times, write_frames, write_gif, write_mp4

from .clips import clip_of, dominant, moving, numbered, numbers, picture, psnr, sine

av = pytest.importorskip("av", reason="PyAV is not installed")


RATES = [Fraction(8), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25, 3), Fraction(120)]


@pytest.mark.parametrize("rate", RATES)
def test_frames_and_rate_come_back(tmp_path, rate):
    frames = moving(12, 96, 128)
    write_mp4(tmp_path / "a.mp4", clip_of(frames, rate))
    back = read_clip(tmp_path / "a.mp4")
    assert back.fps == rate
    assert back.num_frames == 12
    assert psnr(back.frames, frames) > 36
    # Not one frame off in either direction.
    for i in range(1, 11):
        own = psnr(back.frames[i], frames[i])
        assert own > max(psnr(back.frames[i], frames[i - 1]), psnr(back.frames[i], frames[i + 1])) + 6


def test_quality_follows_crf(tmp_path):
    noise = np.random.default_rng(0).integers(-20, 21, (6, 64, 96, 3))
    frames = (moving(6).astype(int) + noise).clip(0, 255).astype(np.uint8)
    sizes, quality = [], []
    for crf in (10, 23, 40):
        write_mp4(tmp_path / "a.mp4", clip_of(frames), crf=crf)
        sizes.append((tmp_path / "a.mp4").stat().st_size)
        quality.append(psnr(read_clip(tmp_path / "a.mp4").frames, frames))
    assert sizes == sorted(sizes, reverse=True)
    assert quality == sorted(quality, reverse=True)


@pytest.mark.parametrize(("height", "matrix"), [(64, 5), (720, 1)])
def test_colours_are_tagged_and_true(tmp_path, height, matrix):
    """The tags are those the samples were made with: primaries come back through an accurate conversion."""
    from av.video.reformatter import Interpolation

    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40), (255, 255, 255), (0, 0, 0), (118, 118, 118)]
    frames = np.stack([np.full((height, 96, 3), colour, np.uint8) for colour in colours])
    write_mp4(tmp_path / "a.mp4", clip_of(frames), crf=5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        decoded = list(container.decode(video=0))
    assert {int(frame.colorspace) for frame in decoded} <= {matrix, matrix + (matrix == 5)}
    assert {(int(f.color_range), int(f.color_primaries), int(f.color_trc)) for f in decoded} == {(1, 1, 1)}
    assert {frame.format.name for frame in decoded} == {"yuv420p"}
    way = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    exact = np.stack([frame.to_ndarray(format="rgb24", interpolation=way)[height // 2, 48] for frame in decoded])
    assert np.abs(exact.astype(int) - np.array(colours)).max() <= 2


def test_the_index_comes_first(tmp_path):
    """A browser can start before the file is there."""
    write_mp4(tmp_path / "a.mp4", clip_of(moving(5), audio=sine(440, 0.5)))
    data, boxes, at = (tmp_path / "a.mp4").read_bytes(), [], 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        boxes.append(kind)
        at += size
    assert boxes.index(b"moov") < boxes.index(b"mdat")


@pytest.mark.parametrize(
    ("rate", "channels"), [(44100, 1), (48000, 2), (16000, 1), (11000, 1), (192000, 2), (48000, 6)]
)
def test_sound_comes_back(tmp_path, rate, channels):
    clip = clip_of(numbered(20), Fraction(30000, 1001), audio=sine(440, 20 * 1001 / 30000, rate, channels))
    assert clip.audio is not None
    write_mp4(tmp_path / "a.mp4", clip)
    back = read_clip(tmp_path / "a.mp4")
    assert back.audio is not None
    assert back.audio.channels == channels
    assert back.audio.rate == {11000: 11025, 192000: 48000}.get(rate, rate)
    assert back.audio.duration == pytest.approx(clip.duration, abs=1e-3)
    for channel in range(channels):
        if channel == 3:
            continue  # of 5.1 this one is for low frequencies only
        assert dominant(back.audio.samples[channel], back.audio.rate) == pytest.approx(440 * (channel + 1), abs=2)
    if rate in (44100, 48000) and channels < 3:
        # In step: the first samples of a sine correlate best without a shift.
        sent, got = clip.audio.samples[0], back.audio.samples[0]
        middle = slice(rate // 5, 2 * rate // 5)
        shifts = range(-40, 41)
        fits = [np.corrcoef(sent[middle], np.roll(got, shift)[middle])[0, 1] for shift in shifts]
        assert abs(shifts[int(np.argmax(fits))]) <= 1
        assert max(fits) > 0.98


def test_sound_longer_than_the_pictures_is_kept_whole(tmp_path):
    write_mp4(tmp_path / "a.mp4", clip_of(numbered(5), audio=sine(440, 2)))
    with av.open(str(tmp_path / "a.mp4")) as container:
        seconds = sum(frame.samples for frame in container.decode(audio=0)) / 44100
    assert seconds == pytest.approx(2, abs=0.05)
    back = read_clip(tmp_path / "a.mp4")
    assert back.audio is not None
    assert back.audio.duration == 0.5


def test_nine_channels_are_refused(tmp_path):
    with pytest.raises(VideoError, match=r"sound of 9 channels; expected one of 1, 2, 3, 4, 5, 6, 8"):
        write_mp4(tmp_path / "a.mp4", clip_of(numbered(2), audio=Audio(np.zeros((9, 100), np.float32), 44100)))


@pytest.mark.parametrize(("height", "width"), [(63, 96), (64, 95), (33, 45)])
def test_odd_sides_are_padded_and_told(tmp_path, height, width):
    frames = np.repeat(picture(height, width)[None], 3, axis=0)
    with pytest.warns(VideoWarning, match=f"{width}x{height} became {width + width % 2}x{height + height % 2}"):
        write_mp4(tmp_path / "a.mp4", clip_of(frames))
    back = read_clip(tmp_path / "a.mp4").frames
    assert back.shape == (3, height + height % 2, width + width % 2, 3)
    assert psnr(back[:, :height, :width], frames) > 35


def test_one_frame(tmp_path):
    write_mp4(tmp_path / "a.mp4", clip_of(moving(1), 8))
    back = read_clip(tmp_path / "a.mp4")
    assert (back.num_frames, back.fps) == (1, 8)


@pytest.mark.parametrize("crf", [-1, 52, 18.0, True])
def test_crf_out_of_range(tmp_path, crf):
    with pytest.raises(VideoError, match="crf: expected a whole number from 0 to 51"):
        write_mp4(tmp_path / "a.mp4", clip_of(moving(1)), crf=crf)


def test_another_encoder_where_x264_is_missing(tmp_path, monkeypatch):
    known = write.ENCODERS
    monkeypatch.setattr(write, "ENCODERS", ("an_encoder_nobody_has", *known[1:]))
    monkeypatch.setattr(write.choose_encoder, "__defaults__", (write.ENCODERS,))
    with pytest.warns(VideoWarning, match="this build of FFmpeg has no an_encoder_nobody_has; .* was taken"):
        write_mp4(tmp_path / "a.mp4", clip_of(numbered(10), Fraction(30000, 1001), audio=sine(440, 0.3)))
    back = read_clip(tmp_path / "a.mp4")
    assert numbers(back.frames) == list(range(10))
    assert back.fps == Fraction(30000, 1001)
    assert back.audio is not None
    with pytest.raises(VideoError, match="none of the encoders nothing"):
        write.choose_encoder(av, tmp_path, ("nothing",))


# --------------------------------------------------------------------------------------------------------------- gif


def test_gif_delays_do_not_drift():
    for fps in (Fraction(30), Fraction(24000, 1001), Fraction(8), Fraction(50), Fraction(7)):
        indices, delays = gif_times(100, fps)
        assert indices == list(range(100))
        ends = np.cumsum(delays)
        assert np.abs(ends - np.arange(1, 101) * 100 / float(fps)).max() <= 0.5 + 1e-9
        assert min(delays) >= 2
    indices, delays = gif_times(120, Fraction(120))
    assert len(indices) == 50
    assert set(delays) == {2}
    assert indices == [int(2.4 * k) for k in range(50)]


@pytest.mark.parametrize("rate", [8, 30, 12.5])
def test_gif_keeps_time_and_colours(tmp_path, rate):
    frames = moving(10)
    write_gif(tmp_path / "a.gif", clip_of(frames, Fraction(rate)))
    back = read_clip(tmp_path / "a.gif")
    assert back.num_frames == 10
    assert back.duration == pytest.approx(10 / rate, abs=0.006)
    assert psnr(back.frames, frames) > 28
    with Image.open(tmp_path / "a.gif") as image:
        assert image.info["loop"] == 0
    same = read_clip(tmp_path / "a.gif", fps=rate)
    assert same.num_frames == 10


def test_gif_of_still_frames_lasts_as_long(tmp_path):
    frames = np.concatenate([numbered(2)[:1].repeat(5, axis=0), numbered(2)[1:].repeat(3, axis=0)])
    write_gif(tmp_path / "a.gif", clip_of(frames, 10))
    assert read_clip(tmp_path / "a.gif").duration == pytest.approx(0.8)
    assert numbers(read_clip(tmp_path / "a.gif", fps=10).frames) == [0] * 5 + [1] * 3
    write_gif(tmp_path / "one.gif", clip_of(frames[:1], 10))
    assert read_clip(tmp_path / "one.gif").num_frames == 1


def test_fast_gif_is_told(tmp_path):
    with pytest.warns(VideoWarning, match="30 frames at 120 fps became 12 at 50 fps"):
        write_gif(tmp_path / "a.gif", clip_of(numbered(30), 120))
    assert read_clip(tmp_path / "a.gif").duration == pytest.approx(0.24)
    with pytest.raises(VideoError, match="loop: expected"):
        write_gif(tmp_path / "a.gif", clip_of(numbered(3)), loop=-1)


# ------------------------------------------------------------------------------------------------- folders and names


def test_frames_come_back_bit_for_bit(tmp_path):
    frames = moving(12)
    write_frames(tmp_path / "out", clip_of(frames))
    assert np.array_equal(read_clip(tmp_path / "out", fps=10).frames, frames)
    write_frames(tmp_path / "out", clip_of(frames[:3]))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000.png", "00001.png", "00002.png"]


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("years")
    with pytest.raises(VideoError, match=r"work: not replaced, it holds more than frames \(thesis.tex\)"):
        clip_of(numbered(2)).save(tmp_path / "work")
    assert (tmp_path / "work" / "thesis.tex").read_text() == "years"
    (tmp_path / "file").write_text("text")
    with pytest.raises(VideoError, match="file: a file is in the way"):
        clip_of(numbered(2)).save(tmp_path / "file")


def test_save_by_suffix(tmp_path):
    clip = clip_of(numbered(4), name="four greys")
    for name in ("a.mp4", "b.GIF", "c.png", "d", "new folder/e.mp4"):
        clip.save(tmp_path / name)
    assert numbers(read_clip(tmp_path / "a.mp4").frames) == [0, 1, 2, 3]
    assert numbers(read_clip(tmp_path / "b.GIF").frames) == [0, 1, 2, 3]
    assert numbers(read_clip(tmp_path / "d").frames) == [0, 1, 2, 3]
    assert read_clip(tmp_path / "new folder" / "e.mp4").num_frames == 4
    with Image.open(tmp_path / "c.png") as sheet:
        assert sheet.width == 4 * 96 + 3 * 4
        assert sheet.height > 64
    with pytest.raises(VideoError, match=r"a.avi: unknown suffix '.avi'; expected .mp4 .*, .gif, .png .*, or no"):
        clip.save(tmp_path / "a.avi")


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "frames"])
def test_a_failure_leaves_the_old_one(tmp_path, monkeypatch, name):
    clip_of(numbered(3)).save(tmp_path / name)
    before = read_clip(tmp_path / name).frames

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    monkeypatch.setattr(write._Sound, "encode_until", fail)
    with pytest.raises(VideoError, match=rf"{name}: cannot write \(No space left on device\)"):
        clip_of(numbered(5), audio=sine(440, 0.5)).save(tmp_path / name)
    monkeypatch.undo()
    assert np.array_equal(read_clip(tmp_path / name).frames, before)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("text")
    for name in ("file/a.mp4", "file/a.gif", "file/a.png", "file/frames"):
        with pytest.raises(VideoError, match="cannot write"):
            clip_of(numbered(2)).save(tmp_path / name)
