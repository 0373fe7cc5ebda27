"""What the models of Luo & Hu 2021 share: a PointNet encoder, a pointwise denoiser, a discrete path.

Shape letters: B clouds, N points, L latent. Coordinates are normalised (`config.normalisation`) unless a method says
that it speaks the data's units.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from tyro.conf import Suppress

from ...common.diffusion import Denoiser, DenoisingLoss, OnStep, Sampler, as_noise, uniform_times
from ...common.diffusion.noise import Randomness
from ...common.diffusion.step import Progress
from ...common.precision import warn_of_imitation
from ...common.pretrained import PretrainedModel
from ..cloud import PointCloud
from ..errors import PointCloudError
from ..normalise import Normalisation
from .denoiser import PointwiseNet
from .encoder import PointNetEncoder
from .process import SamplerName, luo_hu_path, sampler_named

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class LuoHuConfig:
    """The shape of the nets and of the schedule."""

    latent_dim: int = 256
    """L, the size of a shape's latent."""
    num_steps: int = 100
    """T, steps of the diffusion."""
    beta_1: float = 1e-4
    """Variance that the first step adds."""
    beta_T: float = 0.02
    """Variance that the last step adds; those between lie evenly between the two."""
    residual: bool = True
    """The denoiser adds its input to its output."""
    normalisation: Suppress[Normalisation] = field(default_factory=lambda: Normalisation("shape_unit"))
    """How the training clouds were normalised, and how to return to their units. Training takes it from its data; its
    command has no flag for it."""

    def __post_init__(self) -> None:
        if self.latent_dim < 1 or self.num_steps < 1:
            raise ValueError(
                f"latent_dim and num_steps: expected at least 1, found {self.latent_dim}, {self.num_steps}"
            )
        if not 0 < self.beta_1 <= self.beta_T < 1:
            raise ValueError(f"expected 0 < beta_1 <= beta_T < 1, found {self.beta_1} and {self.beta_T}")


class LuoHuModel(PretrainedModel):
    """Encoder, denoiser and path, and what all three models do with them."""

    config: LuoHuConfig

    def __init__(self, config: LuoHuConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PointNetEncoder(config.latent_dim)
        self.net = PointwiseNet(config.latent_dim, config.residual)
        self.path = luo_hu_path(config.num_steps, config.beta_1, config.beta_T)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def denoiser(self) -> Denoiser:
        """E[x0 | x_t, latent] for the samplers of the core; its condition is latents [B, L] or `net.embed` of them."""
        return Denoiser(self.net, self.path, "eps")

    def reconstruction_loss(self, points: Tensor, t: Tensor, noise: Tensor, latents: Tensor) -> Tensor:
        """Mean over B, N and 3 of (noise - predicted noise)^2, a scalar.

        Args:
            points, noise: [B, N, 3]. t: [B] whole times in 1..T. latents: [B, L].
        """
        return DenoisingLoss()(self.denoiser(), points, noise, t, latents).total

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        num_points: int = 2048,
        *,
        seed: int = 0,
        generator: Randomness = None,
        sampler: SamplerName | Sampler = "ddpm",
        steps: int | None = None,
        flexibility: float = 0.0,
        precision: Precision = "float32",
        on_step: OnStep | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Clouds drawn for given latents: [B, L] -> [B, num_points, 3], float32, normalised.

        Points are drawn independently given the latent, so any number may be asked for. The chain starts from N(0, I),
        as published, though with T = 100 the last x_t still holds 60 % of the signal's amplitude.

        Args:
            seed: cloud i draws from a generator of its own, with seed + i.
            generator: replaces the seeds: a generator, one a cloud, or a noise source. x_T is drawn first.
            sampler: a name (see `sampler_named`) or a sampler of the core.
            steps: of the sampler, evenly spaced in t; None for all T.
            flexibility: of "ddpm", in [0, 1]; see `flexible_variance`.
            precision: of the inner products of the denoiser.

        Raises: PointCloudError, ValueError for counts, names and numbers out of range.
        """
        if num_points < 1:
            raise PointCloudError(f"num_points: expected at least 1, found {num_points}")
        latents = latents.to(self.device)
        source = as_noise(seeded(seed, len(latents)) if generator is None else generator)
        x_T = source.randn_like(torch.empty(len(latents), num_points, 3, device=self.device))
        times = uniform_times(self.path, self.config.num_steps if steps is None else steps)
        draw = sampler_named(sampler, self.path, flexibility)
        with lower_precision(precision, self.device):
            return draw(
                self.denoiser(),
                x_T,
                times,
                self.net.embed(latents),
                generator=source,
                on_step=on_step,
                progress=progress,
            )

    def clouds(self, points: Tensor, name: str) -> list[PointCloud]:
        """Normalised clouds [B, N, 3] in the data's units, named `name`-0, `name`-1, ..."""
        restored = self.config.normalisation.restore(points.float().cpu())
        return [PointCloud(cloud.numpy(), name=f"{name}-{i}") for i, cloud in enumerate(restored)]


def seeded(seed: int, count: int) -> Sequence[torch.Generator]:
    """CPU generators with seeds seed, seed + 1, ...: what cloud i is does not depend on the batch it is drawn in."""
    if not 0 <= seed < 2**63 - count:
        raise PointCloudError(f"seed: expected 0 to 2^63 - {count + 1}, found {seed}")
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def lower_precision(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast of the denoiser's inner products, or none for "float32"."""
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision: expected float32 or bfloat16, found {precision!r}")
    if precision == "bfloat16":
        warn_of_imitation(device.type, "precision to float32")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
