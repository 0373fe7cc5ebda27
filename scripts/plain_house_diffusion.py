"""HouseDiffusion written plainly: plans padded to rows of 100 slots, dense masks, every attention over every slot.

This is what `bench_floorplan.py` times and checks the library's packed model against. Nothing here is slower than such
code usually is. As the paper and the published program have it,

- a batch is [B, 100, ...]; each of the three attentions of a block scores all 100 x 100 pairs and then masks them,
- padding passes through every layer,
- the condition is embedded anew at every step,
- the discrete branch runs for every plan at every step, in training and in sampling, whether its bits are used or not.

`lazy_bits=True` leaves out the last of these, to tell what it costs from what padding and masks cost.

Three things differ from the published program: losses are means over a plan's own corners (there: over 100 slots, then
divided by the number of corners), codes of corners outside the frame are clamped (there: they wrap around), and the
decision for bits is made in original time. Tensors have the published checkpoint's names.

Shape letters: B plans, S slots of a row, D width, H heads, C condition features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trifold.common.attention import dense_mask
from trifold.floorplan.checkpoint import rename_key
from trifold.floorplan.network import HouseNet, HouseNetConfig
from trifold.floorplan.process import house_path
from trifold.floorplan.tokens import PlanCondition

SLOTS = 100
BITS = 8
MASKED = -1e9  # finite: a row that may read nothing averages all slots, and only padding has such rows


@dataclass(frozen=True)
class PaddedPlans:
    """All that is constant while plans are denoised.

    Attributes:
        features: [B, S, C] type, corner and room numbers, zeros in padding.
        next_corner: [B, S] slot of the next corner of the same polygon; in padding the slot itself.
        valid: [B, S] bool, False in padding.
        rooms, doors, plan: [B, S, S] bool, True where slot i must not read slot j.
    """

    features: Tensor
    next_corner: Tensor
    valid: Tensor
    rooms: Tensor
    doors: Tensor
    plan: Tensor

    @classmethod
    def of(cls, cond: PlanCondition, slots: int = SLOTS) -> PaddedPlans:
        """The plans of a packed row, one row each.

        Raises: ValueError for a plan with more corners than slots.
        """
        if max(cond.plan_lens) > slots:
            raise ValueError(f"a plan has {max(cond.plan_lens)} corners, but a row has {slots} slots")
        next_corner = torch.arange(slots).repeat(cond.num_plans, 1)
        blocked = {name: torch.ones(cond.num_plans, slots, slots, dtype=torch.bool) for name in cond.layouts}
        masks = {name: ~dense_mask(layout) for name, layout in cond.layouts.items()}
        start = 0
        for b, n in enumerate(cond.plan_lens):
            own = slice(start, start + n)
            next_corner[b, :n] = cond.next_corner[own].cpu() - start
            for name, mask in masks.items():
                blocked[name][b, :n, :n] = mask[own, own]
            start += n
        device = cond.features.device
        valid = torch.arange(slots)[None] < torch.tensor(cond.plan_lens)[:, None]
        features = padded(cond.features[None], cond.plan_lens, slots)
        return cls(features, next_corner.to(device), valid.to(device), **{k: m.to(device) for k, m in blocked.items()})

    def chosen(self, plans: Tensor) -> PaddedPlans:
        """Some of the rows, by number [K] or mask [B]."""
        return PaddedPlans(**{name: value[plans] for name, value in vars(self).items()})

    def mean(self, values: Tensor) -> Tensor:
        """Mean over each plan's corners and channels: [B, S, K] -> [B]."""
        kept = values * self.valid[..., None]
        return kept.sum(dim=(1, 2)) / (self.valid.sum(dim=1) * values.shape[-1])


def padded(row: Tensor, plan_lens: tuple[int, ...], slots: int = SLOTS) -> Tensor:
    """A packed row [1, M, K] -> [B, S, K], zeros in padding."""
    out = row.new_zeros(len(plan_lens), slots, row.shape[-1])
    for b, part in enumerate(row[0].split(list(plan_lens))):
        out[b, : len(part)] = part
    return out


