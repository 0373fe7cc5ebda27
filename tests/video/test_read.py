"""Reading: which frames, at what rate, which way up; the same from both backends."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from trifold.video.decode import DecordCannot, Moment, open_decord, open_pyav
from trifold.video.errors import VideoError
from trifold.video.read import Sampling, Tally, chosen, read_clip

from .clips import BACKENDS, HAVE_DECORD, moving, needs_decord, numbered, numbers, picture, psnr, write_video

av = pytest.importorskip("av", reason="PyAV is not installed")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """40 numbered frames at 10 fps, a key frame every tenth, B frames between."""
    return write_video(tmp_path_factory.mktemp("base") / "base.mp4", numbered(40), options={"g": "10"})


# --------------------------------------------------------------------------------------------------------- which frames


def even_moments(count: int, rate: Fraction) -> list[Moment]:
    return [Moment(i / rate, (i + 1) / rate, lambda: np.zeros((1, 1, 3), np.uint8)) for i in range(count)]


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(25), Fraction(8)])
@pytest.mark.parametrize("fps", [Fraction(24), Fraction(7), Fraction(60), Fraction(30000, 1001)])
@pytest.mark.parametrize("start", [Fraction(0), Fraction(33, 100), Fraction(2)])
def test_by_fps_each_instant_gets_the_frame_on_screen(rate, fps, start):
    moments = even_moments(100, rate)
    got = [
        m.begin for m, copies in chosen(iter(moments), Sampling(start, None, None, fps), Tally()) for _ in range(copies)
    ]
    end = moments[-1].end
    instants = [start + k / fps for k in range(1000) if start + k / fps < end - Fraction(1, 1000)]
    # A frame that begins within a millisecond of the instant counts as there already.
    assert got == [max(m.begin for m in moments if m.begin <= instant + Fraction(1, 1000)) for instant in instants]


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
@pytest.mark.parametrize("start", [0, 5, 95])
def test_by_stride_every_nth_is_taken(stride, start):
    rate = Fraction(30000, 1001)
    moments = even_moments(100, rate)
    got = [m.begin * rate for m, _ in chosen(iter(moments), Sampling(start / rate, None, stride, None), Tally())]
    assert got == list(range(start, 100, stride))


def test_nothing_is_pulled_after_the_last_frame_wanted():
    pulled = []

    def moments():
        for moment in even_moments(1000, Fraction(10)):
            pulled.append(moment)
            yield moment

    assert len(list(chosen(moments(), Sampling(Fraction(0), 5, 3, None), Tally()))) == 5
    assert len(pulled) == 13


@pytest.mark.parametrize("backend", BACKENDS)
def test_stride_start_and_count(base, backend):
    whole = read_clip(base, backend=backend)
    assert numbers(whole.frames) == list(range(40))
    assert whole.fps == 10
    assert whole.name == "base"
    clip = read_clip(base, num_frames=6, stride=3, start=1.2, backend=backend)
    assert numbers(clip.frames) == [12, 15, 18, 21, 24, 27]
    assert clip.fps == Fraction(10, 3)
    assert "from 1.2 s" in clip.note
    # 0.3 as a binary fraction lies just under frame 3's time.
    assert numbers(read_clip(base, num_frames=1, start=0.3, backend=backend).frames) == [3]
    assert numbers(read_clip(base, num_frames=1, start=0.35, backend=backend).frames) == [3]
    assert numbers(read_clip(base, num_frames=1, start=3.95, backend=backend).frames) == [39]


@pytest.mark.parametrize("backend", BACKENDS)
def test_target_rates_below_and_above_the_source(base, backend):
    clip = read_clip(base, fps=4, num_frames=5, start=0.5, backend=backend)
    assert numbers(clip.frames) == [5, 7, 10, 12, 15]
    assert clip.fps == 4
    clip = read_clip(base, fps=25, num_frames=6, backend=backend)
    assert numbers(clip.frames) == [0, 0, 0, 1, 1, 2]
    assert read_clip(base, fps=5, backend=backend).num_frames == 20
    assert read_clip(base, fps=29.97, num_frames=2, backend=backend).fps == Fraction(2997, 100)


def test_seeking_decodes_from_the_last_key_frame_only(base):
    begins = [moment.begin for moment in open_pyav(base, Fraction(35, 10)).moments]
    assert begins[0] == 3
    assert len(begins) == 10


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate(tmp_path, backend, suffix):
    """Frame 0 for 0.5 s, frames 1 to 4 for 0.1 s each, frame 5 for 0.6 s, then 0.1 s each."""
    times = [0, 500, 600, 700, 800, 900, 1500, 1600, 1700, 1800]
    path = write_video(tmp_path / f"vfr{suffix}", numbered(10), times=times)
    clip = read_clip(path, fps=10, num_frames=18, backend=backend)
    assert numbers(clip.frames) == [0] * 5 + [1, 2, 3, 4] + [5] * 6 + [6, 7, 8]
    assert clip.fps == 10
    clip = read_clip(path, stride=2, backend=backend)
    assert numbers(clip.frames) == [0, 2, 4, 6, 8]
    # Four intervals from 0 to 1.7 s.
    assert float(clip.fps) == pytest.approx(4 / 1.7, rel=1e-3)
    assert "variable frame rate" in clip.note


@pytest.mark.parametrize("backend", BACKENDS)
def test_containers_that_round_times_to_milliseconds(tmp_path, backend):
    path = write_video(tmp_path / "a.mkv", numbered(30), Fraction(30000, 1001))
    clip = read_clip(path, fps=Fraction(30000, 1001), backend=backend)
    assert numbers(clip.frames) == list(range(30))
    assert numbers(read_clip(path, fps=Fraction(30000, 2002), backend=backend).frames) == list(range(0, 30, 2))
    assert read_clip(path, backend=backend).fps == Fraction(30000, 1001)


# ----------------------------------------------------------------------------------------------------- the two backends


@needs_decord
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "yuvj420p"])
@pytest.mark.parametrize("size", [(64, 96), (46, 34), (130, 94), (404, 718)])
def test_both_backends_give_the_same_bytes(tmp_path, pixels, size):
    path = write_video(tmp_path / "a.mp4", moving(6, *size), pixels=pixels)
    one, other = read_clip(path, backend="decord"), read_clip(path, backend="pyav")
    assert np.array_equal(one.frames, other.frames)
    assert psnr(one.frames, moving(6, *size)) > 30
    assert (one.fps, one.num_frames) == (other.fps, 6)
    assert "read by decord" in one.note
    assert "read by pyav" in other.note


@needs_decord
@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize("full_range", [False, True])
def test_both_backends_heed_matrix_and_range(tmp_path, matrix, full_range):
    """The luma of pure green is 150 (601) or 182 (709) of 255: reading by the wrong matrix would be far off."""
    from av.video.reformatter import ColorRange, Colorspace

    green = np.zeros((3, 64, 96, 3), np.uint8)
    green[..., 1] = 200
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        swing = ColorRange.JPEG if full_range else ColorRange.MPEG
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, int(swing)
        for frame in green:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace(matrix), dst_color_range=swing
            )
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    one = read_clip(tmp_path / "a.mp4", backend="decord").frames
    assert np.array_equal(one, read_clip(tmp_path / "a.mp4", backend="pyav").frames)
    assert np.abs(one.astype(int) - green).max() <= 3


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv420p"])
def test_what_decord_rounds_otherwise_goes_to_pyav(tmp_path, pixels):
    """High bit depth, and odd sides in a lossless codec."""
    odd = pixels == "yuv420p"
    frames = moving(5, *((45, 63) if odd else (64, 96)))
    path = write_video(tmp_path / "a.mkv", frames, codec="ffv1" if odd else "libx264", pixels=pixels)
    clip = read_clip(path)
    assert "read by pyav" in clip.note
    assert psnr(clip.frames, frames) > 33
    if HAVE_DECORD:
        assert "not by decord" in clip.note
        with pytest.raises(VideoError, match=r"a.mkv: decord rounds .* in its own way; backend='pyav'"):
            read_clip(path, backend="decord")


@needs_decord
def test_decord_stands_aside_where_it_fails(tmp_path):
    path = write_video(tmp_path / "a.ts", numbered(12))
    clip = read_clip(path)
    assert numbers(clip.frames) == list(range(12))
    assert "read by pyav; not by decord: decord cannot" in clip.note
    with pytest.raises(VideoError, match="decord cannot decode frame 0; backend='pyav' or 'auto' reads it"):
        read_clip(path, backend="decord")


@needs_decord
def test_large_files_are_left_to_pyav(base, monkeypatch):
    monkeypatch.setattr("trifold.video.read.LARGE_FILE", 1000)
    assert "read by pyav; not by decord: it would index 0 MiB first" in read_clip(base).note
    assert "read by decord" in read_clip(base, backend="decord").note


@needs_decord
def test_frames_that_an_edit_list_hides(tmp_path, base):
    """A copy cut at 1.5 s begins with the packets from the key frame at 1.0 s, hidden by the container."""
    path = tmp_path / "cut.mp4"
    with av.open(str(base)) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        shift = int(Fraction(3, 2) / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None and packet.pts * stream.time_base >= 1:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                out.mux(packet)
    clip = read_clip(path, backend="pyav")
    assert numbers(clip.frames) == list(range(15, 40))
    assert np.array_equal(read_clip(path).frames, clip.frames)
    with pytest.raises(DecordCannot, match="decord counts 30 frames, the file shows 25"):
        open_decord(path)


# --------------------------------------------------------------------------------------------------------- which way up


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_rotated_phone_videos(tmp_path, backend, degrees):
    shot = np.repeat(picture()[None], 3, axis=0)
    path = write_video(tmp_path / "a.mp4", shot, setup=lambda stream: stream.set_display_rotation(degrees))
    clip = read_clip(path, backend=backend)
    # The header's angle is counter-clockwise, as numpy's.
    assert psnr(clip.frames[0], np.rot90(shot[0], degrees // 90)) > 30
    assert ("turned upright" in clip.note) == (degrees != 0)


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_mirrored_videos(tmp_path, degrees):
    shot = np.repeat(picture()[None], 3, axis=0)
    path = write_video(tmp_path / "a.mp4", shot, setup=lambda stream: stream.set_display_rotation(degrees, hflip=True))
    clip = read_clip(path)
    assert psnr(clip.frames[0], np.rot90(shot[0], degrees // 90)[:, ::-1]) > 30
    assert "mirrored" in clip.note


def test_a_crooked_rotation_is_ignored_and_told(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving(3), setup=lambda stream: stream.set_display_rotation(30))
    clip = read_clip(path)
    assert clip.frames.shape == (3, 64, 96, 3)
    assert "no quarter turn" in clip.note


@pytest.mark.parametrize("backend", BACKENDS)
def test_oblong_pixels(tmp_path, backend):
    def wide(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)

    path = write_video(tmp_path / "a.mp4", moving(3), setup=wide)
    clip = read_clip(path, backend=backend)
    assert clip.frames.shape == (3, 64, 144, 3)
    assert "pixels of 3:2 made square" in clip.note
    assert read_clip(path, size=(32, 72), backend=backend).note.count("cropped 0 px") == 1


def test_the_note_says_what_was_done(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving(20), 24)
    clip = read_clip(path, num_frames=4, stride=2, size=48, multiple=32, backend="pyav")
    assert clip.frames.shape == (4, 64, 64, 3)
    assert clip.note == (
        "96x64, 20 frames at 24 fps -> 4 frames, stride 2, 12 fps, resized to 64x64, cropped 32 px of 96 in width, "
        "read by pyav"
    )
    clip = read_clip(path, fps=8, size=(32, 96), fit="pad", backend="pyav")
    assert "-> 7 frames, resampled to 8 fps, resized to 48x32, padded to 96x32, read by pyav" in clip.note
