"""`PointTransformer`: a set of points under a noise level, a class and a shape latent, on the core's blocks.

A stage is an exchange. A few learned tokens, the readers, read the points by cross-attention, think among themselves
and are read by the points: cost O(N L), as in RIN (Jabri et al. 2023) and PointInfinity (Huang et al. 2024). Points
may besides attend to each other, within runs along a space-filling curve or all to all.

| reading | points read | exact under permutation | cost in N points |
|---|---|---|---|
| `latents` | the readers | yes | N |
| `local` | their run on a Hilbert curve (another curve every other stage), and the readers | no | N |
| `full` | every point of their cloud, and the readers | yes | N^2 |

Shape letters: B clouds, N points, M points of a packed row, R clouds in it, L readers, D widths, C condition width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.attention import SegmentLayout
from ..common.nn import AdaLNZero, AttentionBranch, Block, Branch, FeedForwardBranch, FourierFeatures, modulate
from ..common.transformer import BlockStack
from .conditioning import ConditionEmbedding, PointCondition
from .errors import PointCloudError
from .space_filling import curve_order, inverse_order, run_lengths

Reading = Literal["latents", "local", "full"]
NORM_EPS = 1e-6


@dataclass(frozen=True)
class PointTransformerConfig:
    """Shape of the net; the defaults are the small model that trains on a CPU."""

    reading: Reading = "latents"
    """Whom the points read: learned latent tokens only, also the points near them, or also all points."""
    num_stages: int = 4
    """Exchanges between points and readers, one after another."""
    point_width: int = 96
    """Width of a point's token."""
    point_heads: int = 3
    """Heads of the attentions whose queries are points."""
    point_mult: float = 2
    """Hidden width of the points' feed-forward over point_width."""
    num_readers: int = 64
    """Learned latent tokens that read the points, L; 0 for none (only where points read each other)."""
    told_readers: int = 8
    """Readers that start from the condition, besides what every branch is told of it: so many, or all if they are
    fewer. It trains faster than without."""
    reader_width: int = 192
    """Width of a reader."""
    reader_heads: int = 6
    """Heads of the attentions whose queries are readers."""
    reader_depth: int = 1
    """Self-attention blocks of the readers in each stage."""
    reader_mult: float = 3
    """Hidden width of the readers' feed-forward over reader_width."""
    run_length: int = 64
    """Points of a run on the curve (reading='local')."""
    cond_width: int = 96
    """Width of the condition, which sets shift, scale and gate of every branch."""
    fourier_bands: int = 6
    """Frequencies of the Fourier features of a coordinate."""
    min_frequency: float = 0.25
    """The lowest of them, in cycles per unit length; each is twice the one before."""

    def __post_init__(self) -> None:
        if self.reading not in get_args(Reading):
            raise ValueError(f"reading: expected one of {', '.join(get_args(Reading))}, found {self.reading!r}")
        least = {
            "num_readers": int(self.reading == "latents"),
            "fourier_bands": 1,
            "reader_depth": 1,
            "told_readers": 0,
        }
        for name in ("num_stages", "point_width", "point_heads", "reader_width", "reader_heads", "run_length"):
            least[name] = 1
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name}: must be at least {lowest}, found {getattr(self, name)}")


