"""A clip in memory: pictures, their rate, and the sound that belongs to them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import VideoError

MOST_PER_SECOND = 1000  # a rate beyond this is a mistake in a header or a flag, not a video


class VideoWarning(UserWarning):
    """Something was written or read in another way than asked; the message says how and why."""


def as_rate(value: Fraction | float | str, what: str = "fps") -> Fraction:
    """Frames per second as an exact fraction: 29.97 becomes 2997/100, 30000 / 1001 becomes 30000/1001.

    Raises VideoError naming `what` for anything that is not a number in (0, 1000].
    """
    try:
        rate = value if isinstance(value, Fraction) else Fraction(value).limit_denominator(1001)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise VideoError(f"{what}: expected frames per second as a number, found {value!r}") from error
    if not 0 < rate <= MOST_PER_SECOND:
        raise VideoError(f"{what}: expected more than 0 and at most {MOST_PER_SECOND} frames per second, found {value}")
    return rate


def rate_text(rate: Fraction) -> str:
    """A rate for people: 24, 29.97, 14.985."""
    return f"{float(rate):.3f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, eq=False)
class Audio:
    """samples: float32 [channels, n], full scale is [-1, 1]. rate: samples per second."""

    samples: NDArray[np.float32]
    rate: int

    def __post_init__(self) -> None:
        found = self.samples
        if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype != np.float32 or not found.size:
            raise VideoError(f"Audio.samples: expected float32 [channels, n], found {_describe(found)}")
        if self.rate < 1:
            raise VideoError(f"Audio.rate: expected samples per second, found {self.rate}")

    @property
    def channels(self) -> int:
        return self.samples.shape[0]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples.shape[1] / self.rate


@dataclass(frozen=True, eq=False)
class Clip:
    """frames: uint8 [F, H, W, 3], RGB (sRGB). fps: a fraction. audio starts and ends with the pictures.

    name: what a person would call it (file name without suffix, a prompt). note: what reading did to it, in words.
    Raises VideoError for other shapes and types, no frames, or a rate outside (0, 1000].
    """

    frames: NDArray[np.uint8]
    fps: Fraction
    audio: Audio | None = None
    name: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        found = self.frames
        if not isinstance(found, np.ndarray) or found.ndim != 4 or found.dtype != np.uint8 or found.shape[3] != 3:
            raise VideoError(f"Clip.frames: expected uint8 [frames, height, width, 3], found {_describe(found)}")
        if not found.size:
            raise VideoError(f"Clip.frames: expected at least one frame and one pixel, found {list(found.shape)}")
        object.__setattr__(self, "fps", as_rate(self.fps, "Clip.fps"))

    @property
    def num_frames(self) -> int:
        return self.frames.shape[0]

    @property
    def height(self) -> int:
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        return self.frames.shape[2]

    @property
    def duration(self) -> float:
        """Seconds, the last frame's time on screen included."""
        return float(self.num_frames / self.fps)

    def to_tensor(self) -> Tensor:
        """float32 [F, 3, H, W] in [-1, 1]; 0 and 255 become exactly -1 and 1."""
        frames = torch.from_numpy(np.ascontiguousarray(self.frames.transpose(0, 3, 1, 2)))
        return frames.to(torch.float32).div_(127.5).sub_(1)

    @classmethod
    def from_tensor(
        cls, x: Tensor, *, fps: Fraction | float, audio: Audio | None = None, name: str = "", note: str = ""
    ) -> Clip:
        """The inverse of `to_tensor`: any floating [F, 3, H, W]; values outside [-1, 1] are clipped.

        Raises VideoError for another shape and for values that are not finite.
        """
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            kind = str(x.dtype).removeprefix("torch.")
            raise VideoError(f"from_tensor: expected floating [frames, 3, height, width], found {kind}{list(x.shape)}")
        x = x.detach().to("cpu", torch.float32)
        if broken := int((~x.isfinite()).sum()):
            raise VideoError(f"from_tensor: {broken} of {x.numel()} values are not finite")
        frames = x.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        pictures = np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy())
        return cls(pictures, as_rate(fps), audio, name, note)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write by suffix: .mp4 (with sound), .gif, .png (a contact sheet), none: a folder of PNG frames.

        Nothing half-written ever bears the name. Raises VideoError for another suffix or a place that cannot be
        written, ImportError where .mp4 needs PyAV.
        """
        from .write import save_clip  # write.py imports this file

        save_clip(self, path)


def _describe(found: object) -> str:
    if isinstance(found, np.ndarray | Tensor):
        return f"{str(found.dtype).removeprefix('torch.')}{list(found.shape)} ({type(found).__name__})"
    return type(found).__name__
