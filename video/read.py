"""Read a clip: choose the frames, decode once, fit the size, cut the sound to match."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from .clip import Audio, Clip, as_rate, rate_text
from .decode import DecordCannot, Moment, Source, length_text, open_decord, open_pyav
from .errors import VideoError
from .pictures import is_picture, open_animation, open_folder
from .resize import Fit, Fitting, check_size, plan_fit
from .sound import read_sound
from .upright import Picture

Backend = Literal["auto", "decord", "pyav"]
Short = Literal["error", "all"]
# Matroska and WebM round times to milliseconds; an instant so close before a frame has reached it.
TOLERANCE = Fraction(1, 1000)
# decord reads a file through before its first frame; PyAV can begin at once, which matters for films.
LARGE_FILE = 256 * 2**20
MOST_BYTES = 4 * 2**30  # of decoded pictures; a clip beyond it is a film opened by mistake


@dataclass(frozen=True)
class Sampling:
    """Which frames of a source become the clip. start: seconds after its first frame."""

    start: Fraction
    num_frames: int | None
    stride: int | None
    fps: Fraction | None


def read_clip(
    path: str | os.PathLike[str],
    *,
    num_frames: int | None = None,
    stride: int | None = None,
    fps: Fraction | float | None = None,
    start: float = 0.0,
    size: int | tuple[int, int] | None = None,
    fit: Fit = "crop",
    short: Short = "error",
    multiple: int = 1,
    backend: Backend = "auto",
) -> Clip:
    """Frames, rate and sound of a video file, an animated GIF, WebP or PNG, one picture, or a folder of PNG or JPEG.

    num_frames: how many frames to take; None takes all there are.
    stride: every n-th frame from the one on screen at `start` (default 1); the clip's rate is the source's over n.
    fps: instead of stride, the frame on screen at each instant `start + k / fps`, right for variable frame rates too.
        For a folder (or one picture), which has no times, it says how fast the files follow each other (default 8).
    start: seconds after the first frame.
    size, fit, multiple: `plan_fit`: one side or (height, width), the aspect ratio kept unless fit="stretch".
    short: with fewer frames than `num_frames`, "error" or take "all" there are.
    backend: "auto" takes decord where it is installed and gives the same frames, else PyAV; the note says which.

    The clip's note says what was done. Only what is needed is decoded, and once; the sound is that of the clip's time.

    Raises VideoError (naming the file, what was found and what was expected) for files that are no video, hold no
    frames or too few, or begin after `start`, and for arguments out of range; ImportError where PyAV is missing.
    """
    path = Path(path)
    sampling = _check(num_frames, stride, fps, start, short, backend)
    check_size(size, multiple, fit)
    if not path.is_file() and not path.is_dir():
        raise VideoError(f"{path}: {'neither a file nor a folder' if path.exists() else 'no such file or folder'}")
    passed_over: list[str] = []
    for opened in _ways(path, sampling, backend):
        try:
            source = opened()
            fitting = plan_fit(
                (source.height, source.width), size, fit=fit, multiple=multiple, pixel_aspect=source.pixel_aspect
            )
            with closing(source.moments):
                clip = _read(path, source, _suited(sampling, source), fitting, short)
            return replace(clip, note="; ".join([clip.note, *passed_over]))
        except DecordCannot as reason:
            if backend == "decord":
                raise VideoError(f"{path}: {reason}; backend='pyav' or 'auto' reads it") from reason
            passed_over.append(f"not by decord: {reason}")
    raise AssertionError("the last way never raises DecordCannot")


def _check(
    num_frames: int | None, stride: int | None, fps: Fraction | float | None, start: float, short: str, backend: str
) -> Sampling:
    for name, value in (("num_frames", num_frames), ("stride", stride)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise VideoError(f"{name}: expected a whole number of at least 1, found {value!r}")
    if isinstance(start, bool) or not isinstance(start, int | float | Fraction) or not 0 <= start < math.inf:
        raise VideoError(f"start: expected seconds from 0, found {start!r}")
    for name, value, known in (("short", short, Short), ("backend", backend, Backend)):
        if value not in get_args(known):
            raise VideoError(f"{name}: expected one of {', '.join(get_args(known))}, found {value!r}")
    # 0.3 s means three tenths, not the binary fraction just below, which would be a frame earlier at 10 fps.
    begin = Fraction(start).limit_denominator(1_000_000)
    return Sampling(begin, num_frames, stride, None if fps is None else as_rate(fps))


def _ways(path: Path, sampling: Sampling, backend: str) -> list[Callable[[], Source]]:
    """How the path can be opened, best first."""
    if path.is_dir():
        return [lambda: open_folder(path, sampling.fps)]
    if is_picture(path):
        return [lambda: open_animation(path, sampling.fps)]

    def pyav() -> Source:
        return open_pyav(path, sampling.start)

    def decord() -> Source:
        if backend == "auto" and path.stat().st_size > LARGE_FILE:
            raise DecordCannot(f"it would index {path.stat().st_size >> 20} MiB first")
        return open_decord(path)

    both = [decord, pyav] if importlib.util.find_spec("decord") else [pyav]
    return {"auto": both, "decord": [decord], "pyav": [pyav]}[backend]


def _suited(sampling: Sampling, source: Source) -> Sampling:
    """With exactly one of stride and fps. Of pictures without times fps has become the source's own rate."""
    if not source.timed:
        return replace(sampling, stride=sampling.stride or 1, fps=None)
    if sampling.fps is not None and sampling.stride is not None:
        raise VideoError(
            f"stride and fps exclude each other, found stride={sampling.stride} and fps={rate_text(sampling.fps)}"
        )
    return replace(sampling, stride=1) if sampling.fps is None and sampling.stride is None else sampling


