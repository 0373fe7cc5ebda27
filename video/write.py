"""Write a clip: H.264 with sound, GIF, PNG frames. Everything appears whole under its name, or not at all."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..common.movie import TaggedFrames
from ..common.weights import replaced_file, replaced_folder
from .clip import Audio, Clip, VideoWarning, rate_text
from .compare import contact_sheet, save_contact_sheet, side_by_side
from .container import import_av
from .errors import VideoError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

__all__ = ["contact_sheet", "save_clip", "side_by_side", "write_frames", "write_gif", "write_mp4"]

# Best first; all but the first are for builds of FFmpeg without x264.
ENCODERS = ("libx264", "libopenh264", "mpeg4")
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
GIF_RATE = 50  # browsers slow down delays under 2/100 s
FRAME_NAME = re.compile(r"\d{5,}\.png")


def save_clip(clip: Clip, path: str | os.PathLike[str]) -> None:
    """Write by suffix: .mp4, .gif, .png (a contact sheet), or a folder of PNG frames where there is no suffix."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        write_mp4(path, clip)
    elif suffix == ".gif":
        write_gif(path, clip)
    elif suffix == ".png":
        save_contact_sheet(path, [clip], [clip.name] if clip.name else None)
    elif not suffix:
        write_frames(path, clip)
    else:
        known = ".mp4 (video with sound), .gif, .png (contact sheet), or no suffix (a folder of PNG frames)"
        raise VideoError(f"{path}: unknown suffix {path.suffix!r}; expected {known}")


@contextmanager
def _saying_where(path: Path) -> Iterator[None]:
    """The system's refusals as VideoError with the path."""
    try:
        yield
    except OSError as error:
        raise VideoError(f"{path}: cannot write ({error.strerror or error})") from error


# --------------------------------------------------------------------------------------------------------- mp4


def write_mp4(path: str | os.PathLike[str], clip: Clip, *, crf: int = 18) -> None:
    """H.264 (yuv420p, exact frame rate, AAC sound, index first so that browsers can start at once).

    crf: x264's constant rate factor, 0 (nearly lossless) to 51; 18 is visually transparent. Colours are BT.709 from
    720 lines on and BT.601 below, limited range, and tagged. Odd sides, which 4:2:0 cannot hold, repeat their last
    row or column, with a VideoWarning; so does a build of FFmpeg without x264, which gets another encoder.

    Raises VideoError for a crf out of range, sound with more than 8 channels, and a place that cannot be written.
    """
    if isinstance(crf, bool) or not isinstance(crf, int) or not 0 <= crf <= 51:
        raise VideoError(f"crf: expected a whole number from 0 to 51, found {crf!r}")
    path = Path(path)
    av = import_av()
    _check_channels(clip.audio, path)
    frames = _even(clip.frames, path)
    # PyAV's errors are OSErrors too where the system refused.
    with _saying_where(path), replaced_file(path) as temporary:
        try:
            _encode(av, temporary, clip, frames, crf, path)
        except av.FFmpegError as error:
            raise VideoError(f"{path}: cannot encode {clip.width}x{clip.height} ({error})") from error


def _even(frames: np.ndarray, path: Path) -> np.ndarray:
    height, width = frames.shape[1:3]
    if height % 2 == 0 and width % 2 == 0:
        return frames
    size = f"{width + width % 2}x{height + height % 2}"
    warnings.warn(
        f"{path}: {width}x{height} became {size} by repeating the edge; H.264 needs even sides",
        VideoWarning,
        stacklevel=3,
    )
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _check_channels(audio: Audio | None, path: Path) -> None:
    if audio is not None and audio.channels not in LAYOUTS:
        raise VideoError(f"{path}: sound of {audio.channels} channels; expected one of {', '.join(map(str, LAYOUTS))}")


def choose_encoder(av: Any, path: Path, wanted: tuple[str, ...] = ENCODERS) -> str:
    """The first of `wanted` that this build of FFmpeg has, with a VideoWarning where it is not the first of all."""
    for name in wanted:
        try:
            av.codec.Codec(name, "w")
        except av.codec.codec.UnknownCodecError:
            continue
        if name != ENCODERS[0]:
            text = f"{path}: this build of FFmpeg has no {ENCODERS[0]}; {name} was taken, with its own quality scale"
            warnings.warn(text, VideoWarning, stacklevel=4)
        return name
    raise VideoError(f"{path}: this build of FFmpeg has none of the encoders {', '.join(wanted)}")


def _encode(av: Any, target: Path, clip: Clip, frames: np.ndarray, crf: int, path: Path) -> None:
    name = choose_encoder(av, path)
    rate = clip.fps.limit_denominator(100_000)
    with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        options = {"crf": str(crf)} if name == "libx264" else {}
        stream = container.add_stream(name, rate=rate, options=options)
        if name == "mpeg4":  # its own scale, by eye
            stream.codec_context.qmin = stream.codec_context.qmax = max(2, min(31, round(crf * crf / 90)))
        if name == "libopenh264":
            stream.codec_context.bit_rate = int(frames.shape[1] * frames.shape[2] * rate / 4)
        tagged = TaggedFrames(av, stream, frames.shape[1], frames.shape[2], rate)
        sound = _Sound(av, container, clip.audio) if clip.audio is not None else None
        for index, picture in enumerate(frames):
            container.mux(stream.encode(tagged(index, picture)))
            if sound is not None:
                sound.encode_until((index + 1) / rate)
        container.mux(stream.encode(None))
        if sound is not None:
            sound.finish()


