"""Everything that is not a video, too short, damaged, or asked for in a way that cannot be."""

import os
from pathlib import Path

import numpy as np
import pytest
from trifold.video.errors import VideoError
from trifold.video.read import read_clip

from .clips import BACKENDS, numbered, numbers, write_sound, write_video

av = pytest.importorskip("av", reason="PyAV is not installed")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """40 numbered frames at 10 fps, a key frame every tenth, B frames between."""
    return write_video(tmp_path_factory.mktemp("base") / "base.mp4", numbered(40), options={"g": "10"})


def test_one_frame(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(1), 25)
    clip = read_clip(path)
    assert clip.num_frames == 1
    assert clip.fps == 25


def test_shorter_than_asked(base):
    with pytest.raises(
        VideoError,
        match=r"base.mp4: 24 frames by stride 2 need 47 source frames, found 40 \(4.000 s\), which give 20; "
        r"num_frames <= 20 or stride <= 1 would fit, or short='all' takes what is there",
    ):
        read_clip(base, num_frames=24, stride=2)
    with pytest.raises(VideoError, match=r"10 frames by stride 9 .* num_frames <= 5 or stride <= 4 would fit"):
        read_clip(base, num_frames=10, stride=9)
    with pytest.raises(VideoError, match=r"found 30 \(3.000 s\) from 1 s, which give 30; num_frames <= 30 would fit"):
        read_clip(base, num_frames=50, start=1.0)
    with pytest.raises(VideoError, match=r"50 frames at 10 fps need 5.000 s, found 40 .* fps >= 12.5 would fit"):
        read_clip(base, num_frames=50, fps=10)
    with pytest.raises(VideoError, match=r"1000000000 frames by stride 1 need 1000000000 source frames, found 40"):
        read_clip(base, num_frames=10**9)
    clip = read_clip(base, num_frames=24, stride=2, short="all")
    assert numbers(clip.frames) == list(range(0, 40, 2))
    assert "24 were asked for" in clip.note


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("start", [4.0, 4.5, 1e9])
def test_start_beyond_the_end(base, start, backend):
    with pytest.raises(VideoError, match=r"base.mp4: start .* s is beyond the end; the pictures last 4.000 s"):
        read_clip(base, start=start, backend=backend)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_frames", 0),
        ("num_frames", -1),
        ("num_frames", 2.0),
        ("num_frames", True),
        ("stride", 0),
        ("fps", 0),
        ("fps", -5),
        ("fps", float("nan")),
        ("fps", 1e6),
        ("start", -0.1),
        ("start", float("nan")),
        ("start", float("inf")),
        ("size", 0),
        ("size", (-4, 8)),
        ("fit", "squash"),
        ("multiple", 0),
        ("short", "loop"),
        ("backend", "opencv"),
    ],
)
def test_arguments_out_of_range(base, argument, value):
    with pytest.raises(VideoError, match=f"{argument}: expected"):
        read_clip(base, **{argument: value})


def test_stride_and_fps_exclude_each_other(base):
    with pytest.raises(VideoError, match="stride and fps exclude each other, found stride=2 and fps=8"):
        read_clip(base, stride=2, fps=8)


def test_missing_and_strange_paths(tmp_path):
    with pytest.raises(VideoError, match=r"gone.mp4: no such file or folder"):
        read_clip(tmp_path / "gone.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match=r"pipe.mp4: neither a file nor a folder"):
        read_clip(tmp_path / "pipe.mp4")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.mp4", b"", "an empty file"),
        ("a.mp4", b"hello, this is text", r"not a video file \(Invalid data.*begins with b'hello"),
        ("a.txt", b"hello, this is text\n" * 50, r"not a video file .*begins with b'hello"),
        (
            "a.m3u8",
            b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n",
            "not a video file .*EXTM3U",
        ),
        ("a.jpg", b"\xff\xd8\xff\xe0 and nothing more", "a.jpg: "),
    ],
)
def test_files_that_are_no_video(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=reason):
        read_clip(tmp_path / name)


