"""Fitting pictures to a size: cover and crop, letterbox, or stretch, in one antialiased resampling.

The resampling is Pillow's Lanczos: its kernel widens with the reduction (so it averages where plain bicubic would
alias), it takes a fractional source box (so scaling and centring are one step, with no half-pixel drift), and it works
in fixed point (so every machine gets the same bytes).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import VideoError

Fit = Literal["crop", "pad", "stretch"]
LARGEST_SIDE = 16384  # of a frame; H.264 ends there as well


@dataclass(frozen=True)
class Fitting:
    """How one picture becomes another. Sizes are (height, width).

    box: left, top, right, bottom of the part of the source that is seen, in source pixels, may be fractional.
    inner: the size that part gets; offset: (top, left) of it within `target`; the rest of `target` is black.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    box: tuple[float, float, float, float]
    inner: tuple[int, int]
    offset: tuple[int, int]
    note: str

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] of size `source` to uint8 [H, W, 3] of size `target`."""
        height, width = self.source
        if self.inner == self.source and self.box == (0, 0, width, height):
            resized = picture
        else:
            image = Image.fromarray(np.ascontiguousarray(picture))
            inner = (self.inner[1], self.inner[0])
            resized = np.asarray(image.resize(inner, Image.Resampling.LANCZOS, box=self.box))
        if self.inner == self.target:
            return resized
        canvas = np.zeros((*self.target, 3), np.uint8)
        (top, left), (h, w) = self.offset, self.inner
        canvas[top : top + h, left : left + w] = resized
        return canvas


def check_size(size: int | tuple[int, int] | None, multiple: int, fit: str) -> tuple[int, int] | None:
    """`size` as (height, width), both rounded to the nearest `multiple`. Raises VideoError for values out of range."""
    if fit not in get_args(Fit):
        raise VideoError(f"fit: expected one of {', '.join(get_args(Fit))}, found {fit!r}")
    if isinstance(multiple, bool) or not isinstance(multiple, int) or not 1 <= multiple <= LARGEST_SIDE:
        raise VideoError(f"multiple: expected a whole number from 1 to {LARGEST_SIDE}, found {multiple!r}")
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    whole = len(sides) == 2 and all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if not whole or not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise VideoError(
            f"size: expected one side or (height, width), whole numbers from 1 to {LARGEST_SIDE}, found {size!r}"
        )
    return _rounded(sides[0], multiple), _rounded(sides[1], multiple)


def plan_fit(
    source: tuple[int, int],
    size: int | tuple[int, int] | None = None,
    *,
    fit: Fit = "crop",
    multiple: int = 1,
    pixel_aspect: Fraction = Fraction(1),
) -> Fitting:
    """The `Fitting` of pictures of `source` (height, width) to `size`.

    size: one side for both, (height, width), or None: the picture's own. Sides are rounded to the nearest `multiple`.
    fit: "crop" covers the target and cuts evenly what stands out; "pad" shows everything between black bars;
    "stretch" gives up the aspect ratio. pixel_aspect: width over height of a source pixel; targets have square pixels.
    Raises VideoError for values out of range.
    """
    asked = check_size(size, multiple, fit)
    height, width = source
    shown = width * pixel_aspect  # the width in square pixels as tall as the source's
    natural = (height, max(1, round(shown)))
    target = asked or (_rounded(natural[0], multiple), _rounded(natural[1], multiple))
    across, down = Fraction(target[1]) / shown, Fraction(target[0], height)
    whole = (0.0, 0.0, float(width), float(height))
    to = f"{target[1]}x{target[0]}"
    if target == source and pixel_aspect == 1:
        return Fitting(source, target, whole, target, (0, 0), "size kept")
    if fit == "stretch":
        note = f"stretched to {to} (width times {float(across):.3g}, height times {float(down):.3g})"
        return Fitting(source, target, whole, target, (0, 0), note)
    if fit == "pad":
        scale = min(across, down)
        inner = (
            min(target[0], max(1, round(height * scale))),
            min(target[1], max(1, round(shown * scale))),
        )
        offset = ((target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2)
        note = f"resized to {inner[1]}x{inner[0]}, padded to {to}"
        return Fitting(source, target, whole, inner, offset, note)
    scale = max(across, down)
    seen = (float(target[0] / scale), float(target[1] / scale / pixel_aspect))
    left, top = (width - seen[1]) / 2, (height - seen[0]) / 2
    # The right and lower edge from the other side: float rounding must not put them outside the picture.
    box = (max(0.0, left), max(0.0, top), min(float(width), width - left), min(float(height), height - top))
    lost = [
        f"{round(cut)} px of {side} in {name}"
        for cut, side, name in ((2 * left, width, "width"), (2 * top, height, "height"))
        if cut >= 0.5
    ]
    note = f"resized to {to}, cropped {' and '.join(lost) or '0 px'}"
    return Fitting(source, target, box, target, (0, 0), note)


def _rounded(side: int, multiple: int) -> int:
    return max(multiple, round(Fraction(side, multiple)) * multiple)