class PlainAttention(nn.Module):
    """softmax(q k^T / sqrt(D / H) masked) v, with a projection before and after."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(width, width)
        self.k_linear = nn.Linear(width, width)
        self.v_linear = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, blocked: Tensor) -> Tensor:
        """[B, S, D], [B, S, S] -> [B, S, D]."""
        b, s, d = h.shape
        q, k, v = (
            project(h).view(b, s, self.heads, -1).transpose(1, 2)
            for project in (self.q_linear, self.k_linear, self.v_linear)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)
        weights = self.dropout(scores.masked_fill(blocked[:, None], MASKED).softmax(dim=-1))
        return self.out((weights @ v).transpose(1, 2).reshape(b, s, d))


class PlainFeedForward(nn.Module):
    """Linear, ReLU, dropout, Linear."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.linear_2 = nn.Linear(2 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        return self.linear_2(self.dropout(F.relu(self.linear_1(h))))


class PlainBlock(nn.Module):
    """Attention within rooms, through doors and over the plan, added up; then the feed-forward."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = PlainAttention(width, heads, dropout)
        self.door_attn = PlainAttention(width, heads, dropout)
        self.gen_attn = PlainAttention(width, heads, dropout)
        self.norm_1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_2 = nn.LayerNorm(width, elementwise_affine=False)
        self.ff = PlainFeedForward(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, plans: PaddedPlans) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        n = self.norm_1(h)
        h = (
            h
            + self.dropout(self.door_attn(n, plans.doors))
            + self.dropout(self.self_attn(n, plans.rooms))
            + self.dropout(self.gen_attn(n, plans.plan))
        )
        return h + self.dropout(self.ff(self.norm_2(h)))


class PlainHouse(nn.Module):
    """Network, training loss and the denoiser.

    Raises: ValueError for settings of the library's network that the published one does not have.
    """

    alphas: Tensor
    sigmas: Tensor

    def __init__(self, config: HouseNetConfig, *, lazy_bits: bool = False) -> None:
        super().__init__()
        self.config, self.lazy_bits = config, lazy_bits
        published = (config.prediction, config.fourier_bands, config.analog_bits, config.door_attention)
        if published != ("eps", 0, False, True) or config.num_bit_layers != 2 or config.wrap_bits:
            raise ValueError("the plain formulation is that of the default network, in any size")
        width, dropout, channels = config.width, config.dropout, config.token_channels
        self.time_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.input_emb = nn.Linear(channels, width)
        self.condition_emb = nn.Linear(config.condition_channels, width)
        layers = (PlainBlock(width, config.num_heads, dropout) for _ in range(config.num_layers))
        self.transformer_layers = nn.ModuleList(layers)
        self.output_linear1 = nn.Linear(width, width)
        self.output_linear2 = nn.Linear(width, width // 2)
        self.output_linear3 = nn.Linear(width // 2, 2)
        self.output_linear_bin1 = nn.Linear(channels * (1 + BITS) + width, width)
        self.output_linear_bin2 = PlainBlock(width, 1, dropout)
        self.output_linear_bin3 = PlainBlock(width, 1, dropout)
        self.output_linear_bin4 = nn.Linear(width, 2 * BITS)
        with torch.device("cpu"):  # also where the weights are made without memory, see `like`
            path, times = house_path(), torch.arange(1000)
            self.register_buffer("alphas", path.alpha(times), persistent=False)
            self.register_buffer("sigmas", path.sigma(times), persistent=False)

    @classmethod
    def like(cls, net: HouseNet, *, lazy_bits: bool = False) -> PlainHouse:
        """The same network in the same mode. It shares the weights' memory, so that to train one is to train both."""
        with torch.device("meta"):
            plain = cls(net.config, lazy_bits=lazy_bits)
        ours = net.state_dict()
        tensors = {name: ours.pop(rename_key(name)) for name in plain.state_dict()}
        if ours:
            raise ValueError(f"the plain formulation lacks {', '.join(ours)}")
        plain.load_state_dict(tensors, assign=True)
        return plain.to(next(net.parameters()).device).train(net.training)

    def forward(self, x: Tensor, t: Tensor, plans: PaddedPlans) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, S, 2] float32 at original times t [B] -> predicted noise [B, S, 2], edges [B, S, 18] and the
        embedded condition [B, S, D], which the discrete branch reads too."""
        cond = self.condition_emb(plans.features)
        edges = self._edges(x, plans)
        h = self.input_emb(edges) + cond + self.time_embed(self._sinusoid(t))[:, None]
        for layer in self.transformer_layers:
            h = layer(h, plans)
        return self.output_linear3(self.output_linear2(F.relu(self.output_linear1(h)))).float(), edges, cond

    def bits(self, eps: Tensor, edges: Tensor, cond: Tensor, t: Tensor, plans: PaddedPlans) -> Tensor:
        """The discrete branch: 16 values per corner [B, S, 16], above 0 where a bit is set."""
        alpha, sigma = self.alphas[t][:, None, None], self.sigmas[t][:, None, None]
        x0 = edges / alpha.float() - eps.repeat(1, 1, edges.shape[-1] // 2) * (sigma / alpha).float()
        h = torch.cat([x0, binary(x0.detach()), cond.float()], dim=-1)
        h = F.relu(self.output_linear_bin1(h))
        h = self.output_linear_bin3(self.output_linear_bin2(h, plans), plans)
        return self.output_linear_bin4(h).float()

    def loss(self, x0: Tensor, t: Tensor, noise: Tensor, plans: PaddedPlans, bits_below: int = 10) -> Tensor:
        """Training loss of clean corners [B, S, 2] in float64: noise, and bits of the plans with t < bits_below."""
        alpha, sigma = self.alphas[t][:, None, None], self.sigmas[t][:, None, None]
        eps, edges, cond = self((alpha * x0 + sigma * noise).float(), t, plans)
        total = plans.mean((noise - eps) ** 2).mean()
        low = t < bits_below
        if self.lazy_bits:
            if not low.any():
                return total
            x0, eps, edges, cond, t, plans = x0[low], eps[low], edges[low], cond[low], t[low], plans.chosen(low)
            low = low[low]
        error = plans.mean((binary(x0) - self.bits(eps, edges, cond, t, plans)) ** 2)
        return total + (error * low).sum() / low.sum().clamp(min=1)

    @torch.no_grad()
    def denoise(self, x: Tensor, t: int, plans: PaddedPlans, discrete_below: int = 32) -> Tensor:
        """Estimate of the clean corners [B, S, 2] from x in float64 at time t."""
        times = torch.full((len(x),), t, device=x.device)
        eps, edges, cond = self(x.float(), times, plans)
        decoded = t < discrete_below
        bits = None if self.lazy_bits and not decoded else self.bits(eps, edges, cond, times, plans)
        if decoded and bits is not None:
            weights = 2 ** torch.arange(BITS - 1, -1, -1, device=x.device)
            return ((bits.unflatten(-1, (2, BITS)) > 0) * weights).sum(-1) / 128 - 1.0
        return ((x - self.sigmas[t] * eps) / self.alphas[t]).clamp(-1, 1)

    def _edges(self, x: Tensor, plans: PaddedPlans) -> Tensor:
        """[B, S, 2] -> [B, S, 18]: the corner and 8 points towards the next one."""
        count = self.config.edge_points
        if not count:
            return x
        following = torch.gather(x, 1, plans.next_corner[..., None].expand(-1, -1, 2))
        fractions = torch.arange(count + 1, device=x.device) / count
        return (x[:, :, None] + fractions[:, None] * (following - x)[:, :, None]).flatten(2)

    def _sinusoid(self, t: Tensor) -> Tensor:
        half = self.config.width // 2
        frequencies = torch.exp(-math.log(1e4) * torch.arange(half, device=t.device) / half)
        angles = t[:, None].float() * frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


def binary(x: Tensor) -> Tensor:
    """Coordinates [..., A] -> their 8-bit codes [..., 8 A] as -1 and +1, the most significant bit first."""
    code = ((x + 1) * 128).round().long().clamp(0, 255)
    places = torch.arange(BITS - 1, -1, -1, device=x.device)
    return (2 * ((code[..., None] >> places) & 1) - 1).flatten(-2).to(x.dtype)
