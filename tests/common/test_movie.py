"""H.264: what is decoded is what was given, and a name never holds half a file."""

from __future__ import annotations

import builtins
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from trifold.common.movie import MovieError, write_h264

av = pytest.importorskip("av", reason="PyAV is not installed")


def _bars(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A grey field with a white bar, one step to the right in every frame: uint8 [count, height, width, 3]."""
    frames = np.full((count, height, width, 3), 90, np.uint8)
    for index in range(count):
        frames[index, :, 4 * index : 4 * index + 8] = 250
    return frames


def _decoded(path: Path) -> list:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize("rate", [8, Fraction(25), Fraction(30000, 1001)])
def test_frames_and_rate_come_back(tmp_path: Path, rate: Fraction | int) -> None:
    frames = _bars(12)
    write_h264(tmp_path / "sub" / "a.mp4", iter(frames), rate)
    with av.open(str(tmp_path / "sub" / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == rate
        assert container.streams.video[0].codec_context.name == "h264"
    back = np.stack([frame.to_ndarray(format="rgb24") for frame in _decoded(tmp_path / "sub" / "a.mp4")])
    assert back.shape == frames.shape
    error = np.abs(back[:, None].astype(int) - frames[None]).mean((2, 3, 4))
    np.testing.assert_array_equal(error.argmin(1), np.arange(12))
    assert np.diag(error).max() < 3
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(("height", "matrices"), [(64, {5, 6}), (720, {1})])
def test_colours_are_tagged_and_true(tmp_path: Path, height: int, matrices: set[int]) -> None:
    from av.video.reformatter import Interpolation

    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40), (255, 255, 255), (0, 0, 0)]
    write_h264(tmp_path / "a.mp4", [np.full((height, 96, 3), colour, np.uint8) for colour in colours], 8, crf=5)
    decoded = _decoded(tmp_path / "a.mp4")
    assert {int(frame.colorspace) for frame in decoded} <= matrices
    assert {(int(f.color_range), int(f.color_primaries), int(f.color_trc)) for f in decoded} == {(1, 1, 1)}
    assert {frame.format.name for frame in decoded} == {"yuv420p"}
    way = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    exact = np.stack([frame.to_ndarray(format="rgb24", interpolation=way)[height // 2, 48] for frame in decoded])
    assert np.abs(exact.astype(int) - np.array(colours)).max() <= 2


def test_the_index_comes_first(tmp_path: Path) -> None:
    write_h264(tmp_path / "a.mp4", _bars(3), 8)
    data, boxes, at = (tmp_path / "a.mp4").read_bytes(), [], 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        boxes.append(kind)
        at += size
    assert boxes.index(b"moov") < boxes.index(b"mdat")


def test_quality_follows_crf(tmp_path: Path) -> None:
    noisy = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    sizes = []
    for crf in (5, 20, 40):
        write_h264(tmp_path / "a.mp4", noisy, 8, crf=crf)
        sizes.append((tmp_path / "a.mp4").stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[-1]


@pytest.mark.parametrize(
    ("frames", "fps", "crf", "message"),
    [
        ([], 8, 18, "no frames"),
        (_bars(2), 0, 18, "fps: expected a number above 0"),
        (_bars(2), -3, 18, "fps: "),
        (_bars(2), 8, 52, "crf: expected a whole number from 0 to 51, found 52"),
        (_bars(2), 8, 18.5, "crf: "),
        (_bars(2, height=47), 8, 18, "even sides, found 64x47"),
        (_bars(2).astype(float), 8, 18, r"expected uint8 \[H, W, 3\], found float64"),
        (_bars(2)[..., :1], 8, 18, r"found uint8 \[48, 64, 1\]"),
        ([*_bars(1), *_bars(1, 32)], 8, 18, r"one of \[32, 64, 3\] after others of \[48, 64, 3\]"),
        ([np.zeros((2, 40000, 3), np.uint8)], 8, 18, "cannot encode 40000x2"),
    ],
)
def test_what_cannot_be_encoded(tmp_path: Path, frames: list[np.ndarray], fps: int, crf: int, message: str) -> None:
    with pytest.raises(MovieError, match=message) as caught:
        write_h264(tmp_path / "a.mp4", frames, fps, crf)
    assert "a.mp4" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_between_frames_leaves_the_old_file(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from _bars(2)
        raise ArithmeticError("the third picture failed")

    (tmp_path / "a.mp4").write_bytes(b"old")
    with pytest.raises(ArithmeticError):
        write_h264(tmp_path / "a.mp4", broken(), 8)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.mp4", b"old")]
    (tmp_path / "wall").write_text("a file")
    with pytest.raises(MovieError, match="cannot write"):
        write_h264(tmp_path / "wall" / "a.mp4", _bars(2), 8)


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".")[0] == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'trifold\[video\]'"):
        write_h264(tmp_path / "a.mp4", _bars(2), 8)
