"""The decoder of Luo & Hu 2021: a net that moves every point alone, told the noise level and the shape's latent.

Shape letters: B clouds, N points, L latent, I and O the widths a layer reads and writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stack import GatedLayer, run_stack

WIDTHS = (3, 128, 256, 512, 256, 128, 3)
TIME_FEATURES = 3
SLOPE = 0.01


@dataclass(frozen=True)
class LatentCode:
    """What the layers take from the latents of B clouds: per layer, gates before the sigmoid and shifts, [B, O].

    It does not depend on the noise level, so one serves all steps of a sampler.
    """

    gates: tuple[Tensor, ...]
    shifts: tuple[Tensor, ...]


class ConcatSquash(nn.Module):
    """y = (W x + b) * sigmoid(G c + g) + S c for a context c (Grathwohl et al. 2019, "concatsquash")."""

    def __init__(self, dim_in: int, dim_out: int, dim_context: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out)
        self.shift = nn.Linear(dim_context, dim_out, bias=False)
        self.gate = nn.Linear(dim_context, dim_out)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, N, I], [B, C] -> [B, N, O]: the definition. `PointwiseNet` computes the same with fewer passes."""
        return self.linear(x) * torch.sigmoid(self.gate(context))[:, None] + self.shift(context)[:, None]


class PointwiseNet(nn.Module):
    """Six ConcatSquash layers 3-128-256-512-256-128-3 with LeakyReLU(0.01) between (Luo & Hu 2021, appendix).

    The context of every layer is [beta, sin beta, cos beta, latent]: the time signal is beta_t of the schedule.
    Under autocast the inner products run in its dtype; what comes in and goes out stays float32.

    Args:
        latent_dim: L.
        residual: add the input to the output.
    """

    def __init__(self, latent_dim: int, residual: bool = True) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.residual = residual
        self.layers = nn.ModuleList(ConcatSquash(i, o, TIME_FEATURES + latent_dim) for i, o in pairwise(WIDTHS))

    def embed(self, latent: Tensor) -> LatentCode:
        """The latent's part of every layer, from [B, L]; pass it to `forward` in the latent's place."""
        if latent.ndim != 2 or latent.shape[1] != self.latent_dim:
            raise ValueError(f"latent: expected shape [B, {self.latent_dim}], found {list(latent.shape)}")
        with torch.autocast(latent.device.type, enabled=False):
            gates, shifts = [], []
            for layer in self._squashes():
                gates.append(F.linear(latent, layer.gate.weight[:, TIME_FEATURES:], layer.gate.bias))
                shifts.append(latent @ layer.shift.weight[:, TIME_FEATURES:].t())
        return LatentCode(tuple(gates), tuple(shifts))

    def forward(self, x: Tensor, beta: Tensor, cond: Tensor | LatentCode) -> Tensor:
        """The predicted noise.

        Args:
            x: [B, N, 3] noisy points.
            beta: [B], beta_t of each cloud's noise level.
            cond: the latents [B, L], or `embed` of them.

        Returns: [B, N, 3] in the dtype of x.
        """
        if x.ndim != 3 or x.shape[-1] != WIDTHS[0] or beta.shape != x.shape[:1]:
            raise ValueError(
                f"expected points [B, N, {WIDTHS[0]}] and a noise level [B], found {list(x.shape)}, {list(beta.shape)}"
            )
        code = cond if isinstance(cond, LatentCode) else self.embed(cond)
        if code.gates[0].shape[0] != x.shape[0]:
            raise ValueError(f"found {x.shape[0]} clouds and {code.gates[0].shape[0]} latents, expected as many")
        kind = x.device.type
        inner = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):
            time = torch.stack([beta, beta.sin(), beta.cos()], dim=1).to(x.dtype)
            layers = []
            for layer, gate, shift in zip(self._squashes(), code.gates, code.shifts, strict=True):
                gate = torch.sigmoid(gate + time @ layer.gate.weight[:, :TIME_FEATURES].t())
                shift = shift + time @ layer.shift.weight[:, :TIME_FEATURES].t()
                layers.append(GatedLayer(layer.linear.weight, gate, gate * layer.linear.bias + shift))
            out = run_stack(x, layers, SLOPE, inner)
        return x + out if self.residual else out

    def _squashes(self) -> list[ConcatSquash]:
        return [layer for layer in self.layers if isinstance(layer, ConcatSquash)]
