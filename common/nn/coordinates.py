"""Coordinates as features: Fourier, sine-cosine positions, and quantised bits."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from .embeddings import timestep_embedding

TWO_PI = 2 * math.pi


def sincos_features(coords: Tensor, dim: int, *, max_period: float = 1e4) -> Tensor:
    """Fixed sine-cosine positions over any number of axes: coords [..., A] -> [..., dim], float32.

    Each axis gets dim / A features, sines then cosines, in the order of the axes. Coordinates are in token units
    (0, 1, 2, ...), fractions allowed. (Vaswani et al. 2017, section 3.5; axis by axis as in He et al. 2022)
    """
    axes = coords.shape[-1]
    if dim % (2 * axes):
        raise ValueError(f"sincos_features: dim must be a multiple of {2 * axes} for {axes} axes, found {dim}")
    features = timestep_embedding(coords, dim // axes, max_period=max_period, flip_sin_to_cos=False)
    return features.flatten(-2)


class FourierFeatures(nn.Module):
    """`[x, sin(2 pi f x), cos(2 pi f x)]`: coords [..., in_dim] -> [..., out_dim], float32.

    Deterministic (default): every axis meets the same num_frequencies frequencies, spaced evenly in log from
    min_frequency to max_frequency, in cycles per unit length; 2 * in_dim * num_frequencies features.
    The defaults 1/2, 1, 2, 4, ... are NeRF's `2^k pi x`, for x in [-1, 1]. (Mildenhall et al. 2020, equation 4)

    Random (scale given): num_frequencies directions f ~ N(0, scale^2 I) drawn from generator and kept in the state
    dict; 2 * num_frequencies features. (Tancik et al. 2020, section 6)
    """

    frequencies: Tensor

    def __init__(
        self,
        in_dim: int,
        num_frequencies: int,
        *,
        min_frequency: float = 0.5,
        max_frequency: float | None = None,
        scale: float | None = None,
        generator: torch.Generator | None = None,
        include_input: bool = True,
    ) -> None:
        super().__init__()
        self.in_dim, self.include_input, self.random = in_dim, include_input, scale is not None
        if scale is not None:
            frequencies = scale * torch.randn(in_dim, num_frequencies, generator=generator)
            self.out_dim = 2 * num_frequencies
        else:
            top = min_frequency * 2.0 ** (num_frequencies - 1) if max_frequency is None else max_frequency
            steps = torch.linspace(math.log(min_frequency), math.log(top), num_frequencies, dtype=torch.float64)
            frequencies = steps.exp().float()
            self.out_dim = 2 * in_dim * num_frequencies
        self.out_dim += in_dim if include_input else 0
        self.register_buffer("frequencies", frequencies, persistent=self.random)

    def forward(self, coords: Tensor) -> Tensor:
        if coords.shape[-1] != self.in_dim:
            raise ValueError(f"FourierFeatures: expected coordinates [..., {self.in_dim}], found {list(coords.shape)}")
        # Half precision would round the phase, which high frequencies multiply; autocast would do it inside matmul.
        with torch.autocast(coords.device.type, enabled=False):
            coords, frequencies = coords.float(), self.frequencies.float()
            phase = coords @ frequencies if self.random else (coords[..., None] * frequencies).flatten(-2)
            phase = TWO_PI * phase
            parts = (phase.sin(), phase.cos())
            return torch.cat((coords, *parts) if self.include_input else parts, dim=-1)


def quantised_bits(
    coords: Tensor, bits: int = 8, *, rounding: Literal["nearest", "down"] = "nearest", wrap: bool = False
) -> Tensor:
    """Coordinates as binary codes: coords [..., A] in [-1, 1] -> [..., A * bits] of -1 and +1, in the input's dtype.

    The integer is `(x + 1) * 2^(bits-1)` to the nearest (halves to even), which is HouseDiffusion's training target and
    the code that bits_to_coords decodes with the least error; rounding="down" drops the fraction instead. Most
    significant bit first, all bits of axis 0, then of axis 1, and so on. Integers outside 0 .. 2^bits - 1 are clamped,
    so x = 1 keeps the largest code. wrap=True keeps the low bits of the two's complement instead, as the original
    does: x = 1 becomes the code of -1. (Shabani et al. 2023, section 3.3)
    """
    code = (coords + 1) * 2 ** (bits - 1)
    integers = (code.round() if rounding == "nearest" else code).to(torch.int64)
    if not wrap:
        integers = integers.clamp(0, 2**bits - 1)
    shifts = torch.arange(bits - 1, -1, -1, device=coords.device)
    ones = (integers[..., None] >> shifts) & 1
    return (2 * ones - 1).flatten(-2).to(coords.dtype)


def bits_to_coords(values: Tensor, bits: int = 8) -> Tensor:
    """The inverse of quantised_bits: values [..., A * bits] -> coords [..., A] in [-1, 1).

    A value above 0 counts as a one. The integer n becomes `2 * (n / 2^bits - 1/2)`.
    The result is float64 where values is, else float32: half precision does not hold every code above 8 bits.
    """
    if values.shape[-1] % bits:
        raise ValueError(f"bits_to_coords: the last axis must be a multiple of {bits}, found {values.shape[-1]}")
    weights = 2 ** torch.arange(bits - 1, -1, -1, device=values.device)
    integers = ((values.unflatten(-1, (-1, bits)) > 0) * weights).sum(-1)
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    return (integers.to(dtype) / 2**bits - 0.5) * 2
