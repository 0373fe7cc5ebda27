"""DDIM (Song, Meng & Ermon 2021) on any affine path, and its inversion."""

import math
from typing import Any

from torch import Tensor

from .noise import Randomness, as_noise
from .samplers import posterior
from .step import DenoiserLike, Level, OnStep, Progress, Times, eps_of, levels_of, run_steps


def ddim(
    denoiser: DenoiserLike,
    x_T: Tensor,
    times: Times,
    cond: Any = None,
    *,
    eta: float = 0.0,
    generator: Randomness = None,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """x_s = alpha_s x0_hat + sqrt(sigma_s^2 - v) eps_hat + sqrt(v) z, Song et al. eq. 12.

    v = eta^2 times the posterior variance of q(x_s | x_t, x0) (eq. 16), so eta = 0 is deterministic and eta = 1 is
    DDPM's ancestral step. eps_hat is recomputed from x0_hat, hence agrees with it also where x0_hat was clipped.
    With eta = 0 this is the exponential Euler step of the probability-flow ODE on every path.

    Args:
        x_T: [B, ...] state at times[0].
        times: number of steps, or descending times (original time on a discrete path) that end clean.
        eta: in [0, 1].

    Returns: [B, ...] state at times[-1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: expected a number in [0, 1], found {eta}")
    noise = as_noise(generator)

    def step(t: Level, s: Level, x_t: Tensor) -> tuple[Tensor, Tensor]:
        x0 = denoiser(x_t, t.time(), cond)
        variance = eta**2 * posterior(t, s)[2] if eta > 0 else 0.0
        # rounding may leave sigma_s^2 - variance a hair below zero when eta = 1
        x_s = s.alpha * x0 + math.sqrt(max(s.sigma**2 - variance, 0.0)) * eps_of(x_t, x0, t)
        if variance > 0:
            x_s = x_s + math.sqrt(variance) * noise.randn_like(x_t)
        return x0, x_s

    return run_steps(step, levels_of(denoiser.path, times), x_T, cond, on_step, progress)


def ddim_invert(
    denoiser: DenoiserLike,
    x_0: Tensor,
    times: Times,
    cond: Any = None,
    *,
    refinements: int = 0,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """From clean data back to x_T along `ddim`'s own time grid, reversed.

    Undoing the DDIM step from s down to t means x_s = alpha_s / alpha_t (x_t - sigma_t eps) + sigma_s eps with
    eps = eps_hat(x_s, s), where x_s is not known yet. The usual inversion asks at (x_t, s) instead; each of
    `refinements` fixed-point iterations asks again at the x_s just found (Pan et al. 2023) and costs one more call.

    Args:
        x_0: [B, ...] state at times[-1] (clean data when times end clean).
        times: the same argument `ddim` gets: a number of steps or DESCENDING times.

    Returns: [B, ...] state at times[0]. In `on_step`'s `Step`, t is the lower time and s the higher one.
    """
    if refinements < 0:
        raise ValueError(f"refinements: expected a number >= 0, found {refinements}")

    def upwards(t: Level, s: Level, x_t: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
        x0 = denoiser(guess, s.time(), cond)
        eps = eps_of(guess, x0, s)
        return x0, (s.alpha / t.alpha) * (x_t - t.sigma * eps) + s.sigma * eps

    def step(t: Level, s: Level, x_t: Tensor) -> tuple[Tensor, Tensor]:
        x0, x_s = upwards(t, s, x_t, guess=x_t)
        for _ in range(refinements):
            x0, x_s = upwards(t, s, x_t, guess=x_s)
        return x0, x_s

    return run_steps(step, levels_of(denoiser.path, times)[::-1], x_0, cond, on_step, progress)
