"""The autoencoder of Luo & Hu 2021, section 4.2: a cloud's latent, and clouds drawn back from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...common.diffusion import Sampler
from .model import LuoHuConfig, LuoHuModel, Precision
from .process import SamplerName


@dataclass(frozen=True)
class AutoEncoderConfig(LuoHuConfig):
    """The published autoencoder: T = 200, beta from 1e-4 to 0.05."""

    num_steps: int = 200
    beta_T: float = 0.05


class AutoEncoder(LuoHuModel):
    """Encodes a cloud by the mean head alone. The log-variance head exists, as in the published checkpoints, but is
    neither run nor trained."""

    config_class: ClassVar[type] = AutoEncoderConfig
    config: AutoEncoderConfig

    def __init__(self, config: AutoEncoderConfig | None = None) -> None:
        super().__init__(config or AutoEncoderConfig())
        self.encoder.log_variance_head.requires_grad_(False)

    def encode(self, points: Tensor) -> Tensor:
        """Latents [B, L] of normalised clouds [B, N, 3], of any N."""
        return self.encoder.mean(points)

    def forward(self, points: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The training loss, a scalar: see `reconstruction_loss`."""
        return self.reconstruction_loss(points, t, noise, self.encode(points))

    @torch.no_grad()
    def reconstruct(
        self,
        points: Tensor,
        num_points: int | None = None,
        *,
        seed: int = 0,
        sampler: SamplerName | Sampler = "ddpm",
        steps: int | None = None,
        flexibility: float = 0.0,
        precision: Precision = "float32",
    ) -> Tensor:
        """Clouds [B, N, 3] through the latent and back, both in the data's units.

        `num_points` is the input's by default; the other arguments are those of `decode`. Returns
        [B, num_points, 3] float32, put where the clouds came from by their own shift and scale.
        """
        x, shift, scale = self.config.normalisation.apply(points.to(self.device, torch.float32))
        drawn = self.decode(
            self.encode(x),
            points.shape[1] if num_points is None else num_points,
            seed=seed,
            sampler=sampler,
            steps=steps,
            flexibility=flexibility,
            precision=precision,
        )
        return self.config.normalisation.restore(drawn, shift, scale)
