"""Small image UNets for the tests: random weights, made discriminating."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

SMALL: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}

# One transformer in the whole net, so that what a frame reads can be told exactly.
ONE_TRANSFORMER = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}


def image_unet(seed: int = 0, **config: Any) -> UNet2DConditionModel:
    """A UNet of SMALL's config with `config` put over it, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**(SMALL | config))
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                # As initialised, norms are the identity and attention is nearly uniform: mistakes would not show.
                if "norm" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif name.endswith(("to_q.weight", "to_k.weight")):
                    parameter.mul_(3)
    return unet.eval()


def clip_inputs(
    batch: int = 1, frames: int = 3, height: int = 8, width: int = 8, channels: int = 4, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """(x, t, text) of clips whose times and prompts differ."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, frames, height, width, generator=generator)
    t = torch.randint(0, 1000, (batch,), generator=generator)
    return x, t, torch.randn(batch, 5, 12, generator=generator)
