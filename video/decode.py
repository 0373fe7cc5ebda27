"""From a file to pictures with their times on screen: PyAV, and decord where it gives the same frames.

Both hand out `Moment`s. PyAV decodes forwards from the key frame before the start; decord fetches single frames by
their index. Both convert colours with FFmpeg's scaler by the file's own matrix and range, and the frames agree to the
last bit. That is why common formats take the scaler's fast path (see `to_rgb`), which is all that decord has.

decord 0.6 has limits: it drops alpha, takes a mirrored picture for one turned by 180 degrees, converts high bit depths
and odd sizes by an older scaler, counts frames that an edit list hides, and gives up on broken packets and on most
transport streams. `open_decord` raises `DecordCannot` there, with the reason. PyAV looks at every file first.
What remains: bit errors inside a packet are mended by each in its own way, and decord does not say so.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from .clip import MOST_PER_SECOND, rate_text
from .container import import_av, open_container, promised_length, video_stream
from .errors import VideoError
from .upright import UPRIGHT, Picture, has_alpha, orientation, plain_format, to_rgb

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MOST_TORN = 32  # frames in memory until one without damage comes
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # ISO/IEC 23091-2


class DecordCannot(Exception):
    """Why decord is not used for a file; never shown bare: read.py falls back or makes it a VideoError."""


@dataclass(frozen=True)
class Moment:
    """One frame: on screen from `begin` to `end`, in seconds after the first frame's begin.

    picture: makes uint8 [H, W, 3], upright; only called for frames that are kept.
    """

    begin: Fraction
    end: Fraction
    picture: Callable[[], Picture]


@dataclass
class Source:
    """An opened file. rate: frames per second, the mean where it varies. height, width: upright, in stored pixels.

    moments: close it when done. timed: whether the file itself says how fast it runs.
    time_base: seconds per tick of the file's clock; origin: seconds on it of the first frame.
    num_frames, length: frames and seconds that the header promises, None if silent.
    remarks: filled while reading with what a person should know.
    """

    name: str
    backend: str
    rate: Fraction
    height: int = 0
    width: int = 0
    moments: Generator[Moment] = field(default_factory=lambda: (moment for moment in ()))
    timed: bool = True
    pixel_aspect: Fraction = Fraction(1)
    time_base: Fraction = Fraction(1, 1000)
    origin: Fraction = Fraction(0)
    num_frames: int | None = None
    length: Fraction | None = None
    remarks: list[str] = field(default_factory=list)

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)


def open_pyav(path: Path, start: Fraction = Fraction(0)) -> Source:
    """Decode forwards with PyAV; the first moment begins at or before `start` (seconds after the first frame).

    Damaged packets are skipped and counted in the remarks. Raises VideoError for what is no video.
    """
    source, _ = _probe(path, "pyav")
    source.moments = _moments(_frames_from(path, source, start), source, path)
    return source


def _probe(path: Path, backend: str) -> tuple[Source, VideoFrame]:
    """Everything but the moments; the first frame is decoded to learn how it lies and what its pixels are."""
    with open_container(path) as container:
        stream = video_stream(container, path)
        context = stream.codec_context
        codec = f"{context.name}, {context.width}x{context.height}"
        source = Source(path.name, backend, Fraction(25), time_base=Fraction(stream.time_base or Fraction(1, 90000)))
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate
        if rate is not None and 0 < rate <= MOST_PER_SECOND:
            source.rate = Fraction(rate)
        else:
            source.remark(f"the file's frame rate is {rate}: 25 taken")
        source.num_frames = stream.frames or None
        source.length = promised_length(stream)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        first = next(_decoded(container, stream, Source(path.name, backend, source.rate)), None)
    if first is None:
        raise VideoError(f"{path}: zero frames could be decoded ({codec}); expected at least one")
    source.origin = Fraction(first.pts or 0) * source.time_base
    (a, b, c, d), odd = orientation(first)
    if odd:
        source.remark("a rotation that is no quarter turn was ignored")
    if (a, b, c, d) != UPRIGHT:
        source.remark("turned upright" if a * d - b * c > 0 else "mirrored as the header says")
    source.height, source.width = (first.height, first.width) if a else (first.width, first.height)
    if aspect != 1 and aspect > 0:
        source.pixel_aspect = aspect if a else 1 / aspect
        source.remark(f"pixels of {aspect.numerator}:{aspect.denominator} made square")
    if has_alpha(first):
        source.remark("alpha composited on black")
    if first.interlaced_frame:
        source.remark("interlaced, not deinterlaced")
    if curve := HDR_TRANSFERS.get(int(first.color_trc)):
        source.remark(f"HDR ({curve}) taken as it is, without tone mapping")
    return source, first


def _frames_from(path: Path, source: Source, start: Fraction) -> Iterator[VideoFrame]:
    """Frames in order of presentation, the first at or before `start`; all of them where seeking misses."""
    av = import_av()
    if start > 0:
        with open_container(path) as container:
            stream = video_stream(container, path)
            stream.thread_type = "AUTO"
            try:
                container.seek(int((source.origin + start) / source.time_base), stream=stream)
                frames = _decoded(container, stream, source)
                first = next(frames, None)
            except av.FFmpegError:  # a format without seeking
                first, frames = None, iter(())
            if first is not None and first.pts is not None and first.pts * source.time_base <= source.origin + start:
                yield first
                yield from frames
                return
    with open_container(path) as container:
        stream = video_stream(container, path)
        stream.thread_type = "AUTO"
        yield from _decoded(container, stream, source)


def _decoded(container: InputContainer, stream: VideoStream, source: Source) -> Iterator[VideoFrame]:
    """All frames from where the container stands.

    Packets that cannot be decoded are left out. Frames with holes are kept as the decoder mends them, so that time
    does not jump, but for those at the end: there they are what remains of a file cut short. Both are remarked.
    """
    av = import_av()
    lost, mended = 0, 0
    torn: list[VideoFrame] = []
    for packet in _packets(container, stream, source):
        frames = []
        try:
            frames = stream.codec_context.decode(None) if packet is None else packet.decode()
        except av.FFmpegError:
            lost += 1
        for frame in frames:
            torn.append(frame)
            if not frame.is_corrupt or len(torn) > MOST_TORN:
                mended += len(torn) - (not frame.is_corrupt)
                yield from torn
                torn = []
    lost += len(torn)
    if lost:
        source.remark(f"the file is damaged: {lost} frame{'s' * (lost > 1)} lost")
    if mended:
        source.remark(f"the file is damaged: {mended} frame{'s' * (mended > 1)} mended by the decoder")


def _packets(container: InputContainer, stream: VideoStream, source: Source) -> Iterator[Packet | None]:
    """The stream's packets; None at the end, where the decoder gives what it still holds.

    A last packet that the end of the file cuts short is left out: decoders with several threads would fail on it, and
    whole frames that they hold would be lost with it.
    """
    av = import_av()
    packets = container.demux(stream)
    torn: Packet | None = None
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # the file ends in the middle of a packet
            break
        if packet is None or (packet.pts is None and not packet.size):
            break
        if torn is not None:
            yield torn
        torn = packet if packet.is_corrupt else None
        if torn is None:
            yield packet
    if torn is not None:
        source.remark("the file ends within a frame")
    yield None


def _moments(frames: Iterator[VideoFrame], source: Source, path: Path) -> Generator[Moment]:
    base = source.time_base
    pending: tuple[Fraction, Fraction, VideoFrame] | None = None
    for frame in frames:
        usual = Fraction(frame.duration) * base if frame.duration else 1 / source.rate
        begin = frame.pts * base - source.origin if frame.pts is not None else None
        if pending is not None:
            if begin is None or begin <= pending[0]:  # no time, or time that stands still or runs backwards
                begin = pending[1]
            yield Moment(pending[0], begin, _picture_of(pending[2], source, path))
        begin = begin or Fraction(0)
        pending = (begin, begin + usual, frame)
    if pending is not None:
        yield Moment(pending[0], pending[1], _picture_of(pending[2], source, path))


def _picture_of(frame: VideoFrame, source: Source, path: Path) -> Callable[[], Picture]:
    def picture() -> Picture:
        upright = to_rgb(frame)
        if upright.shape[:2] != (source.height, source.width):
            raise VideoError(
                f"{path}: the picture size changes from {source.width}x{source.height} to "
                f"{upright.shape[1]}x{upright.shape[0]} within the file; expected one size"
            )
        return upright

    return picture


def open_decord(path: Path) -> Source:
    """The same by decord's random access; times and orientation come from PyAV, which reads the packets' headers.

    Raises DecordCannot where decord is missing or its frames would not be those of `open_pyav`.
    """
    try:
        import decord
    except (ImportError, OSError) as error:
        raise DecordCannot("decord is not installed") from error
    source, first = _probe(path, "decord")
    if has_alpha(first):
        raise DecordCannot("decord drops alpha")
    if not plain_format(first):
        raise DecordCannot(f"decord rounds {first.format.name} of {first.width}x{first.height} in its own way")
    (a, b, c, d), odd = orientation(first)
    if odd or a * d - b * c < 0:
        raise DecordCannot("decord misreads this display matrix")
    times = _timeline(path, source)
    failures = (RuntimeError, IndexError, StopIteration, decord.DECORDError)
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0))
        found = len(reader)
    except failures as error:
        raise DecordCannot("decord cannot open it") from error
    if found != len(times):
        raise DecordCannot(f"decord counts {found} frames, the file shows {len(times)}")

    def picture(index: int) -> Callable[[], Picture]:
        def fetch() -> Picture:
            try:
                frame = reader[index].asnumpy()
            except failures as error:
                raise DecordCannot(f"decord cannot decode frame {index}") from error
            if frame.shape != (source.height, source.width, 3):
                raise DecordCannot(f"decord gives shape {frame.shape} for frame {index}")
            return frame

        return fetch

    source.num_frames = found
    source.moments = (Moment(begin, end, picture(i)) for i, (begin, end) in enumerate(times))
    return source


def _timeline(path: Path, source: Source) -> list[tuple[Fraction, Fraction]]:
    """(begin, end) of every frame in order of presentation, from the packets alone."""
    av = import_av()
    stamps: list[tuple[int, int]] = []
    with open_container(path) as container:
        if len(container.streams.video) > 1:
            raise DecordCannot("several video streams")
        try:
            for packet in container.demux(video_stream(container, path)):
                if packet.size and not packet.is_discard:
                    if packet.pts is None or packet.is_corrupt:
                        raise DecordCannot("packets without times, or damaged")
                    stamps.append((packet.pts, packet.duration or 0))
        except av.FFmpegError as error:
            raise DecordCannot("the file ends too early") from error
    if not stamps:
        raise DecordCannot("no packets")
    stamps.sort()
    begins = [pts * source.time_base - source.origin for pts, _ in stamps]
    last = stamps[-1][1] * source.time_base or 1 / source.rate
    return list(zip(begins, [*begins[1:], begins[-1] + last], strict=True))


def length_text(source: Source) -> str:
    """ "91 frames at 29.97 fps", as far as the header tells."""
    count = f"{source.num_frames} frame{'s' * (source.num_frames != 1)} at " if source.num_frames else ""
    return f"{count}{rate_text(source.rate)} fps"
