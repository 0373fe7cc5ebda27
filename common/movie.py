"""Pictures in, H.264 out: the one movie format that every browser, phone and slide programme plays."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .weights import replaced_file

HD_LINES = 720  # from here on players take untagged video for BT.709, below for BT.601: the tags say the same


class MovieError(ValueError):
    """Frames, a rate or a quality that cannot be encoded, or a place that cannot be written."""


def write_h264(path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: Fraction | int, crf: int = 18) -> None:
    """Encode frames as they come, so that a long movie needs the memory of one picture. No sound.

    frames: uint8 RGB [H, W, 3], all of one size with even sides, which 4:2:0 needs; at least one.
    fps: frames per second, exact: Fraction(30000, 1001) stays that. crf: x264's constant rate factor, 0 (nearly
    lossless) to 51; 18 is visually transparent.

    The file is an MP4 (whatever the suffix) in yuv420p, limited range, BT.709 from 720 lines on and BT.601 below,
    tagged, with the index first so that browsers can start at once. It appears whole or not at all; what `frames`
    raises passes through. Raises MovieError for all that does not fit, ImportError where PyAV is missing.
    """
    path = Path(path)
    if isinstance(crf, bool) or not isinstance(crf, int) or not 0 <= crf <= 51:
        raise MovieError(f"{path}: crf: expected a whole number from 0 to 51, found {crf!r}")
    rate = Fraction(fps)
    if not 0 < rate <= 1000:
        raise MovieError(f"{path}: fps: expected a number above 0 and at most 1000, found {fps}")
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        message = "writing .mp4 needs PyAV: pip install 'trifold[video]' or 'trifold[pointcloud]'"
        raise ImportError(message) from error
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise MovieError(f"{path}: no frames; expected at least one")
    _check(path, first, first.shape)
    if first.shape[0] % 2 or first.shape[1] % 2:
        raise MovieError(f"{path}: H.264 needs even sides, found {first.shape[1]}x{first.shape[0]} pixels")
    try:
        with replaced_file(path) as temporary:
            _encode(av, temporary, chain([first], rest), first.shape, rate, crf, path)
    except FFmpegError as error:
        size = f"{first.shape[1]}x{first.shape[0]}"
        raise MovieError(f"{path}: cannot encode {size} at {rate} frames per second ({error})") from error
    except OSError as error:
        raise MovieError(f"{path}: cannot write ({error.strerror or error})") from error


def _check(path: Path, frame: np.ndarray, shape: tuple[int, ...]) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise MovieError(f"{path}: frames: expected uint8 [H, W, 3], found {frame.dtype} {list(frame.shape)}")
    if frame.shape != shape:
        raise MovieError(f"{path}: frames: one of {list(frame.shape)} after others of {list(shape)}")


class TaggedFrames:
    """Frames of a video stream: yuv420p, limited range, BT.709 from `HD_LINES` lines on and BT.601 below, tagged so,
    one after the other at an exact rate.

    stream: PyAV's, whose size, format and tags are set here.
    """

    def __init__(self, av: Any, stream: Any, height: int, width: int, rate: Fraction) -> None:
        from av.video.reformatter import ColorRange, Colorspace, Interpolation

        self.av, self.rate, self.range = av, rate, ColorRange.MPEG
        # Chroma is averaged over the two by two pixels that share it, not taken from one of them.
        self.interpolation = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
        self.matrix = Colorspace.ITU709 if height >= HD_LINES else Colorspace.ITU601
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = int(self.matrix), int(self.range)
        context.color_primaries = context.color_trc = 1  # BT.709, whose primaries are those of sRGB

    def __call__(self, index: int, picture: np.ndarray) -> Any:
        """Frame `index` of the stream from uint8 RGB [H, W, 3]."""
        frame = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=self.matrix,
            dst_color_range=self.range,
            interpolation=self.interpolation,
        )
        frame.pts, frame.time_base, frame.duration = index, 1 / self.rate, 1
        return frame


def _encode(
    av: Any, target: Path, frames: Iterable[np.ndarray], shape: tuple[int, ...], rate: Fraction, crf: int, path: Path
) -> None:
    with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        tagged = TaggedFrames(av, stream, shape[0], shape[1], rate)
        for index, picture in enumerate(frames):
            _check(path, picture, shape)
            container.mux(stream.encode(tagged(index, picture)))
        container.mux(stream.encode(None))
