"""Animations of plans, for example a plan at every step of its denoising: GIF by Pillow, MP4 by PyAV."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from .errors import FloorplanError
from .files import write_whole
from .plan import Plan
from .render import View, plan_to_svg, plan_view, svg_to_png


def _pictures(frames: Sequence[Plan], size: int, palette: str, view: View) -> Iterator[Image.Image]:
    for i, plan in enumerate(frames):
        last = i == len(frames) - 1
        # The wall body of polygons that still cross themselves is a dark blot that hides them.
        walls = all(shapely.is_valid(shapely.Polygon(node.polygon)) for node in plan.rooms)
        svg = plan_to_svg(plan, size=size, labels=last, palette=palette, view=view, walls=walls, footer=False)
        with Image.open(io.BytesIO(svg_to_png(svg))) as picture:
            yield picture.convert("RGB")


def save_animation(
    frames: Sequence[Plan],
    path: str | os.PathLike[str],
    fps: float = 12,
    *,
    size: int = 384,
    hold: float = 1.5,
    palette: str = "soft",
) -> None:
    """Write plans as an animation by suffix: `.gif`, or `.mp4` (H.264; needs `pip install 'trifold[video]'`).

    frames: the states in order; polygons that cross themselves are drawn as outlines without walls. The window is that
    of the last plan, with a margin for the wider early states. The last frame has labels and stays for `hold` seconds.
    size: side in pixels (even, for H.264). The file appears whole or not at all. Raises `FloorplanError` for no frames,
    another suffix, an odd size or a frame rate that is not positive.
    """
    source = str(path)
    suffix = Path(path).suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise FloorplanError(f"cannot write {suffix or 'a file without suffix'}; use .gif or .mp4", source=source)
    if not frames:
        raise FloorplanError("no frames; expected at least one", source=source, field="frames")
    if fps <= 0:
        raise FloorplanError(f"expected a positive number, found {fps}", source=source, field="fps")
    if size < 16 or size % 2:
        raise FloorplanError(f"expected an even number of at least 16, found {size}", source=source, field="size")
    pictures = _pictures(frames, size, palette, plan_view([frames[-1]], margin=0.15))
    data = _gif(pictures, fps, hold) if suffix == ".gif" else _mp4(pictures, fps, hold)
    write_whole(path, data)


def _gif(pictures: Iterator[Image.Image], fps: float, hold: float) -> bytes:
    # One palette for all frames, from the last one, which has every colour: frames then differ only where plans do.
    images = list(pictures)
    colours = images[-1].quantize(96, dither=Image.Dither.NONE)
    frames = [image.quantize(palette=colours, dither=Image.Dither.NONE) for image in images]
    # Delays are hundredths of a second: differences of rounded times do not drift. Players slow down those below 2.
    edges = [round(100 * i / min(fps, 50)) for i in range(len(frames))]
    times = [10 * (b - a) for a, b in pairwise(edges)] + [max(20, 10 * round(100 * hold))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, disposal=1)
    return buffer.getvalue()


def _mp4(pictures: Iterator[Image.Image], fps: float, hold: float) -> bytes:
    # The core loads torch, which a GIF does not need.
    from ..common.movie import write_h264

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "animation.mp4"
        write_h264(path, _held(pictures, round(hold * fps)), Fraction(fps).limit_denominator(1000))
        return path.read_bytes()


def _held(pictures: Iterator[Image.Image], count: int) -> Iterator[np.ndarray]:
    """The pictures as arrays, the last one `count` times more."""
    frame: np.ndarray | None = None
    for picture in pictures:
        frame = np.asarray(picture)
        yield frame
    if frame is not None:
        yield from [frame] * count