@dataclass
class Tally:
    """What `chosen` has seen: moments from the start on, frames handed out, and where time ends so far (seconds)."""

    passed: int = 0
    taken: int = 0
    end: Fraction = Fraction(0)


def chosen(moments: Iterator[Moment], sampling: Sampling, tally: Tally) -> Iterator[tuple[Moment, int]]:
    """The moments to keep, each with how often, in order; stops pulling as soon as `num_frames` are there.

    By stride: the moment on screen at `start` and every n-th after it. By fps: for k = 0, 1, ... the moment with
    begin <= start + k / fps < end (the first one also for instants before it).
    """
    for moment in moments:
        tally.end = moment.end
        if moment.end <= sampling.start + TOLERANCE:
            continue
        if sampling.fps is not None:
            # Instants with start + k / fps < end, less those that earlier moments took.
            copies = max(0, math.ceil((moment.end - TOLERANCE - sampling.start) * sampling.fps) - tally.taken)
        else:
            copies = int(tally.passed % (sampling.stride or 1) == 0)
        tally.passed += 1
        if sampling.num_frames is not None:
            copies = min(copies, sampling.num_frames - tally.taken)
        if copies:
            tally.taken += copies
            yield moment, copies
        if tally.taken == sampling.num_frames:
            return


def _read(path: Path, source: Source, sampling: Sampling, fitting: Fitting, short: str) -> Clip:
    height, width = fitting.target
    frames: list[Picture] = []
    begins: list[Fraction] = []
    tally = Tally()
    for moment, copies in chosen(source.moments, sampling, tally):
        if (len(frames) + copies) * height * width * 3 > MOST_BYTES:
            raise VideoError(
                f"{path}: more than {MOST_BYTES // 2**30} GiB of pictures (after {len(frames)} frames of "
                f"{width}x{height}); take fewer by num_frames, stride or fps, or a smaller size"
            )
        frames += [fitting(moment.picture())] * copies
        begins.append(moment.begin)
    asked = sampling.num_frames
    complete = asked is not None and tally.taken == asked
    if not complete and sampling.start == 0 and (source.num_frames or 0) > tally.passed:
        source.remark(f"cut short: the header promises {source.num_frames} frames, {tally.passed} are there")
    elif not complete and sampling.start == 0 and source.length and source.length > tally.end + 3 / source.rate:
        promised, there = float(source.length), float(tally.end)
        source.remark(f"cut short: the header promises {promised:.3f} s, {there:.3f} s are there")
    if not frames and not tally.passed and not tally.end:
        told = f" ({'; '.join(source.remarks)})" if source.remarks else ""
        raise VideoError(f"{path}: zero frames could be decoded{told}; expected at least one")
    if not frames:
        raise VideoError(
            f"{path}: start {float(sampling.start):g} s is beyond the end; the pictures last "
            f"{float(tally.end):.3f} s ({length_text(source)})"
        )
    if not complete and asked is not None and short == "error":
        raise VideoError(_too_short(path, source, sampling, tally, asked))

    rate = sampling.fps or _rate(source, begins, sampling.stride or 1)
    begin = sampling.start if sampling.fps else begins[0]
    audio: Audio | None = None
    if source.timed and source.backend != "pictures":
        audio, remark = read_sound(path, source.origin + begin, len(frames) / rate)
        if remark:
            source.remark(remark)
    note = _note(source, sampling, fitting, len(frames), rate, audio)
    return Clip(np.stack(frames), rate, audio, path.stem, note)


