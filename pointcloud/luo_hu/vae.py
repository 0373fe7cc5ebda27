"""The generators of Luo & Hu 2021: a variational autoencoder of clouds with a Gaussian or a flow prior.

Shape letters: B clouds, N points, L latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...common.diffusion import Sampler
from ..cloud import PointCloud
from ..errors import PointCloudError
from .encoder import LatentGaussian
from .flow import FlowPrior
from .likelihood import (
    LossConstant,
    Truncation,
    first_within,
    gaussian_entropy,
    standard_normal_log_prob,
    truncated,
)
from .model import LuoHuConfig, LuoHuModel, Precision, seeded
from .process import SamplerName

KL_WEIGHT = 1e-3
BATCH_SIZE = 32


@dataclass(frozen=True)
class VAELoss:
    """Scalars, means over a batch; total = reconstruction + kl_weight (entropy + prior).

    `entropy` is -H[q(z | cloud)] and `prior` is -E log p(z), in nats summed over the L coordinates, while
    `reconstruction` is a mean over points: the published weight 0.001 is not that of a likelihood bound.
    """

    total: Tensor
    reconstruction: Tensor
    entropy: Tensor
    prior: Tensor
    z_mean: Tensor
    """Mean of the latents' means."""
    z_mag: Tensor
    """Largest of the latents' means in absolute value."""
    z_var: Tensor
    """Mean standard deviation of the latents (the published name says variance)."""

    def logged(self) -> dict[str, Tensor]:
        """Everything but the total, detached, under the names of the published code."""
        return {
            "loss_recons": self.reconstruction.detach(),
            "loss_entropy": self.entropy.detach(),
            "loss_prior": self.prior.detach(),
            "z_mean": self.z_mean.detach(),
            "z_mag": self.z_mag.detach(),
            "z_var": self.z_var.detach(),
        }


@dataclass(frozen=True)
class GaussianVAEConfig(LuoHuConfig):
    """The published generator with p(z) = N(0, I): T = 100, beta from 1e-4 to 0.02."""


@dataclass(frozen=True)
class FlowVAEConfig(LuoHuConfig):
    """The published generator with a flow prior: T = 100, beta from 1e-4 to 0.02."""

    flow_depth: int = 14
    """Number of affine couplings."""
    flow_hidden_dim: int = 256
    """Width inside a coupling."""
    spectral_norm: bool = False
    """Divide the couplings' weights by their largest singular value."""
    original_odd_inverse: bool = False
    """For odd latent_dim, reproduce the published inverse of the flow, which is none."""


