"""The diffusion of Luo & Hu 2021 on the shared process: its schedule, its reverse variances, its samplers.

Time runs from 1 to T, clean data at 0. The net is told beta_t itself, which the path hands over as its label.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from ...common.diffusion import DiscretePath, Sampler, ancestral, ddim, from_diffusers, linear_path, scheduler_for
from ...common.diffusion.samplers import VarianceRule

SamplerName = Literal["ddpm", "ddim", "dpmsolver++", "sde-dpmsolver++"]


def luo_hu_path(num_steps: int, beta_1: float, beta_T: float) -> DiscretePath:
    """Betas evenly spaced from `beta_1` to `beta_T`, times 1..T, labelled with beta_t."""
    return linear_path(num_steps, beta_1, beta_T, one_based=True, label="beta")


def flexible_variance(flexibility: float) -> VarianceRule:
    """Reverse variances whose standard deviation is flexibility * sqrt(beta_t) + (1 - flexibility) * sqrt(beta~_t).

    0 is the posterior variance beta~ (the published default), 1 the forward variance beta.

    Raises: ValueError outside [0, 1].
    """
    if not 0 <= flexibility <= 1:
        raise ValueError(f"flexibility: expected a number in [0, 1], found {flexibility}")

    def variance(posterior: float, forward: float) -> float:
        return (flexibility * math.sqrt(forward) + (1 - flexibility) * math.sqrt(posterior)) ** 2

    return variance


def reverse_stds(path: DiscretePath, flexibility: float) -> Tensor:
    """Standard deviation of the reverse step t -> t - 1, float64 [T], entry t - 1. Sampling adds none at t = 1."""
    rule = flexible_variance(flexibility)
    pairs = zip(path.posterior_variance.tolist(), path.betas.tolist(), strict=True)
    return torch.tensor([math.sqrt(rule(*pair)) for pair in pairs], dtype=torch.float64)


def sampler_named(name: SamplerName | Sampler, path: DiscretePath, flexibility: float = 0.0) -> Sampler:
    """A sampler by name, or the sampler given.

    "ddpm" is the published chain; "ddim" (eta 0), "dpmsolver++" and "sde-dpmsolver++" (second order, multistep) do
    with fewer steps.

    Raises: ValueError for an unknown name, or a flexibility given to a sampler that has none.
    """
    if name == "ddpm":
        return partial(ancestral, variance=flexible_variance(flexibility))
    if flexibility != 0:
        raise ValueError(f"flexibility: belongs to sampler 'ddpm', found {flexibility} with {name!r}")
    if not isinstance(name, str):
        return name
    if name == "ddim":
        return ddim
    if name in ("dpmsolver++", "sde-dpmsolver++"):
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

        return from_diffusers(scheduler_for(path, DPMSolverMultistepScheduler, algorithm_type=name))
    raise ValueError(f"sampler: expected one of {', '.join(get_args(SamplerName))} or a sampler, found {name!r}")
