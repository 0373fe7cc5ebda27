"""From prepared clouds to a training step: everything that is random about it.

Shape letters: B clouds, P points kept of a cloud, N points.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..common.train import SampleNoise
from .conditioning import NO_CLASS
from .latent import LATENT_SHIFT
from .process import TrainingBatch, point_path, training_times

if TYPE_CHECKING:
    from .training import PointCloudTraining


def draw_batch(points: Tensor, labels: Tensor, noise: SampleNoise, config: PointCloudTraining) -> TrainingBatch:
    """Clouds [B, P, 3] and labels [B] with everything that is random about their training step.

    Every sample draws from its own stream, so the step does not depend on how samples are batched.
    """
    kept, latent = points.shape[1], config.model.latent_dim
    rows = noise.rand(kept).argsort(dim=1)[..., None].expand(-1, -1, 3)
    points = augmented(points.float(), noise, config)
    denoised = points.gather(1, rows[:, : config.num_points])
    seen = min(config.encoder_points, kept)  # the last ones: none of them is denoised where there are enough
    path = point_path()
    draws = config.prior_draws if latent and not config.encoder_stays else 0
    return TrainingBatch(
        points=denoised,
        seen=points.gather(1, rows[:, kept - seen :]),
        references=points if config.stable_target else points[:, :0],
        labels=torch.where(noise.rand() < config.class_dropout, NO_CLASS, labels),
        keep_shape=noise.rand() >= config.latent_dropout,
        t=training_times(path, noise.rand(), config.time_shift),
        noise=noise.randn_like(denoised),
        posterior_noise=noise.randn(1 + draws, latent),
        prior_t=training_times(path, noise.rand(draws), LATENT_SHIFT),
        prior_noise=noise.randn(draws, latent),
    )


def augmented(points: Tensor, noise: SampleNoise, config: PointCloudTraining) -> Tensor:
    """Points [B, N, 3] turned about the y axis and scaled, as far as the run wants it."""
    if config.rotation:
        angle = math.radians(config.rotation) * (2 * noise.rand() - 1)
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        x, y, z = points.unbind(-1)
        points = torch.stack([cos * x + sin * z, y, cos * z - sin * x], dim=-1)
    if config.scale_jitter:
        points = points * (1 + config.scale_jitter * (2 * noise.rand() - 1))[:, None, None]
    return points
