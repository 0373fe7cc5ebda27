"""Ancestral sampling (DDPM) over any subsequence of times, and the plain ODE by Euler or Heun.

The other loops are in `implicit.py`, `edm.py`, `langevin.py`; diffusers' schedulers come in by `diffusers_adapter.py`.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from .noise import Randomness, as_noise
from .path import AffinePath
from .step import DenoiserLike, Level, OnStep, Progress, Times, eps_of, level_at, levels_of, run_steps

Variance = Literal["fixed_small", "fixed_large", "learned", "learned_range"]
VarianceRule = Callable[[float, float], float]
"""(posterior variance, forward variance) of a step -> the variance to sample it with."""


def transition(t: Level, s: Level) -> tuple[float, float]:
    """(alpha_ts, variance_ts) of the forward kernel q(x_t | x_s) = N(alpha_ts x_s, variance_ts I), s < t.

    Between neighbours of a DDPM table this is (sqrt(1 - beta_t), beta_t); over a longer gap it is the respaced beta.
    """
    alpha_ts = t.alpha / s.alpha
    variance_ts = t.sigma**2 - (alpha_ts * s.sigma) ** 2
    if variance_ts <= 0:
        raise ValueError(f"the path adds no noise between s = {s.t} and t = {t.t}: no posterior exists")
    return alpha_ts, variance_ts


def posterior(t: Level, s: Level) -> tuple[float, float, float]:
    """(c_x, c_0, variance) of q(x_s | x_t, x0) = N(c_x x_t + c_0 x0, variance I), s < t.

    Ho et al. 2020, eqs. 6-7, for any affine path and any s < t.
    """
    alpha_ts, variance_ts = transition(t, s)
    return (
        alpha_ts * s.sigma**2 / t.sigma**2,
        s.alpha * variance_ts / t.sigma**2,
        variance_ts * s.sigma**2 / t.sigma**2,
    )


def ancestral_variances(path: AffinePath, times: Times, variance: Literal["fixed_small", "fixed_large"]) -> Tensor:
    """Variance of each step of `ancestral`, float64 [n], in the order of the steps.

    fixed_small is the posterior variance (beta tilde), fixed_large the forward one (beta). The last entry of
    fixed_large is the posterior variance of the step before it, as in guided-diffusion, where it is only ever used
    as a log-likelihood's variance: the last step of a sampler adds no noise.
    """
    levels = levels_of(path, times)
    pairs = list(pairwise(levels))
    small = [posterior(t, s)[2] for t, s in pairs]
    if variance == "fixed_small":
        return torch.tensor(small, dtype=torch.float64)
    if variance != "fixed_large":
        raise ValueError(f"variance: expected fixed_small or fixed_large, found {variance!r}")
    large = [transition(t, s)[1] for t, s in pairs]
    if len(large) > 1:
        large[-1] = small[-2]
    return torch.tensor(large, dtype=torch.float64)


def ancestral(
    denoiser: DenoiserLike,
    x_T: Tensor,
    times: Times,
    cond: Any = None,
    *,
    variance: Variance | VarianceRule = "fixed_small",
    generator: Randomness = None,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """DDPM sampling: x_s ~ N(posterior mean, variance), Ho et al. 2020, Algorithm 2.

    Args:
        x_T: [B, ...] state at times[0], see `initial_noise`.
        times: number of steps, or descending times (original time on a discrete path) that end clean.
        variance: `fixed_small` (beta tilde); `fixed_large` (beta); `learned`, the denoiser's own variance of the step
            t -> t - 1, so times must be neighbours; or `learned_range`, where the net's place between the two logs
            (Nichol & Dhariwal 2021, eq. 15) is kept and the logs are those of t -> s, so any times will do. Or a
            function of a step's two fixed variances, `VarianceRule`.

    Returns: [B, ...] state at times[-1]; the last step adds no noise.
    """
    if not callable(variance) and variance not in ("fixed_small", "fixed_large", "learned", "learned_range"):
        raise ValueError(f"variance: expected fixed_small, fixed_large, learned or learned_range, found {variance!r}")
    noise = as_noise(generator)
    levels = levels_of(denoiser.path, times)

    def step(t: Level, s: Level, x_t: Tensor) -> tuple[Tensor, Tensor]:
        c_x, c_0, small = posterior(t, s)
        large = transition(t, s)[1]
        learned = None
        if variance in ("learned", "learned_range"):
            prediction = denoiser.predict(x_t, t.time(), cond)
            x0, learned = prediction.x0, prediction.log_variance
            if learned is None:
                raise ValueError(f"variance={variance!r} needs a denoiser with a learned variance; this one has none")
        else:
            x0 = denoiser(x_t, t.time(), cond)
        mean = c_x * x_t + c_0 * x0
        if s is levels[-1]:
            return x0, mean
        if callable(variance):
            std = math.sqrt(variance(small, large))
        elif learned is None:
            std = math.sqrt(small if variance == "fixed_small" else large)
        elif variance == "learned":
            if t.t - s.t != 1:
                raise ValueError(f"variance='learned' is that of one step of the path, found the step {t.t} -> {s.t}")
            std = (0.5 * learned).exp()
        else:
            std = (0.5 * _respaced_log_variance(denoiser.path, t, learned, small, large)).exp()
        return x0, mean + std * noise.randn_like(x_t)

    return run_steps(step, levels, x_T, cond, on_step, progress)


def _respaced_log_variance(path: AffinePath, t: Level, learned: Tensor, small: float, large: float) -> Tensor:
    """The log variance of a longer step, as far between log `small` and log `large` as `learned` is in t -> t - 1."""
    before = level_at(path, t.t - 1)
    low, high = math.log(posterior(t, before)[2]), math.log(transition(t, before)[1])
    # The division is harmless where high - low is tiny: the new range is tiny there in the same proportion.
    return math.log(small) + (learned - low) * ((math.log(large) - math.log(small)) / (high - low))


def ode(
    denoiser: DenoiserLike,
    x_T: Tensor,
    times: Times,
    cond: Any = None,
    *,
    method: Literal["euler", "heun"] = "heun",
    generator: Randomness = None,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The probability-flow ODE dx/dt = alpha'(t) x0_hat + sigma'(t) eps_hat, integrated in the path's own time.

    On a rectified-flow path the right-hand side is the velocity eps - x0, so `euler` is the plain flow sampler
    (Liu et al. 2023). `heun` costs two network calls a step. A step that ends at sigma = 0, where the slope is not
    defined, goes to x0_hat, which for rectified flow is the Euler step. Continuous paths only; `generator` is unused.

    Returns: [B, ...] state at times[-1].
    """
    path = denoiser.path
    if path.is_discrete:
        raise ValueError("ode integrates in continuous time and this path is discrete: use ddim or edm_heun")
    if method not in ("euler", "heun"):
        raise ValueError(f"method: expected euler or heun, found {method!r}")
    levels = levels_of(path, times)

    def velocity(x: Tensor, t: Level) -> tuple[Tensor, Tensor]:
        x0 = denoiser(x, t.time(), cond)
        d_alpha, d_sigma = float(path.d_alpha(t.time())), float(path.d_sigma(t.time()))
        return x0, d_alpha * x0 + d_sigma * eps_of(x, x0, t)

    def step(t: Level, s: Level, x_t: Tensor) -> tuple[Tensor, Tensor]:
        x0, slope = velocity(x_t, t)
        if s.sigma == 0:
            return x0, s.alpha * x0
        x_s = x_t + (s.t - t.t) * slope
        if method == "euler":
            return x0, x_s
        return x0, x_t + (s.t - t.t) * 0.5 * (slope + velocity(x_s, s)[1])

    return run_steps(step, levels, x_T, cond, on_step, progress)
