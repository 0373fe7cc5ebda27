"""Layouts of every kind, inputs for them and the definition in loops, for the tests of attention."""

from __future__ import annotations

import random

import torch
from torch import Tensor
from trifold.common.attention import SegmentLayout as Layout
from trifold.common.attention import dense_mask

HEADS, DIM = 2, 8

ROOMS, DOORS = [4, 6, 4, 8], [(1, 3), (0,), (3,), (0, 2)]


def random_plan(rng: random.Random, runs: int = 6) -> Layout:
    """A floorplan-like graph; some runs read nothing."""
    lens = [rng.randint(1, 12) for _ in range(runs)]
    return Layout.graph(lens, [tuple(rng.sample(range(runs), rng.randint(0, 4))) for _ in range(runs)])


def plans(number: int, seed: int = 0) -> Layout:
    rng = random.Random(seed)
    return Layout.stack([random_plan(rng) for _ in range(number)])


# name -> (layout, how it should be run)
CASES: dict[str, tuple[Layout, str]] = {
    "full": (Layout.full(7, 9), "fold"),
    "frames": (Layout.diagonal([6] * 4), "fold"),
    "sparse-causal": (Layout.sparse_causal(5, 6), "fold"),
    "sparse-causal, one frame": (Layout.sparse_causal(1, 6), "fold"),
    "sparse-causal, two frames": (Layout.sparse_causal(2, 6), "fold"),
    "temporal": (Layout.temporal(4, 5), "heads"),
    "temporal, one position": (Layout.temporal(4, 1), "fold"),
    "temporal, one frame": (Layout.temporal(1, 4), "heads"),
    "rooms": (Layout.diagonal(ROOMS), "ragged"),
    "doors": (Layout.graph(ROOMS, DOORS), "ragged"),
    "packed doors": (plans(7), "ragged"),
    "text per clip": (Layout.cross([6] * 4, [7, 7]), "fold"),
    "one text, ragged frames": (Layout.cross([3, 5, 6], [7]), "fold"),
    "ragged text": (Layout.cross([3, 5, 6, 2], [7, 3]), "ragged"),
    "chosen text": (Layout.cross([3, 3], [4, 2, 4], [0, 2]), "fold"),
    "several texts": (Layout.cross([3, 5], [4, 2, 4], [(0, 2), 1]), "ragged"),
    "equal sums of unlike runs": (Layout.cross([3, 3], [1, 4, 2, 3], [(0, 1), (2, 3)]), "fold"),
    "unlike runs gathered": (Layout.cross([3, 3, 3], [1, 4, 2, 3], [(0, 1), (2, 3), (1, 0)]), "fold"),
    "whole video": (Layout.graph([4] * 3, [(0, 1, 2)] * 3), "fold"),
    "first frame": (Layout.graph([4] * 3, [(0,)] * 3), "fold"),
    "rooms without doors": (Layout.graph(ROOMS, [(), (0,), (), (0, 2)]), "ragged"),
    "equal rooms without doors": (Layout.graph([3] * 4, [(), (0,), (), (0,)]), "ragged"),
    "nothing at all": (Layout.graph(ROOMS, [()] * 4), "empty"),
    "empty runs": (Layout.graph([4, 0, 3], [(1, 2), (0,), (1,)]), "ragged"),
    "stacked temporal": (Layout.stack([Layout.temporal(3, 4)] * 2), "ragged"),
    "temporal, graph and full": (
        Layout.stack([Layout.temporal(3, 4), Layout.graph(ROOMS, DOORS), Layout.full(5)]),
        "ragged",
    ),
    "two interleaved groups reading across": (
        Layout((2, 2, 3, 3), (2, 2, 3, 3), ((2, 3), (0,), (1,), ()), (2, 2), (2, 2)),
        "ragged",
    ),
}


def qkv(layout: Layout, batch: int = 1, dim: int = DIM, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    lens = (layout.num_queries, layout.num_keys, layout.num_keys)
    wide = [torch.randn(batch, n, HEADS, dim, generator=generator, dtype=torch.float64) for n in lens]
    return [x.to(dtype).requires_grad_() for x in wide]


def literal(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None = None) -> Tensor:
    """Row by row: each query over exactly the keys its mask row names."""
    mask = dense_mask(layout)
    out = torch.zeros_like(q)
    for i in range(layout.num_queries):
        keys = mask[i].nonzero().flatten()
        if len(keys):
            scores = torch.einsum("bhd,bnhd->bhn", q[:, i], k[:, keys]) * (scale or q.shape[-1] ** -0.5)
            out[:, i] = torch.einsum("bhn,bnhd->bhd", scores.softmax(-1), v[:, keys])
    return out


def gradients(out: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad((out.double() * weight).sum(), inputs)
