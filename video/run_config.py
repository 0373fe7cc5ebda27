"""Settings of the commands, as plain dataclasses: tyro makes flags of them, and config.json holds them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .clip import Clip
from .editing import Start
from .read import Short, read_clip
from .resize import Fit
from .samplers import SamplerName
from .tuning import VideoTuning
from .unet_config import GroupNormOver, TemporalInit

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Reading:
    """Which frames of a video file become the clip."""

    num_frames: int | None = 24
    """Frames to take; None takes all there are."""
    stride: int | None = None
    """Every n-th frame of the file; by default every one."""
    fps: float | None = None
    """Instead of stride: sample at so many frames per second."""
    start: float = 0.0
    """Seconds after the first frame of the file."""
    size: int | tuple[int, int] | None = None
    """Pixels: one side for both, or height and width; by default what the model was trained at."""
    fit: Fit = "crop"
    """How another aspect ratio is fitted: crop, pad with black, or stretch."""
    short: Short = "all"
    """A file with fewer frames: take all there are, or refuse it as an error."""

    def read(self, path: Path, *, default_size: tuple[int, int] | None = None, multiple: int = 1) -> Clip:
        """The clip; sides are rounded to `multiple`. Raises what `read_clip` raises."""
        wanted: dict[str, Any] = {**dataclasses.asdict(self), "size": self.size or default_size}
        return read_clip(path, **wanted, multiple=multiple)


@dataclass(frozen=True)
class EditSettings:
    """How an edit is sampled; the defaults are the paper's."""

    negative_prompt: str = ""
    """What guidance leads away from."""
    guidance_scale: float = 12.5
    """Classifier-free guidance; 1 uses the prompt alone."""
    steps: int = 50
    """Denoising steps, and steps of the inversion."""
    seed: int = 0
    """Of the noise; from an inversion only samplers that draw noise need it."""
    sampler: SamplerName = "ddim"
    """Sampler by name; from an inversion, deterministic ones lead back to the clip."""
    strength: float = 1.0
    """Below 1 only the last part of the steps is taken, from the clip's own latents (SDEdit)."""
    start: Start = "inversion"
    """inversion keeps the clip's motion and layout; noise keeps only what tuning learned of them."""


@dataclass(frozen=True, kw_only=True)
class VideoRun(VideoTuning):
    """A tuning run from the command line: everything that config.json holds."""

    clip: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CLIP")]
    """Video file, animated GIF, or folder of pictures."""
    prompt: str
    """What the clip shows."""
    model: str = "sprites"
    """Text-to-image model: packaged name, folder in diffusers format, or hub id."""
    edit_prompts: tuple[str, ...] = ()
    """Edits to make as soon as tuning is done."""
    temporal_init: TemporalInit = "zero"
    """zero: the untuned model leaves frames alone; original: Tune-A-Video's random bias."""
    group_norm: GroupNormOver = "frame"
    """Statistics of group norms over each frame, or over the clip, as the original."""
    dtype: Precision = "float32"
    """Precision of the denoiser when edits are made; tuning has mixed_precision."""
    reading: Annotated[Reading, tyro.conf.arg(name="")] = field(default_factory=Reading)
    """Which frames are taken."""
    edit: EditSettings = field(default_factory=EditSettings)
    """How the edits are sampled."""
