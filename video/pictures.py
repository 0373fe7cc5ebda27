"""Still pictures as a source of frames: a folder of PNG or JPEG files, an animated GIF, WebP or PNG, one picture."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .decode import Moment, Source
from .errors import VideoError
from .upright import Picture, over_black

SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("GIF", "WEBP", "PNG", "JPEG")
FOLDER_RATE = Fraction(8)
# Browsers show GIF frames of at most 10 ms for 100 ms, and files are made with that in mind.
SHORTEST, UNSET = 10, 100


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts frame2 before frame10: runs of digits compare as numbers."""
    parts = re.findall(r"(\d+)|(\D+)", name.lower())
    return [(0, int(digits), "") if digits else (1, 0, text) for digits, text in parts]


def is_picture(path: Path) -> bool:
    """Whether Pillow, not FFmpeg, should read the file; by its content."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def picture_rgb(image: Image.Image, source: Source) -> Picture:
    """uint8 [H, W, 3]; alpha is composited on black and remarked."""
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        if rgba[..., 3].min() < 255:
            source.remark("alpha composited on black")
            return over_black(rgba)
        return np.ascontiguousarray(rgba[..., :3])
    return np.asarray(image.convert("RGB"))


def open_folder(path: Path, rate: Fraction | None) -> Source:
    """The PNG and JPEG files of a folder in natural order, `rate` (default 8) a second.

    Raises VideoError for a folder without any, a broken file, and files of different sizes.
    """
    files = sorted(
        (file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")),
        key=lambda file: natural_key(file.name),
    )
    if not files:
        others = sorted(file.name for file in path.iterdir())[:5]
        raise VideoError(f"{path}: no {', '.join(SUFFIXES)} files in this folder (found {', '.join(others) or 'none'})")
    source = Source(path.name, "pictures", rate or FOLDER_RATE, num_frames=len(files), timed=False)
    with _opened(files[0]) as image:
        source.width, source.height = _upright(image, files[0]).size
    step = 1 / source.rate

    def picture(file: Path) -> Picture:
        with _opened(file) as image:
            found = picture_rgb(_upright(image, file), source)
        if found.shape[:2] != (source.height, source.width):
            raise VideoError(
                f"{file}: {found.shape[1]}x{found.shape[0]} pixels; expected {source.width}x{source.height} as in "
                f"{files[0].name}"
            )
        return found

    source.moments = (Moment(i * step, (i + 1) * step, lambda file=file: picture(file)) for i, file in enumerate(files))
    return source


def open_animation(path: Path, rate: Fraction | None) -> Source:
    """An animated GIF, WebP or PNG with its own times, or a single picture, on screen for 1 / `rate` (default 8)."""
    with _opened(path) as image:
        count = getattr(image, "n_frames", 1)
        source = Source(path.name, "pictures", rate or FOLDER_RATE, num_frames=count, timed=count > 1)
        source.width, source.height = _upright(image, path).size if count == 1 else image.size
        edges = [Fraction(0), 1 / source.rate] if count == 1 else _edges(image, count, path)
    source.rate = count / edges[-1]
    source.moments = _stills(path, source, edges)
    return source


def _edges(image: Image.Image, count: int, path: Path) -> list[Fraction]:
    """When each frame begins, in seconds, and when the last one ends."""
    edges = [Fraction(0)]
    for index in range(count):
        _seek(image, index, count, path)
        shown = image.info.get("duration", 0)
        edges.append(edges[-1] + Fraction(shown if shown > SHORTEST else UNSET).limit_denominator(1000) / 1000)
    return edges


def _stills(path: Path, source: Source, edges: list[Fraction]) -> Generator[Moment]:
    with _opened(path) as image:
        for index, (begin, end) in enumerate(pairwise(edges)):
            _seek(image, index, len(edges) - 1, path)
            shown = _upright(image, path) if len(edges) == 2 else image
            yield Moment(begin, end, lambda shown=shown: picture_rgb(shown, source))


def _upright(image: Image.Image, path: Path) -> Image.Image:
    """The picture decoded, and turned as the camera's tag says."""
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise VideoError(f"{path}: a damaged picture ({error})") from error


def _seek(image: Image.Image, index: int, count: int, path: Path) -> None:
    try:
        image.seek(index)
        image.load()  # WebP knows a frame's time only once it is decoded
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise VideoError(f"{path}: frame {index} of {count} is damaged ({error})") from error


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        image = Image.open(path, formats=FORMATS)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path}: not a PNG, JPEG, GIF or WebP picture ({error})") from error
    with image:
        yield image
