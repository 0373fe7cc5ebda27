"""The autoencoder of the sprites world: 64 x 64 pictures to 16 x 16 latents of four channels."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    sprite_weight: float = 1.0
    """Weight of the pixels in the sprite and next to it; those of the background weigh 1."""
    decoder_of: Path | None = None
    """Train the decoder of the autoencoder in this folder alone: latents, and what was trained on them, stay valid."""


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
        mixed_precision="auto",
        compile=False,
        use_ema=True,
        ema_decay=0.995,
        dataloader_num_workers=1,
    )


def decoder_training() -> AutoencoderTraining:
    """The shipped autoencoder's decoder, after `autoencoder_training`."""
    return replace(
        autoencoder_training(),
        output_dir=Path("runs/sprites/decoder"),
        decoder_of=Path("runs/sprites/autoencoder/model"),
        sprite_weight=4.0,
        max_train_steps=2_000,
        learning_rate=1e-3,
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
    """Reconstruction (absolute and squared error, so that neither edges nor flat parts are neglected) plus KL.

    decoder_only: the encoder is left as it is, and so is the KL.
    """

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        kl_weight: float,
        *,
        sprite_weight: float = 1.0,
        decoder_only: bool = False,
    ):
        super().__init__()
        self.autoencoder = autoencoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.kl_weight, self.sprite_weight = kl_weight, sprite_weight
        plain_attention(autoencoder)
        if decoder_only:
            autoencoder.encoder.requires_grad_(False)
            autoencoder.quant_conv.requires_grad_(False)  # type: ignore[union-attr]

    def forward(self, pixels: Tensor, mask: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pixels [B, 3, H, W] in [-1, 1], mask [B, 1, H, W], where the sprite is, eps [B, 4, H / 4, W / 4] ->
        total, plain squared error, KL: float32 scalars."""
        posterior = posterior_of(self.autoencoder, pixels)
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        rebuilt = self.autoencoder.decode(mean + eps * torch.exp(0.5 * logvar), return_dict=False)[0].float()
        error = rebuilt - pixels
        near = F.max_pool2d(mask.float(), 5, stride=1, padding=2)  # the outline tells shapes apart: two pixels around
        weight = 1 + (self.sprite_weight - 1) * near
        reconstruction = (weight * (error.abs() + 2 * error.square())).sum() / (weight.sum() * error.shape[1])
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return reconstruction + self.kl_weight * kl, error.square().mean(), kl


def autoencoder_loss(
    model: nn.Module, batch: dict[str, Tensor], noise: SampleNoise
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss function for `train`."""
    pixels = as_signal(batch["pixels"]).to(memory_format=torch.channels_last)
    side = pixels.shape[-1] // 4
    total, squared, kl = model(pixels, batch["mask"], noise.randn(4, side, side))
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
    decoder_only = config.decoder_of is not None
    autoencoder = AutoencoderKL.from_pretrained(config.decoder_of) if decoder_only else build_autoencoder()
    loss = AutoencoderLoss(autoencoder, config.kl_weight, sprite_weight=config.sprite_weight, decoder_only=decoder_only)
    result = train(
        config,
        loss,
        autoencoder_loss,
        SpritePictures(config.num_pictures),
        validate=lambda model, step: {"psnr": reconstruction_psnr(model.autoencoder)},  # type: ignore[arg-type]
    )
    if result.ema is not None:
        result.ema.copy_to(result.model)
    autoencoder.eval()
    if not decoder_only:
        autoencoder.register_to_config(scaling_factor=round(1 / latent_std(autoencoder), 5))
    return autoencoder, result


@torch.no_grad()
def latent_std(autoencoder: AutoencoderKL, num_pictures: int = 512) -> float:
    """Standard deviation of all latent entries over training pictures (Rombach et al. 2022, section 4.3.2 of the code's
    convention: one factor for all channels)."""
    pictures = SpritePictures(num_pictures)
    pixels = as_signal(torch.stack([pictures[i]["pixels"] for i in range(num_pictures)]))
    return float(torch.cat([posterior_of(autoencoder, x).mode() for x in pixels.split(64)]).std())
