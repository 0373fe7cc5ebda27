"""The sound of a clip: cut out of a file by time, as float samples on the pictures' clock."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from .clip import Audio
from .container import import_av, open_container

# Codecs of overlapping windows need the packet before the first one wanted; half a second is plenty for all.
LEAD = Fraction(1, 2)


def read_sound(path: Path, begin: Fraction, duration: Fraction) -> tuple[Audio | None, str]:
    """The first audio stream from `begin` for `duration` (seconds of the file's own clock), and a remark or "".

    The samples keep the file's rate and channels; their number is `duration` times the rate, rounded. Where the file
    has no sound for a while there is silence; where it has none in the whole range the result is None.
    """
    av = import_av()
    with open_container(path) as container:
        if not container.streams.audio:
            return None, ""
        stream = container.streams.audio[0]
        context = stream.codec_context
        if context is None or not context.sample_rate:
            return None, "the sound is in a format that cannot be decoded"
        rate, base = context.sample_rate, Fraction(stream.time_base or Fraction(1, context.sample_rate))
        wanted = max(1, round(duration * rate))
        samples: np.ndarray | None = None
        damaged = 0
        try:
            container.seek(int(max(Fraction(0), begin - LEAD) / base), stream=stream)
        except av.FFmpegError:
            container.seek(0)
        resampler = av.AudioResampler(format="fltp", layout=context.layout, rate=rate)
        position = 0
        for frame in _frames(container, stream):
            if frame is None:
                damaged += 1
                continue
            if frame.pts is not None:
                # An encoder's time stamps are rounded to its clock; jumps of less than a millisecond are that.
                placed = round((frame.pts * Fraction(frame.time_base or base) - begin) * rate)
                position = placed if abs(placed - position) > rate // 1000 or samples is None else position
            if position >= wanted:
                break
            for part in resampler.resample(frame):
                block = part.to_ndarray()
                if samples is None:
                    samples = np.zeros((block.shape[0], wanted), np.float32)
                low, high = max(0, position), min(wanted, position + block.shape[1])
                if high > low:
                    samples[:, low:high] = block[:, low - position : high - position]
                position += block.shape[1]
        remark = "the sound is damaged in places" if damaged else ""
        if samples is None or position <= 0:
            return None, remark or "no sound in this part of the file"
        return Audio(samples, rate), remark


def _frames(container, stream) -> Iterator:
    """Decoded frames; None for a packet that cannot be decoded."""
    av = import_av()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            frames = packet.decode()
        except av.FFmpegError:
            yield None
            continue
        yield from frames
