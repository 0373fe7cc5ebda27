"""How well Tune-A-Video edits: on the sprites world the edit that was asked for can be rendered, so it is known."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..clip import Clip
from ..flow import estimate_motion
from ..metrics import end_point_error, psnr
from ..pipeline import TuneAVideo
from ..tuning import VideoTuning
from .classifier import AttributeClassifier
from .pictures import HELD_OUT_START
from .render import SpriteClip, sprite_clip
from .words import VALUES, VISIBLE, Scene, caption, sample_scene

CHANGED = ("colour", "shape", "background", "style")
MOVING = ("left", "right", "up", "down")


@dataclass(frozen=True)
class EditTrial:
    """A clip and one word to change in it."""

    source: Scene
    wanted: Scene
    attribute: str


@dataclass(frozen=True)
class EditScores:
    """Means over trials and frames.

    changed: share of the frames that show the new value; kept: share of the other attributes that are as before;
    truth_psnr: dB against the rendered edit; outside_psnr: dB against the source off both sprites, over the trials
    whose ground was to stay; motion_error: pixels per frame between the edit's optical flow and the exact motion, on
    the sprite; still_error: the same for a clip that does not move at all, the yardstick.
    """

    changed: float
    kept: float
    truth_psnr: float
    outside_psnr: float
    motion_error: float
    still_error: float


def edit_trials(count: int) -> list[EditTrial]:
    """Held-out moving clips, each attribute of `CHANGED` in turn; no pixel or texture styles, where flow is blind."""
    trials: list[EditTrial] = []
    for i in itertools.count():
        if len(trials) == count:
            return trials
        rng = np.random.default_rng((HELD_OUT_START, i))
        scene = sample_scene(HELD_OUT_START + i, held_out=None)
        attribute = CHANGED[len(trials) % len(CHANGED)]
        source = dataclasses.replace(scene, motion=MOVING[i % len(MOVING)], size="medium", style="flat")
        others = [value for value in VALUES[attribute] if value != getattr(source, attribute)]
        wanted = dataclasses.replace(source, **{attribute: others[int(rng.integers(len(others)))]})
        trials.append(EditTrial(source, wanted, attribute))
    raise AssertionError


def score_edit(trial: EditTrial, edited: Clip, classifier: AttributeClassifier) -> EditScores:
    """One edited clip against the ground truth."""
    source, truth = (sprite_clip(s, edited.num_frames, edited.height) for s in (trial.source, trial.wanted))
    read = classifier.read(edited.frames)
    others = [name for name in VISIBLE if name != trial.attribute]
    outside = ~_grown(source.masks | truth.masks)
    same_ground = trial.attribute in ("colour", "shape")
    return EditScores(
        changed=float(np.mean([r[trial.attribute] == getattr(trial.wanted, trial.attribute) for r in read])),
        kept=float(np.mean([r[name] == getattr(trial.wanted, name) for r in read for name in others])),
        truth_psnr=psnr(edited.frames, truth.clip.frames),
        outside_psnr=psnr(edited.frames, source.clip.frames, where=outside) if same_ground else float("nan"),
        motion_error=_motion_error(edited.frames, truth),
        still_error=float(np.linalg.norm(truth.flow[truth.masks[:-1]], axis=-1).mean()),
    )


def _grown(masks: np.ndarray) -> np.ndarray:
    """bool [F, H, W], two pixels wider: the rim of a sprite is half its own colour."""
    wider = F.max_pool2d(torch.from_numpy(masks)[:, None].float(), kernel_size=5, stride=1, padding=2)
    return wider[:, 0].bool().numpy()


def _motion_error(frames: np.ndarray, truth: SpriteClip) -> float:
    return end_point_error(estimate_motion(frames).flow, truth.flow, where=truth.masks[:-1])


def run_trials(
    pipe: TuneAVideo,
    classifier: AttributeClassifier,
    trials: Sequence[EditTrial],
    config: VideoTuning,
    *,
    folder: Path,
    num_frames: int = 8,
    progress: Callable[[Any], Any] = iter,
    **edit_options: Any,
) -> tuple[EditScores, list[tuple[SpriteClip, Clip]]]:
    """Tune and edit every trial from the same untuned weights; mean scores, and (source, edit) of each.

    `folder` gets one run folder per trial; `edit_options` go to `TuneAVideo.edit`.
    """
    scores, clips = [], []
    for i, trial in enumerate(progress(trials)):
        source = sprite_clip(trial.source, num_frames)
        pipe.reset()
        pipe.tune(source.clip, caption(trial.source), dataclasses.replace(config, output_dir=folder / f"trial-{i}"))
        edited = pipe.edit(source.clip, caption(trial.wanted), **edit_options)
        scores.append(score_edit(trial, edited, classifier))
        clips.append((source, edited))
    means = {f.name: float(np.nanmean([getattr(s, f.name) for s in scores])) for f in dataclasses.fields(EditScores)}
    return EditScores(**means), clips
