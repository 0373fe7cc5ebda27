"""Clips beside each other: one video, or one sheet of frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..common.weights import replaced_file
from .clip import Clip, rate_text
from .errors import VideoError

PAPER, INK = (255, 255, 255), (20, 20, 20)
MOST_LINES = 3
MARGIN = 4  # pixels around a label


def side_by_side(
    clips: Sequence[Clip], labels: Sequence[str] | None = None, *, gap: int = 8, same_length: bool = False
) -> Clip:
    """One clip with all of them in a row, a strip with the label over each; the sound is the first clip's.

    All get the height of the highest, keeping their aspect ratio. The result ends with the shortest clip, or
    `same_length` asks for equal numbers of frames. Its sides are even, as H.264 needs them.
    Raises VideoError for no clips, another number of labels, different frame rates, or lengths (if `same_length`).
    """
    texts = _check(clips, labels)
    rates = {clip.fps for clip in clips}
    if len(rates) > 1:
        found = ", ".join(rate_text(clip.fps) for clip in clips)
        raise VideoError(f"side_by_side: expected clips of one frame rate, found {found} fps")
    counts = [clip.num_frames for clip in clips]
    if same_length and len(set(counts)) > 1:
        raise VideoError(f"side_by_side: expected clips of one length, found {', '.join(map(str, counts))} frames")
    height = max(clip.height for clip in clips)
    widths = [max(1, round(clip.width * height / clip.height)) for clip in clips]
    font = _font(height)
    strips = [_strip(text, width, font) for text, width in zip(texts, widths, strict=True)] if labels else []
    top = max((strip.shape[0] for strip in strips), default=0)
    top += (top + height) % 2 if strips else 0
    length, across = min(counts), sum(widths) + gap * (len(clips) - 1)
    canvas = np.full((length, _even(top + height), _even(across), 3), PAPER, np.uint8)
    left = 0
    for i, (clip, width) in enumerate(zip(clips, widths, strict=True)):
        if strips:
            canvas[:, : strips[i].shape[0], left : left + width] = strips[i]
        for k in range(length):
            canvas[k, top : top + height, left : left + width] = _scaled(clip.frames[k], height, width)
        left += width + gap
    audio = clips[0].audio
    if audio is not None and length < counts[0]:
        kept = max(1, round(length / clips[0].fps * audio.rate))
        audio = type(audio)(audio.samples[:, :kept], audio.rate)
    return Clip(canvas, clips[0].fps, audio, name=" | ".join(filter(None, texts)))


def contact_sheet(
    clips: Sequence[Clip], labels: Sequence[str] | None = None, max_columns: int = 8, *, gap: int = 4
) -> Image.Image:
    """One RGB picture, a row for each clip: evenly spaced frames from the first to the last, the label above.

    Rows have at most `max_columns` frames, all scaled to the height of the highest clip.
    Raises VideoError for no clips, another number of labels, or max_columns < 1.
    """
    texts = _check(clips, labels)
    if max_columns < 1:
        raise VideoError(f"max_columns: expected at least 1, found {max_columns}")
    height = max(clip.height for clip in clips)
    widths = [max(1, round(clip.width * height / clip.height)) for clip in clips]
    columns = [min(max_columns, clip.num_frames) for clip in clips]
    lengths = [count * width + gap * (count - 1) for count, width in zip(columns, widths, strict=True)]
    font = _font(height)
    strips = [_strip(text, length, font) if text else None for text, length in zip(texts, lengths, strict=True)]
    rows = [height + (strip.shape[0] if strip is not None else 0) for strip in strips]
    canvas = np.full((sum(rows) + gap * (len(rows) - 1), max(lengths), 3), PAPER, np.uint8)
    top = 0
    for clip, strip, width, count in zip(clips, strips, widths, columns, strict=True):
        if strip is not None:
            canvas[top : top + strip.shape[0], : strip.shape[1]] = strip
            top += strip.shape[0]
        for column, index in enumerate(spread(clip.num_frames, count)):
            left = column * (width + gap)
            canvas[top : top + height, left : left + width] = _scaled(clip.frames[index], height, width)
        top += height + gap
    return Image.fromarray(canvas)


def save_contact_sheet(
    path: str | os.PathLike[str], clips: Sequence[Clip], labels: Sequence[str] | None = None, max_columns: int = 8
) -> None:
    """`contact_sheet` as a PNG, which appears whole or not at all."""
    path = Path(path)
    sheet = contact_sheet(clips, labels, max_columns)
    try:
        with replaced_file(path) as temporary:
            sheet.save(temporary, format="PNG")
    except OSError as error:
        raise VideoError(f"{path}: cannot write ({error.strerror or error})") from error


def spread(count: int, columns: int) -> list[int]:
    """`columns` indices into `count` frames, evenly spaced, the first and the last among them (one: the middle)."""
    if columns == 1:
        return [(count - 1) // 2]
    return [round(i * (count - 1) / (columns - 1)) for i in range(columns)]


def _check(clips: Sequence[Clip], labels: Sequence[str] | None) -> list[str]:
    if not clips:
        raise VideoError("clips: expected at least one, found none")
    if labels is not None and (isinstance(labels, str) or len(labels) != len(clips)):
        found = "a text" if isinstance(labels, str) else str(len(labels))
        raise VideoError(f"labels: expected one for each of the {len(clips)} clips, found {found}")
    return list(labels) if labels is not None else [""] * len(clips)


def _even(side: int) -> int:
    return side + side % 2


def _scaled(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(min(28, max(11, height // 18)))


def _strip(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> np.ndarray:
    """uint8 [h, width, 3]: the text, broken into at most three lines; what does not fit ends in an ellipsis."""
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    lines = wrapped(text, lambda line: draw.textlength(line, font) <= width - 2 * MARGIN)
    line_height = int(draw.textbbox((0, 0), "Ågjq", font=font)[3]) + 2
    image = Image.new("RGB", (width, line_height * max(1, len(lines)) + 2 * MARGIN), PAPER)
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((MARGIN, MARGIN + number * line_height), line, INK, font)
    return np.asarray(image)


def wrapped(text: str, fits: Callable[[str], bool], most: int = MOST_LINES) -> list[str]:
    """`text` in at most `most` lines that each `fits`, broken between words, and within them only where one is too
    long; the last line ends in an ellipsis if something is left out."""
    lines: list[str] = []
    words = text.split()
    while words:
        taken = 1
        while taken < len(words) and fits(" ".join(words[: taken + 1])):
            taken += 1
        line, words = " ".join(words[:taken]), words[taken:]
        if not fits(line):  # a single word too long
            cut = max(1, next((n for n in range(len(line), 0, -1) if fits(line[:n])), 1))
            line, words = line[:cut], [line[cut:], *words] if line[cut:] else words
        lines.append(line)
        if len(lines) == most and words:
            last = lines[-1] + "…"
            while len(last) > 1 and not fits(last):
                last = last[:-2] + "…"
            lines[-1] = last
            break
    return lines
