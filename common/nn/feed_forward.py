"""The position-wise MLP of a transformer block, under diffusers' parameter names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from ..dropout import Dropout
from ..linear import Linear

Activation = Literal["geglu", "gelu", "gelu_tanh", "relu", "silu"]

_PLAIN: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class _ActivatedLinear(nn.Module):
    """`act(proj(x))`, or for geglu `a * gelu(g)` with `a, g = proj(x)` (Shazeer 2020, "GLU Variants")."""

    def __init__(self, dim: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.proj = Linear(dim, 2 * hidden if activation == "geglu" else hidden)

    def forward(self, x: Tensor) -> Tensor:
        if self.activation == "relu" and isinstance(self.proj, Linear):  # an adapter may have taken its place
            return self.proj(x, relu=True)
        x = self.proj(x)
        if self.activation == "geglu":
            value, gate = x.chunk(2, dim=-1)
            return value * F.gelu(gate)
        return _PLAIN[self.activation](x)


class FeedForward(nn.Module):
    """Linear, activation, dropout, Linear: x [..., dim] -> [..., dim].

    Hidden width is `int(mult * dim)`. Parameters are `net.0.proj` (twice as wide for geglu) and `net.2`, as in
    diffusers, whose "geglu", "gelu", "gelu-approximate" (here gelu_tanh) and "linear-silu" (here silu) load by name.
    """

    def __init__(self, dim: int, *, mult: float = 4, activation: Activation = "geglu", dropout: float = 0.0) -> None:
        super().__init__()
        if activation not in get_args(Activation):
            raise ValueError(f"FeedForward: activation must be one of {get_args(Activation)}, found {activation!r}")
        hidden = int(mult * dim)
        self.net = nn.ModuleList([_ActivatedLinear(dim, hidden, activation), Dropout(dropout), Linear(hidden, dim)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x
