"""A file opened by PyAV, and the moving pictures in it; what has none is told what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# What FFmpeg plays but nobody means by a video: text shown as a terminal, and lists that open other files or, worse,
# addresses in the network.
NOT_VIDEOS = frozenset({"tty", "bin", "xbin", "adf", "idf", "hls", "concat", "concatf", "sdp", "dash", "imf"})


def import_av() -> Any:
    """PyAV. Raises ImportError with the command that installs it."""
    try:
        import av
    except ImportError as error:
        raise ImportError("reading and writing video needs PyAV: pip install 'trifold[video]'") from error
    return av


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """PyAV's view of the file. Raises VideoError for what FFmpeg cannot open, containers in `NOT_VIDEOS` included."""
    av = import_av()
    allowed = {"format_whitelist": ",".join(sorted(av.formats_available - NOT_VIDEOS)), "protocol_whitelist": "file"}
    try:
        container = av.open(str(path), options=allowed, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: {_unopened(path, error)}") from error
    with container:
        yield container


def _unopened(path: Path, error: Exception) -> str:
    """What is wrong with a file that FFmpeg does not open, from its first bytes."""
    if not (size := path.stat().st_size):
        return "an empty file; expected a video"
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] in (b"ftyp", b"mdat", b"moov", b"wide", b"free"):
        return f"an MP4 or MOV file of {size} bytes without its index (moov): cut short, or not finished being written"
    reason = getattr(error, "strerror", None) or error
    return f"not a video file ({reason}); begins with {head!r}"


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first stream of moving pictures; cover art of a song is none. Raises VideoError where there is none."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            return stream
    kinds = sorted({stream.type for stream in container.streams})
    if any(stream.codec_context is None for stream in container.streams.video):
        raise VideoError(f"{path}: a video stream without a codec that is known here: cut short, damaged, or too new")
    found = "only sound" if kinds and kinds[0] == "audio" else f"streams: {', '.join(kinds) or 'none'}"
    raise VideoError(f"{path}: no video stream in this file ({found}); expected pictures")


def promised_length(stream: VideoStream) -> Fraction | None:
    """Seconds that Matroska's tag DURATION tells of a stream, as 00:00:01.500000000; None without it."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (Fraction(part) for part in parts)
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds
