"""A run folder: everything that tuning on one clip and editing it leaves behind.

    config.json                 every setting, resolved
    delta.safetensors           the tuned tensors
    source.mp4, .json           the clip as the model saw it, and what it shows
    inversion/                  latents that edits start from
    samples/                    <slug of the prompt>-<seed>.mp4, and .json: how it was made
    comparison.mp4, sheet.png, index.html      source and edits side by side
    scores.json                 measured by `trifold video evaluate`

Videos of fewer than about 256 lines are stored with every pixel repeated: players show them at a size that can be
seen, and H.264, which halves the resolution of colours, leaves theirs alone. They are read back at their own size.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.pretrained import config_from_dict
from ..common.weights import write_json
from .clip import Clip
from .compare import save_contact_sheet, side_by_side
from .errors import VideoError
from .json_object import read_object
from .page import Panel, Table, save_page
from .read import read_clip
from .run_config import VideoRun

LONGEST_SLUG = 60
COMPARED = 5  # clips that still fit beside each other in one video
VIEWED = 256  # lines that a stored video should have
SHEET = 96  # lines of a frame on the sheet


def slug(text: str) -> str:
    """A file name for a prompt: lower-case ASCII words joined by hyphens, at most 60 characters, never empty.

    Accents are dropped; a text without any ASCII letter or digit becomes `prompt-` and eight digits of its SHA-256.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(words) > LONGEST_SLUG:
        cut = words[: LONGEST_SLUG + 1]
        words = (cut[: cut.rindex("-")] if "-" in cut else cut[:LONGEST_SLUG]).strip("-")
    return words or f"prompt-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def clip_mark(clip: Clip) -> str:
    """What a clip's pictures are known by: 16 digits of their SHA-256."""
    return hashlib.sha256(str(clip.frames.shape).encode() + clip.frames.tobytes()).hexdigest()[:16]


def enlarged(clip: Clip, times: int) -> Clip:
    """Every pixel repeated `times` times, down and across."""
    if times == 1:
        return clip
    return Clip(clip.frames.repeat(times, axis=1).repeat(times, axis=2), clip.fps, clip.audio, clip.name, clip.note)


