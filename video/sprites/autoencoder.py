"""The autoencoder of the sprites world: 64 x 64 pictures to 16 x 16 latents of four channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from ...common.train import SampleNoise, TrainConfig, TrainResult, train
from .pictures import HELD_OUT_START, SpritePictures, as_signal


@dataclass(frozen=True)
class AutoencoderTraining(TrainConfig):
    """One training run of the autoencoder."""

    num_pictures: int = 400_000
    """Pictures in the training set; each is rendered when its turn comes."""
    kl_weight: float = 1e-5
    """Weight of the KL divergence from N(0, 1), as a mean over latent entries (Rombach et al. 2022 use a tiny one)."""


def autoencoder_training() -> AutoencoderTraining:
    """The shipped autoencoder."""
    return AutoencoderTraining(
        output_dir=Path("runs/sprites/autoencoder"),
        train_batch_size=16,
        max_train_steps=2_700,
        learning_rate=8e-4,
        lr_scheduler="cosine",
        lr_warmup_steps=100,
        adam_beta2=0.99,
        mixed_precision="bf16",
        compile=False,
        use_ema=True,
        ema_decay=0.995,
        dataloader_num_workers=1,
    )


def build_autoencoder() -> AutoencoderKL:
    """Under a million parameters, in the layout of Stable Diffusion's."""
    layout: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (32, 64, 64),
    }
    return AutoencoderKL(
        **layout,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )


def posterior_of(autoencoder: AutoencoderKL, pixels: Tensor) -> DiagonalGaussianDistribution:
    """q(latents | pixels), pixels [B, 3, H, W] in [-1, 1]."""
    return autoencoder.encode(pixels, return_dict=False)[0]


def plain_attention(module: nn.Module) -> None:
    """Attention as two matrix products: with few tokens and narrow heads it trains faster on a CPU than fused kernels
    do. It changes neither parameters nor results."""
    module.set_attn_processor(AttnProcessor())  # type: ignore[operator]


class AutoencoderLoss(nn.Module):
    """Reconstruction (absolute and squared error, so that neither edges nor flat parts are neglected) plus KL."""

    def __init__(self, autoencoder: AutoencoderKL, kl_weight: float):
        super().__init__()
        self.autoencoder = autoencoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.kl_weight = kl_weight
        plain_attention(autoencoder)

    def forward(self, pixels: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pixels [B, 3, H, W] in [-1, 1], eps [B, 4, H / 4, W / 4] -> total, squared error, KL: float32 scalars."""
        posterior = posterior_of(self.autoencoder, pixels)
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        rebuilt = self.autoencoder.decode(mean + eps * torch.exp(0.5 * logvar), return_dict=False)[0].float()
        squared = F.mse_loss(rebuilt, pixels)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return (rebuilt - pixels).abs().mean() + 2 * squared + self.kl_weight * kl, squared, kl


def autoencoder_loss(
    model: nn.Module, batch: dict[str, Tensor], noise: SampleNoise
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss function for `train`."""
    pixels = as_signal(batch["pixels"]).to(memory_format=torch.channels_last)
    side = pixels.shape[-1] // 4
    total, squared, kl = model(pixels, noise.randn(4, side, side))
    # Signal range is 2, hence PSNR = 10 log10(4 / MSE).
    return total, {"psnr": 10 * torch.log10(4 / squared.detach()), "kl": kl.detach()}


@torch.no_grad()
def reconstruction_psnr(autoencoder: AutoencoderKL, num_pictures: int = 256, batch_size: int = 32) -> float:
    """Mean PSNR in dB over held-out pictures, through the posterior's mean and clipped to [-1, 1]."""
    pictures = SpritePictures(num_pictures, start=HELD_OUT_START, held_out=None)
    values: list[Tensor] = []
    for start in range(0, num_pictures, batch_size):
        rows = range(start, min(start + batch_size, num_pictures))
        pixels = as_signal(torch.stack([pictures[i]["pixels"] for i in rows]))
        latents = posterior_of(autoencoder, pixels).mode()
        rebuilt = autoencoder.decode(latents, return_dict=False)[0].clamp(-1, 1)  # type: ignore[arg-type]
        values.append(10 * torch.log10(4 / (rebuilt - pixels).square().flatten(1).mean(1)))
    return float(torch.cat(values).mean())


def train_autoencoder(config: AutoencoderTraining) -> tuple[AutoencoderKL, TrainResult]:
    """Train it; the result has averaged weights and a `config.scaling_factor` that gives latents unit variance."""
    torch.manual_seed(config.seed)
    autoencoder = build_autoencoder()
    result = train(
        config,
        AutoencoderLoss(autoencoder, config.kl_weight),
        autoencoder_loss,
        SpritePictures(config.num_pictures),
        validate=lambda model, step: {"psnr": reconstruction_psnr(model.autoencoder)},  # type: ignore[arg-type]
    )
    if result.ema is not None:
        result.ema.copy_to(result.model)
    autoencoder.eval()
    autoencoder.register_to_config(scaling_factor=round(1 / latent_std(autoencoder), 5))
    return autoencoder, result


@torch.no_grad()
def latent_std(autoencoder: AutoencoderKL, num_pictures: int = 512) -> float:
    """Standard deviation of all latent entries over training pictures (Rombach et al. 2022, section 4.3.2 of the code's
    convention: one factor for all channels)."""
    pictures = SpritePictures(num_pictures)
    pixels = as_signal(torch.stack([pictures[i]["pixels"] for i in range(num_pictures)]))
    return float(torch.cat([posterior_of(autoencoder, x).mode() for x in pixels.split(64)]).std())
