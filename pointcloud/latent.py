"""The shape latent: an encoder that sums a cloud up in a few numbers, and a diffusion prior over them.

Shape letters: B clouds, N points, M points of a packed row, L summary tokens, D width, Z latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..common.attention import SegmentLayout
from ..common.diffusion import Denoiser, VPCosinePath, vp_cosine_path
from ..common.nn import AdaLNZero, AttentionBranch, Block, FeedForwardBranch, FourierFeatures, modulate
from ..common.transformer import BlockStack
from .conditioning import ConditionEmbedding, PointCondition

LATENT_SHIFT = 0.3
"""Noise levels of latents are visited times this, see `shifted_time`: those of one class differ by a tenth of what all
differ by, and even steps end too coarsely for that."""


@dataclass(frozen=True)
class ShapeEncoderConfig:
    """Shape of the encoder."""

    width: int = 128
    """Width of the summary tokens."""
    point_width: int = 64
    """Width of a point's token."""
    num_tokens: int = 16
    """Summary tokens that read the points."""
    depth: int = 2
    """How often they read them."""
    heads: int = 4
    """Attention heads."""
    mult: float = 2
    """Hidden width of the feed-forward over width."""
    fourier_bands: int = 5
    """Frequencies of the Fourier features of a coordinate, from 1/4 cycle per unit length."""


class ShapeEncoder(nn.Module):
    """Points -> mean and log-variance of a Gaussian over the shape latent: [B, N, 3] -> two [B, Z].

    Learned tokens read the points by cross-attention, as in Set Transformer's pooling (Lee et al. 2019): independent
    of the order of the points, and of their number but for the shape they show.
    """

    def __init__(self, config: ShapeEncoderConfig, latent_dim: int) -> None:
        super().__init__()
        self.fourier = FourierFeatures(3, config.fourier_bands, min_frequency=0.25)
        width, point = config.width, config.point_width
        self.points_in = nn.Sequential(
            nn.Linear(self.fourier.out_dim, width), nn.GELU(approximate="tanh"), nn.Linear(width, point)
        )
        self.norm_points = nn.LayerNorm(point)
        self.tokens = nn.Parameter(torch.randn(config.num_tokens, width))
        branches = (
            AttentionBranch("attn_read", "norm_read", "read", "points", point),
            AttentionBranch("attn1", "norm1", "tokens"),
            FeedForwardBranch("ff", "norm3", config.mult, "gelu_tanh"),
        )
        self.blocks = BlockStack(
            Block(width, heads=config.heads, branches=branches, bias=True) for _ in range(config.depth)
        )
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(config.num_tokens * width, 2 * latent_dim)

    def forward(self, points: Tensor, lens: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """points: [B, N, 3], or clouds packed in a row [1, M, 3] with lens -> mean, log-variance, float32 [B, Z]."""
        rows = (points.shape[1],) if lens is None else tuple(lens)
        clouds = points.shape[0] if lens is None else len(rows)
        dtype = self.points_in[0].weight.dtype
        seen = self.norm_points(self.points_in(self.fourier(points).to(dtype)).to(dtype))
        tokens = self.tokens.expand(clouds, -1, -1).reshape(points.shape[0], -1, self.tokens.shape[1])
        each = (len(self.tokens),) * len(rows)
        layouts = {"read": SegmentLayout.diagonal(each, rows), "tokens": SegmentLayout.diagonal(each)}
        tokens = self.norm_out(self.blocks(tokens, None, {"points": seen}, layouts))
        mean, log_variance = self.proj_out(tokens.reshape(clouds, -1)).float().chunk(2, dim=-1)
        return mean, log_variance.clamp(-12.0, 4.0)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats, summed over the latent: [B, Z] -> [B]. (Kingma & Welling 2014)"""
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(-1)


@dataclass(frozen=True)
class LatentPriorConfig:
    """Shape of the prior's net."""

    width: int = 160
    """Width of the residual stream."""
    depth: int = 3
    """Residual blocks."""
    mult: float = 2
    """Hidden width of a block over width."""


class FeedForwardDenoiser(nn.Module):
    """Residual feed-forward blocks under adaLN-zero. Rows of one sample share its condition and do not see each other.
    A new one returns zeros."""

    def __init__(
        self, in_dim: int, out_dim: int, condition: ConditionEmbedding, *, width: int, depth: int, mult: float
    ) -> None:
        super().__init__()
        self.condition = condition
        self.proj_in = nn.Linear(in_dim, width)
        self.blocks = BlockStack(
            Block(
                width,
                heads=1,
                branches=(FeedForwardBranch("ff", "norm", mult, "gelu_tanh"),),
                modulation="adaln_zero",
                cond_dim=condition.width,
                norm_affine=False,
                norm_eps=1e-6,
            )
            for _ in range(depth)
        )
        self.norm_out = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation_out = AdaLNZero(condition.width, width, 2)
        self.proj_out = nn.Linear(width, out_dim)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def rows(self, x: Tensor, c: Tensor) -> Tensor:
        """x [B, N, in_dim], c [B, C] -> [B, N, out_dim] float32."""
        dtype = self.proj_in.weight.dtype
        x = self.blocks(self.proj_in(x.to(dtype)).to(dtype), c)
        return self.proj_out(modulate(self.norm_out(x), *self.modulation_out(c, x))).float()


class LatentPrior(FeedForwardDenoiser):
    """Diffusion over the shape latent given the class, v-prediction.

    Its path ends at zero SNR. The KL term of the encoder keeps each latent's second moment at one, which is what a
    variance preserving path wants.
    """

    def __init__(self, config: LatentPriorConfig, latent_dim: int, num_classes: int) -> None:
        condition = ConditionEmbedding(config.width, num_classes=num_classes, latent_dim=0)
        super().__init__(latent_dim, latent_dim, condition, width=config.width, depth=config.depth, mult=config.mult)
        self.latent_dim = latent_dim
        self.path: VPCosinePath = vp_cosine_path(0.0)

    def forward(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """z [B, Z] noisy latents, t [B] (or a scalar) c_noise, labels long [B] -> [B, Z] float32, the v of z."""
        c = self.condition(t.expand(len(z)), PointCondition(labels=labels))
        return self.rows(z[:, None], c)[:, 0]

    def denoiser(self) -> Denoiser:
        """E[z0 | z_t]; the condition is the labels, long [B] or None."""
        return Denoiser(self, self.path, "v")


def slerp(a: Tensor, b: Tensor, fraction: float) -> Tensor:
    """Along the great circle from a to b, the whole tensor as one vector; lengths are mixed linearly. (Shoemake 1985)

    Exactly a at 0 and b at 1; a straight line where the two are parallel.
    """
    norm_a, norm_b = a.norm(), b.norm()
    if fraction in (0, 1) or not norm_a * norm_b > 0:
        return a if fraction == 0 else b if fraction == 1 else torch.lerp(a, b, fraction)
    unit_a, unit_b = a / norm_a, b / norm_b
    angle = torch.acos((unit_a * unit_b).sum().clamp(-1, 1))
    if angle.sin() < 1e-4:
        return torch.lerp(a, b, fraction)
    direction = (((1 - fraction) * angle).sin() * unit_a + (fraction * angle).sin() * unit_b) / angle.sin()
    return direction * torch.lerp(norm_a, norm_b, fraction)
