"""The first stage of a training run: the encoder by itself, under a denoiser that sees every point alone.

Points that are denoised together tell each other their shape, and leave the latent little to say. A point alone, as in
Luo & Hu (2021), knows of its shape what the latent says and nothing else: so the encoder soon puts details into it.

Shape letters: B clouds, N points, C condition width, Z shape latent.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..common.diffusion import Denoiser, DenoisingLoss
from ..common.nn import FourierFeatures
from ..common.train import SampleNoise, TrainResult, process_state, train
from .conditioning import ConditionEmbedding, PointCondition
from .diffusion import PointDiffusion
from .latent import FeedForwardDenoiser, ShapeEncoder, kl_to_standard_normal
from .process import TrainingBatch, point_path
from .training_batch import draw_batch
from .training_data import TrainingClouds

if TYPE_CHECKING:
    from .training import PointCloudTraining


@dataclass(frozen=True)
class EncoderStage:
    """How long the encoder is trained by itself, before the points. All else is as for them, but for a learning rate
    that falls to zero along a cosine. The points then find latents that no longer change."""

    steps: int = 0
    """Updates; 0: the encoder is trained together with the points."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    warmup_steps: int = 100
    """Updates over which the learning rate rises from 0."""
    keep_weight: float = 1.0
    """Factor of how far what the points of a `pretrained_model` are told of a shape moves (squared, mean)."""

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "warmup_steps", "keep_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"encoder_stage.{name}: must be at least 0, found {getattr(self, name)}")


class SinglePointDenoiser(FeedForwardDenoiser):
    """Points told the class and the latent of their shape; none sees another."""

    def __init__(self, num_classes: int, latent_dim: int, *, width: int = 96, depth: int = 4, cond: int = 256) -> None:
        fourier = FourierFeatures(3, 6, min_frequency=0.25)
        condition = ConditionEmbedding(cond, num_classes=num_classes, latent_dim=latent_dim)
        super().__init__(fourier.out_dim, 3, condition, width=width, depth=depth, mult=2)
        self.fourier = fourier

    def forward(self, x: Tensor, t: Tensor, cond: PointCondition) -> Tensor:
        """x [B, N, 3] noisy points, t [B] c_noise -> [B, N, 3] float32, the v of x."""
        return self.rows(self.fourier(x), self.condition(t, cond))


class PointAutoencoder(nn.Module):
    """An encoder and the denoiser that it is trained with."""

    def __init__(self, encoder: ShapeEncoder, denoiser: SinglePointDenoiser) -> None:
        super().__init__()
        self.encoder, self.denoiser = encoder, denoiser

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor, Tensor]:
        """(denoising loss [B], KL of the latent in nats [B], mean latents [B, Z]), float32."""
        mean, log_variance = self.encoder(batch.seen)
        latents = mean + (0.5 * log_variance).exp() * batch.posterior_noise[:, 0]
        labels = batch.labels if self.denoiser.condition.num_classes else None
        denoiser = Denoiser(self.denoiser, point_path(), "v")
        loss = DenoisingLoss()(denoiser, *batch.asked(), batch.t, PointCondition(labels, latents))
        return loss.per_sample.float(), kl_to_standard_normal(mean, log_variance), mean


def encoder_loss(
    net: nn.Module,
    batch: Sequence[Tensor],
    noise: SampleNoise,
    *,
    config: PointCloudTraining,
    former: tuple[ShapeEncoder, nn.Linear] | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch (points [B, P, 3], labels [B]). former: the encoder as it was, and the layer by which the
    points read its latents; where these weigh nothing, a latent is free to move."""
    drawn = draw_batch(batch[0], batch[1], noise, config)
    denoising, kl, mean = net(drawn)
    loss, metrics = denoising.mean() + config.kl_weight * kl.mean(), {"denoising": denoising, "kl": kl}
    if former is not None:
        encoder, read = former
        with torch.no_grad():
            told = encoder(drawn.seen)[0]
        metrics["moved"] = nn.functional.linear(mean - told, read.weight).float().square().mean(-1)
        loss = loss + config.encoder_stage.keep_weight * metrics["moved"].mean()
    return loss.float(), {name: value.mean().detach() for name, value in metrics.items()}


def train_encoder(
    config: PointCloudTraining, clouds: TrainingClouds, model: PointDiffusion, *, keep: bool
) -> TrainResult:
    """Train the encoder of `model` in place; checkpoints are in `output_dir/encoder`. keep: the points know latents
    already, and are to be told nearly the same by them. Raises as the core's `train`."""
    stage = config.encoder_stage
    assert model.encoder is not None
    assert model.net.condition.latent_in is not None
    former = None
    if keep:
        former = copy.deepcopy((model.encoder, model.net.condition.latent_in))
        for part in former:
            part.requires_grad_(False).to(process_state().device)
    net = PointAutoencoder(model.encoder, SinglePointDenoiser(len(clouds.classes), model.config.latent_dim))
    result = train(
        dataclasses.replace(
            config,
            output_dir=config.output_dir / "encoder",
            max_train_steps=stage.steps,
            learning_rate=stage.learning_rate,
            lr_scheduler="cosine",
            lr_warmup_steps=stage.warmup_steps,
            lr_end=0.0,
            gradient_checkpointing=False,
            validation_steps=None,
            resume_from_checkpoint=config.resume_from_checkpoint and "latest",
            push_to_hub=False,
        ),
        net,
        partial(encoder_loss, config=config, former=former),
        clouds,
        run_dir=config.output_dir,
    )
    if result.ema:
        result.ema.copy_to(net)
    return result
