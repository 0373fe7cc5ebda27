"""One decoded frame as people see it: RGB, turned the way the camera was held, without transparency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Picture = NDArray[np.uint8]
# (a, b, c, d) of a display matrix: x' = a x + c y and y' = b x + d y, y downwards, each -1, 0 or 1.
Orientation = tuple[int, int, int, int]
UPRIGHT: Orientation = (1, 0, 0, 1)
PLAIN_FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"})


def to_rgb(frame: VideoFrame) -> Picture:
    """uint8 [H, W, 3], turned upright, alpha composited on black. Colours by the frame's own matrix and range.

    Plain formats go the scaler's fast way, the one decord goes too: it repeats chroma and is 0.9 levels dark on
    average (43.4 dB instead of 46.8 dB on a nearly lossless 512 x 512 clip). Others are interpolated and rounded.
    """
    from av.video.reformatter import Interpolation

    way = Interpolation.BICUBIC
    if not plain_format(frame):
        way |= Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    alpha = has_alpha(frame)
    found: Any = frame.to_ndarray(format="rgba" if alpha else "rgb24", interpolation=way)
    return turned(over_black(found) if alpha else found, orientation(frame)[0])


def plain_format(frame: VideoFrame) -> bool:
    """8 bits a sample and even sides: where decord's older scaler gives the same bytes as PyAV's."""
    return frame.format.name in PLAIN_FORMATS and frame.width % 2 == 0 and frame.height % 2 == 0


def over_black(rgba: Picture) -> Picture:
    """uint8 [H, W, 4] with straight alpha to uint8 [H, W, 3] on black."""
    colour, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    return ((colour * alpha + 127) // 255).astype(np.uint8)


def has_alpha(frame: VideoFrame) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def orientation(frame: VideoFrame) -> tuple[Orientation, bool]:
    """The frame's display matrix; the second value says that it was none of the eight and is ignored."""
    from av.sidedata.sidedata import Type

    side: Any = frame.side_data  # a mapping by Type; the stubs say str
    data = side.get(Type.DISPLAYMATRIX)
    if data is None:
        return UPRIGHT, False
    m = np.frombuffer(bytes(data), np.int32).astype(np.float64) / 65536
    found = (m[0], m[1], m[3], m[4])
    a, b, c, d = (round(value) for value in found)
    right_angled = max(abs(x - y) for x, y in zip(found, (a, b, c, d), strict=True)) < 0.01
    if not right_angled or abs(a * d - b * c) != 1 or (a and b):
        return UPRIGHT, True
    return (a, b, c, d), False


def turned(picture: Picture, way: Orientation) -> Picture:
    """Apply one of the eight right-angled orientations to [H, W, 3]."""
    a, b, c, d = way
    if a == 0:
        picture = picture.transpose(1, 0, 2)
    # After the transposition x' = c y and y' = b x read like x' = a x and y' = d y.
    picture = picture[:, ::-1] if a + c < 0 else picture
    return np.ascontiguousarray(picture[::-1] if b + d < 0 else picture)
