"""The diffusion of points: its path, which noise levels are visited, what a training step computes, and the samplers.

Shape letters: B clouds, N points, Z shape latent, K draws of the prior per cloud.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from ..common.diffusion import (
    PerSampleNoise,
    Sampler,
    VPCosinePath,
    ancestral,
    ddim,
    edm_heun,
    from_diffusers,
    ode,
    scheduler_for,
    shifted_time,
    stable_target,
    vp_cosine_path,
)
from ..common.diffusion.diffusers_adapter import DiffusersSampler
from ..common.diffusion.step import Progress, Times
from .errors import PointCloudError

SamplerName = Literal["ddpm", "ddim", "heun", "ode", "dpmsolver++", "sde-dpmsolver++"]
DEFAULT_SAMPLER: SamplerName = "dpmsolver++"
DEFAULT_STEPS = 20


def point_path() -> VPCosinePath:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): pure noise at t = 1, where the SNR is exactly zero."""
    return vp_cosine_path(0.0)


def sampling_times(steps: int, shift: float) -> list[float]:
    """steps + 1 times from 1 (noise) to 0 (data), even but for the shift. Raises ValueError for no steps."""
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, found {steps}")
    return shifted_time(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).tolist()


def training_times(path: VPCosinePath, share: Tensor, shift: float) -> Tensor:
    """Times of `path` in float32 for uniform shares in [0, 1), at noise levels times `shift`."""
    t = path.t_min + (path.t_max - path.t_min) * share
    return shifted_time(t, shift).clamp(path.t_min, path.t_max).float()


def sampler_named(name: str, shift: float = 1.0) -> Sampler:
    """The samplers a user can name: ancestral "ddpm", "ddim", EDM's "heun", the plain "ode" by Heun, DPM-Solver++ 2M.

    "heun" and "ode" ask the net twice a step. Raises ValueError for another name.
    """
    if name in ("dpmsolver++", "sde-dpmsolver++"):
        # Its own table of levels is that of flow matching, which reaches the zero SNR that no table of betas can hold.
        return from_diffusers(
            scheduler_for(
                point_path(),
                DPMSolverMultistepScheduler,
                algorithm_type=name,
                use_flow_sigmas=True,
                prediction_type="flow_prediction",
                flow_shift=shift,
            )
        )
    ours: dict[str, Sampler] = {"ddpm": ancestral, "ddim": ddim, "heun": edm_heun, "ode": partial(ode, method="heun")}
    if name not in ours:
        raise ValueError(f"sampler: expected one of {', '.join(get_args(SamplerName))}, found {name!r}")
    return ours[name]


def times_for(sampler: Sampler, steps: int, shift: float) -> Times:
    """What `sampler` takes as its times: diffusers' schedulers choose their own, told only how many."""
    times = sampling_times(steps, shift)
    return steps if isinstance(sampler, DiffusersSampler) else times


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """B normalised clouds and everything that is random about one training step."""

    points: Tensor
    """Float32 [B, N, 3], to be denoised."""
    seen: Tensor
    """Float32 [B, E, 3], other points of the same clouds, which the encoder sees."""
    references: Tensor
    """Float32 [B, R, 3], the points that `points` were drawn from, for a stable target; R = 0: the target is the points
    themselves."""
    labels: Tensor
    """Long [B], NO_CLASS where the class is not told."""
    keep_shape: Tensor
    """Bool [B], False where the shape latent is not told."""
    t: Tensor
    """[B] times of the points."""
    noise: Tensor
    """Standard normal [B, N, 3]."""
    posterior_noise: Tensor
    """Standard normal [B, 1 + K, Z]: one latent for the points, K for the prior; Z = 0 where there is no latent."""
    prior_t: Tensor
    """[B, K] times of the prior."""
    prior_noise: Tensor
    """Standard normal [B, K, Z]."""

    def asked(self) -> tuple[Tensor, Tensor]:
        """(x0, noise) of the denoising loss: points and noise, or with references those of the stable target."""
        if self.references.shape[1] == 0:
            return self.points, self.noise
        return stable_target(point_path(), self.points, self.noise, self.t, self.references)


@dataclass(frozen=True, eq=False)
class PointLosses:
    """Losses of each cloud, float32 [B]: denoising (mean over coordinates), kl of the latent in nats, prior (mean over
    its draws). The last two are zeros where there is no latent."""

    denoising: Tensor
    kl: Tensor
    prior: Tensor

    def total(self, kl_weight: float) -> Tensor:
        """The scalar to minimise. The prior has weights of its own and does not reach the encoder: no factor needed."""
        return (self.denoising + kl_weight * self.kl + self.prior).mean()


@dataclass(frozen=True)
class Sampling:
    """How points are drawn, see `PointDiffusion.generate`."""

    steps: int = DEFAULT_STEPS
    sampler: SamplerName | Sampler = DEFAULT_SAMPLER
    guidance_scale: float = 1.0
    batch_points: int = 65_536
    progress: Progress | None = None

    def batches(self, clouds: int, num_points: int) -> Iterator[slice]:
        """Consecutive clouds of at most `batch_points` points together (a larger cloud comes alone). Raises
        PointCloudError for clouds without points."""
        if num_points < 1:
            raise PointCloudError(f"num_points: expected at least 1, found {num_points}")
        size = max(1, self.batch_points // num_points)
        for start in range(0, clouds, size):
            yield slice(start, min(start + size, clouds))


def consecutive_seeds(seed: int, count: int) -> list[int]:
    if not 0 <= seed < 2**63 - count:
        raise ValueError(f"seed: expected 0 to 2^63 - 1, found {seed}")
    return [seed + i for i in range(count)]


def noise_streams(seeds: Sequence[int]) -> PerSampleNoise:
    """One stream of noise per cloud, so that a cloud does not depend on its batch."""
    return PerSampleNoise([torch.Generator().manual_seed(seed) for seed in seeds])
