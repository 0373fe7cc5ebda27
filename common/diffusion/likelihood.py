"""The variational bound of a DDPM-type model (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021), in nats.

L = KL(q(x_T | x0) || N(0, 1)) + sum_t KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)) - log p(x0 | x_1).
Terms come element by element, in the shape of x0, so that masked and packed data reduce them as they please.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .denoiser import Denoiser
from .discrete import DiscretePath
from .noise import Randomness, as_noise
from .path import Time, expand
from .reduction import mean_per_sample

NATS_TO_BITS = 1 / math.log(2)
Decoder = Literal["bins", "density"]
FixedVariance = Literal["small", "large"]


def normal_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N(mean1, var1) || N(mean2, var2)), element by element."""
    return 0.5 * (log_var2 - log_var1 - 1 + (log_var1 - log_var2).exp() + (mean1 - mean2) ** 2 * (-log_var2).exp())


def normal_log_density(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log N(x; mean, var), element by element."""
    return -0.5 * (math.log(2 * math.pi) + log_var + (x - mean) ** 2 * (-log_var).exp())


def binned_log_likelihood(
    x: Tensor, mean: Tensor, log_var: Tensor, *, half_bin: float = 1 / 255, cdf: Literal["tanh", "erf"] = "tanh"
) -> Tensor:
    """log of the Gaussian's mass in the bin around x, for data quantised on [-1, 1] (Ho et al. 2020, eq. 13).

    The outermost bins are open: below -0.999 and above 0.999. "tanh" is the approximation behind the published
    bits per dim; "erf" is exact.
    """

    def phi(z: Tensor) -> Tensor:
        if cdf == "erf":
            return torch.special.ndtr(z)
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    inv_std = (-0.5 * log_var).exp()
    upper = phi((x - mean + half_bin) * inv_std)
    lower = phi((x - mean - half_bin) * inv_std)
    inner = (upper - lower).clamp(min=1e-12).log()
    at_top = (1 - lower).clamp(min=1e-12).log()
    at_bottom = upper.clamp(min=1e-12).log()
    return torch.where(x < -0.999, at_bottom, torch.where(x > 0.999, at_top, inner))


def posterior_mean(path: DiscretePath, x0: Tensor, x_t: Tensor, t: Time) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x0) (Ho et al. 2020, eq. 7). Shapes as `expand`."""
    c1, c2 = path.gather(path.posterior_mean_coef1, t), path.gather(path.posterior_mean_coef2, t)
    return expand(c1, x_t) * x0 + expand(c2, x_t) * x_t


def bound_terms(
    path: DiscretePath,
    x0: Tensor,
    x_t: Tensor,
    t: Time,
    x0_hat: Tensor,
    log_variance: Tensor,
    *,
    decoder: Decoder = "bins",
) -> Tensor:
    """One term of the bound per element of x0, in nats: -log p(x0 | x_1) at the first step, else the KL.

    Args:
        x0_hat, log_variance: the model's p(x_{t-1} | x_t) = N(posterior mean at x0_hat, exp(log_variance)).
        decoder: "bins" for 8-bit data on [-1, 1], "density" for continuous data (the bound may then be negative).
    """
    mean = posterior_mean(path, x0_hat, x_t, t)
    true_log_var = expand(path.gather(path.posterior_log_variance, t), x0)
    kl = normal_kl(posterior_mean(path, x0, x_t, t), true_log_var, mean, log_variance)
    log_p = (binned_log_likelihood if decoder == "bins" else normal_log_density)(x0, mean, log_variance)
    return torch.where(expand(t, x0) == path.t_min, -log_p, kl)


def prior_kl(path: DiscretePath, x0: Tensor) -> Tensor:
    """KL(q(x_T | x0) || N(0, 1)) per element: what starting from pure noise costs."""
    alpha, sigma = expand(path.alpha(path.t_max), x0), expand(path.sigma(path.t_max), x0)
    zero = torch.zeros_like(x0)
    return normal_kl(alpha * x0, 2 * sigma.log() + zero, zero, zero)


@dataclass(frozen=True)
class Bound:
    """`total` `[B]`, `prior` `[B]`, `terms` `[T, B]` (entry 0 is the decoder): nats per element."""

    total: Tensor
    prior: Tensor
    terms: Tensor


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    x0: Tensor,
    cond: Any = None,
    *,
    generator: Randomness = None,
    mask: Tensor | None = None,
    fixed_variance: FixedVariance = "small",
    decoder: Decoder = "bins",
) -> Bound:
    """The whole bound by one noise draw per step: T calls of the net. Times `NATS_TO_BITS`: bits per dim.

    Args:
        x0: `[B, ...]`, in `[-1, 1]` for "bins".
        generator: see `noise.as_noise`.
        mask: as in `mean_per_sample`.
        fixed_variance: the variance of a net that does not learn it: posterior variance or beta.
    Raises: TypeError unless the denoiser's path is discrete.
    """
    path = denoiser.path
    if not isinstance(path, DiscretePath):
        raise TypeError(f"the variational bound needs a DiscretePath, found {type(path).__name__}")
    fixed = path.posterior_log_variance if fixed_variance == "small" else path.fixed_large_variance.log()
    source = as_noise(generator)
    terms: list[Tensor] = []
    for step in range(path.t_min, path.t_max + 1):
        t = torch.full((x0.shape[0],), step, device=x0.device)
        x_t = path.add_noise(x0, source.randn_like(x0), t)
        said = denoiser.predict(x_t, t, cond)
        log_variance = said.log_variance
        if log_variance is None:
            log_variance = expand(path.gather(fixed, t), x0).expand_as(x0)
        term = bound_terms(path, x0, x_t, t, said.x0, log_variance, decoder=decoder)
        terms.append(mean_per_sample(term, mask))
    prior = mean_per_sample(prior_kl(path, x0), mask)
    stacked = torch.stack(terms)
    return Bound(stacked.sum(dim=0) + prior, prior, stacked)