def test_sound_only(tmp_path):
    with pytest.raises(VideoError, match=r"a.m4a: no video stream in this file \(only sound\); expected pictures"):
        read_clip(write_sound(tmp_path / "a.m4a"))


def test_an_mp4_without_its_index(tmp_path, base):
    (tmp_path / "cut.mp4").write_bytes(base.read_bytes()[:1500])
    with pytest.raises(VideoError, match=r"cut.mp4: an MP4 or MOV file of \d+ bytes without its index \(moov\)"):
        read_clip(tmp_path / "cut.mp4")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Path:
    """40 numbered frames with fine noise, so that bytes are spread over the frames; the index comes first."""
    noise = np.random.default_rng(0).integers(-2, 3, (40, 64, 96, 1))
    frames = (numbered(40).astype(int) + noise).clip(0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("noisy") / "noisy.mp4"
    return write_video(path, frames, options={"g": "10", "bf": "0"}, container={"movflags": "+faststart"})


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_a_truncated_stream_gives_what_decodes(tmp_path, noisy, backend):
    content = noisy.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 6 // 10])
    clip = read_clip(tmp_path / "cut.mp4", backend=backend)
    assert 15 <= clip.num_frames <= 30
    assert numbers(clip.frames) == list(range(clip.num_frames))
    assert f"cut short: the header promises 40 frames, {clip.num_frames} are there" in clip.note
    assert numbers(read_clip(tmp_path / "cut.mp4", num_frames=8, backend=backend).frames) == list(range(8))
    with pytest.raises(VideoError, match=rf"found {clip.num_frames} .* which give {clip.num_frames}; .*cut short"):
        read_clip(tmp_path / "cut.mp4", num_frames=35, backend=backend)


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_damage_in_the_middle(tmp_path, noisy, backend):
    """Everything before the damage is right, and so is everything from the next key frame on."""
    content = bytearray(noisy.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2500] = bytes(2500)
    (tmp_path / "broken.mp4").write_bytes(content)
    clip = read_clip(tmp_path / "broken.mp4", fps=10, backend=backend)
    found = numbers(clip.frames)
    assert clip.num_frames == 40
    assert found[:14] == list(range(14))
    assert found[30:] == list(range(30, 40))
    assert "damaged" in clip.note


def test_any_damage_is_a_clip_or_a_video_error(tmp_path, noisy):
    """Never another exception, whatever bytes are changed or missing."""
    content, rng, told = noisy.read_bytes(), np.random.default_rng(0), 0
    path = tmp_path / "broken.mp4"
    for trial in range(60):
        data = bytearray(content)
        where = int(rng.integers(0, len(data) // (8 if trial % 2 else 1)))
        data[where : where + 30] = rng.bytes(30)
        path.write_bytes(data if trial % 3 else data[: int(rng.integers(30, len(data)))])
        try:
            clip = read_clip(path, backend="pyav")
        except VideoError as error:
            told += "broken.mp4: " in str(error)
        else:
            told += clip.frames.shape[1:] == (64, 96, 3)
    assert told == 60


def test_no_frame_decodes(tmp_path, noisy):
    """The index is whole, the pictures are zeros."""
    content = noisy.read_bytes()
    data = content.index(b"mdat") + 4
    (tmp_path / "zeros.mp4").write_bytes(content[:data] + bytes(len(content) - data))
    with pytest.raises(VideoError, match=r"zeros.mp4: zero frames could be decoded \(h264, 96x64\)"):
        read_clip(tmp_path / "zeros.mp4")


def test_a_film_opened_by_mistake(base, monkeypatch):
    monkeypatch.setattr("trifold.video.read.MOST_BYTES", 10 * 64 * 96 * 3)
    assert read_clip(base, num_frames=10).num_frames == 10
    with pytest.raises(VideoError, match=r"more than 0 GiB of pictures \(after 10 frames of 96x64\)"):
        read_clip(base)


def test_without_pyav_the_command_is_named(base, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'trifold\[video\]'"):
        read_clip(base)
