"""The stochastic Heun sampler of Karras et al. 2022, Algorithm 2, on every path."""

import math
from typing import Any

from torch import Tensor

from .noise import Randomness, as_noise
from .path import AffinePath
from .step import DenoiserLike, Level, OnStep, Progress, Times, level_at, levels_of, run_steps


def edm_heun(
    denoiser: DenoiserLike,
    x_T: Tensor,
    times: Times,
    cond: Any = None,
    *,
    S_churn: float = 0.0,
    S_tmin: float = 0.0,
    S_tmax: float = float("inf"),
    S_noise: float = 1.0,
    generator: Randomness = None,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Algorithm 2 in the scaled variables x / alpha and sigma / alpha, where every affine path is EDM's own.

    Args:
        x_T: [B, ...] state at times[0], in the path's own scale.
        times: number of steps, or descending times (original time on a discrete path) that end clean.
        S_churn, S_tmin, S_tmax, S_noise: as in the paper; S_tmin and S_tmax bound sigma / alpha.

    Churn raises the noise level to sigma_hat and asks the denoiser there, above t_max too if S_tmax allows it. A
    discrete path takes its nearest level, as EDM's own `round_sigma` does. A step that ends at sigma = 0 or starts at
    alpha = 0 (infinite scaled noise) is an Euler step. Two network calls a step otherwise.

    Returns: [B, ...] state at times[-1].
    """
    path = denoiser.path
    noise = as_noise(generator)
    levels = levels_of(path, times)
    gamma_max = min(S_churn / (len(levels) - 1), math.sqrt(2) - 1)

    def step(t: Level, s: Level, x_t: Tensor) -> tuple[Tensor, Tensor]:
        hat, x_hat = t, x_t
        if gamma_max > 0 and t.alpha > 0 and S_tmin <= t.ratio <= S_tmax:  # lines 5-6
            hat = _level_of_ratio(path, t.ratio * (1 + gamma_max))
            added = math.sqrt(max(hat.ratio**2 - t.ratio**2, 0.0)) * S_noise
            x_hat = (hat.alpha / t.alpha) * x_t + hat.alpha * added * noise.randn_like(x_t)
        x0 = denoiser(x_hat, hat.time(), cond)
        eps = (x_hat - hat.alpha * x0) / hat.sigma  # line 7: d_i = (x / alpha - x0) / (sigma / alpha) is eps_hat
        x_s = s.alpha * x0 + s.sigma * eps  # line 8
        if s.sigma == 0 or hat.alpha == 0:
            return x0, x_s
        eps_s = (x_s - s.alpha * denoiser(x_s, s.time(), cond)) / s.sigma  # line 10
        slope = 0.5 * (eps + eps_s)  # line 11
        return x0, (s.alpha / hat.alpha) * x_hat + (s.sigma - s.alpha * hat.ratio) * slope

    return run_steps(step, levels, x_T, cond, on_step, progress)


def _level_of_ratio(path: AffinePath, ratio: float) -> Level:
    """The path's level whose sigma / alpha is `ratio`, on a discrete path the nearest one."""
    return level_at(path, float(path.t_from_noise_to_signal(ratio)))
