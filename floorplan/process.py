"""The diffusion of corners: losses, and the denoiser that decodes bits once the noise is low.

Shape letters: P plans, M packed corners.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.diffusion import Denoiser, DiscretePath, Prediction3, cosine_path, expand, target, to_eps
from ..common.nn import bits_to_coords, quantised_bits
from .dataset import PlanBatch
from .network import HouseNet
from .tokens import PlanCondition


def house_path(num_steps: int = 1000) -> DiscretePath:
    """HouseDiffusion's schedule: alpha_bar = cos^2(pi t / 2) without the 0.008 offset, betas at most 0.999."""
    return cosine_path(num_steps, offset=0.0, max_beta=0.999)


def few_step_times(path: DiscretePath, num_steps: int, *, power: float = 2.0, discrete_below: int = 0) -> list[int]:
    """Original times T-1 .. (then -1, clean) that fall as (1 - i/n)^power: dense near the data, where walls align.

    With 20 steps a power of 2 gave the shipped model the fewest graph errors (docs/benchmarks.md). Times are distinct
    for every n up to T; n = T gives every step. Unlike an even grid it does not end with one long step from t = 52 to
    0, over which multistep solvers extrapolate far. With `discrete_below` the last of two or more times lies below it,
    so that bits are decoded however few the steps.
    """
    top = path.t_max
    times = [max(round(top * (1 - i / num_steps) ** power), num_steps - 1 - i) for i in range(num_steps)]
    if discrete_below > 0 and num_steps > 1:
        times[-1] = min(times[-1], discrete_below - 1)
    return [*times, path.t_clean]


@dataclass(frozen=True)
class HouseLoss:
    """Means over each plan's own corners [P]; `discrete` is NaN for the plans whose bits were not asked for.

    The original divides by the 100 slots of its padded row and once more by the number of corners; its numbers
    are these divided by 100.
    """

    continuous: Tensor
    discrete: Tensor

    def total(self, discrete_weight: float = 1.0, share: float | None = None) -> Tensor:
        """Mean over plans of the continuous loss, plus the weighted mean of the discrete loss; a scalar.

        The discrete mean is over the plans that have one, as in the original. Given the expected `share` of such
        plans it is their sum / (P share): the same in expectation, and a mean over samples, so that batches divided
        among processes add up to one large batch.
        """
        with_bits = ~self.discrete.isnan()
        count = with_bits.sum().clamp(min=1) if share is None else share * len(self.discrete)
        return self.continuous.mean() + discrete_weight * self.discrete[with_bits].sum() / count


def house_losses(
    net: HouseNet, path: DiscretePath, batch: PlanBatch, t: Tensor, noise: Tensor, *, bits_below: int
) -> HouseLoss:
    """Denoising loss of the continuous head, and of the discrete branch for plans with t < bits_below.

    Args:
        net: the network, in training mode or not.
        path: the schedule.
        batch: clean corners [1, M, 2] (or [1, M, 16] analog bits), float64, and their condition.
        t: [P] timesteps. noise: standard normal, like `batch.x0`.
        bits_below: plans with a smaller t also train their bits; the original trains below 10.
    """
    cond = net.embed(batch.cond)
    t_token = t[cond.plan_index][None, :, None]
    alpha, sigma = path.alpha(t_token).to(batch.x0), path.sigma(t_token).to(batch.x0)
    x_t = alpha * batch.x0 + sigma * noise
    out = net(x_t.float(), t, cond)
    wanted = target(net.config.prediction, batch.x0, noise, alpha, sigma)
    continuous = cond.plan_mean((wanted - out) ** 2)
    discrete = torch.full_like(continuous, torch.nan)
    low = (t < bits_below).nonzero()[:, 0].tolist() if net.config.has_bits else []
    if low:
        tokens, part = cond.subset(low)
        a, s = alpha[:, tokens], sigma[:, tokens]
        x_low, out_low = x_t[:, tokens].float(), out[:, tokens]
        eps = to_eps(net.config.prediction, out_low, x_low, a.float(), s.float())
        logits = net.bits(x_low, eps, a, s, part)
        error = (quantised_bits(batch.x0[:, tokens], wrap=net.config.wrap_bits) - logits).to(continuous.dtype) ** 2
        discrete = discrete.index_put((torch.tensor(low, device=t.device),), part.plan_mean(error))
    elif net.training and net.config.has_bits:
        # Distributed training waits for a gradient of every parameter, also in a batch without nearly clean plans.
        continuous = continuous + 0.0 * sum(p.sum() for p in net.bit_parameters())
    return HouseLoss(continuous, discrete)


class HouseDenoiser(Denoiser):
    """E[x0 | x_t] of packed plans; below `discrete_below` (original time) the decoded bits of the corners.

    The decision is made in original time, so any number of steps and any sampler takes bits at the same noise
    levels. With `discrete_below=0` it is the continuous denoiser.
    """

    def __init__(self, net: HouseNet, path: DiscretePath, *, discrete_below: int = 32) -> None:
        super().__init__(net, path, net.config.prediction, clip=1.0)
        self.house = net
        self.discrete_below = discrete_below if net.config.has_bits else 0

    def predict(self, x_t: Tensor, t: Tensor | float, cond: PlanCondition | None = None) -> Prediction3:
        """Clean corners and the noise they imply; t is one number for all plans."""
        if cond is None:
            raise ValueError("corners can only be denoised under a PlanCondition")
        guess = super().predict(x_t, t, cond)
        if float(torch.as_tensor(t).max()) >= self.discrete_below:
            return guess
        x = x_t.float()
        alpha, sigma = (expand(f(t), x.double()) for f in (self.path.alpha, self.path.sigma))
        eps = to_eps(self.house.config.prediction, guess.raw, x, alpha.float(), sigma.float())
        x0 = bits_to_coords(self.house.bits(x, eps, alpha, sigma, cond)).to(guess.x0)
        eps = ((x_t - alpha * x0) / sigma).to(guess.eps)
        return Prediction3(x0=x0, eps=eps, variance=guess.variance, raw=guess.raw)
