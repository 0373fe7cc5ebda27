"""Noise levels as vectors: the sinusoidal embedding and the small MLP that follows it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def timestep_embedding(
    t: Tensor, dim: int, *, max_period: float = 1e4, flip_sin_to_cos: bool = True, freq_shift: float = 0.0
) -> Tensor:
    """Sinusoidal embedding of a noise level: t [...] -> [..., dim], always float32.

    t may be integer or floating point and of any shape (one level per sample, per run or per token).
    Frequencies are `max_period ** (-k / (dim // 2 - freq_shift))`; the first half of the features is the cosine
    (`flip_sin_to_cos=True`, as Stable Diffusion and guided diffusion have it) or the sine; an odd dim ends in a zero.
    The original DDPM has sine first and `freq_shift=1`. (Ho et al. 2020, after Vaswani et al. 2017, section 3.5)
    """
    half = dim // 2
    if half <= freq_shift:
        raise ValueError(f"timestep_embedding: dim must be above {2 * freq_shift + 1:g}, found {dim}")
    # The same operations in the same order as diffusers, so that large t agree to the last bit.
    exponent = -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - freq_shift)
    angles = t.float()[..., None] * exponent.exp()
    pair = (angles.cos(), angles.sin()) if flip_sin_to_cos else (angles.sin(), angles.cos())
    features = torch.cat(pair, dim=-1)
    return nn.functional.pad(features, (0, dim % 2)) if dim % 2 else features


class TimeEmbedding(nn.Module):
    """`linear_2(silu(linear_1(sinusoid(t))))`: t [...] -> [..., out_dim].

    dim: width of the sinusoid; hidden: width of the MLP (default dim); out_dim: default hidden.
    The result has the dtype of the weights (or of autocast); the sinusoid itself is always computed in float32.
    Parameter names are those of diffusers' TimestepEmbedding.
    """

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        *,
        out_dim: int | None = None,
        max_period: float = 1e4,
        flip_sin_to_cos: bool = True,
        freq_shift: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = hidden or dim
        self.dim, self.max_period = dim, max_period
        self.flip_sin_to_cos, self.freq_shift = flip_sin_to_cos, freq_shift
        self.linear_1 = nn.Linear(dim, hidden)
        self.act = nn.SiLU()
        self.linear_2 = nn.Linear(hidden, out_dim or hidden)

    def forward(self, t: Tensor) -> Tensor:
        features = timestep_embedding(
            t,
            self.dim,
            max_period=self.max_period,
            flip_sin_to_cos=self.flip_sin_to_cos,
            freq_shift=self.freq_shift,
        )
        return self.linear_2(self.act(self.linear_1(features.to(self.linear_1.weight.dtype))))
