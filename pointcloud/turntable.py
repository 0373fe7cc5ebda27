"""Clouds and meshes turning once around, as a movie that loops."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from ..common.movie import MovieError, write_h264
from ..common.weights import replaced_file
from .camera import Camera
from .errors import PointCloudError
from .render import Item, Style, render, tile

SUFFIXES = (".mp4", ".gif")
GIF_RATE = 50  # browsers slow down delays under 2/100 s


def turntable_frames(
    items: Sequence[Item],
    count: int,
    *,
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    camera: Camera | None = None,
    size: int = 384,
    style: Style | None = None,
) -> Iterator[np.ndarray]:
    """`count` pictures uint8 [H, W, 3] (sides even) of all items side by side, turning once to the left, so that the
    picture after the last is the first. `size`: pixels of the square of each item; other arguments as `contact_sheet`.

    Raises PointCloudError, at once, for no items, labels that do not match, and fewer than 2 frames.
    """
    if not items:
        raise PointCloudError("turntable: no items; expected at least one")
    if labels is not None and len(labels) != len(items):
        raise PointCloudError(f"turntable: labels: expected {len(items)}, found {len(labels)}")
    if columns is not None and columns < 1:
        raise PointCloudError(f"turntable: columns: expected at least 1, found {columns}")
    if count < 2:
        raise PointCloudError(f"turntable: {count} frames; expected at least 2")
    start, style = camera or Camera(), style or Style()
    return _frames(items, count, labels, columns, start, size, style)


def _frames(
    items: Sequence[Item],
    count: int,
    labels: Sequence[str] | None,
    columns: int | None,
    start: Camera,
    size: int,
    style: Style,
) -> Iterator[np.ndarray]:
    for index in range(count):
        camera = replace(start, azimuth=start.azimuth + 360 * index / count)
        pictures = [render(item, camera=camera, size=size, style=style) for item in items]
        if len(items) == 1 and labels is None:
            yield pictures[0][: size - size % 2, : size - size % 2]
        else:
            yield np.asarray(tile(pictures, labels, columns, background=style.background))


def save_turntable(
    path: str | os.PathLike[str],
    items: Item | Sequence[Item],
    *,
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    seconds: float = 6.0,
    fps: int = 25,
    camera: Camera | None = None,
    size: int = 384,
    style: Style | None = None,
) -> None:
    """Write a turn as .mp4 (H.264; needs PyAV) or .gif (at most 50 frames per second), which loops for ever.

    items: one cloud or mesh, or several side by side. About 0.2 s of work a frame and item at 384 pixels. The file
    appears whole or not at all. Raises PointCloudError for another suffix, a length or rate that is not positive, a
    place that cannot be written, and what `turntable_frames` refuses; ImportError without PyAV.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise PointCloudError(f"{path}: cannot write {suffix or 'a file without suffix'}; use .mp4 or .gif")
    if not 0 < seconds <= 600 or not 0 < fps <= 240:
        raise PointCloudError(f"{path}: {seconds} seconds at {fps} frames per second; expected 0 to 600 and 0 to 240")
    if suffix == ".gif":
        fps = min(fps, GIF_RATE)
    listed = list(items) if isinstance(items, Sequence) else [items]
    frames = turntable_frames(
        listed, round(seconds * fps), labels=labels, columns=columns, camera=camera, size=size, style=style
    )
    try:
        if suffix == ".mp4":
            write_h264(path, frames, fps)
        else:
            _write_gif(path, frames, fps)
    except MovieError as error:
        raise PointCloudError(str(error)) from error
    except OSError as error:
        raise PointCloudError(f"{path}: cannot write ({error.strerror or error})") from error


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    pictures = [Image.fromarray(frame) for frame in frames]
    # One palette for all frames: with one each, still parts of the picture would flicker.
    strip = np.concatenate([np.asarray(picture)[::4, ::4] for picture in pictures[:: max(1, len(pictures) // 8)]])
    palette = Image.fromarray(strip).quantize(255, method=Image.Quantize.MEDIANCUT)
    shown = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    # Delays are hundredths of a second: differences of rounded times do not drift.
    edges = [round(100 * index / fps) for index in range(len(shown) + 1)]
    delays = [10 * (b - a) for a, b in pairwise(edges)]
    with replaced_file(path) as temporary:
        shown[0].save(
            temporary, format="GIF", save_all=True, append_images=shown[1:], duration=delays, loop=0, disposal=1
        )
