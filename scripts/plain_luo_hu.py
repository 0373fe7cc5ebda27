"""Luo & Hu's generator written plainly: one torch module after the other, as the paper and its tables have them.

This is what `bench_pointcloud.py` times and checks the library's model against. Nothing here is slower than such code
usually is: PointNet as convolutions of width 1 with batch norm, and six ConcatSquash layers, each of which works out
its gate and its shift from the whole context [beta, sin beta, cos beta, latent] whenever it is called.

Shape letters: B clouds, N points, L latent, T steps.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trifold.pointcloud.luo_hu import FlowVAE, FlowVAEConfig

POINTNET = (3, 128, 128, 256, 512)
HEAD = (512, 256, 128)
DECODER = (3, 128, 256, 512, 256, 128, 3)


class PlainHead(nn.Module):
    """Linear layers 512-256-128-L, batch norm and ReLU between."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise((*HEAD, latent_dim)))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in HEAD[1:])

    def forward(self, features: Tensor) -> Tensor:
        """[B, 512] -> [B, L]."""
        h = features
        for linear, norm in zip(self.linears[:-1], self.norms, strict=True):
            h = F.relu(norm(linear(h)))
        return self.linears[-1](h)


class PlainEncoder(nn.Module):
    """PointNet: shared layers, the maximum over the points, and heads for mean and log-variance."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Conv1d(i, o, 1) for i, o in pairwise(POINTNET))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in POINTNET[1:])
        self.mean_head = PlainHead(latent_dim)
        self.log_variance_head = PlainHead(latent_dim)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, 3] -> mean and log-variance, [B, L] each."""
        h = points.transpose(1, 2)
        for conv, norm in zip(self.linears[:-1], self.norms[:-1], strict=True):
            h = F.relu(norm(conv(h)))
        pooled = self.norms[-1](self.linears[-1](h)).max(dim=2).values
        return self.mean_head(pooled), self.log_variance_head(pooled)