class _Sound:
    """Encodes the samples alongside the pictures, so that the file's packets alternate."""

    def __init__(self, av: Any, container: Any, audio: Audio) -> None:
        self.av, self.container, self.audio = av, container, audio
        self.layout = LAYOUTS[audio.channels]
        # AAC knows thirteen rates; others are resampled to the nearest above, or to the highest.
        rate = audio.rate if audio.rate in AAC_RATES else min((r for r in AAC_RATES if r > audio.rate), default=48000)
        bit_rate = 64_000 * audio.channels if rate < 32_000 else 96_000 * audio.channels
        self.stream = container.add_stream("aac", rate=rate, layout=self.layout, bit_rate=bit_rate)
        self.resampler = av.AudioResampler(format="fltp", layout=self.layout, rate=rate)
        self.position = 0

    def encode_until(self, seconds: Fraction) -> None:
        end = min(self.audio.samples.shape[1], round(seconds * self.audio.rate))
        while self.position < end:
            stop = min(end, self.position + self.audio.rate)
            block = np.ascontiguousarray(self.audio.samples[:, self.position : stop])
            frame = self.av.AudioFrame.from_ndarray(block, format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.audio.rate, self.position, Fraction(1, self.audio.rate)
            self._mux(self.resampler.resample(frame))
            self.position = stop

    def finish(self) -> None:
        self.encode_until(Fraction(self.audio.samples.shape[1], self.audio.rate))
        self._mux(self.resampler.resample(None))
        self.container.mux(self.stream.encode(None))

    def _mux(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            self.container.mux(self.stream.encode(frame))


# ------------------------------------------------------------------------------------------------- gif and frames


def gif_times(count: int, fps: Fraction) -> tuple[list[int], list[int]]:
    """(frame indices, delays in hundredths of a second) for a GIF as long as the clip.

    Delays are differences of rounded times, so 30 fps becomes 3, 4, 3, 3, 4, ... and does not drift. Over 50 fps
    frames are left out.
    """
    rate = min(fps, Fraction(GIF_RATE))
    shown = max(1, round(count * rate / fps))
    edges = [round(100 * k / rate) for k in range(shown + 1)]
    return [min(count - 1, int(k * fps / rate)) for k in range(shown)], [b - a for a, b in pairwise(edges)]


def write_gif(path: str | os.PathLike[str], clip: Clip, *, loop: int = 0) -> None:
    """An animated GIF in 255 colours, one palette for all frames (each with its own would flicker). No sound.

    loop: how often it plays, 0 for ever. Over 50 fps, which no browser plays, frames are left out with a VideoWarning.
    """
    path = Path(path)
    if isinstance(loop, bool) or not isinstance(loop, int) or not 0 <= loop <= 65535:
        raise VideoError(f"loop: expected a whole number from 0 to 65535, found {loop!r}")
    indices, delays = gif_times(clip.num_frames, clip.fps)
    if len(indices) < clip.num_frames:
        text = f"{path}: {clip.num_frames} frames at {rate_text(clip.fps)} fps became {len(indices)} at {GIF_RATE} fps"
        warnings.warn(f"{text}; a GIF cannot be faster", VideoWarning, stacklevel=2)
    palette = _palette(clip.frames)
    pictures = [Image.fromarray(clip.frames[index]).quantize(palette=palette) for index in indices]
    # Frames equal to the last one are merged by Pillow, with their delays added; one picture alone needs no loop.
    with _saying_where(path), replaced_file(path) as temporary:
        pictures[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=[10 * delay for delay in delays] if len(delays) > 1 else 10 * delays[0],
            loop=loop,
        )


def _palette(frames: np.ndarray, samples: int = 1 << 18) -> Image.Image:
    """255 colours from pixels spread evenly over the clip."""
    pixels = frames.reshape(-1, 3)
    step = max(1, len(pixels) // samples)
    # A step with a factor in common with the width would see some columns only.
    chosen = pixels[:: step + (np.gcd(step, frames.shape[2]) > 1)]
    return Image.fromarray(chosen[None]).quantize(255, method=Image.Quantize.MEDIANCUT)


def write_frames(path: str | os.PathLike[str], clip: Clip) -> None:
    """A folder of 00000.png, 00001.png, ...

    A folder that is there is replaced only if it is empty or holds such frames and nothing else: VideoError otherwise.
    """
    path = Path(path)
    if path.exists():
        if not path.is_dir():
            raise VideoError(f"{path}: a file is in the way; expected a folder of frames or a free name")
        others = sorted(entry.name for entry in path.iterdir() if not FRAME_NAME.fullmatch(entry.name))
        if others:
            more = ", ..." if len(others) > 3 else ""
            raise VideoError(f"{path}: not replaced, it holds more than frames ({', '.join(others[:3])}{more})")
    with _saying_where(path), replaced_folder(path) as temporary:
        for index, frame in enumerate(clip.frames):
            Image.fromarray(frame).save(temporary / f"{index:05d}.png")
