"""The first block of the network without its wide products.

A token of the first block is linear in a few numbers: h = C c + F f + e, with c its points on an edge, f what is known
of its corner and e the time. What the attentions read of it, W norm(h) + b, is therefore

    (W C' c + W F' f + W e') r + b,   r = 1 / sqrt(var(h) + eps),

where ' takes the mean over the width away. W C' and W F' stay the same while plans are denoised; with them queries,
keys and values of a corner are products of 107 numbers instead of 512. Equal to the block's own to rounding.

Shape letters: M packed corners, D width, K numbers of a token, O outputs of a projection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ..common.attention import Attention, SegmentLayout
from ..common.nn import Block
from ..common.nn.blocks import FeedForwardBranch, SummedAttention

ShortWay = Callable[[Tensor, Tensor, Mapping[str, SegmentLayout]], Tensor]


class FirstBlock:
    """The first block of a `HouseNet` as it samples: no gradients, no dropout, one time for all plans.

    Args:
        block: the block, of `house_diffusion_block`.
        coordinate_in, condition_in: the layers that make its tokens.
    """

    def __init__(self, block: Block, coordinate_in: nn.Linear, condition_in: nn.Linear) -> None:
        summed, feed_forward = block.branches
        assert isinstance(summed, SummedAttention)
        assert isinstance(feed_forward, FeedForwardBranch)
        self.layouts = summed.layouts
        self.attentions: list[Attention] = [getattr(block, name) for name in summed.names]
        self.norm: nn.LayerNorm = getattr(block, summed.norm)
        self.feed_forward = nn.Sequential(getattr(block, feed_forward.norm), getattr(block, feed_forward.name))
        self.projections = [layer for a in self.attentions for layer in (a.to_q, a.to_k, a.to_v)]
        inputs = torch.cat([coordinate_in.weight, condition_in.weight], dim=1).float()
        self.offset = (coordinate_in.bias + condition_in.bias).float()
        self.weights = [layer.weight.float() @ centred(inputs, 0) for layer in self.projections]

    def at(self, time: Tensor) -> ShortWay:
        """The block at an embedded time [D], the same for all plans: a function of its tokens h [1, M, D], the numbers
        [M, K] that they are linear in, and the layouts that the block is given; it returns the block's output."""
        constant = centred(time.float() + self.offset, 0)
        weights = [
            torch.cat([weight, (layer.weight.float() @ constant)[:, None], layer.bias.float()[:, None]], dim=1)
            for weight, layer in zip(self.weights, self.projections, strict=True)
        ]
        return partial(self._run, weights)

    def _run(self, weights: list[Tensor], h: Tensor, numbers: Tensor, layouts: Mapping[str, SegmentLayout]) -> Tensor:
        """weights: of each projection [O, K + 2], of the numbers, of what is scaled like them, and of 1."""
        scale = torch.native_layer_norm(h[0].float(), h.shape[-1:], None, None, self.norm.eps)[2]  # 1 / deviation
        scaled = torch.cat([numbers * scale, scale, torch.ones_like(scale)], dim=1).to(h.dtype)
        for i, (attention, layout) in enumerate(zip(self.attentions, self.layouts, strict=True)):
            q, k, v = ((scaled @ weight.to(h.dtype).t())[None] for weight in weights[3 * i : 3 * i + 3])
            h = h + attention.read(q, k, v, layouts[layout])
        return h + self.feed_forward(h)


def centred(x: Tensor, dim: int) -> Tensor:
    """x minus its mean along dim."""
    return x - x.mean(dim, keepdim=True)
