"""PointNet as the encoder of shape latents (Qi et al. 2017; Luo & Hu 2021).

Shape letters: B clouds, N points, L latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .trunk import NormedLayer, pooled_features

WIDTHS = (3, 128, 128, 256, 512)
HEAD_WIDTHS = (512, 256, 128)


@dataclass(frozen=True)
class LatentGaussian:
    """q(z | cloud): mean and log-variance, [B, L] each."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """z = mean + std * noise, for standard normal noise [B, L]."""
        return self.mean + (0.5 * self.log_variance).exp() * noise


class Head(nn.Module):
    """512-256-128-L, each hidden layer with batch norm and ReLU; in float32 also under autocast."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        widths = (*HEAD_WIDTHS, latent_dim)
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:-1])

    def forward(self, features: Tensor) -> Tensor:
        """[B, 512] -> [B, L]."""
        with torch.autocast(features.device.type, enabled=False):
            h = features.to(torch.promote_types(features.dtype, torch.float32))
            for linear, norm in zip(self.linears[:-1], self.norms, strict=True):
                h = norm(linear(h)).relu_()
            return self.linears[-1](h)


class PointNetEncoder(nn.Module):
    """Shared layers 3-128-128-256-512 on each point, a maximum over the points, and two heads.

    Batch norm follows every layer and ReLU all but the last: the maximum is taken of signed numbers, as in the
    original. In training mode a batch needs at least two clouds.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(WIDTHS))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in WIDTHS[1:])
        self.mean_head = Head(latent_dim)
        self.log_variance_head = Head(latent_dim)

    def forward(self, points: Tensor) -> LatentGaussian:
        """q(z | cloud) of clouds [B, N, 3]."""
        pooled = self.pool(points)
        return LatentGaussian(self.mean_head(pooled), self.log_variance_head(pooled))

    def mean(self, points: Tensor) -> Tensor:
        """The mean alone, [B, L]; the other head is not run."""
        return self.mean_head(self.pool(points))

    def pool(self, points: Tensor) -> Tensor:
        """Features before the heads, [B, 512], from clouds [B, N, 3]."""
        if points.ndim != 3 or points.shape[-1] != WIDTHS[0] or points.shape[1] == 0:
            raise ValueError(f"points: expected shape [B, N, 3] with N at least 1, found {list(points.shape)}")
        layers = list(zip(self.linears, self.norms, strict=True))
        if not self.training:
            folded = [_folded(linear, norm) for linear, norm in layers]
            return torch.stack([_pool_one(cloud, folded) for cloud in points])
        if points.device.type == "cpu" and not points.requires_grad:
            return self._pool_batch(points)
        return self.pool_by_modules(points)

    def pool_by_modules(self, points: Tensor) -> Tensor:
        """What `pool` computes, one module after the other over all points at once."""
        h = points.flatten(0, 1)
        for i, (linear, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
            h = norm(linear(h))
            if i < len(self.linears) - 1:
                h = h.relu_()
        return h.unflatten(0, points.shape[:2]).max(dim=1).values

    def _pool_batch(self, points: Tensor) -> Tensor:
        """`pool` with the batch's own statistics, and the running ones brought up to date."""
        kind, count = points.device.type, points.shape[0] * points.shape[1]
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else points.dtype
        norms = [norm for norm in self.norms if isinstance(norm, nn.BatchNorm1d)]
        linears = [linear for linear in self.linears if isinstance(linear, nn.Linear)]
        layers = [
            NormedLayer(linear.weight, linear.bias, norm.weight, norm.bias)
            for linear, norm in zip(linears, norms, strict=True)
        ]
        pooled, moments = pooled_features(points, layers, norms[0].eps, dtype)
        with torch.no_grad():
            for norm, (mean, variance) in zip(norms, moments, strict=True):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                assert norm.num_batches_tracked is not None
                assert norm.momentum is not None
                norm.running_mean.lerp_(mean, norm.momentum)
                norm.running_var.lerp_(variance * (count / max(count - 1, 1)), norm.momentum)
                norm.num_batches_tracked += 1
        return pooled


def _folded(linear: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer followed by a batch norm with running statistics."""
    assert isinstance(linear, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return linear.weight * scale[:, None], (linear.bias - norm.running_mean) * scale + norm.bias


def _pool_one(cloud: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """[N, 3] -> [512]. One cloud at a time keeps the activations in the cache."""
    h = cloud
    for weight, bias in layers[:-1]:
        h = F.linear(h, weight, bias).relu_()
    return F.linear(h, *layers[-1]).max(dim=0).values