def reduced(clip: Clip, times: int) -> Clip:
    """The mean of every `times` x `times` pixels: undoes `enlarged`."""
    if times == 1:
        return clip
    f, h, w, c = clip.frames.shape
    blocks = clip.frames[:, : h - h % times, : w - w % times].reshape(f, h // times, times, w // times, times, c)
    frames = np.rint(blocks.mean((2, 4), dtype=np.float32)).astype(np.uint8)
    return Clip(frames, clip.fps, clip.audio, clip.name, clip.note)


@dataclass(frozen=True)
class Source:
    """The record of a run's clip. `prompt` is what it shows, `mark` that of `clip_mark`, `scale` how many times larger
    the folder's videos are stored, `note` what reading did to it."""

    prompt: str
    mark: str
    scale: int
    note: str


@dataclass(frozen=True)
class Sample:
    """The record of an edit. `settings`: what else it was made with, plain values."""

    prompt: str
    seed: int
    video: Path
    settings: Mapping[str, Any]
    number: int

    @property
    def note(self) -> str:
        """Seed and settings in words."""
        told = {"seed": self.seed, **{name: value for name, value in self.settings.items() if value not in ("", None)}}
        return " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items())


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, and what is done with its samples. Nothing is written before a method that says so is called."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def delta(self) -> Path:
        return self.path / "delta.safetensors"

    @property
    def source(self) -> Path:
        return self.path / "source.mp4"

    @property
    def inversions(self) -> Path:
        return self.path / "inversion"

    @property
    def scores(self) -> Path:
        return self.path / "scores.json"

    @property
    def samples_folder(self) -> Path:
        return self.path / "samples"

    def run_config(self) -> VideoRun:
        """config.json as the settings it was written from. Raises FileNotFoundError, VideoError or WeightsError."""
        values = read_object(self.config, "a run folder of `trifold video tune` has one")
        values.pop("versions", None)
        return config_from_dict(VideoRun, values, str(self.config))

    # ------------------------------------------------------------------------------------------------- the source

    def read_source(self) -> Source:
        """The record of the clip. Raises FileNotFoundError or VideoError."""
        record = self.source.with_suffix(".json")
        values = read_object(record, "a folder of edits has one")
        try:
            return Source(str(values["prompt"]), str(values["mark"]), int(values["scale"]), str(values["note"]))
        except (KeyError, TypeError, ValueError) as error:
            raise VideoError(f"{record}: not the record of a clip ({type(error).__name__}: {error})") from error

    def set_source(self, clip: Clip, prompt: str) -> None:
        """Write the clip that all samples are edits of. Raises VideoError where the folder holds edits of another."""
        if self.samples() and self.read_source().mark != clip_mark(clip):
            raise VideoError(f"{self.path}: holds edits of another clip; choose another folder")
        scale = max(1, round(VIEWED / clip.height))
        enlarged(clip, scale).save(self.source)
        facts = {"prompt": prompt, "mark": clip_mark(clip), "scale": scale, "note": clip.note}
        write_json(self.source.with_suffix(".json"), facts)

    def read_video(self, video: Path) -> Clip:
        """The source or a sample at its own size, as H.264 kept it."""
        return reduced(read_clip(video), self.read_source().scale)

    # ------------------------------------------------------------------------------------------------ the samples

    def samples(self) -> list[Sample]:
        """All samples whose video is there, in the order they were made. Raises VideoError for a broken record."""
        found = []
        for record in sorted(self.samples_folder.glob("*.json")):
            values = read_object(record)
            try:
                sample = Sample(
                    prompt=str(values["prompt"]),
                    seed=int(values["seed"]),
                    video=record.with_suffix(".mp4"),
                    settings=dict(values["settings"]),
                    number=int(values["number"]),
                )
            except (KeyError, TypeError, ValueError) as error:
                raise VideoError(f"{record}: not the record of a sample ({type(error).__name__}: {error})") from error
            if sample.video.is_file():
                found.append(sample)
        return sorted(found, key=lambda sample: sample.number)

    def add_sample(self, made: Clip, prompt: str, seed: int, settings: Mapping[str, Any]) -> Sample:
        """Write an edit of the source and its record. One of the same prompt, seed and settings is replaced; one that
        differs but would have the same name keeps it, and the new one gets -2, -3, ..."""
        present = self.samples()
        plain = json.loads(json.dumps(dict(settings)))
        stem = f"{slug(prompt)}-{seed}"
        same = [s for s in present if (s.prompt, s.seed, s.settings) == (prompt, seed, plain)]
        taken = {s.video.stem for s in present}
        if same:
            stem = same[0].video.stem
        elif stem in taken:
            stem = next(f"{stem}-{i}" for i in range(2, len(taken) + 3) if f"{stem}-{i}" not in taken)
        number = same[0].number if same else 1 + max((s.number for s in present), default=0)
        video = self.samples_folder / f"{stem}.mp4"
        enlarged(made, self.read_source().scale).save(video)
        record = {"prompt": prompt, "seed": seed, "settings": plain, "number": number}
        write_json(video.with_suffix(".json"), record)
        return Sample(prompt, seed, video, plain, number)

    def save_gallery(self, *, scores: Table | None = None, facts: Mapping[str, str] | None = None) -> list[Path]:
        """Write comparison.mp4 (the source and the newest edits), sheet.png and index.html anew, and return them.

        scores: a table for the page. facts: a list for it.
        """
        source, samples = self.read_source(), self.samples()
        newest = samples[-(COMPARED - 1) :]
        clips = [read_clip(video) for video in (self.source, *(sample.video for sample in newest))]
        title = source.prompt or "source"
        labels = [title, *(sample.prompt for sample in newest)]
        comparison, sheet, page = (self.path / name for name in ("comparison.mp4", "sheet.png", "index.html"))
        side_by_side(clips, labels).save(comparison)
        own = [reduced(clip, source.scale) for clip in clips]
        times = max(1, round(SHEET / own[0].height))
        save_contact_sheet(sheet, [enlarged(clip, times) for clip in own], labels)
        panels = [
            Panel(title, self.source, "source"),
            *(Panel(sample.prompt, sample.video, sample.note) for sample in samples),
        ]
        about = {"clip": source.note, **(facts or {})}
        name = self.path.resolve().name
        save_page(page, panels, fps=float(clips[0].fps), title=name, scores=scores, facts=about)
        return [comparison, sheet, page]
