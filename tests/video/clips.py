"""Small video files with known contents, written here by PyAV."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trifold.video.clip import Audio, Clip

HAVE_DECORD = importlib.util.find_spec("decord") is not None
needs_decord = pytest.mark.skipif(not HAVE_DECORD, reason="decord is not installed")
BACKENDS = ["pyav", pytest.param("decord", marks=needs_decord)]
STEP = 6  # grey levels between the frames of `numbered`; more than any codec here is off


def numbered(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """uint8 [count, height, width, 3]: frame i is flat grey of level 6 i + 10."""
    assert count * STEP + 10 <= 255
    levels = (np.arange(count) * STEP + 10).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of `numbered` these are, from the middle of the picture."""
    height, width = frames.shape[1:3]
    middle = frames[:, height // 3 : -(height // 3), width // 3 : -(width // 3)].mean((1, 2, 3))
    return [round(float(level - 10) / STEP) for level in middle]


def picture(height: int = 64, width: int = 96) -> np.ndarray:
    """uint8 [height, width, 3], smooth, and different under each of the eight ways to turn it."""
    y, x = np.mgrid[0:height, 0:width]
    red = 255 * x / (width - 1)
    green = 255 * y / (height - 1)
    blue = 128 + 80 * np.sin(x / 9) * np.cos(y / 7)
    return np.stack([red, green, blue], axis=-1).round().astype(np.uint8)


def moving(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """uint8 [count, height, width, 3]: `picture` pushed 3 pixels to the right each frame."""
    wide = picture(height, width + 3 * count)
    return np.stack([wide[:, 3 * (count - i) : 3 * (count - i) + width] for i in range(count)])


def sine(frequency: float, seconds: float, rate: int = 44100, channels: int = 1) -> Audio:
    """Half of full scale; channel c has frequency (c + 1) times `frequency`."""
    t = np.arange(round(seconds * rate)) / rate
    return Audio(
        np.stack([0.5 * np.sin(2 * np.pi * frequency * (c + 1) * t) for c in range(channels)]).astype(np.float32), rate
    )


def dominant(samples: np.ndarray, rate: int) -> float:
    """The strongest frequency (Hz) of [n] samples."""
    window = np.hanning(len(samples))
    spectrum = np.abs(np.fft.rfft(samples * window, n=8 * len(samples)))
    return float(spectrum.argmax() * rate / (8 * len(samples)))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))


def clip_of(frames: np.ndarray, fps: Fraction | int = 10, **kept: Any) -> Clip:
    return Clip(frames, Fraction(fps), **kept)


def write_video(
    path: Path,
    frames: np.ndarray,
    rate: Fraction | int = 10,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    setup: Callable[[Any], None] | None = None,
    sound: np.ndarray | None = None,
    alpha: np.ndarray | None = None,
) -> Path:
    """Encode uint8 [F, H, W, 3]. times: milliseconds of each frame. sound: float32 [n] at 44,100 Hz, as AAC.

    alpha: uint8 [H, W] for all frames. setup: called with the stream before the first frame.
    """
    import av

    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(
            codec, rate=rate, options={"crf": "10"} | (options or {}) if "x26" in codec else options
        )
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if setup is not None:
            setup(stream)
        voice = out.add_stream("aac", rate=44100, layout="mono") if sound is not None else None
        for index, pixels_rgb in enumerate(frames):
            if alpha is not None:
                frame = av.VideoFrame.from_ndarray(np.dstack([pixels_rgb, alpha]), format="rgba")
            else:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_rgb), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if voice is not None and sound is not None:
            block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = 44100, 0, Fraction(1, 44100)
            out.mux(voice.encode(block))
            out.mux(voice.encode(None))
    return path


def write_sound(path: Path, seconds: float = 1.0) -> Path:
    """A file with AAC sound and nothing else."""
    import av

    audio = sine(440, seconds)
    with av.open(str(path), "w") as out:
        voice = out.add_stream("aac", rate=44100, layout="mono")
        block = av.AudioFrame.from_ndarray(audio.samples, format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = 44100, 0, Fraction(1, 44100)
        out.mux(voice.encode(block))
        out.mux(voice.encode(None))
    return path
