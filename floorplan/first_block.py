"""The first block of the network without its wide products.

A token of the first block is linear in a few numbers: h = C c + F f + e, with c its points on an edge, f what is known
of its corner and e the time. What the attentions read of it, W norm(h) + b, is therefore

    (W C' c + W F' f + W e') r + b,   r = 1 / sqrt(var(h) + eps),

where ' takes the mean over the width away: a small matrix times z = (c r, f r, r, 1). Points on an edge are means of
its two ends, and what no corner of the row has is left out of f, so z has some 40 numbers for published weights.

A head of more channels than that reads z itself. With Q, K, V and O its matrices from z and back to the width,

    q . k = (K' Q z_i) . z_j   and   O (sum_j p_j V z_j) = (O V) (sum_j p_j z_j):

keys and values are z for all heads, K' Q and O V small matrices, and the heads of a token are four queries of one
attention. Where heads are narrower, z gives queries, keys and values. Equal to the block's own to rounding.

Shape letters: M packed corners, D width, H heads, K numbers of a token, Z numbers of z, O outputs of a projection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ..common.attention import Attention, SegmentLayout, attend
from ..common.nn import Block
from ..common.nn.blocks import FeedForwardBranch, SummedAttention

ShortWay = Callable[[Tensor, Tensor, Mapping[str, SegmentLayout]], Tensor]
Added = Callable[[Tensor, SegmentLayout], Tensor]


class FirstBlock:
    """The first block of a `HouseNet` as it samples: no gradients, no dropout, one time for all plans.

    Args:
        block: the block, of `house_diffusion_block`.
        inputs: [D, K] the weights of a token's numbers; offset: [D] their bias.
        columns: which of the numbers z is made of; the others are linear in them or zero.
        mix: [K, len(columns)] the numbers as sums of those in z.
    """

    def __init__(self, block: Block, inputs: Tensor, offset: Tensor, columns: Tensor, mix: Tensor) -> None:
        summed, feed_forward = block.branches
        assert isinstance(summed, SummedAttention)
        assert isinstance(feed_forward, FeedForwardBranch)
        self.layouts = summed.layouts
        self.attentions: list[Attention] = [getattr(block, name) for name in summed.names]
        self.norm: nn.LayerNorm = getattr(block, summed.norm)
        self.feed_forward = nn.Sequential(getattr(block, feed_forward.norm), getattr(block, feed_forward.name))
        self.columns, self.offset = columns, offset.float()
        inputs = centred(inputs.float() @ mix.float(), 0)
        self.weights: list[tuple[Tensor, Tensor, Tensor]] = []
        for attention in self.attentions:
            q, k, v = (layer.weight.float() @ inputs for layer in (attention.to_q, attention.to_k, attention.to_v))
            self.weights.append((q, k, _answers(attention, v) if _is_wide(attention, len(columns) + 2) else v))

    def at(self, time: Tensor) -> ShortWay:
        """The block at an embedded time [D], the same for all plans: a function of its tokens h [1, M, D], the numbers
        [M, K] that they are linear in, and the layouts that the block is given; it returns the block's output."""
        constant = centred(time.float() + self.offset, 0)
        added: list[Added] = []
        for attention, weights in zip(self.attentions, self.weights, strict=True):
            layers = attention.to_q, attention.to_k, attention.to_v
            q, k, v = (torch.stack([a.weight.float() @ constant, a.bias.float()], dim=1) for a in layers)
            wide = _is_wide(attention, len(self.columns) + 2)
            own = q, k, _answers(attention, v) if wide else v
            small = tuple(torch.cat(pair, dim=-1) for pair in zip(weights, own, strict=True))
            added.append(_reading_z(attention, *small) if wide else partial(_reading_heads, attention, small))
        return partial(self._run, added)

    def _run(self, added: list[Added], h: Tensor, numbers: Tensor, layouts: Mapping[str, SegmentLayout]) -> Tensor:
        scale = torch.native_layer_norm(h[0].float(), h.shape[-1:], None, None, self.norm.eps)[2]  # 1 / deviation
        z = torch.cat([numbers[:, self.columns] * scale, scale, torch.ones_like(scale)], dim=1).to(h.dtype)
        for add, layout in zip(added, self.layouts, strict=True):
            h = h + add(z, layouts[layout])
        return h + self.feed_forward(h)


def _reading_heads(attention: Attention, weights: tuple[Tensor, ...], z: Tensor, layout: SegmentLayout) -> Tensor:
    """What an attention adds, [1, M, D], with its queries, keys and values from z [M, Z] by weights [O, Z]."""
    q, k, v = ((z @ weight.to(z.dtype).t())[None] for weight in weights)
    return attention.read(q, k, v, layout)


def _is_wide(attention: Attention, size: int) -> bool:
    """Whether a head has more channels than z has numbers."""
    return attention.to_q.out_features > attention.heads * size


def _answers(attention: Attention, v: Tensor) -> Tensor:
    """Weights [O, n] of values through each head's part of the output layer: [D, H, n]."""
    out = attention.to_out[0]
    assert isinstance(out, nn.Linear)
    parts, heads = out.weight.float().unflatten(1, (attention.heads, -1)), v.unflatten(0, (attention.heads, -1))
    return (parts.transpose(0, 1) @ heads).transpose(0, 1)


def _reading_z(attention: Attention, q: Tensor, k: Tensor, answers: Tensor) -> Added:
    """The same for weights [O, Z], and `_answers` [D, H, Z], with z itself as keys and values."""
    heads, out, size = attention.heads, attention.to_out[0], q.shape[1]
    assert isinstance(out, nn.Linear)
    q, k = (weight.unflatten(0, (heads, -1)) for weight in (q, k))
    asking, answering = (k.transpose(1, 2) @ q).flatten(0, 1), answers.flatten(1)  # [H Z, Z], [D, H Z]
    scale = q.shape[1] ** -0.5

    def added(z: Tensor, layout: SegmentLayout) -> Tensor:
        asked = (z @ asking.to(z.dtype).t()).view(1, -1, 1, size)
        shared = z[None, :, None]
        read = attend(asked, shared, shared, _by_heads(layout, heads), scale=scale)
        return nn.functional.linear(read.view(1, -1, heads * size), answering.to(read.dtype), out.bias.to(read.dtype))

    return added


def _by_heads(layout: SegmentLayout, heads: int) -> SegmentLayout:
    """The layout with every query token as `heads` queries, one after another."""

    def build() -> SegmentLayout:
        return SegmentLayout(tuple(heads * n for n in layout.q_lens), layout.k_lens, layout.edges)

    return layout.memo(("heads", heads), build)


def centred(x: Tensor, dim: int) -> Tensor:
    """x minus its mean along dim."""
    return x - x.mean(dim, keepdim=True)