class GaussianVAE(LuoHuModel):
    """Latents z with a standard normal prior.

    A prior sample w is the latent itself here; `FlowVAE` puts a flow between them, and nothing else changes.
    """

    config_class: ClassVar[type] = GaussianVAEConfig
    config: GaussianVAEConfig | FlowVAEConfig

    def __init__(self, config: GaussianVAEConfig | FlowVAEConfig | None = None) -> None:
        super().__init__(config or self.config_class())

    def encode(self, points: Tensor) -> LatentGaussian:
        """q(z | cloud) of normalised clouds [B, N, 3], of any N."""
        return self.encoder(points)

    def to_prior(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [B, L] -> (w [B, L] with w ~ N(0, I) under the prior, log|det dw/dz| [B])."""
        return z, z.new_zeros(z.shape[0])

    def from_prior(self, w: Tensor) -> Tensor:
        """w ~ N(0, I) [B, L] -> the latents z [B, L] for `decode`."""
        return w

    def forward(
        self,
        points: Tensor,
        t: Tensor,
        noise: Tensor,
        latent_noise: Tensor,
        kl_weight: float = KL_WEIGHT,
        constant: LossConstant = "exact",
    ) -> VAELoss:
        """Training losses of normalised clouds.

        Args:
            points, noise: [B, N, 3]. t: [B] whole times in 1..T. latent_noise: [B, L] of the sample of q(z | cloud).
            constant: "original" adds the published loss's constant, see `standard_normal_log_prob`.
        """
        q = self.encode(points)
        z = q.sample(latent_noise)
        w, log_det = self.to_prior(z)
        entropy = -gaussian_entropy(q.log_variance).mean()
        prior = -(standard_normal_log_prob(w, constant) + log_det).mean()
        reconstruction = self.reconstruction_loss(points, t, noise, z)
        return VAELoss(
            total=reconstruction + kl_weight * (entropy + prior),
            reconstruction=reconstruction,
            entropy=entropy,
            prior=prior,
            z_mean=q.mean.mean(),
            z_mag=q.mean.abs().max(),
            z_var=(0.5 * q.log_variance).exp().mean(),
        )

    def draw_prior(
        self,
        generators: Sequence[torch.Generator],
        *,
        truncate_std: float | None = None,
        truncation: Truncation = "exact",
    ) -> Tensor:
        """w ~ N(0, I), one from each generator, [B, L] float32.

        Args:
            truncate_std: draw within (-truncate_std, truncate_std); None for all of the normal.
            truncation: "first_of_four" is the published rule, see `first_within`.
        """
        size = (self.config.latent_dim, 4) if truncation == "first_of_four" else (self.config.latent_dim,)
        if truncation not in ("exact", "first_of_four"):
            raise ValueError(f"truncation: expected exact or first_of_four, found {truncation!r}")
        if truncate_std is None:
            size = (self.config.latent_dim,)
        raw = torch.stack([torch.randn(size, generator=g, device=g.device) for g in generators])
        if truncate_std is None:
            return raw
        return (first_within if truncation == "first_of_four" else truncated)(raw, truncate_std)

    @torch.no_grad()
    def sample(
        self,
        num_clouds: int = 1,
        num_points: int = 2048,
        *,
        seed: int = 0,
        sampler: SamplerName | Sampler = "ddpm",
        steps: int | None = None,
        flexibility: float = 0.0,
        truncate_std: float | None = None,
        truncation: Truncation = "exact",
        precision: Precision = "float32",
        batch_size: int = BATCH_SIZE,
        progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
    ) -> Tensor:
        """Normalised clouds from the prior, [num_clouds, num_points, 3] float32 on the CPU.

        Cloud i uses seed + i alone, for its latent first and then for its points. `truncate_std` and `truncation` are
        those of `draw_prior`, the rest those of `decode`; `batch_size` clouds are drawn at once.

        Raises: PointCloudError, ValueError for counts, names and numbers out of range.
        """
        if num_clouds < 1 or batch_size < 1:
            raise PointCloudError(
                f"num_clouds and batch_size: expected at least 1, found {num_clouds} and {batch_size}"
            )
        generators = seeded(seed, num_clouds)
        drawn = []
        for start in range(0, num_clouds, batch_size):
            own = generators[start : start + batch_size]
            w = self.draw_prior(own, truncate_std=truncate_std, truncation=truncation)
            points = self.decode(
                self.from_prior(w.to(self.device)),
                num_points,
                generator=own,
                sampler=sampler,
                steps=steps,
                flexibility=flexibility,
                precision=precision,
                progress=progress,
            )
            drawn.append(points.cpu())
        return torch.cat(drawn)

    def generate(
        self,
        num_clouds: int = 1,
        num_points: int = 2048,
        *,
        seed: int = 0,
        sampler: SamplerName | Sampler = "ddpm",
        steps: int | None = None,
        flexibility: float = 0.0,
        truncate_std: float | None = None,
        precision: Precision = "float32",
        batch_size: int = BATCH_SIZE,
        progress: Callable[[Sequence[Any]], Iterable[Any]] | None = None,
    ) -> list[PointCloud]:
        """`sample` as point clouds in the units of the training data."""
        points = self.sample(
            num_clouds,
            num_points,
            seed=seed,
            sampler=sampler,
            steps=steps,
            flexibility=flexibility,
            truncate_std=truncate_std,
            precision=precision,
            batch_size=batch_size,
            progress=progress,
        )
        return self.clouds(points, "cloud")


class FlowVAE(GaussianVAE):
    """Latents z with a learned prior: z is the flow's inverse of w ~ N(0, I)."""

    config_class: ClassVar[type] = FlowVAEConfig
    config: FlowVAEConfig

    def __init__(self, config: FlowVAEConfig | None = None) -> None:
        super().__init__(config)
        self.flow = FlowPrior(
            self.config.latent_dim,
            self.config.flow_depth,
            self.config.flow_hidden_dim,
            spectral_norm=self.config.spectral_norm,
            original_odd_inverse=self.config.original_odd_inverse,
        )

    def to_prior(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The flow, in float32 also under autocast."""
        with torch.autocast(z.device.type, enabled=False):
            return self.flow(z.float())

    def from_prior(self, w: Tensor) -> Tensor:
        """The flow's inverse, in float32 also under autocast."""
        with torch.autocast(w.device.type, enabled=False):
            return self.flow.inverse(w.float())[0]
