"""The Gaussian terms of the variational bound, and truncated draws from the prior.

Shape letters: B clouds, L latent.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

LossConstant = Literal["exact", "original"]
Truncation = Literal["exact", "first_of_four"]


def gaussian_entropy(log_variance: Tensor) -> Tensor:
    """H[N(., diag exp(log_variance))] in nats, [B] from [B, L]."""
    return 0.5 * log_variance.sum(dim=1) + 0.5 * log_variance.shape[1] * (1 + math.log(2 * math.pi))


def standard_normal_log_prob(w: Tensor, constant: LossConstant = "exact") -> Tensor:
    """log N(w; 0, I) in nats, [B] from [B, L].

    `constant="original"` reproduces the published code, which adds the constant -L/2 log 2 pi once per coordinate, not
    once: L (L - 1) / 2 log 2 pi too little. With L = 256 and a weight of 0.001 that puts 59.99 on the loss; its
    gradient is right.
    """
    times = {"exact": 1, "original": w.shape[1]}
    if constant not in times:
        raise ValueError(f"constant: expected exact or original, found {constant!r}")
    return -0.5 * w.square().sum(dim=1) - 0.5 * w.shape[1] * math.log(2 * math.pi) * times[constant]


def truncated(noise: Tensor, bound: float) -> Tensor:
    """Standard normal noise made into draws of the normal truncated to (-bound, bound): float32, the same shape.

    Element by element x = F^-1(Phi(noise)), F being the truncated distribution's.
    """
    if not bound > 0:
        raise ValueError(f"bound: expected a positive number, found {bound}")
    low = torch.special.ndtr(torch.tensor(-bound, dtype=torch.float64, device=noise.device))
    unit = torch.special.ndtr(noise.double())
    drawn = torch.special.ndtri(low + unit * (1 - 2 * low))
    return drawn.clamp(-bound, bound).to(torch.float32)


def first_within(noise: Tensor, bound: float) -> Tensor:
    """The published truncation: of four draws [..., 4] the first inside (-bound, bound), the first of all if none is.

    For bound 1 one number in a hundred lies outside still.
    """
    if not bound > 0:
        raise ValueError(f"bound: expected a positive number, found {bound}")
    inside = (noise.abs() < bound).to(torch.uint8)
    return noise.gather(-1, inside.argmax(dim=-1, keepdim=True))[..., 0]
