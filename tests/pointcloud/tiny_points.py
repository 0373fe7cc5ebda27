"""What the tests of the point transformer share: small random models that are awake, and clouds."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from trifold.pointcloud.cloud import PointCloud
from trifold.pointcloud.conditioning import PointCondition
from trifold.pointcloud.diffusion import PointDiffusion
from trifold.pointcloud.diffusion_config import PointDiffusionConfig
from trifold.pointcloud.items import CloudItem
from trifold.pointcloud.latent import LatentPriorConfig, ShapeEncoderConfig
from trifold.pointcloud.normalise import Normalisation
from trifold.pointcloud.transformer import PointTransformer, PointTransformerConfig

CLASSES = ("chair", "mug", "table")
SMALL = {
    "num_stages": 2,
    "point_width": 16,
    "point_heads": 2,
    "num_readers": 4,
    "reader_width": 24,
    "reader_heads": 2,
    "run_length": 8,
    "cond_width": 16,
    "fourier_bands": 3,
}


def small_net(**changes: object) -> PointTransformerConfig:
    return PointTransformerConfig(**{**SMALL, **changes})  # type: ignore[arg-type]


def awake(module: nn.Module, seed: int = 0, std: float = 0.2) -> nn.Module:
    """Every parameter random: gates and outputs that start as zero would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def tiny_net(seed: int = 0, *, num_classes: int = 3, latent_dim: int = 5, **changes: object) -> PointTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = PointTransformer(small_net(**changes), num_classes=num_classes, latent_dim=latent_dim)
    awake(net, seed)
    return net


def tiny_config(**changes: object) -> PointDiffusionConfig:
    settings = {
        "net": small_net(),
        "latent_dim": 5,
        "encoder": ShapeEncoderConfig(width=16, point_width=12, num_tokens=4, depth=1, heads=2, fourier_bands=3),
        "prior": LatentPriorConfig(width=16, depth=1),
        "class_names": CLASSES,
        "normalisation": Normalisation("global", (0.5, -1.0, 2.0), 3.0),
    }
    return PointDiffusionConfig(**{**settings, **changes})  # type: ignore[arg-type]


def tiny_model(seed: int = 0, std: float = 0.1, **changes: object) -> PointDiffusion:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PointDiffusion(tiny_config(**changes))
    awake(model, seed, std)
    return model


def condition(
    clouds: int, *, lens: tuple[int, ...] | None = None, latent_dim: int = 5, seed: int = 1
) -> PointCondition:
    """Labels and latents of several clouds, some of them not told."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(clouds) % 4 - 1
    shape = torch.randn(clouds, 5, generator=generator)
    return PointCondition(labels, shape, torch.arange(clouds) % 3 != 1, lens)


def random_cloud(num_points: int, seed: int = 0, name: str = "") -> PointCloud:
    """Points on a bent sheet, off the origin."""
    uv = np.random.default_rng(seed).uniform(-1, 1, (num_points, 2))
    points = np.stack([uv[:, 0] + 1, uv[:, 1] * 2, uv[:, 0] * uv[:, 1] + seed], axis=1)
    return PointCloud(points.astype(np.float32), name=name)


class Sheets:
    """Bent sheets of three classes, 24 points each."""

    classes = CLASSES

    def __init__(self, count: int = 9, sizes: tuple[int, ...] = (24,)) -> None:
        self.count, self.sizes = count, sizes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> CloudItem:
        points = random_cloud(self.sizes[index % len(self.sizes)], index % 1000).points
        return CloudItem(points * (1 + index % 3), None, index % 3, f"sheet-{index}")
