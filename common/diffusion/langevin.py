"""Score-based samplers: annealed Langevin dynamics and the predictor-corrector sampler."""

import math
from typing import Any

from torch import Tensor

from .noise import Randomness, as_noise
from .samplers import posterior, transition
from .step import DenoiserLike, Level, OnStep, Progress, Times, levels_of, run_steps


def _score(x: Tensor, x0: Tensor, t: Level) -> Tensor:
    """grad log p_t(x) = (alpha x0_hat - x) / sigma^2 (Tweedie), shape of x."""
    return (t.alpha * x0 - x) / t.sigma**2


def annealed_langevin(
    denoiser: DenoiserLike,
    x_T: Tensor,
    times: Times,
    cond: Any = None,
    *,
    steps_per_level: int = 100,
    step_size: float = 2e-5,
    denoise: bool = True,
    generator: Randomness = None,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Song & Ermon 2019, Algorithm 1: at each noise level, x += a/2 score + sqrt(a) z, `steps_per_level` times.

    a_i = step_size * sigma_i^2 / sigma_L^2, with sigma_L the lowest level that is visited. On a path that scales the
    data the walk is made in x / alpha with noise sigma / alpha, where it is the paper's own.

    Args:
        x_T: [B, ...] state at times[0].
        times: n visited levels and then the clean end, or their number.
        denoise: end with x0_hat at the last visited level (Jolicoeur-Martineau et al. 2021) instead of the noisy state.

    Returns: [B, ...]. One `Step` per level; its x_t is the state that enters the level.
    """
    if steps_per_level < 1 or step_size <= 0:
        raise ValueError(f"expected steps_per_level >= 1 and step_size > 0, found {steps_per_level} and {step_size}")
    noise = as_noise(generator)
    levels = levels_of(denoiser.path, times)
    if levels[0].alpha == 0:
        raise ValueError(f"times: alpha({levels[0].t}) = 0, the state carries no data and has no Langevin scale")
    last = levels[-2]

    def step(t: Level, s: Level, x_t: Tensor) -> tuple[Tensor, Tensor]:
        a = step_size * (t.ratio / last.ratio) ** 2
        x = x_t
        for _ in range(steps_per_level):
            # in y = x / alpha the score is alpha times the score in x, hence alpha^2 here and alpha on the noise
            drift = t.alpha**2 * _score(x, denoiser(x, t.time(), cond), t)
            x = x + 0.5 * a * drift + math.sqrt(a) * t.alpha * noise.randn_like(x)
        x0 = denoiser(x, t.time(), cond) if t is last and denoise else x / t.alpha
        return x0, s.alpha * x0 if t is last and denoise else (s.alpha / t.alpha) * x

    return run_steps(step, levels, x_T, cond, on_step, progress)


def predictor_corrector(
    denoiser: DenoiserLike,
    x_T: Tensor,
    times: Times,
    cond: Any = None,
    *,
    corrector_steps: int = 1,
    snr: float = 0.16,
    generator: Randomness = None,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Song et al. 2021 (score SDE), Algorithms 1-5: Langevin corrections at t, then a reverse-diffusion step to s.

    Predictor: mean (x + variance_ts score) / alpha_ts and variance_ts of noise, the ancestral step with the forward
    variance; on a VE path exactly the paper's reverse diffusion sampler, on a VP path equal to its ancestral sampler.
    Corrector: x += e score + sqrt(2 e) z, e = 2 alpha_ts^2 (snr |z| / |score|)^2, with norms per sample (the paper's
    code averages them over the batch, which would make a sample depend on its neighbours). The factor alpha_ts^2 is 1
    on a VE path and 1 - beta_t on a VP table.

    Args:
        x_T: [B, ...] state at times[0].
        times: number of steps, or descending times (original time on a discrete path) that end clean.
        corrector_steps: per level; 0 leaves the predictor alone.
        snr: the paper uses 0.16 for VE on images and 0.01 for VP; diffusers' VE default is 0.15.

    Returns: [B, ...] state at times[-1]; the last step adds no noise.
    """
    if corrector_steps < 0 or snr <= 0:
        raise ValueError(f"expected corrector_steps >= 0 and snr > 0, found {corrector_steps} and {snr}")
    noise = as_noise(generator)
    levels = levels_of(denoiser.path, times)

    def step(t: Level, s: Level, x_t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_ts, variance_ts = transition(t, s)
        x = x_t
        for _ in range(corrector_steps):
            score = _score(x, denoiser(x, t.time(), cond), t)
            z = noise.randn_like(x)
            e = 2 * alpha_ts**2 * (snr * _norm(z) / _norm(score)) ** 2
            x = x + e * score + (2 * e).sqrt() * z
        x0 = denoiser(x, t.time(), cond)
        c_x, c_0, _ = posterior(t, s)
        mean = c_x * x + c_0 * x0
        return x0, mean if s is levels[-1] else mean + math.sqrt(variance_ts) * noise.randn_like(x)

    return run_steps(step, levels, x_T, cond, on_step, progress)


def _norm(x: Tensor) -> Tensor:
    """Euclidean norm of each sample of x [B, ...], as [B, 1, ...]."""
    return x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))