def _rate(source: Source, begins: list[Fraction], stride: int) -> Fraction:
    """The kept frames' rate: the source's over the stride, or the mean over them where frames last unequally long."""
    step, jitter = stride / source.rate, 1 / (4 * source.rate) + TOLERANCE
    if all(abs(begin - begins[0] - k * step) <= jitter for k, begin in enumerate(begins)):
        return source.rate / stride
    source.remark("variable frame rate, the mean kept (fps= would sample evenly)")
    return ((len(begins) - 1) / (begins[-1] - begins[0])).limit_denominator(10_000)


def _too_short(path: Path, source: Source, sampling: Sampling, tally: Tally, asked: int) -> str:
    left = float(tally.end - sampling.start)
    if sampling.fps is not None:
        how = f"at {rate_text(sampling.fps)} fps"
        other = f"fps >= {asked / left:.3g}"
        needed = f"{float(asked / sampling.fps):.3f} s"
    else:
        stride = sampling.stride or 1
        how = f"by stride {stride}"
        fitting = (tally.passed - 1) // (asked - 1) if asked > 1 else 0
        other = f"stride <= {fitting}" if fitting else ""
        needed = f"{(asked - 1) * stride + 1} source frames"
    fits = " or ".join(filter(None, [f"num_frames <= {tally.taken}", other]))
    origin = f" from {float(sampling.start):g} s" if sampling.start else ""
    remarks = f" ({'; '.join(source.remarks)})" if source.remarks else ""
    return (
        f"{path}: {asked} frames {how} need {needed}, found {tally.passed} ({left:.3f} s){origin}, which give "
        f"{tally.taken}; {fits} would fit, or short='all' takes what is there{remarks}"
    )


def _note(source: Source, sampling: Sampling, fitting: Fitting, count: int, rate: Fraction, audio: Audio | None) -> str:
    """One line for people: what there was, what was taken, what happened to it."""
    how = "resampled" if sampling.fps else f"stride {sampling.stride}"
    parts = [f"{count} frame{'s' * (count != 1)}", f"{how} to {rate_text(rate)} fps" if sampling.fps else how]
    if not sampling.fps:
        parts.append(f"{rate_text(rate)} fps")
    if sampling.start:
        parts.append(f"from {float(sampling.start):g} s")
    if sampling.num_frames is not None and count < sampling.num_frames:
        parts.append(f"{sampling.num_frames} were asked for")
    parts.append(fitting.note)
    if audio is not None:
        names = {1: "mono", 2: "stereo"}
        kind = names.get(audio.channels, f"{audio.channels} channels")
        parts.append(f"sound {audio.duration:.2f} s {kind} {audio.rate} Hz")
    parts.append(f"read by {'Pillow' if source.backend == 'pictures' else source.backend}")
    before = f"{source.width}x{source.height}, {length_text(source)}"
    return "; ".join([f"{before} -> {', '.join(parts)}", *source.remarks])
