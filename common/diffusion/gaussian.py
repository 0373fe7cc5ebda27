"""Denoisers known in closed form: for tests, demonstrations and checks of a sampler's order of convergence."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .denoiser import Prediction3
from .noise import as_noise
from .path import AffinePath, Time, as_time, expand
from .step import level_at


class GaussianMixtureDenoiser:
    """E[x0 | x_t] when the data are a mixture of K isotropic Gaussians; the exact counterpart of `Denoiser`.

    Args:
        path: the noising process.
        means: [K], and then every element of x is its own draw from a mixture on the line; or [K, *sample_shape],
            and then a whole sample x[b] belongs to one component.
        stds: [K] standard deviations, >= 0.
        weights: [K], positive, normalised here; None for equal weights.
    """

    def __init__(
        self,
        path: AffinePath,
        means: Tensor | Sequence[float],
        stds: Tensor | Sequence[float],
        weights: Tensor | Sequence[float] | None = None,
    ) -> None:
        self.path = path
        self.means = torch.as_tensor(means, dtype=torch.float64)
        self.stds = torch.as_tensor(stds, dtype=torch.float64)
        w = torch.ones_like(self.stds) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        if self.means.ndim == 0 or self.stds.shape != self.means.shape[:1] or w.shape != self.stds.shape:
            raise ValueError(
                f"means {tuple(self.means.shape)}, stds {tuple(self.stds.shape)}, weights {tuple(w.shape)}: "
                "expected [K] or [K, *sample_shape], [K] and [K]"
            )
        self.weights = w / w.sum()

    def __call__(self, x_t: Tensor, t: Time, cond: Any = None) -> Tensor:
        """x0_hat, shape and dtype of x_t [B, ...], computed in float64. t: scalar, [B], or x_t.ndim dims."""
        x, alpha, sigma = self._prepare(x_t, t)
        share = self._log_joint(x, alpha, sigma).softmax(dim=0)
        x0 = torch.zeros_like(x)
        for k, mean, std in self._components(x):
            gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
            x0 += share[k] * (mean + gain * (x - alpha * mean))
        return x0.to(x_t.dtype)

    def predict(self, x_t: Tensor, t: Time, cond: Any = None) -> Prediction3:
        """x0_hat and the eps that agrees with it; there is no learned variance and `raw` is x0_hat."""
        x, alpha, sigma = self._prepare(x_t, t)
        x0 = self(x, t)
        eps = (x - alpha * x0) / sigma
        return Prediction3(x0.to(x_t.dtype), eps.to(x_t.dtype), None, x0.to(x_t.dtype))

    def log_density(self, x_t: Tensor, t: Time) -> Tensor:
        """log p_t(x_t) in nats, float64 [B]."""
        x, alpha, sigma = self._prepare(x_t, t)
        return self._log_joint(x, alpha, sigma).logsumexp(dim=0).flatten(1).sum(dim=1)

    def sample(self, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """Exact draws of the data, float64 [B, ...]."""
        picks = (shape[0], *([1] * (len(shape) - 1))) if self.means.ndim > 1 else tuple(shape)
        k = torch.multinomial(self.weights, math.prod(picks), replacement=True, generator=generator).reshape(picks)
        mean = self.means[k] if self.means.ndim == 1 else self.means[k.flatten()]
        z = as_noise(generator).randn_like(torch.empty(tuple(shape), dtype=torch.float64))
        return mean + self.stds[k] * z

    def _prepare(self, x_t: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        if self.means.ndim > 1 and x_t.shape[1:] != self.means.shape[1:]:
            raise ValueError(f"x: samples of shape {tuple(x_t.shape[1:])}, means of {tuple(self.means.shape[1:])}")
        x = x_t.to(torch.float64)
        t = as_time(t)
        return x, expand(self.path.alpha(t), x), expand(self.path.sigma(t), x)

    def _components(self, x: Tensor) -> Iterator[tuple[int, Tensor, float]]:
        for k in range(len(self.stds)):
            yield k, self.means[k].to(x.device), float(self.stds[k])

    def _log_joint(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log w_k + log N(x; alpha m_k, v_k), [K, *x.shape] per element or [K, B, 1, ...] per sample."""
        logs = []
        for k, mean, std in self._components(x):
            v = alpha**2 * std**2 + sigma**2
            log = -0.5 * ((x - alpha * mean) ** 2 / v + (2 * math.pi * v).log())
            if self.means.ndim > 1:
                log = log.flatten(1).sum(dim=1).reshape(-1, *[1] * (x.ndim - 1))
            logs.append(self.weights[k].log() + log)
        return torch.stack(logs)


def gaussian_ode(path: AffinePath, x_t: Tensor, t: float, s: float, mean: Tensor | float, std: float) -> Tensor:
    """The probability-flow ODE's exact solution at s from x_t at t, for data N(mean, std^2 I).

    The flow keeps (x - alpha mean) / sqrt(alpha^2 std^2 + sigma^2) constant, so it is affine in x_t.
    """
    a, b = level_at(path, t), level_at(path, s)
    ratio = math.sqrt(((b.alpha * std) ** 2 + b.sigma**2) / ((a.alpha * std) ** 2 + a.sigma**2))
    return b.alpha * mean + ratio * (x_t - a.alpha * mean)
