"""HouseDiffusion's network on the shared core (Shabani, Hosseini, Furukawa 2023, section 4).

Corners of all plans lie packed in one row; three attentions (rooms, doors, plan) are summed in every block.
The continuous head predicts noise (or x0, or v); the discrete branch predicts the 16 bits of a corner and runs
only for the plans that need it.

Shape letters: P plans, M packed corners, D width, K edge points per corner.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..common.linear import Linear
from ..common.nn import Block, FourierFeatures, TimeEmbedding, house_diffusion_block, quantised_bits
from .first_block import FirstBlock, ShortWay
from .tokens import INDEX_FEATURES, NUM_TYPES, SIZE_FEATURES, IndexEncoding, PlanCondition

NUM_BITS = 8


@dataclass(frozen=True)
class HouseNetConfig:
    """Shape of the network; the defaults are the published model (26,541,330 parameters)."""

    width: int = 512
    """Channels of a token."""
    num_layers: int = 4
    """Blocks of the continuous branch."""
    num_heads: int = 4
    """Attention heads of the continuous branch."""
    num_bit_layers: int = 2
    """Blocks of the discrete branch, one head each; 0 leaves the branch out."""
    dropout: float = 0.1
    """Dropout of attention weights and residual branches."""
    edge_points: int = 8
    """Points on the edge to the next corner that a token also sees (the paper's AU augmentation); 0 for none."""
    fourier_bands: int = 0
    """Frequencies of Fourier features of the corner added to the token (1/2, 1, 2, ... cycles); 0 as published."""
    door_attention: bool = True
    """Attend between rooms that a door joins."""
    index_encoding: IndexEncoding = "one_hot"
    """How corner and room numbers are told: `one_hot` (at most 31) or `sincos` (any number)."""
    with_sizes: bool = False
    """Also tell the wanted area and size of rooms."""
    prediction: Literal["eps", "x0", "v"] = "eps"
    """What the continuous head predicts."""
    wrap_bits: bool = False
    """Let estimates outside the plan wrap around as in the original implementation instead of clamping them."""
    analog_bits: bool = False
    """Diffuse the 16 bits of a corner themselves (Chen et al. 2022) instead of its two coordinates."""

    @property
    def channels(self) -> int:
        """Channels of x: two coordinates, or 16 analog bits."""
        return 2 * NUM_BITS if self.analog_bits else 2

    @property
    def token_channels(self) -> int:
        """Channels of a token after edge augmentation."""
        return self.channels if self.analog_bits else 2 * (self.edge_points + 1)

    @property
    def condition_channels(self) -> int:
        """Channels of the condition features."""
        return NUM_TYPES + 2 * INDEX_FEATURES + (SIZE_FEATURES if self.with_sizes else 0)

    @property
    def has_bits(self) -> bool:
        """Whether the discrete branch exists."""
        return self.num_bit_layers > 0 and not self.analog_bits


class HouseNet(nn.Module):
    """Pure function of (noisy corners, time, condition); it holds no schedule."""

    def __init__(self, config: HouseNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        if width % 2 or width % config.num_heads:
            raise ValueError(f"width {width} must be even and a multiple of num_heads {config.num_heads}")
        self.gradient_checkpointing = False
        self.time_in = TimeEmbedding(width, width)
        self.fourier = FourierFeatures(2, config.fourier_bands, include_input=False) if config.fourier_bands else None
        fourier_channels = self.fourier.out_dim if self.fourier is not None else 0
        self.coordinate_in = nn.Linear(config.token_channels + fourier_channels, width)
        self.condition_in = nn.Linear(config.condition_channels, width)
        self.blocks = nn.ModuleList(self._block(config.num_heads) for _ in range(config.num_layers))
        self.head = nn.ModuleList(
            [Linear(width, width), Linear(width, width // 2), nn.Linear(width // 2, config.channels)]
        )
        if config.has_bits:
            self.bits_in = Linear(config.token_channels * (1 + NUM_BITS) + width, width)
            self.bit_blocks = nn.ModuleList(self._block(1) for _ in range(config.num_bit_layers))
            self.bits_out = nn.Linear(width, 2 * NUM_BITS)

    def _block(self, heads: int) -> nn.Module:
        return house_diffusion_block(
            self.config.width,
            heads=heads,
            dropout=self.config.dropout,
            reads=("rooms", "doors", "plan") if self.config.door_attention else ("rooms", "plan"),
        )

    def bit_parameters(self) -> list[nn.Parameter]:
        """Parameters that only the discrete branch uses."""
        modules = [self.bits_in, self.bit_blocks, self.bits_out] if self.config.has_bits else []
        return [p for module in modules for p in module.parameters()]

    def edges(self, x: Tensor, cond: PlanCondition) -> Tensor:
        """[1, M, 2] -> [1, M, 2 (K + 1)]: the corner and K points towards the next one, fractions 1/K .. 1."""
        if not self._augmented:
            return x
        step = x[:, cond.next_corner] - x
        return (x[:, :, None, :] + self._along_edges(x)[None, None, :, None] * step[:, :, None, :]).flatten(2)

    @property
    def _augmented(self) -> bool:
        return self.config.edge_points > 0 and not self.config.analog_bits

    def _along_edges(self, like: Tensor) -> Tensor:
        """[K + 1] fractions 0 .. 1 of an edge, of the dtype and on the device of `like`."""
        points = self.config.edge_points
        return torch.arange(points + 1, device=like.device, dtype=like.dtype) / points

    def embed(self, cond: PlanCondition) -> PlanCondition:
        """Project the condition features once; a sampling run, which needs no gradients, reuses the result at every
        step, and with it the first block's short way."""
        cond = self._embedded(cond)
        if cond.first_block is None and not torch.is_grad_enabled():
            cond = replace(cond, first_block=self._first_block(cond.features))
        return cond

    def _first_block(self, features: Tensor) -> FirstBlock:
        """The short way for plans with these features, of which most columns of a one-hot are zero."""
        block = self.blocks[0]
        assert isinstance(block, Block)
        inputs = torch.cat([self.coordinate_in.weight, self.condition_in.weight], dim=1)
        needed, mix = features.any(dim=0), torch.eye(inputs.shape[1], device=inputs.device)
        needed = torch.cat([needed.new_ones(self.coordinate_in.in_features), needed])
        if self._augmented:
            along, inner = self._along_edges(mix), slice(2, 2 * self.config.edge_points)
            needed[inner] = False
            mix[inner, :2] = torch.kron(1 - along[1:-1, None], mix[:2, :2])
            mix[inner, inner.stop : inner.stop + 2] = torch.kron(along[1:-1, None], mix[:2, :2])
        columns = needed.nonzero()[:, 0]
        return FirstBlock(block, inputs, self.coordinate_in.bias + self.condition_in.bias, columns, mix[:, columns])

    def _embedded(self, cond: PlanCondition) -> PlanCondition:
        if cond.embedded is not None:
            return cond
        return replace(cond, embedded=self.condition_in(cond.features.to(self.condition_in.weight.dtype))[None])

    def forward(self, x: Tensor, t: Tensor, cond: PlanCondition) -> Tensor:
        """Prediction of the continuous head.

        Args:
            x: [1, M, 2] noisy corners (or [1, M, 16] analog bits).
            t: original timestep, scalar or one per plan [P].
            cond: what is known of the plans.

        Returns:
            [1, M, channels] in float32: eps, x0 or v, as configured.
        """
        cond = self._embedded(cond)
        time = self.time_in(torch.as_tensor(t, device=x.device).reshape(-1))
        first = None
        if cond.first_block is not None and len(time) == 1 and not (torch.is_grad_enabled() or self.training):
            first = cond.first_block.at(time[0])
        if not self._in_pieces(x, cond):
            return self._predict(x, time, cond, first)
        parts = [
            self._predict(x[:, i], time if len(time) == 1 else time[plans], part, first)
            for plans, i, part in cond.pieces
        ]
        return torch.cat(parts, dim=1)

    def _predict(self, x: Tensor, time: Tensor, cond: PlanCondition, first: ShortWay | None) -> Tensor:
        """forward for embedded times [1, D] or [P, D]; `first`: a short way through the first block, if any."""
        assert cond.embedded is not None
        tokens = self.edges(x.float(), cond)
        if self.fourier is not None:
            tokens = torch.cat([tokens, self.fourier(x)], dim=-1)
        time = time if len(time) == 1 else time[cond.plan_index]
        h = self.coordinate_in(tokens.to(self.coordinate_in.weight.dtype)) + cond.embedded + time
        if first is not None:
            h = first(h, torch.cat([tokens[0], cond.features], dim=-1), cond.layouts)
        for block in self.blocks[0 if first is None else 1 :]:
            h = self._run(block, h, cond)
        return self._head(h).float()

    def _head(self, h: Tensor) -> Tensor:
        """Its last two layers, with nothing between them, are one narrow product."""
        _, middle, out = self.head
        assert isinstance(middle, nn.Linear)
        assert isinstance(out, nn.Linear)
        return F.linear(self.head[0](h).relu(), out.weight @ middle.weight, out(middle.bias))

    def bits(self, x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor, cond: PlanCondition) -> Tensor:
        """Logits of the discrete branch (HouseDiffusion section 4.2).

        Args:
            x: [1, M, 2] noisy corners at the same time as `eps`, the predicted noise [1, M, 2].
            alpha, sigma: signal and noise level in float64, scalars or [1, M, 1].
            cond: what is known of the plans.

        Returns:
            [1, M, 16] float32 logits, above 0 where a bit is set; 8 bits of x, then 8 of y.
        """
        if not self.config.has_bits:
            raise ValueError("this model has no discrete branch (num_bit_layers is 0 or analog_bits is set)")
        cond = self._embedded(cond)
        assert cond.embedded is not None
        if self._in_pieces(x, cond):
            alpha, sigma = (level.expand(1, x.shape[1], 1) for level in (alpha, sigma))
            parts = [self.bits(x[:, i], eps[:, i], alpha[:, i], sigma[:, i], part) for _, i, part in cond.pieces]
            return torch.cat(parts, dim=1)
        edges = self.edges(x.float(), cond)
        tiled = eps.float().repeat(1, 1, edges.shape[-1] // eps.shape[-1])
        x0 = edges * (1 / alpha).float() - tiled * (sigma / alpha).float()
        code = quantised_bits(x0.detach(), NUM_BITS, rounding="nearest", wrap=self.config.wrap_bits)
        tokens = torch.cat([x0, code.to(x0.dtype), cond.embedded.to(x0.dtype)], dim=-1)
        h = self.bits_in(tokens.to(self.bits_in.weight.dtype)).relu()
        for block in self.bit_blocks:
            h = self._run(block, h, cond)
        return self.bits_out(h).float()

    def _in_pieces(self, x: Tensor, cond: PlanCondition) -> bool:
        """Plans do not read each other: a CPU that only infers takes a long row piece by piece. Under autocast it does
        not: there each piece would cost a look-up of every weight's cast and gains nothing."""
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return False
        return not torch.is_grad_enabled() and not torch.compiler.is_compiling() and len(cond.pieces) > 1

    def _run(self, block: nn.Module, h: Tensor, cond: PlanCondition) -> Tensor:
        if self.gradient_checkpointing and self.training:
            out = checkpoint(block, h, None, None, cond.layouts, use_reentrant=False)
            assert isinstance(out, Tensor)
            return out
        return block(h, layouts=cond.layouts)