class Stage(nn.Module):
    """Readers read the points, attend to each other, and are read by the points, which pass a feed-forward."""

    def __init__(self, config: PointTransformerConfig) -> None:
        super().__init__()
        point, reader = config.point_width, config.reader_width
        branches: list[Branch] = []
        if config.reading != "latents":
            branches.append(AttentionBranch("attn1", "norm1", "points"))
        self.readers = None
        if config.num_readers:
            self.norm_points = nn.LayerNorm(point, eps=NORM_EPS, elementwise_affine=False)
            self.norm_readers = nn.LayerNorm(reader, eps=NORM_EPS, elementwise_affine=False)
            read = AttentionBranch("attn_read", "norm_read", "read", "points", point)
            own: list[Branch] = [
                AttentionBranch("attn1", "norm1", "readers"),
                FeedForwardBranch("ff", "norm3", config.reader_mult, "gelu_tanh"),
            ]
            self.readers = BlockStack(
                _block(config, reader, config.reader_heads, own if depth else [read, *own])
                for depth in range(config.reader_depth)
            )
            branches.append(AttentionBranch("attn2", "norm2", "write", "readers", reader))
        branches.append(FeedForwardBranch("ff", "norm3", config.point_mult, "gelu_tanh"))
        self.points = BlockStack([_block(config, point, config.point_heads, branches)])

    def forward(self, points: Tensor, readers: Tensor | None, cond: Tensor, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """points [B, N, D], readers [B, L, D'] (packed: [1, M, D], [1, R L, D']), cond [B or R, C]; shapes kept."""
        contexts: dict[str, Tensor] = {}
        if self.readers is not None and readers is not None:
            seen = {"points": self.norm_points(points)}
            readers = self.readers(readers, cond, seen, rows.layouts, cond_index=rows.reader_index)
            contexts["readers"] = self.norm_readers(readers)
        points = self.points(points, cond, contexts, rows.layouts, cond_index=rows.point_index)
        return points, readers


def _block(config: PointTransformerConfig, width: int, heads: int, branches: list[Branch]) -> Block:
    return Block(
        width,
        heads=heads,
        branches=branches,
        modulation="adaln_zero",
        cond_dim=config.cond_width,
        norm_affine=False,
        norm_eps=NORM_EPS,
        bias=True,
    )


@dataclass(frozen=True, eq=False)
class Rows:
    """Where clouds lie in the tensors: who reads whom, and for a packed row the cloud of every token."""

    layouts: Mapping[str, SegmentLayout]
    point_index: Tensor | None
    reader_index: Tensor | None


class PointTransformer(nn.Module):
    """Pure function of (noisy points, noise level, condition); it holds no schedule. A new one returns zeros."""

    def __init__(
        self, config: PointTransformerConfig | None = None, *, num_classes: int = 0, latent_dim: int = 0
    ) -> None:
        super().__init__()
        self.config = config = config or PointTransformerConfig()
        self.condition = ConditionEmbedding(config.cond_width, num_classes=num_classes, latent_dim=latent_dim)
        self.fourier = FourierFeatures(3, config.fourier_bands, min_frequency=config.min_frequency)
        self.points_in = nn.Linear(self.fourier.out_dim, config.point_width)
        self.readers = (
            nn.Parameter(torch.randn(config.num_readers, config.reader_width)) if config.num_readers else None
        )
        told = min(config.told_readers, config.num_readers) * config.reader_width
        self.readers_told = nn.Linear(config.cond_width, told) if told else None
        self.stages = nn.ModuleList(Stage(config) for _ in range(config.num_stages))
        self.norm_out = nn.LayerNorm(config.point_width, eps=NORM_EPS, elementwise_affine=False)
        self.modulation_out = AdaLNZero(config.cond_width, config.point_width, 2)
        self.proj_out = nn.Linear(config.point_width, 3)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute every block's activations in the backward pass; numbers do not change."""
        for module in self.modules():
            if isinstance(module, BlockStack):
                module.gradient_checkpointing = True

    def forward(self, x: Tensor, t: Tensor, cond: PointCondition | None = None) -> Tensor:
        """What the net says of the points, float32, shape of x.

        Args:
            x: [B, N, 3], or clouds packed in a row [1, M, 3] with cond.lens.
            t: noise level as the path tells it (c_noise): scalar, [B], or [1, M, 1] for a packed row.
            cond: class, latent and lengths; None: nothing is known.
        Raises: PointCloudError where the shapes do not fit together.
        """
        cond = cond or PointCondition()
        lens = _checked_lens(x, cond.lens)
        clouds = x.shape[0] if cond.lens is None else len(lens)
        c = self.condition(_per_cloud(t, clouds, lens, x.device), cond)
        rows = self._rows(lens, packed=cond.lens is not None, device=x.device)

        dtype = self.points_in.weight.dtype  # float32 under autocast: the residual streams stay wide
        points = self.points_in(self.fourier(x).to(dtype)).to(dtype)
        readers = None
        if self.readers is not None:
            readers = self._first_readers(c).to(dtype).reshape(x.shape[0], -1, self.config.reader_width)
        orders = self._orders(x, cond.lens)
        place: Tensor | None = None  # where each of the caller's rows stands now; None: where it was
        for depth, stage in enumerate(self.stages):
            if orders:
                order, inverse = orders[depth % len(orders)]
                points = _take(points, order if place is None else place[order])
                place = inverse
            points, readers = stage(points, readers, c, rows)
        if place is not None:
            points = _take(points, place)
        points = modulate(self.norm_out(points), *self.modulation_out(c, points, rows.point_index))
        return self.proj_out(points).float()

    def _orders(self, x: Tensor, lens: tuple[int, ...] | None) -> list[tuple[Tensor, Tensor]]:
        """(order, its inverse) of each curve; none where the order of the points does not matter."""
        if self.config.reading != "local":
            return []
        orders = [curve_order(x, lens, curve=curve) for curve in range(min(2, self.config.num_stages))]
        return [(order, inverse_order(order)) for order in orders]

    def _first_readers(self, c: Tensor) -> Tensor:
        """[B, L, D'] of conditions [B, C]."""
        assert self.readers is not None
        readers = self.readers.expand(len(c), -1, -1)
        if self.readers_told is None:
            return readers
        told = self.readers_told(F.silu(c)).view(len(c), -1, self.config.reader_width)
        count = told.shape[1]
        return torch.cat([readers[:, :count] + told, readers[:, count:]], dim=1)

    def _rows(self, lens: tuple[int, ...], *, packed: bool, device: torch.device) -> Rows:
        config = self.config
        layouts = _layouts(lens, config.num_readers, config.reading, config.run_length)
        if not packed:
            return Rows(layouts, None, None)
        counts = torch.tensor(lens, device=device)
        clouds = torch.arange(len(lens), device=device)
        return Rows(
            layouts,
            torch.repeat_interleave(clouds, counts, output_size=sum(lens)),
            torch.repeat_interleave(clouds, config.num_readers),
        )


@lru_cache(maxsize=64)
def _layouts(lens: tuple[int, ...], readers: int, reading: Reading, run_length: int) -> Mapping[str, SegmentLayout]:
    """Layouts of one row of clouds; kept, and with them their index tables, for the next step."""
    layouts = {}
    if readers:
        each = (readers,) * len(lens)
        layouts["readers"] = SegmentLayout.diagonal(each)
        layouts["read"] = SegmentLayout.diagonal(each, lens)
        layouts["write"] = SegmentLayout.diagonal(lens, each)
    if reading == "full":
        layouts["points"] = SegmentLayout.diagonal(lens)
    elif reading == "local":
        layouts["points"] = SegmentLayout.diagonal([run for n in lens for run in run_lengths(n, run_length)])
    return MappingProxyType(layouts)


def _checked_lens(x: Tensor, lens: tuple[int, ...] | None) -> tuple[int, ...]:
    """Lengths of the clouds in one row of x."""
    if x.ndim != 3 or x.shape[-1] != 3 or 0 in x.shape:
        raise PointCloudError(f"points: expected [B, N, 3] with at least one point, found {list(x.shape)}")
    if lens is None:
        return (x.shape[1],)
    if x.shape[0] != 1 or sum(lens) != x.shape[1] or min(lens) < 1:
        raise PointCloudError(f"lens: {list(lens)} are not the clouds of packed points {list(x.shape)}")
    return lens


def _per_cloud(t: Tensor, clouds: int, lens: tuple[int, ...], device: torch.device) -> Tensor:
    """[clouds] from a scalar, [1], [clouds], or one level per point [1, M, 1], equal within a cloud."""
    t = torch.as_tensor(t, device=device)
    if t.ndim == 3:
        starts = torch.tensor((0, *lens[:-1]), device=device).cumsum(0)
        t = t[0, :, 0].expand(sum(lens)).index_select(0, starts)
    t = t.reshape(-1)
    if len(t) not in (1, clouds):
        raise PointCloudError(f"t: expected one noise level or one for each of {clouds} clouds, found {len(t)}")
    return t.expand(clouds)


def _take(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of x [B, N, D] by their places in the flattened batch; a permutation within each cloud."""
    return x.flatten(0, 1).index_select(0, rows).view_as(x)
