"""Tuning an inflated unet on one clip (Wu et al. 2023, section 3.3), on the core's training loop.

Shape letters: B samples of the clip, C latent channels, F frames, h w latent size, L text tokens, D width.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from ..common.diffusion import expand, target
from ..common.train import (
    SampleNoise,
    TrainConfig,
    TrainingDiverged,
    TrainResult,
    list_checkpoints,
    process_state,
    train,
)
from ..common.train.checkpoint import find_resume
from ..common.train.loop import ValidateFn
from ..common.weights import read_tensors, write_json
from .delta import TunedWeights, restore
from .errors import VideoError
from .schedule import Schedule
from .trainable import Selection, select_trainable

if TYPE_CHECKING:
    from .unet import InflatedUNet

BASE_FILE = "tuning.json"


@dataclass(frozen=True)
class VideoTuning(TrainConfig):
    """Tuning on one clip; the defaults are Tune-A-Video's (500 AdamW steps at 3e-5 on a batch of one)."""

    output_dir: Path = Path("runs/video-tune")
    """Folder for checkpoints, logs and the delta."""
    train_batch_size: int = 1
    """Noise levels drawn per step; every one is the whole clip."""
    max_train_steps: int = 500
    """Optimizer updates in all, those before a resume included."""
    learning_rate: float = 3e-5
    """Peak learning rate."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: a third more time, several times less memory."""
    checkpointing_steps: int | None = 100
    """Updates between checkpoints; None writes only the last one. A stop by SIGINT or SIGTERM always writes one."""
    checkpoints_total_limit: int | None = 2
    """The oldest checkpoints beyond this many are deleted; None keeps all."""
    checkpoint_frozen: bool = False
    """Checkpoints also hold the parameters that are not trained; they are the base's, so there is no need."""
    selection: Selection | tuple[str, ...] = "queries_and_temporal"
    """What is trained: a selection by name, or endings of module names such as attn1.to_q."""
    latents: Literal["sample", "mean"] = "sample"
    """A fresh sample of the VAE's posterior every step, as the original, or its mean."""


@dataclass(frozen=True, eq=False)
class TuningClip:
    """A clip as the loop sees it, encoded once: posterior mean and standard deviation [C, F, h, w], text [L, D].

    It is a dataset of one sample; each step is another draw of noise and time.
    """

    mean: Tensor
    std: Tensor
    text: Tensor

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int, /) -> dict[str, Tensor]:
        return {"mean": self.mean, "std": self.std, "text": self.text}


def tuning_loss(
    unet: nn.Module, batch: dict[str, Tensor], noise: SampleNoise, *, schedule: Schedule, latents: str = "sample"
) -> Tensor:
    """Mean squared error on what the net predicts: one uniform time per clip, independent noise in every frame."""
    mean, path = batch["mean"], schedule.path
    t = noise.randint(0, path.num_steps)
    x0 = mean + batch["std"] * noise.randn_like(mean) if latents == "sample" else mean
    eps = noise.randn_like(mean)
    wanted = target(schedule.prediction, x0, eps, path.alpha(t), path.sigma(t))
    x_t = expand(path.alpha(t), x0) * x0 + expand(path.sigma(t), x0) * eps
    return (unet(x_t, t, batch["text"]).float() - wanted).square().mean()


def run_tuning(
    config: VideoTuning,
    unet: InflatedUNet,
    schedule: Schedule,
    clip: TuningClip,
    started_from: dict[str, Any],
    validate: ValidateFn | None = None,
) -> tuple[TrainResult, int]:
    """Tune `unet` in place; returns the loop's result, and the steps that `unet` has been tuned for in all.

    `started_from` (see `describe_start`) is kept in the run's folder, and a resume from another base, clip, prompt or
    selection is refused. A run that diverges raises TrainingDiverged and leaves `unet` at its last good checkpoint,
    or as it was where there is none. Averaged weights (use_ema) are what a finished run leaves in `unet`.
    """
    resume = find_resume(config.output_dir, config.resume_from_checkpoint)
    place = (resume.parent if resume else config.output_dir) / BASE_FILE
    facts = json.loads(json.dumps({**started_from, "selection": config.selection, "latents": config.latents}))
    if resume:
        facts["steps_before"] = check_same_run(place, facts)
    select_trainable(unet, config.selection)
    if process_state().is_main_process:
        write_json(config.output_dir / BASE_FILE, facts)
    before = {name: p.detach().cpu().clone() for name, p in unet.named_parameters() if p.requires_grad}
    device = next(unet.parameters()).device
    try:
        loss = partial(tuning_loss, schedule=schedule, latents=config.latents)
        result = train(config, unet, loss, clip, validate=validate)
    except TrainingDiverged:
        unet.zero_grad(set_to_none=True)
        good = list_checkpoints(config.output_dir)
        restore(unet, read_tensors(good[-1][1] / "model.safetensors") if good else before)
        raise
    finally:
        unet.to(device).eval()
    unet.zero_grad(set_to_none=True)
    if result.ema is not None and not result.interrupted:
        result.ema.copy_to(unet)
    return result, facts["steps_before"] + result.step


def describe_start(weights: TunedWeights, prompt: str, frames: Tensor) -> dict[str, Any]:
    """What a tuning run starts from, as plain values. The clip is known by a hash of its frames [F, 3, H, W]."""
    return {
        "base": weights.base,
        "base_mark": asdict(weights.mark),
        "temporal_init": weights.unet.config.temporal_init,
        "group_norm": weights.unet.config.group_norm,
        "prompt": prompt,
        "frames": hashlib.sha256(frames.float().cpu().contiguous().numpy().tobytes()).hexdigest(),
        "steps_before": weights.steps,
    }


def check_same_run(path: Path, facts: dict[str, Any]) -> int:
    """Raise VideoError, naming the fields, unless the run whose `tuning.json` this is started from the same.

    Returns the number of steps that its unet had been tuned for before it.
    """
    try:
        saved = json.loads(path.read_text())
        before = int(saved["steps_before"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VideoError(f"{path}: cannot be read, so what the run started from is not known ({error})") from error
    # A base may lie in another folder now: its weights are what counts. A stopped pipeline has steps behind it.
    other = sorted(n for n in facts if n not in ("base", "steps_before") and saved.get(n) != facts[n])
    if other:
        raise VideoError(f"{path}: the run that would be resumed had another {', '.join(other)}")
    return before