class PlainSquash(nn.Module):
    """y = (W x + b) * sigmoid(G c + g) + S c for a context c."""

    def __init__(self, dim_in: int, dim_out: int, dim_context: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out)
        self.shift = nn.Linear(dim_context, dim_out, bias=False)
        self.gate = nn.Linear(dim_context, dim_out)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, N, I], [B, 1, C] -> [B, N, O]."""
        return self.linear(x) * torch.sigmoid(self.gate(context)) + self.shift(context)


class PlainNet(nn.Module):
    """The denoiser: six ConcatSquash layers with LeakyReLU(0.01) between."""

    def __init__(self, latent_dim: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.ModuleList(PlainSquash(i, o, latent_dim + 3) for i, o in pairwise(DECODER))

    def forward(self, x: Tensor, beta: Tensor, latent: Tensor) -> Tensor:
        """The predicted noise [B, N, 3], from points [B, N, 3], beta_t [B] and latents [B, L]."""
        beta, latent = beta[:, None, None], latent[:, None]
        context = torch.cat([beta, beta.sin(), beta.cos(), latent], dim=-1)
        h = x
        for i, layer in enumerate(self.layers):
            h = layer(h, context)
            if i < len(self.layers) - 1:
                h = F.leaky_relu(h, 0.01)
        return x + h if self.residual else h


class PlainCoupling(nn.Module):
    """y = x * sigmoid(s + 2) + t of one half, with (s, t) from the other; `swap` exchanges the halves' roles."""

    def __init__(self, latent_dim: int, hidden_dim: int, swap: bool) -> None:
        super().__init__()
        half = latent_dim // 2
        self.swap = swap
        self.linears = nn.ModuleList([nn.Linear(half, hidden_dim), nn.Linear(hidden_dim, hidden_dim)])
        self.linears.append(nn.Linear(hidden_dim, latent_dim))

    def forward(self, x: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """[B, L] -> (y [B, L], log|det dy/dx| [B]), or back."""
        fixed, changed = reversed(x.chunk(2, dim=1)) if self.swap else x.chunk(2, dim=1)
        h = F.relu(self.linears[1](F.relu(self.linears[0](fixed))))
        s, shift = self.linears[2](h).chunk(2, dim=1)
        scale = torch.sigmoid(s + 2)
        changed = (changed - shift) / scale if inverse else changed * scale + shift
        log_det = scale.log().sum(dim=1)
        return torch.cat([changed, fixed] if self.swap else [fixed, changed], dim=1), -log_det if inverse else log_det


class PlainFlow(nn.Module):
    """Affine couplings between latents z and w ~ N(0, I), in float32 also under autocast."""

    def __init__(self, latent_dim: int, depth: int, hidden_dim: int) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(PlainCoupling(latent_dim, hidden_dim, i % 2 == 0) for i in range(depth))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [B, L] -> (w [B, L], log|det dw/dz| [B])."""
        log_det = torch.zeros(len(z), device=z.device)
        for coupling in self.couplings:
            z, own = coupling(z)
            log_det = log_det + own
        return z, log_det

    def inverse(self, w: Tensor) -> Tensor:
        """w [B, L] -> z [B, L]."""
        for coupling in reversed(self.couplings):
            w, _ = coupling(w, inverse=True)
        return w


class PlainFlowVAE(nn.Module):
    """Encoder, denoiser, flow prior, loss and the ancestral sampler.

    Raises: ValueError for what plain code does not do: odd latents and spectral norm.
    """

    betas: Tensor
    alpha_bars: Tensor

    def __init__(self, config: FlowVAEConfig) -> None:
        super().__init__()
        if config.latent_dim % 2 or config.spectral_norm:
            raise ValueError("the plain formulation has even latents and no spectral norm")
        self.encoder = PlainEncoder(config.latent_dim)
        self.net = PlainNet(config.latent_dim, config.residual)
        self.flow = PlainFlow(config.latent_dim, config.flow_depth, config.flow_hidden_dim)
        betas = torch.linspace(config.beta_1, config.beta_T, config.num_steps, dtype=torch.float64)
        betas = torch.cat([torch.zeros(1, dtype=torch.float64), betas])  # entry t belongs to time t = 1..T
        self.register_buffer("betas", betas.float(), persistent=False)
        self.register_buffer("alpha_bars", (1 - betas).cumprod(0).float(), persistent=False)

    @classmethod
    def like(cls, model: FlowVAE) -> PlainFlowVAE:
        """The same network with the same weights, on the same device and in the same mode."""
        plain = cls(model.config).to(model.device).train(model.training)
        wanted = plain.state_dict()
        plain.load_state_dict({k: v.view_as(wanted[k]) for k, v in model.state_dict().items()})
        return plain

    def forward(
        self, points: Tensor, t: Tensor, noise: Tensor, latent_noise: Tensor, kl_weight: float = 1e-3
    ) -> Tensor:
        """The training loss, a scalar, of normalised clouds [B, N, 3] at times t [B] in 1..T."""
        mean, log_variance = self.encoder(points)
        with torch.autocast(points.device.type, enabled=False):
            mean, log_variance = mean.float(), log_variance.float()
            z = mean + (0.5 * log_variance).exp() * latent_noise
            w, log_det = self.flow(z)
            log_2pi = math.log(2 * math.pi)
            entropy = 0.5 * (log_variance + 1 + log_2pi).sum(dim=1)
            log_prior = -0.5 * (w.square() + log_2pi).sum(dim=1) + log_det
        alpha_bar = self.alpha_bars[t][:, None, None]
        x_t = alpha_bar.sqrt() * points + (1 - alpha_bar).sqrt() * noise
        reconstruction = F.mse_loss(self.net(x_t, self.betas[t], z), noise)
        return reconstruction - kl_weight * (entropy + log_prior).mean()

    @torch.no_grad()
    def sample(self, w: Tensor, num_points: int, generator: torch.Generator) -> Tensor:
        """Normalised clouds [B, num_points, 3] of prior samples w [B, L], by all T ancestral steps."""
        with torch.autocast(w.device.type, enabled=False):
            z = self.flow.inverse(w)
        x = torch.randn(len(w), num_points, 3, generator=generator, device=w.device)
        for t in range(len(self.betas) - 1, 0, -1):
            beta, alpha_bar = self.betas[t], self.alpha_bars[t]
            eps = self.net(x, beta.expand(len(w)), z)
            x = (x - beta / (1 - alpha_bar).sqrt() * eps) / (1 - beta).sqrt()
            if t > 1:
                std = (beta * (1 - self.alpha_bars[t - 1]) / (1 - alpha_bar)).sqrt()
                x = x + std * torch.randn(x.shape, generator=generator, device=x.device)
        return x
